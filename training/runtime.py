"""Process settings that precede the import of torch and TorchRec: thread waiting and silenced warnings."""

import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from data.io.url_secrets import mask_message
from training.config import check_overrides
from training.config_keys import reject_swept_secrets
from training.errors import ConfigError


def run_command(config_name: str, main: Callable[[], None]) -> None:
    """Check the overrides of a Hydra command, then run it. A wrong override is a one-line error."""
    set_up_process()
    try:
        reject_swept_secrets(sys.argv[1:])
        sys.argv[1:] = with_direction(check_overrides(config_name, sys.argv[1:]))
    except ConfigError as error:
        sys.exit(f"error: {mask_message(str(error))}")  # the message may quote an override
    main()


@contextmanager
def quiet_on_closed_pipe() -> Iterator[None]:
    """End without a traceback if the reader of the output has closed it, as in `train.py … | head`."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        sys.exit(128 + signal.SIGPIPE)


def with_direction(arguments: Sequence[str]) -> list[str]:
    """Returns the arguments, so that an Optuna sweep maximizes: a higher `objective_metric` is better."""
    is_given = any(argument.lstrip("+").startswith("hydra.sweeper.direction=") for argument in arguments)
    is_optuna = "hydra/sweeper=optuna" in arguments
    return [*arguments, *(["hydra.sweeper.direction=maximize"] if is_optuna and not is_given else [])]


def set_up_process() -> None:
    """Set how threads wait, and silence warnings that a user cannot act on. Call it first in a command.

    Modules of the working directory can be imported, so a config may name their classes.
    """
    sys.path.append(str(Path.cwd()))  # last, so that it hides no module of the repository
    # Threads that spin at barriers slow each other down when other programs run on the machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # DDP warns of a setting that current models do not need (training/distributed/sharding.py).
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    for name in (
        "torchrec",
        "pytorch_lightning.utilities.rank_zero",
        "lightning_fabric.utilities.distributed",
        "torch.fx._symbolic_trace",  # warnings that recommend successors of TorchScript
        "mlflow.store.db.utils",
    ):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"(torchrec|fbgemm_gpu|torch\.distributed)(\..*)?")
    warnings.filterwarnings("ignore", message=".*TypedStorage.*")
    warnings.filterwarnings("ignore", message=".*deprecating ShardedTensor.*")
    warnings.filterwarnings("ignore", message=".*broadcast_buffers.*")
    warnings.filterwarnings("ignore", message=".*Checkpoint directory .* exists and is not empty.*")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*sync_dist=True.*")
    warnings.filterwarnings("ignore", message=".*smaller than the logging interval.*")
