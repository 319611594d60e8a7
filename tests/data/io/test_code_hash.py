"""Keys of stages follow the code that a stage runs, and no other change of the repository."""

import shutil
from pathlib import Path

import pytest

import data.io.code_hash as module
from data.io.code_hash import ROOT, code_hash, module_closure, named_modules

ROOMS = ("data", "models", "training", "exporting", "serving", "simulation", "reporting", "evaluation")
STAGES = {
    "preparation": ["data.prepare", "data.sources.tables"],
    "retrieval": ["training.retrieval_stage", "models.retrieval.mean_encoder"],
    "candidates": ["training.candidates_stage"],
    "ranker": ["training.ranker_stage", "models.ranking.multitask.mmoe"],
    "export": ["exporting.export"],
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the code, to change."""
    for room in ROOMS:
        shutil.copytree(ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def hashes(root: Path) -> dict[str, str]:
    return {stage: code_hash(modules, root) for stage, modules in STAGES.items()}


def test_a_copy_of_the_code_has_its_keys(tree: Path) -> None:
    moved = tree / "moved"
    for room in ROOMS:
        shutil.copytree(tree / room, moved / room)
    assert hashes(moved) == hashes(tree)


def test_text_and_unused_files_change_no_key(tree: Path) -> None:
    before = hashes(tree)
    for room in ROOMS:
        (tree / room / "unused_module.py").write_text("import torch\n\nLIMIT = 3\n")
        for file in (tree / room).rglob("*.py"):
            file.write_text(file.read_text() + "\n\n# A comment.\n")
    losses = tree / "models" / "ranking" / "losses.py"
    text = losses.read_text()
    start = text.index('"""') + 3
    losses.write_text(f"{text[:start]}Another first line. {text[start:]}".replace("\n\n\n", "\n\n\n\n"))
    assert hashes(tree) == before


@pytest.mark.parametrize(
    ("file", "stages"),
    [
        ("models/ranking/listwise_losses.py", {"ranker"}),
        ("models/ranking/multitask/mmoe.py", {"ranker"}),
        ("training/ranker.py", {"ranker"}),
        ("models/retrieval/losses.py", {"retrieval", "candidates", "ranker", "export"}),
        ("models/candidates/fusion.py", {"candidates", "export"}),
        ("data/examples/writer.py", {"preparation"}),
        ("data/sources/simulated.py", set()),
        ("data/io/engine.py", set(STAGES)),
        ("exporting/lowering.py", {"export"}),
        ("serving/recommender.py", {"export"}),
        ("serving/http/app.py", set()),
        ("evaluation/metrics.py", set()),
    ],
)
def test_a_statement_changes_the_keys_of_the_stages_that_run_it(
    tree: Path, file: str, stages: set[str]
) -> None:
    before = hashes(tree)
    (tree / file).write_text((tree / file).read_text() + "\nONE_MORE = 1\n")
    after = hashes(tree)
    assert {stage for stage in STAGES if before[stage] != after[stage]} == stages


def test_imports_are_followed_wherever_they_stand(tmp_path: Path) -> None:
    package = tmp_path / "models" / "part"
    package.mkdir(parents=True)
    (tmp_path / "models" / "__init__.py").write_text("")
    (package / "__init__.py").write_text("from . import beginning\n")
    (package / "beginning.py").write_text("")
    (package / "stage.py").write_text(
        "from typing import TYPE_CHECKING\nimport json, numpy.random\n"
        "if TYPE_CHECKING:\n    from models.part import annotation\n"
        "def work():\n    from .later import value\n    from . import sibling, function\n"
    )
    for name in ("annotation", "later", "sibling", "unrelated"):
        (package / f"{name}.py").write_text("")
    files, libraries = module_closure(["models.part.stage"], tmp_path)
    names = {"models", *(f"models.part{name}" for name in ("", ".beginning", ".stage", ".later", ".sibling"))}
    assert files.keys() == names
    assert libraries == {"numpy"}
    with pytest.raises(ModuleNotFoundError, match="no module nowhere"):
        module_closure(["nowhere.at_all"], tmp_path)


def test_a_module_from_outside_counts_with_its_own_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "shop_networks"
    package.mkdir()
    (package / "tower.py").write_text("from shop_networks.layers import x\nfrom models import schema\n")
    (package / "layers.py").write_text("x = 1\n")
    (package / "unused.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    before = code_hash(["shop_networks.tower"])
    (package / "unused.py").write_text("x = 2\n")
    assert code_hash(["shop_networks.tower"]) == before
    (package / "layers.py").write_text("x = 2\n")
    assert code_hash(["shop_networks.tower"]) != before
    assert "models.schema" in module_closure(["shop_networks.tower"])[0]


def test_versions_of_libraries_that_compute_are_part_of_the_key(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = hashes(tree)
    version = module._version
    monkeypatch.setattr(module, "_version", lambda name: "99" if name == "torchrec" else version(name))
    after = hashes(tree)
    assert {stage for stage in STAGES if before[stage] != after[stage]} == STAGES.keys() - {"preparation"}
    others = ("tqdm", "mlflow")
    monkeypatch.setattr(module, "_version", lambda name: "99" if name in others else version(name))
    assert hashes(tree) == before


def test_settings_name_modules_by_dotted_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_losses.py").write_text("def focal():\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    settings = {
        "a": [{"_target_": "models.ranking.multitask.mmoe.MMoE", "b": {"loss": "own_losses.focal"}}],
        "file": "shop.csv",
        "gone": "nowhere.Network",
        "number": "0.5",
    }
    assert named_modules(settings, {"c": 1}) == ["models.ranking.multitask.mmoe", "own_losses"]
