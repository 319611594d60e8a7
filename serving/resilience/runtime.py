"""Process and thread settings that keep latencies even."""

import atexit
import gc
from functools import cache

import faiss
import torch


def set_single_thread() -> None:
    """Give torch and faiss one thread in the calling Python thread.

    Both keep that number per Python thread; without it each would start a pool of its own for each.
    """
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)


@cache
def freeze_garbage_collector() -> None:
    """Exempt all present objects from garbage collection until the process exits.

    Once per process: they are the libraries' objects. A later bundle adds few, and freezing cached slates
    would take time.
    """
    gc.collect()
    gc.freeze()
    atexit.register(gc.unfreeze)  # extension modules report objects frozen at exit as leaks
