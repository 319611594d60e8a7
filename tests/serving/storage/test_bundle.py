"""A bundle that is not what was exported does not load, and the error says which file and why."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pytest
import torch

from exporting.bundle import write_arrow
from serving import BundleError, Recommender
from serving.storage.bundle import REQUIRED_FILES, open_bundle, read_arrow
from serving.storage.formats import FORMAT_VERSION, OLD_COLUMN_NAMES
from tests.exporting.bundles import reseal


@pytest.mark.parametrize("name", [*REQUIRED_FILES, "index.faiss", "manifest.json"])
@pytest.mark.parametrize("where", [0.02, 0.5, 0.99])
def test_a_flipped_bit_is_refused(copy: Path, name: str, where: float) -> None:
    raw = bytearray((copy / name).read_bytes())
    raw[int(where * len(raw))] ^= 1
    (copy / name).write_bytes(raw)
    with pytest.raises(BundleError, match=f"{name}.*To do: "):
        Recommender.load(copy)


@pytest.mark.parametrize("name", [*REQUIRED_FILES, "index.faiss"])
def test_a_missing_file_is_refused(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(BundleError, match=f"{name}: the file is missing"):
        Recommender.load(copy)


def test_a_folder_without_a_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"no bundle here.*python export.py"):
        Recommender.load(tmp_path)
    (tmp_path / "current").symlink_to("gone")
    with pytest.raises(BundleError, match="points to a folder that is missing"):
        Recommender.load(tmp_path)


def test_another_format_is_refused(copy: Path) -> None:
    reseal(copy, format=FORMAT_VERSION + 1)
    with pytest.raises(BundleError, match=f"format {FORMAT_VERSION + 1}, this serving reads formats 7, 8, 9"):
        Recommender.load(copy)


def test_format_7_is_read(release: Path, tmp_path: Path) -> None:
    """It has three columns under other names than format 8; its golden requests give the same slates."""
    version = (release / "bundle" / "current").resolve()
    copy = Path(shutil.copytree(version, tmp_path / version.name))
    items = read_arrow(str(copy / "items.arrow"))
    old_names = OLD_COLUMN_NAMES[7]
    renamed = items.rename_columns([old_names.get(name, name) for name in items.column_names])
    write_arrow(renamed.combine_chunks(), copy / "old.arrow")
    (copy / "old.arrow").replace(copy / "items.arrow")
    reseal(copy, format=7)
    assert set(old_names.values()) <= set(renamed.column_names)
    old, new = Recommender.load(copy).bundle, open_bundle(version)
    for field, column in zip(new.catalog._fields, new.catalog, strict=True):
        assert torch.equal(getattr(old.catalog, field), column), field
    reseal(copy, format=8)
    with pytest.raises(BundleError, match=r"items.arrow: .*no column mean_line_spend"):
        Recommender.load(copy)


def test_other_dimensions_are_refused(copy: Path) -> None:
    dims = json.loads((copy / "manifest.json").read_text())["dims"]
    faiss.write_index(faiss.IndexFlatIP(dims["vector"] + 1), str(copy / "index.faiss"))
    reseal(copy)
    with pytest.raises(BundleError, match=rf"index.faiss: vectors of {dims['vector'] + 1} dimensions"):
        Recommender.load(copy)


def test_another_metric_is_refused(copy: Path) -> None:
    dims = json.loads((copy / "manifest.json").read_text())["dims"]
    faiss.write_index(faiss.IndexFlatL2(dims["vector"]), str(copy / "index.faiss"))
    reseal(copy)
    with pytest.raises(BundleError, match=r"index.faiss: its metric is not the inner product"):
        Recommender.load(copy)


def test_items_that_do_not_fit_are_refused(copy: Path) -> None:
    items = read_arrow(str(copy / "items.arrow")).combine_chunks()
    write_arrow(items.slice(0, len(items) - 1), copy / "few.arrow")
    (copy / "few.arrow").replace(copy / "items.arrow")
    reseal(copy)
    with pytest.raises(BundleError, match=r"items.arrow: 80 rows, the manifest says 81"):
        Recommender.load(copy)


def test_a_column_of_another_type_is_refused(copy: Path) -> None:
    items = read_arrow(str(copy / "items.arrow"))
    narrow = items["leaf"].cast(pa.int32())
    write_arrow(items.set_column(items.column_names.index("leaf"), "leaf", narrow), copy / "new.arrow")
    (copy / "new.arrow").replace(copy / "items.arrow")
    reseal(copy)
    with pytest.raises(BundleError, match=r"items.arrow: .*column leaf is int32, expected int64.*To do: "):
        Recommender.load(copy)


def test_rows_of_other_items_are_refused(copy: Path) -> None:
    (copy / "item_rows.arrow").unlink()
    write_arrow(pa.table({"row": pa.array(np.zeros(8), pa.int32())}), copy / "item_rows.arrow")
    reseal(copy)
    with pytest.raises(BundleError, match=r"item_rows.arrow: .*8 slots, expected 256 for 81 ids.*To do: "):
        Recommender.load(copy)


def test_a_golden_probability_that_differs_is_refused(copy: Path) -> None:
    golden = read_arrow(str(copy / "golden.arrow"))
    changed = [[[p, q + 0.01, *rest] for p, q, *rest in slate] for slate in golden["predictions"].to_pylist()]
    write_arrow(
        golden.set_column(2, "predictions", pa.array(changed, golden["predictions"].type)), copy / "new.arrow"
    )
    (copy / "new.arrow").replace(copy / "golden.arrow")
    reseal(copy)
    with pytest.raises(BundleError, match=r"golden.arrow: request 0: purchase of"):
        Recommender.load(copy)


def test_a_broken_module_is_refused(copy: Path) -> None:
    (copy / "ranker.ts").write_bytes(b"no module")
    reseal(copy)
    with pytest.raises(BundleError, match=r"ranker.ts: cannot be read"):
        Recommender.load(copy)


def test_current_is_followed_and_fixed(version: Path) -> None:
    assert open_bundle(version.parent).folder == version.resolve()
    assert open_bundle(version).version == version.name


def test_loading_needs_only_the_serving_libraries(version: Path) -> None:
    code = (
        "import sys, serving\n"
        f"slate = serving.Recommender.load({str(version)!r}).recommend(serving.Checkout(None, []))\n"
        "assert len(slate.items) == 6\n"
        "packages = {name.split('.')[0] for name in sys.modules}\n"
        "unexpected = {'torchrec', 'fbgemm_gpu', 'models', 'data', 'training', 'exporting', 'evaluation',\n"
        "         'hydra', 'omegaconf', 'mlflow', 'pytorch_lightning', 'ibis', 'duckdb'} & packages\n"
        "assert not unexpected, unexpected\n"
    )
    root = Path(__file__).parents[3]
    process = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:serving", "-c", code],
        cwd=root,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr


def test_ranks_cover_what_is_available(version: Path) -> None:
    bundle = open_bundle(version)
    assert sorted(bundle.fallback_rank[bundle.available]) == list(range(int(bundle.available.sum())))
    assert (bundle.fallback_rank[~bundle.available] == -1).all()
    assert np.isfinite(bundle.price).all()
