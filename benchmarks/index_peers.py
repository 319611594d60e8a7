"""One peer on the vectors that benchmarks/index.py left. Run by its own environment.

<environment>/bin/python benchmarks/index_peers.py <hnswlib|usearch|voyager> <folder>    a row per setting
<environment>/bin/python benchmarks/index_peers.py hnswlib <folder> 300    what was built, at one effort
"""

import json
import os
import sys
import time
from pathlib import Path

import numpy as np

EF_SEARCH = (300, 450, 600, 900)  # no graph gives k items at less than k
M, EF_CONSTRUCTION = 16, 200


def main(system, folder, ef_search=None):
    vectors, queries, truth = (np.load(folder / f"{name}.npy") for name in ("vectors", "queries", "truth"))
    k = truth.shape[1]
    file = folder / f"{system}.index"
    started = time.perf_counter()
    if ef_search is None:
        search, save = {"hnswlib": build_hnswlib, "usearch": build_usearch, "voyager": build_voyager}[system](
            vectors, k
        )
        build = time.perf_counter() - started
        save(str(file))
    else:
        search, _ = build_hnswlib(vectors, k, str(file))
        build = 0.0
    size = file.stat().st_size / len(vectors)
    for effort in EF_SEARCH if ef_search is None else [int(ef_search)]:
        found, taken = [], []
        for query, wanted in zip(queries, truth, strict=True):
            begun = time.perf_counter()
            ids = search(query, effort)
            taken.append(1e3 * (time.perf_counter() - begun))
            found.append(len(np.intersect1d(ids, wanted)) / k)
        row = {
            "system": system,
            "params": f"M {M}, ef {effort}, built with {EF_CONSTRUCTION}",
            "recall": round(float(np.mean(found)), 4),
            "p50_ms": round(float(np.percentile(taken, 50)), 4),
            "p99_ms": round(float(np.percentile(taken, 99)), 4),
            "bytes_per_vector": round(size, 1),
            "build_s": round(build, 1),
        }
        print(json.dumps(row), flush=True)


def build_hnswlib(vectors, k, file=None):
    import hnswlib

    index = hnswlib.Index("ip", vectors.shape[1])
    if file is None:
        index.init_index(len(vectors), ef_construction=EF_CONSTRUCTION, M=M)
        index.set_num_threads(os.cpu_count())
        index.add_items(vectors)
    else:
        index.load_index(file)
    index.set_num_threads(1)

    def search(query, effort):
        index.set_ef(effort)
        return index.knn_query(query, k)[0][0]

    return search, index.save_index


def build_usearch(vectors, k):
    from usearch.index import Index

    index = Index(
        ndim=vectors.shape[1], metric="ip", dtype="i8", connectivity=M, expansion_add=EF_CONSTRUCTION
    )
    index.add(np.arange(len(vectors)), vectors, threads=os.cpu_count())

    def search(query, effort):
        index.expansion_search = effort
        return index.search(query, k, threads=1).keys

    return search, index.save


def build_voyager(vectors, k):
    from voyager import Index, Space, StorageDataType

    index = Index(
        Space.InnerProduct, vectors.shape[1], M=M, ef_construction=EF_CONSTRUCTION,
        storage_data_type=StorageDataType.E4M3,
    )  # fmt: skip
    index.add_items(vectors, num_threads=os.cpu_count())
    return lambda query, effort: index.query(query, k, num_threads=1, query_ef=effort)[0], index.save


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
