"""Attributes and vectors of items from preparation to the bundle, and of new items through an update."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from exporting.exportable_run import load_exportable_run
from exporting.updates.update import update_bundle
from models.embeddings import unpack_int8
from serving import Checkout, Line, Recommender
from serving.storage.bundle import Bundle, open_bundle
from tests.exporting.bundles import make_bundle


@pytest.fixture(scope="module")
def run(featured_run: Path) -> Path:
    return featured_run


@pytest.fixture(scope="module")
def version(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(run, tmp_path_factory.mktemp("bundles") / "bundle")


def test_the_bundle_has_what_the_run_learned_from(run: Path, version: Path) -> None:
    """Export compares the served scores with those of the run; here, the tables that they come from."""
    catalog, served = load_exportable_run(run).catalog, open_bundle(version).catalog
    assert torch.equal(served.attributes, catalog.attributes)
    assert torch.equal(served.content, catalog.content)
    assert served.attributes.shape[1] == 2
    norms = unpack_int8(served.content).norm(dim=1)
    known = norms > 0
    torch.testing.assert_close(norms[known], torch.ones(int(known.sum())), rtol=0, atol=0.02)
    assert int(known.sum()) == 72
    assert not served.attributes[0].any()


def test_new_items_are_placed_by_their_attributes_and_vectors(version: Path, tmp_path: Path) -> None:
    items = {
        "item_id": ["near", "far", "bare", "i002"],
        "embedding": [
            embedding(version, "i000"),
            (-np.array(embedding(version, "i000"))).tolist(),
            None,
            None,
        ],
        "color": ["red", "red", None, "blue"],
    }
    file = tmp_path / "items.parquet"
    pq.write_table(
        pa.table(
            items,
            pa.schema(
                [
                    ("item_id", pa.string()),
                    ("embedding", pa.list_(pa.float32())),
                    ("color", pa.string()),
                ]
            ),
        ),
        file,
    )
    before, after = open_bundle(version), open_bundle(update_bundle(version.parent, file))
    content = unpack_int8(after.catalog.content)
    own = content[after.item_rows.row("i000")]
    near, far, bare = (content[after.item_rows.row(item)] for item in ("near", "far", "bare"))
    torch.testing.assert_close(near, own, rtol=0, atol=0.02)
    torch.testing.assert_close(far, -own, rtol=0, atol=0.02)
    assert not bare.any()
    assert (vector_of(after, "near") - vector_of(after, "far")).abs().max() > 0.01
    assert (vector_of(after, "i002") - vector_of(before, "i002")).abs().max() > 1e-6
    assert torch.equal(vector_of(after, "i003"), vector_of(before, "i003"))
    slate = Recommender.load(after.folder).recommend(
        Checkout("u001", [Line("near"), Line("bare")]), deadline_ms=float("inf")
    )
    assert slate.tier == "ranked"
    assert len(slate.items) == 6


def embedding(version: Path, item: str) -> list[float]:
    """The item's own vector in a bundle, up to its length."""
    bundle = open_bundle(version)
    vector: list[float] = unpack_int8(bundle.catalog.content)[bundle.item_rows.row(item)].tolist()
    return vector


def vector_of(bundle: Bundle, item: str) -> torch.Tensor:
    """The item tower's vector."""
    return unpack_int8(bundle.catalog.vectors)[bundle.item_rows.row(item)]
