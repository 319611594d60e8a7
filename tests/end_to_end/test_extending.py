"""The pages of docs/extending: their files and commands, run in a folder of a shop."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from exporting.index.build import exact_search, int8_vector_reader
from exporting.index.tuning import tune_index
from models.embeddings import pack_int8
from tests.data.shop import make_shop, write_csv
from tests.end_to_end.commands import HANG_SECONDS, ROOT, environment
from training.config_files import CONFIG_DIR

PAGES = sorted(file.stem for file in (ROOT / "docs" / "extending").glob("*.md"))
TRAINING_PAGES = ["feature", "loss", "multitask_network", "query_encoder", "source", "task"]
FENCE = re.compile(r"^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


def page_blocks(page: str) -> list[tuple[str, str]]:
    """The fenced blocks of a page: (language, text)."""
    return FENCE.findall((ROOT / "docs" / "extending" / f"{page}.md").read_text())


def page_files(page: str) -> dict[str, str]:
    """The files of a page by path: blocks of a language, whose first line is a comment with the path."""
    parts = [text.partition("\n") for language, text in page_blocks(page) if language]
    return {first_line.removeprefix("# "): text for first_line, _, text in parts}


def page_commands(page: str) -> list[str]:
    """The shell commands of a page, block by block: blocks without a language that call python."""
    return [text for language, text in page_blocks(page) if not language and "python " in text]


def write_pages(folder: Path, *pages: str) -> None:
    for page in pages:
        for name, text in page_files(page).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)


def write_own_shop(folder: Path) -> None:
    """The canonical tables in `folder`/shop, with carts and wishlists among the events."""
    tables = make_shop(users=40, events=True)
    clicks = [row for row in tables["events"] if row["kind"] == "click"]
    for kind, every in (("cart", 2), ("wishlist", 3)):
        tables["events"] += [{**row, "kind": kind} for row in clicks[::every]]
    for name, rows in tables.items():
        write_csv(folder / "shop" / f"{name}.csv", rows)


def shell(folder: Path, commands: str) -> subprocess.CompletedProcess[str]:
    """The finished commands, run in `folder` as the pages say; a training is a small one."""
    commands = re.sub(r"(/train\.py (?!.*experiment=).*)", r"\1 experiment=debug", commands)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-ec", commands],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
        env={**environment(), "SEXTET": str(ROOT), "PATH": path},
    )


@pytest.fixture
def own_folder(tmp_path: Path) -> Path:
    """A folder with the files of all pages and a shop."""
    write_own_shop(tmp_path)
    write_pages(tmp_path, *PAGES)
    return tmp_path


def test_every_extension_has_a_page_with_code_and_a_command() -> None:
    listed = re.findall(r"\]\((\w+)\.md\)", (ROOT / "docs" / "extending" / "index.md").read_text())
    assert sorted({*listed, "index"}) == PAGES
    for page in PAGES:
        assert page_files(page), page
        assert page_commands(page), page


# Prints the config of each command, as `--cfg job` does; one process, because each would import torch.
COMPOSE = """
import json, sys
from omegaconf import OmegaConf
from training.config import compose_config

sys.path.append(".")
configs = {}
for page, commands in json.loads(sys.argv[1]).items():
    composed = [compose_config("train", overrides, folder) for folder, overrides in commands]
    configs[page] = "".join(map(OmegaConf.to_yaml, composed))
