"""The scripted modules equal the eager ones, and load with torch alone."""

import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from exporting.lowering import ServingModules, lower_modules, save_torchscript
from models.candidates.sources import CandidateSources
from models.embeddings import Int8EmbeddingTables
from models.lowering import INT8_MIN_DIM, FloatTables, lower_tables
from models.ranking.ranker import Ranker, RankerWidths
from models.ranking.tasks import DEFAULT_TASKS
from models.retrieval.mean_encoder import MeanEncoder
from models.retrieval.query_encoder import EncoderDims
from models.retrieval.sequence_encoder import SequenceEncoder
from models.retrieval.two_tower import QueryEncoder, QueryTower, make_attribute_embeddings
from models.schema import Candidates, Catalog
from tests.models.shops import random_catalog, random_query, table_sizes
from tests.models.source_tables import SELECTION, random_inputs, shipped_sources
from tests.models.variants import VARIANTS

ITEMS = 30
BARE = """
import sys, torch
modules = [torch.jit.load(f"{sys.argv[1]}/{name}.ts") for name in ("query_tower", "candidates", "ranker")]
query, ann, catalog = torch.load(f"{sys.argv[1]}/example.pt")
assert type(query) is tuple and type(catalog) is tuple
vector = modules[0](query, catalog[-1])
candidates = modules[1](query, vector, ann, catalog)
scores = modules[2](query, vector, tuple(candidates), catalog)
assert torch.isfinite(scores).all()
rooms = {name.split(".")[0] for name in sys.modules}
assert not rooms & {"torchrec", "fbgemm_gpu", "models", "data", "training", "exporting", "faiss"}, rooms
print(scores[1].numel())
"""


def make_modules(
    attributes: tuple[int, ...] = (4, 3, 3),
    width: int = 2,
    variant: str = "mmoe",
    encoder: type[QueryEncoder] = MeanEncoder,
    content_dim: int = 0,
) -> ServingModules:
    torch.manual_seed(0)
    catalog = random_catalog(0, ITEMS)
    limits = {"ann": 8, "buy_again": 5, "recency": 4, "co_purchase": 4, "popularity": 7, "ease": 6}
    sources = CandidateSources(shipped_sources(**limits), random_inputs(0, catalog))
    tower = QueryTower(
        encoder(EncoderDims(8, width * len(attributes)), hidden=16, max_events=20),
        make_attribute_embeddings(list(attributes), width),
    )
    ranker = Ranker(
        table_sizes(attributes, content_dim=content_dim), 8, 14.0, VARIANTS[variant], RankerWidths(),
        DEFAULT_TASKS, SELECTION,
    )  # fmt: skip
    return lower_modules(tower, sources, ranker)


CONTENT_DIM = 6
# width of the tables, multi-task network, query encoder, width of the items' own vectors
MODULE_VARIANTS = [(2, name, MeanEncoder, CONTENT_DIM) for name in VARIANTS]
MODULE_VARIANTS += [
    (16, "mmoe", MeanEncoder, 0),
    (2, "mmoe", SequenceEncoder, 0),
]


