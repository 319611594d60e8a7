"""Index families. A family makes an untrained index for n vectors of D dimensions.

A family is a function `(dim, count) → faiss.Index`: an untrained index of inner products, which has inverted
lists or is a graph with ids (`IDMap2,HNSW…`). `index.families` lists the families that an export builds and
measures. Each is a name in FAMILIES, or the dotted path of a function or an IndexFamily.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import faiss

from training.config_targets import import_object

MakeIndex = Callable[[int, int], faiss.Index]  # D, n → an untrained index
MIN_POINTS_PER_CENTROID = 39  # faiss warns below it


@dataclass(frozen=True)
class IndexFamily:
    """A kind of index.

    Args:
        make_index: returns an untrained index for n vectors of D dimensions, from (D, n).
        refine_factors: values of SearchParams.refine_factor to compare; above 1 for coarse codes, whose
            results int8 vectors rerank.
    """

    make_index: MakeIndex
    refine_factors: tuple[float, ...] = (1.0,)


class FamilyError(ValueError):
    """A family whose index serving cannot search."""


def list_count(count: int) -> int:
    """Returns the number of inverted lists for n = `count` vectors.

    It is 4 √n, or less so that each list has MIN_POINTS_PER_CENTROID vectors.
    """
    return max(1, min(round(4 * math.sqrt(count)), count // MIN_POINTS_PER_CENTROID))


def factory_family(factory: str, refine_factors: tuple[float, ...] = (1.0,)) -> IndexFamily:
    """The family of a string of `faiss.index_factory`.

    {nlist} stands for the result of `list_count`, {parts} for the number of parts of a product code. A part
    has four dimensions, or more if four do not divide D.
    """

    def make(dim: int, count: int) -> faiss.Index:
        parts = max(n for n in range(1, max(dim // 4, 1) + 1) if dim % n == 0)
        description = factory.format(nlist=list_count(count), parts=parts)
        return faiss.index_factory(dim, description, faiss.METRIC_INNER_PRODUCT)

    return IndexFamily(make, refine_factors)


FAMILIES = {
    "flat": factory_family("IVF1,Flat"),
    "flat_sq8": factory_family("IVF1,SQ8"),
    "ivf_sq8": factory_family("IVF{nlist},SQ8"),
    "ivf_sqfp16": factory_family("IVF{nlist},SQfp16"),
    "ivf_pq": factory_family("IVF{nlist},PQ{parts}x4fs", (2.0, 4.0, 8.0)),
    "ivf_rabitq": factory_family("IVF{nlist},RaBitQ", (2.0, 4.0, 8.0)),
    "hnsw_sq8": factory_family("IDMap2,HNSW16_SQ8"),
}


def find_family(name: str) -> IndexFamily:
    """Finds a family by its name in FAMILIES, or by the dotted path of a function or an IndexFamily.

    Raises ValueError for any other name.
    """
    if name in FAMILIES:
        return FAMILIES[name]
    if "." not in name:
        raise ValueError(f"index.families: {name}: expected {', '.join(FAMILIES)} or a dotted path")
    family = import_object("index.families", name)
    if isinstance(family, IndexFamily):
        return family
    if not callable(family) or isinstance(family, type):
        raise ValueError(f"index.families: {name} is neither a function (dim, count) nor an IndexFamily")
    return IndexFamily(family)


def make_index(family: IndexFamily, dim: int, count: int) -> faiss.Index:
    """Makes the untrained index of a family. Raises FamilyError for one that serving cannot search."""
    index = family.make_index(dim, count)
    if not isinstance(index, faiss.Index):
        raise FamilyError(f"the family returned a {type(index).__name__}: expected a faiss.Index")
    if index.metric_type != faiss.METRIC_INNER_PRODUCT or index.d != dim:
        raise FamilyError(f"the family must return an inner-product index of {dim} dimensions")
    if index.ntotal:
        raise FamilyError(
            f"the family returned an index that already holds {index.ntotal} vectors: expected an empty index"
        )
    if not _is_searchable(faiss.downcast_index(index)):
        raise FamilyError(
            f"serving cannot search a {type(faiss.downcast_index(index)).__name__}: expected inverted lists "
            "without a transform before them (IVF…), or a graph with ids (IDMap2,HNSW…)"
        )
    return index


def _is_searchable(index: faiss.Index) -> bool:
    """Whether serving/storage/vector_index.py knows the search parameters of an index."""
    if isinstance(index, faiss.IndexIDMap):
        return isinstance(faiss.downcast_index(index.index), faiss.IndexHNSW)
    return isinstance(index, faiss.IndexIVF)
