"""The pages of docs/extending: their files and commands, run in a folder of a shop."""

import json
import os
import re
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
from tests.documentation.blocks import page_blocks, shell_statements
from tests.end_to_end.commands import HANG_SECONDS, ROOT, environment
from training.config_files import CONFIG_DIR

PAGES = sorted(file.stem for file in (ROOT / "docs" / "extending").glob("*.md"))
ITEMS = re.compile(r"--user \S+ --items \S+")  # of the tutorial's shop
OWN_CHOICES = ("tasks", "retrieval", "ranker", "query")  # groups of which the pages have a file


def page_files(page: str) -> dict[str, str]:
    """The files of a page by path."""
    blocks = page_blocks(ROOT / "docs" / "extending" / f"{page}.md")
    return {block.path: block.text for block in blocks if block.path and block.is_run}


def page_commands(page: str) -> list[str]:
    """The shell commands of a page that are run, for a folder outside the clone, which is $SEXTET."""
    blocks = page_blocks(ROOT / "docs" / "extending" / f"{page}.md")
    commands = [
        statement.text
        for block in blocks
        if block.language == "bash" and block.is_run
        for statement in shell_statements(block)
    ]
    return [outside_the_clone(command) for command in commands]


def outside_the_clone(command: str) -> str:
    command = re.sub(r"\.venv/bin/python (train|export)\.py", r"python $SEXTET/\1.py", command)
    return command.replace(".venv/bin/python", "PYTHONPATH=$SEXTET python")


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
        assert page == "index" or page_commands(page), page


def own_choices() -> list[str]:
    """The overrides that choose the files of all pages, such as tasks=wishlist."""
    names = [Path(name) for page in PAGES for name in page_files(page) if name.startswith("my_configs/")]
    return [f"{file.parent.name}={file.stem}" for file in names if file.parent.name in OWN_CHOICES]


@pytest.mark.slow
def test_all_extensions_together_train_export_and_serve(own_folder: Path) -> None:
    """One run with a task, source, network, encoder, loss and features of a shop's own, and its store."""
    choices = own_choices()
    assert sorted(choice.partition("=")[0] for choice in choices) == sorted(OWN_CHOICES)
    train = "python $SEXTET/train.py --config-dir my_configs data=tables data.root=features experiment=debug"
    commands = [
        "python add_features.py",
        " ".join([train, "tasks.click.loss=my_shop.losses.focal", *choices]),
        "python $SEXTET/export.py verify.golden=5 verify.checkouts=30",
        *(
            re.sub(r"--user \S+ --items \S+", "--user u001 --items i001,i002", each)
            for each in page_commands("store")
        ),
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
    (own_task,) = (choice.partition("=")[2] for choice in choices if choice.startswith("tasks="))
    assert [task["name"] for task in manifest["tasks"]] == ["click", "purchase", "value", own_task]
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
    train = "python $SEXTET/train.py --config-dir my_configs ranker=wide data=tables data.root=shop"
    finished = shell(own_folder, train)
    assert finished.returncode == 1
    refusal = r"error: ranker.multitask \(my_shop.networks.WideAndDeep\) cannot be exported: "
    assert re.search(rf"{refusal}.*networks.py, line {line}: ", finished.stderr), finished.stderr[-2000:]
    assert not list((own_folder / "artifacts" / "runs").glob("*/done.json"))


def test_the_index_families_of_the_page_are_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On vectors, because the index of a small shop has no lists."""
    write_pages(tmp_path, "index_family")
    monkeypatch.syspath_prepend(tmp_path)
    rng = np.random.default_rng(0)
    packed = pack_int8(torch.from_numpy(rng.normal(size=(6001, 16)).astype(np.float32))).numpy()
    queries, ids = rng.normal(size=(40, 16)).astype(np.float32), np.arange(1, 6001)
    truth = exact_search(int8_vector_reader(packed), ids, queries)
    commands = [command for command in page_commands("index_family") if "index.families" in command]
    assert commands
    for number, command in enumerate(commands):
        (families,) = re.findall(r"index\.families=\[(.*?)\]", command)
        cfg = OmegaConf.merge(
            OmegaConf.load(CONFIG_DIR / "index" / "ivf_sq8.yaml"), {"families": families.split(",")}
        )
        tuned = tune_index(
            int8_vector_reader(packed), packed, ids, queries, truth, cfg, tmp_path / str(number)
        )
        assert {trial.family for trial in tuned.trials} == set(families.split(","))
        assert tuned.best_trial.metrics.recall > 0.9