@pytest.fixture(scope="module", params=MODULE_VARIANTS, ids=lambda p: f"{p[0]}-{p[1]}-{p[2].__name__}-{p[3]}")
def exported(
    request, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, ServingModules, ServingModules]:
    """(folder, eager, loaded from the folder): every variant and encoder, and wide tables once."""
    width, variant, encoder, content_dim = request.param
    eager = make_modules(width=width, variant=variant, encoder=encoder, content_dim=content_dim)
    folder = tmp_path_factory.mktemp("modules")
    save_torchscript(eager, folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return (
            folder,
            eager,
            ServingModules(*(torch.jit.load(folder / f"{name}.ts") for name in ServingModules._fields)),
        )


def catalog_of(modules: ServingModules, seed: int) -> Catalog:
    """A catalog with attributes and vectors of items if the ranker reads them."""
    has_content = modules.ranker.ranker.interactions.has_content
    return random_catalog(seed, ITEMS, content_dim=CONTENT_DIM if has_content else 0)


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 10_000), count=st.integers(1, 5), longest=st.sampled_from([0, 1, 12, 80]),
    n_ann=st.integers(0, 8),
)  # fmt: skip
@torch.no_grad()
def test_scripted_equals_eager(exported, seed: int, count: int, longest: int, n_ann: int) -> None:
    _, eager, scripted = exported
    catalog = catalog_of(eager, seed)
    query = random_query(seed, count, ITEMS, longest=longest)
    ann = torch.randint(-1, ITEMS + 1, [count, n_ann], generator=torch.Generator().manual_seed(seed))
    vector = eager.query_tower(query, catalog.vectors)
    torch.testing.assert_close(scripted.query_tower(tuple(query), catalog.vectors), vector)
    candidates = Candidates(*eager.candidates(query, vector, ann, catalog))
    for actual, expected in zip(
        scripted.candidates(tuple(query), vector, ann, tuple(catalog)), candidates, strict=True
    ):
        torch.testing.assert_close(actual, expected)
    scores = eager.ranker(query, vector, candidates, catalog)
    for actual, expected in zip(
        scripted.ranker(tuple(query), vector, tuple(candidates), tuple(catalog)), scores, strict=True
    ):
        torch.testing.assert_close(actual, expected)


@torch.no_grad()
def test_narrow_tables_stay_exact_and_wide_ones_become_int8() -> None:
    for width, kind, tolerance in (
        (INT8_MIN_DIM - 1, FloatTables, 0.0),
        (INT8_MIN_DIM, Int8EmbeddingTables, 0.02),
    ):
        tables = make_attribute_embeddings([50, 40], width)
        lowered = lower_tables(tables)
        assert type(lowered) is kind
        ids = [torch.randint(0, 40, [30]) for _ in range(2)]
        bags = ids, [torch.tensor([0, 3, 27])] * 2, [torch.rand(30)] * 2
        torch.testing.assert_close(lowered(*bags), tables(*bags), atol=1e-5 + 3 * tolerance, rtol=1e-5)


@torch.no_grad()
def test_a_shop_without_attributes(tmp_path: Path) -> None:
    eager = make_modules(())
    save_torchscript(eager, tmp_path)
    query = random_query(1, 2, ITEMS)._replace(
        context=torch.zeros(2, 0, dtype=torch.int64), profile=torch.zeros(2, 0, dtype=torch.int64)
    )
    catalog = random_catalog(1, ITEMS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        scripted = torch.jit.load(tmp_path / "query_tower.ts")
    torch.testing.assert_close(scripted(query, catalog.vectors), eager.query_tower(query, catalog.vectors))


def test_loads_in_plain_torch(exported) -> None:
    folder, eager, _ = exported
    example = (
        tuple(random_query(3, 2, ITEMS)),
        torch.tensor([[1, 2, -1]] * 2),
        tuple(catalog_of(eager, 3)),
    )
    torch.save(example, folder / "example.pt")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", BARE, str(folder)], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 0


def test_lowering_does_not_change_the_trained_modules() -> None:
    ranker = Ranker(table_sizes((4,)), 8, 14.0, VARIANTS["mmoe"], RankerWidths(), DEFAULT_TASKS)
    before = {name: value.clone() for name, value in ranker.state_dict().items()}
    tower = QueryTower(MeanEncoder(EncoderDims(8, 2), hidden=16), make_attribute_embeddings([4], 2))
    sources = CandidateSources(shipped_sources(), random_inputs(0, random_catalog(0, ITEMS)))
    lower_modules(tower, sources, ranker)
    assert ranker.state_dict().keys() == before.keys()
    assert tower.attribute_embeddings is not None
    assert "collection" in dict(tower.attribute_embeddings.named_children())
