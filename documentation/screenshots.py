"""`python -m documentation.screenshots`: make the pages of the commands on small data and photograph them.

The command of each page writes the page. Pictures of the first screen, 1280 pixels wide, are saved in
`docs/pictures/screens/`. Pictures of whole pages are saved in `reports/screens/`, at 1280 and 390 pixels,
light and dark. The evaluation page needs a run (`train.py experiment=quick`), and the shop page a bundle of
this run (`export.py`). All pages need a browser: apt install chromium chromium-driver.
"""

import io
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import monitoring
from benchmarks.commands import ARTIFACTS, REPORTS, ROOT, run_script
from benchmarks.simulated_live_log import LiveShop, LogDays
from documentation.markdown import DOCS
from documentation.page_browser import PageBrowser, open_browser
from documentation.shop_picture import photograph_shop
from models.schema import SECONDS_PER_DAY
from serving.command_line import argument, option, run

WORK = ARTIFACTS / "screens"  # pages and their inputs; what is there is not made again
WIDE, NARROW = (1280, 800), (390, 844)  # windows in pixels
MAX_COLOURS = 256  # of a picture for the documentation
SCHEMES = {"light": False, "dark": True}
SHOP = "shop"  # the storefront, which is no page of a command
EXPERIMENT_DAYS = ("--start", "2026-03-02", "--end", "2026-03-29")


def _folder(name: str) -> Path:
    return WORK / name


def evaluation(run_folder: Path) -> Path:
    """Make the page that compares a run with every baseline, including LightGBM; takes minutes."""
    run_script("-m", "evaluation.leaderboard", str(run_folder), "--out", str(_folder("evaluation")))
    return _folder("evaluation") / "index.html"


def shop_check(run_folder: Path) -> Path:
    """Make the page of the tables of the default data."""
    run_script("train.py", "stage=check")
    return ROOT / "reports" / "shop.html"


def _experiment_log() -> Path:
    folder = _folder("experiment_log")
    if not (folder / "experiments.toml").exists():
        run_script("-m", "benchmarks.experiment_log", str(folder))
    return folder


def _run_on_experiment_log(command: str, page: str, *arguments: str) -> Path:
    """Run a command of `experimentation` on the simulated log; return the page that it writes."""
    log, out = _experiment_log(), _folder(f"{page}.html")
    files = ("--events", str(log / "events"), "--orders", str(log / "orders.csv"), "--out", str(out))
    run_script("-m", "experimentation", command, *files, *arguments)
    return out


def plan(run_folder: Path) -> Path:
    """Make the page with the weeks and users that a test on the simulated log needs."""
    return _run_on_experiment_log("plan", "plan", "--uplift", "0.2", "--share", "0.5")


def experiment(run_folder: Path) -> Path:
    """Make the page of the test in the simulated log."""
    log = _experiment_log()
    test = ("--experiments", str(log / "experiments.toml"), "--experiment", "weight")
    further = ("--margin", "returns=0.02", "--items", str(log / "items.csv"))
    return _run_on_experiment_log("analyze", "experiment", *test, *further, *EXPERIMENT_DAYS)


def uplift(run_folder: Path) -> Path:
    """Make the page with the uplift that the withheld slates of the simulated log show."""
    items = ("--items", str(_experiment_log() / "items.csv"))
    return _run_on_experiment_log("uplift", "uplift", *items, *EXPERIMENT_DAYS)


def exploration(run_folder: Path) -> Path:
    """Make the page that compares exploration policies in a few small simulated shops."""
    small = ("--seeds", "4", "--days", "42", "--checkouts", "40", "--items", "60")
    run_script("-m", "experimentation.exploration", *small, "--out", str(_folder("exploration")))
    return _folder("exploration") / "exploration.html"


def daily(run_folder: Path) -> Path:
    """Make the page of a day with fewer clicks in a simulated live shop; trains for a minute."""
    root, out = monitoring.build_bundle(), _folder("monitoring.html")
    recommender, first_day = monitoring.load_recommender(root)
    shift = monitoring.SHIFTS["click rate 20 % down"]
    n_days = monitoring.WARM_UP_DAYS + shift.outcome_delay_days + 1
    shop = LiveShop(recommender.bundle, monitoring.ORDERS_PER_DAY)
    log = monitoring.write_live_log(shop, LogDays(first_day, n_days, monitoring.WARM_UP_DAYS), shift.config)
    last_day = datetime.fromtimestamp((first_day + n_days - 1) * SECONDS_PER_DAY, UTC)
    files = ("--events", str(log / "events"), "--orders", str(log / "orders.parquet"), "--out", str(out))
    day = ("--day", last_day.strftime("%Y-%m-%d"), "--max-bundle-age-days", "100")
    _run_with_alarm("-m", "operations.monitoring", "daily", "--bundle", str(root), *files, *day)
    return out


def off_policy(run_folder: Path) -> Path:
    """Make the page that evaluates a bundle on the log of another bundle; trains for minutes."""
    run_script("-m", "experimentation.off_policy", "simulate", "--out", str(_folder("off_policy")))
    return _folder("off_policy") / "off_policy.html"