print(json.dumps(configs))
"""


def test_the_commands_of_all_pages_are_accepted(own_folder: Path) -> None:
    pages = ["index", *TRAINING_PAGES]
    commands = {page: list(map(train_overrides, train_lines(page))) for page in pages}
    assert all(commands.values())
    finished = subprocess.run(
        [sys.executable, "-c", COMPOSE, json.dumps(commands)], cwd=own_folder, capture_output=True,
        text=True, timeout=HANG_SECONDS, env={**environment(), "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr[-3000:]
    configs = json.loads(finished.stdout.splitlines()[-1])
    for page in pages:
        for name in page_files(page):
            if name.startswith("my_shop/"):
                assert name.removesuffix(".py").replace("/", ".") in configs[page]


def train_lines(page: str) -> list[str]:
    """The commands of a page that train, but for one of all pages together."""
    lines = [line for block in page_commands(page) for line in block.splitlines()]
    return [line for line in lines if "/train.py" in line and "experiment=mine" not in line]


def train_overrides(line: str) -> tuple[str | None, list[str]]:
    """The folder of `--config-dir` and the overrides of a command."""
    words = shlex.split(line.partition("/train.py")[2])
    folder = words[words.index("--config-dir") + 1] if "--config-dir" in words else None
    return folder, [word for word in words if "=" in word]


@pytest.mark.slow
def test_all_extensions_together_train_export_and_serve(own_folder: Path) -> None:
    """One run with a task, source, network, encoder, loss and features of a shop's own, and its store."""
    experiment = own_folder / "my_configs" / "experiment" / "mine.yaml"
    debug = OmegaConf.to_container(OmegaConf.load(CONFIG_DIR / "experiment" / "debug.yaml"))
    experiment.write_text(
        "# @package _global_\n"
        + OmegaConf.to_yaml(OmegaConf.merge(OmegaConf.load(experiment), OmegaConf.create(debug)))
    )
    *preparing, _ = page_commands("feature")[0].splitlines()
    commands = [
        *preparing,
        "python $SEXTET/train.py --config-dir my_configs experiment=mine data=tables data.root=features",
        "python $SEXTET/export.py verify.golden=5 verify.checkouts=30",
        *page_commands("store")[0].splitlines(),
    ]
    finished = shell(own_folder, "\n".join(commands))
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert "embedding" in finished.stdout  # preparation names what it reads
    run = own_folder / "artifacts" / "runs" / "latest"
    saved = OmegaConf.load(run / "config.yaml")
    assert saved.ranker.multitask._target_ == "my_shop.networks.WideAndDeep"
    assert saved.retrieval.model.query._target_ == "my_shop.encoders.BasketEncoder"
    assert saved.tasks.click.loss == "my_shop.losses.focal"
    manifest = json.loads((own_folder / "bundle" / "current" / "manifest.json").read_text())
    assert [task["name"] for task in manifest["tasks"]] == ["click", "purchase", "value", "wishlist"]
    assert "carts" in manifest["sources"]
    assert len(re.findall(r"\bi\d{3}\b", finished.stdout)) >= 6
    assert (own_folder / "a.db").exists()
    assert (own_folder / "b.db").exists()
    _check_a_moved_run(own_folder)


def _check_a_moved_run(own_folder: Path) -> None:
    """Where the classes of a run cannot be imported, every command says so in a sentence."""
    (own_folder / "my_shop").rename(own_folder / "elsewhere")
    for command in (
        "python $SEXTET/export.py bundle.force=true",
        "PYTHONPATH=$SEXTET python -m evaluation.evaluate artifacts/runs/latest",
        "python $SEXTET/train.py --config-dir my_configs ranker=wide data=tables data.root=shop",
    ):
        finished = shell(own_folder, command)
        assert finished.returncode == 1
        assert re.search(r"error: .*my_shop.*PYTHONPATH", finished.stderr), finished.stderr[-2000:]
        assert "Traceback" not in finished.stderr


@pytest.mark.slow
def test_a_network_that_cannot_be_exported_is_refused_before_training(own_folder: Path) -> None:
    file = own_folder / "my_shop" / "networks.py"
    wrong = "logits[self.tasks[i]] = (sum := wide[:, i] + tower(shared)[:, 0])"
    text = re.sub(r"logits\[self\.tasks\[i\]\] = .*", wrong, file.read_text())
    file.write_text(text)
    line = next(n for n, each in enumerate(text.splitlines(), start=1) if ":=" in each)
    (command,) = page_commands("multitask_network")
    finished = shell(own_folder, command)
    assert finished.returncode == 1
    refusal = r"error: ranker.multitask \(my_shop.networks.WideAndDeep\) cannot be exported: "
    assert re.search(rf"{refusal}.*networks.py, line {line}: ", finished.stderr), finished.stderr[-2000:]
    assert not list((own_folder / "artifacts" / "runs").glob("*/done.json"))


@pytest.mark.parametrize("page", TRAINING_PAGES)
@pytest.mark.slow
def test_the_commands_of_a_page_run(own_folder: Path, page: str) -> None:
    finished = shell(own_folder, "\n".join(page_commands(page)))
    assert finished.returncode == 0, finished.stderr[-3000:]


def test_the_index_families_of_the_page_are_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On vectors, because the index of a small shop has no lists."""
    write_pages(tmp_path, "index_family")
    monkeypatch.syspath_prepend(tmp_path)
    rng = np.random.default_rng(0)
    packed = pack_int8(torch.from_numpy(rng.normal(size=(6001, 16)).astype(np.float32))).numpy()
    queries, ids = rng.normal(size=(40, 16)).astype(np.float32), np.arange(1, 6001)
    truth = exact_search(int8_vector_reader(packed), ids, queries)
    for number, command in enumerate(page_commands("index_family")):
        (families,) = re.findall(r"index\.families=\[(.*?)\]", command)
        cfg = OmegaConf.merge(
            OmegaConf.load(CONFIG_DIR / "index" / "ivf_sq8.yaml"), {"families": families.split(",")}
        )
        tuned = tune_index(
            int8_vector_reader(packed), packed, ids, queries, truth, cfg, tmp_path / str(number)
        )
        assert {trial.family for trial in tuned.trials} == set(families.split(","))
        assert tuned.best_trial.metrics.recall > 0.9
