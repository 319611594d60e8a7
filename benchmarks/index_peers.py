"""Measurement of one index library on the vectors that benchmarks/index.py wrote.

    <environment>/bin/python benchmarks/index_peers.py hnswlib|usearch|voyager FOLDER    a new index, every ef
    <environment>/bin/python benchmarks/index_peers.py hnswlib FOLDER 300                a saved index, one ef

The script runs in a separate environment, so it imports nothing of this project. A builder returns two
functions: `search` (query, ef) → ids, and `save` (file).
"""

import json
import os
import sys
import time
from pathlib import Path

import numpy as np

EF_SEARCH = (300, 450, 600, 900)  # no graph returns k items at less than k
M, EF_CONSTRUCTION = 16, 200


def main(system, folder, ef_search=None):
    vectors, queries, truth = (np.load(folder / f"{name}.npy") for name in ("vectors", "queries", "truth"))
    k = truth.shape[1]
    file = folder / f"{system}.index"
    started = time.perf_counter()
    if ef_search is None:
        search, save = BUILDERS[system](vectors, k)
        build_s = time.perf_counter() - started
        save(str(file))
    else:
        search, _ = build_hnswlib(vectors, k, str(file))
        build_s = 0.0
    bytes_per_vector = file.stat().st_size / len(vectors)
    for ef in EF_SEARCH if ef_search is None else [int(ef_search)]:
        recalls, latencies_ms = [], []
        for query, neighbours in zip(queries, truth, strict=True):
            query_started = time.perf_counter()
            ids = search(query, ef)
            latencies_ms.append(1e3 * (time.perf_counter() - query_started))
            recalls.append(len(np.intersect1d(ids, neighbours)) / k)
        row = {
            "system": system,
            "params": f"M {M}, ef {ef}, ef_construction {EF_CONSTRUCTION}",
            "recall": round(float(np.mean(recalls)), 4),
            "p50_ms": round(float(np.percentile(latencies_ms, 50)), 4),
            "p99_ms": round(float(np.percentile(latencies_ms, 99)), 4),
            "bytes_per_vector": round(bytes_per_vector, 1),
            "build_s": round(build_s, 1),
        }
        print(json.dumps(row), flush=True)


def build_hnswlib(vectors, k, file=None):
    """Build the index, or load it from `file`."""
    import hnswlib

    index = hnswlib.Index("ip", vectors.shape[1])
    if file is None:
        index.init_index(len(vectors), ef_construction=EF_CONSTRUCTION, M=M)
        index.set_num_threads(os.cpu_count())
        index.add_items(vectors)
    else:
        index.load_index(file)
    index.set_num_threads(1)

    def search(query, ef):
        index.set_ef(ef)
        return index.knn_query(query, k)[0][0]

    return search, index.save_index


def build_usearch(vectors, k):
    from usearch.index import Index

    index = Index(
        ndim=vectors.shape[1], metric="ip", dtype="i8", connectivity=M, expansion_add=EF_CONSTRUCTION
    )
    index.add(np.arange(len(vectors)), vectors, threads=os.cpu_count())

    def search(query, ef):
        index.expansion_search = ef
        return index.search(query, k, threads=1).keys

    return search, index.save


def build_voyager(vectors, k):
    from voyager import Index, Space, StorageDataType

    index = Index(
        Space.InnerProduct, vectors.shape[1], M=M, ef_construction=EF_CONSTRUCTION,
        storage_data_type=StorageDataType.E4M3,
    )  # fmt: skip
    index.add_items(vectors, num_threads=os.cpu_count())
    return lambda query, ef: index.query(query, k, num_threads=1, query_ef=ef)[0], index.save


BUILDERS = {"hnswlib": build_hnswlib, "usearch": build_usearch, "voyager": build_voyager}

if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
