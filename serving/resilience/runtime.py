"""Process and thread settings that keep latencies even."""

import atexit
import gc
from functools import cache

import faiss
import torch


def set_single_thread() -> None:
    """Give torch and faiss one thread in the calling Python thread.

    Both libraries keep this number per Python thread; otherwise each would start its own thread pool for
    every Python thread.
    """
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)


@cache
def freeze_garbage_collector() -> None:
    """Exempt all existing objects from garbage collection until the process exits.

    Runs once per process, because most objects belong to libraries and a later bundle adds few objects.
    """
    gc.collect()
    gc.freeze()
    atexit.register(gc.unfreeze)  # extension modules report objects frozen at exit as leaks
