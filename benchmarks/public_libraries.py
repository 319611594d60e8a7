"""Item lists of other libraries on public sequences.

They are those of SASRec of RecTools, and of ALS, BPR and ItemKNN of implicit.

The libraries are installed in a separate environment (benchmarks/peer_environments.py). Each system trains in
a separate process (benchmarks/public_peers.py) on the known orders. Finished lists are kept.
"""

import hashlib
import os
import subprocess
from pathlib import Path

import numpy as np

from benchmarks.commands import ARTIFACTS, ROOT
from benchmarks.peer_environments import create_environment
from benchmarks.public_data import PublicSet, known_lines
from evaluation.jagged import Array

FOLDER = ARTIFACTS / "public"
PACKAGES = ["rectools[torch]>=0.19", "implicit>=0.7"]
SCRIPT = ROOT / "benchmarks" / "public_peers.py"
LIBRARIES = ("ItemKNN", "ALS", "BPR", "SASRec")
WITHOUT_SEED = ("ItemKNN",)


def library_lists(public: PublicSet, system: str, seed: int) -> Array | None:
    """Item lists [U, 10] of a system of LIBRARIES; -1 fills short lists.

    The result is None if the libraries cannot be installed.

    Raises CalledProcessError if the library fails.
    """
    python = create_environment(
        FOLDER / "venv", PACKAGES, "rectools.models,implicit,pytorch_lightning", inherit_packages=True
    )
    if python is None:
        return None
    folder = write_known_lines(public)
    lists = folder / f"{system}-{seed}.npy"
    if not lists.is_file():
        command = [str(python), str(SCRIPT), system, str(folder), str(seed)]
        subprocess.run(command, check=True, env=os.environ | {"OPENBLAS_NUM_THREADS": "1"})
    loaded: Array = np.load(lists)
    return loaded


def write_known_lines(public: PublicSet) -> Path:
    """Write the known orders, on which the libraries train; return the folder.

    The folder's name is a key of the orders and of the script.
    """
    known = known_lines(public)
    digest = hashlib.blake2b(SCRIPT.read_bytes(), digest_size=6)
    for column in known:
        digest.update(column.tobytes())
    folder = FOLDER / public.name / f"libraries-{digest.hexdigest()}"
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "known.npz", **known._asdict(), is_leave_one_out=public.is_leave_one_out)
    return folder
