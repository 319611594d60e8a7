"""What a command sets before torch and TorchRec load: how threads wait, and which noise stays out."""

import logging
import os
import warnings


def set_up() -> None:
    """Call it first in a command. Messages that a user can do nothing about are silenced, errors are not."""
    # Threads that spin at barriers starve each other when anything else runs on the machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for name in (
        "torchrec",
        "pytorch_lightning.utilities.rank_zero",
        "lightning_fabric.utilities.distributed",
    ):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"(torchrec|fbgemm_gpu|torch\.distributed)(\..*)?")
    warnings.filterwarnings("ignore", message=".*TypedStorage.*")
    warnings.filterwarnings("ignore", message=".*broadcast_buffers.*")
    warnings.filterwarnings("ignore", message=".*Checkpoint directory .* exists and is not empty.*")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*sync_dist=True.*")