def loop(run_folder: Path) -> Path:
    """Make the page of a few days of the daily loop, which trains every night."""
    small = ("--days", "6", "--rule-days", "60", "--users", "300", "--items", "150", "--poisoned-day", "4")
    folders = ("--folder", str(_folder("loop_work")), "--out", str(_folder("loop")))
    run_script("-m", "operations.loop", *small, *folders)
    return _folder("loop") / "loop.html"


def serving(run_folder: Path) -> Path:
    """Make the page of the serving benchmark for a small shop."""
    run_script("-m", "benchmarks.serving", "5_000")
    return REPORTS / "bench_serving.html"


def retrieval_index(run_folder: Path) -> Path:
    """Make the page of the index benchmark on a few vectors; installs the other libraries separately."""
    run_script("-m", "benchmarks.index", "20_000")
    return REPORTS / "bench_index.html"


Maker = Callable[[Path], Path]  # of a run folder: writes a page and returns its file
QUICK_PAGES: dict[str, Maker] = {
    "evaluation": evaluation,
    "plan": plan,
    "experiment": experiment,
    "uplift": uplift,
    "exploration": exploration,
    "monitoring": daily,
}
FURTHER_PAGES: dict[str, Maker] = {  # they take long, or show paths of this machine
    "shop_check": shop_check,
    "off_policy": off_policy,
    "loop": loop,
    "serving": serving,
    "retrieval_index": retrieval_index,
}
NAMES = (*QUICK_PAGES, SHOP, *FURTHER_PAGES)


@dataclass(frozen=True, kw_only=True)
class ScreenshotOptions:
    """Make pages and photograph them.

    Without names, five pages are left out. shop_check shows paths of this machine. off_policy, loop, serving
    and retrieval_index take up to half an hour.
    """

    names: tuple[str, ...] = argument(", ".join(NAMES), default=())
    run: Path = option(ARTIFACTS / "runs" / "latest", "run folder of the evaluation page")
    bundle: Path = option(Path("bundle"), "bundle root of the shop")
    again: bool = option(False, "also make pages that exist already")
    out: Path = option(DOCS / "pictures" / "screens", "folder of the first screens")

    def __post_init__(self) -> None:
        if unknown := set(self.names) - set(NAMES):
            raise ValueError(f"no page {', '.join(sorted(unknown))}: expected some of {', '.join(NAMES)}")


def take_screenshots(options: ScreenshotOptions) -> int:
    """Make the pages, then write their pictures. Returns 1 if a page could not be made."""
    WORK.mkdir(parents=True, exist_ok=True)
    names = options.names or (*QUICK_PAGES, SHOP)
    failed = [name for name in names if name != SHOP and not _make_page(name, options)]
    with open_browser() as browser:
        for name in names:
            if name != SHOP and name not in failed:
                photograph_page(browser, name, options.out)
    if SHOP in names:
        for scheme, is_dark in SCHEMES.items():
            file = REPORTS / "screens" / f"shop-{scheme}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            photograph_shop(options.bundle, file, is_dark)
            write_small_picture(file.read_bytes(), options.out / f"shop-{scheme}.png")
    for name in failed:
        print(f"not made: {name}", file=sys.stderr)
    return int(bool(failed))


def _make_page(name: str, options: ScreenshotOptions) -> bool:
    """Write the page to WORK/pages, unless the page exists there."""
    page = _page_file(name)
    if page.exists() and not options.again:
        return True
    try:
        written = (QUICK_PAGES | FURTHER_PAGES)[name](options.run)
    except (subprocess.CalledProcessError, OSError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return False
    page.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(written, page)
    return True


def _page_file(name: str) -> Path:
    return WORK / "pages" / f"{name}.html"


def photograph_page(browser: PageBrowser, name: str, out: Path) -> None:
    """Write a picture of the first screen, and pictures of the whole page in two widths and two modes."""
    for scheme, is_dark in SCHEMES.items():
        for width, height in (WIDE, NARROW):
            browser.open(_page_file(name).as_uri(), width, height, is_dark)
            if (width, height) == WIDE:
                write_small_picture(browser.first_screen(), out / f"{name}-{scheme}.png")
            file = REPORTS / "screens" / f"{name}-{width}-{scheme}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(browser.whole_page(width))
    print(f"{name}: {out}, {REPORTS / 'screens'}")


def write_small_picture(png: bytes, file: Path) -> None:
    """Write a picture with at most MAX_COLOURS colours: a third of the bytes.

    The palette has the most different colours, so that a small mark keeps its colour.
    """
    from PIL import Image

    file.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    picture.quantize(MAX_COLOURS, Image.Quantize.MAXCOVERAGE).save(file, optimize=True)


def _run_with_alarm(*arguments: str) -> None:
    """Run a command whose exit code 1 is an alarm. Raises CalledProcessError for exit codes above 1."""
    print(" ".join(arguments), flush=True)
    process = subprocess.run([sys.executable, *arguments], cwd=ROOT)
    if process.returncode not in (0, 1):
        raise subprocess.CalledProcessError(process.returncode, arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    return run(
        "python -m documentation.screenshots", take_screenshots, arguments=arguments, errors=(OSError,)
    )


if __name__ == "__main__":
    sys.exit(main())
