"""Tries the modules and losses of a config before training, so that a wrong module or loss fails at once.

The multi-task network, the query encoder and the losses of tasks may be the user's own. Each runs on a few
synthetic rows. Modules are compiled to TorchScript, as in an export, and must give the same outputs.
"""

import copy
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from models.embeddings import pack_int8
from models.lowering import lower_ranker
from models.ranking.ranker import Ranker
from models.ranking.tasks import Task
from models.retrieval.item_sales import without_sales
from models.schema import Query, TableSizes
from models.torchscript import ScriptingError, script
from training.build_ranker import build_ranker, read_tasks
from training.build_two_tower import build_query_encoder, query_encoder_dims
from training.config_targets import TARGET
from training.errors import ConfigError
from training.task_losses import TaskRows, loss_name, pointwise_losses

NETWORK, ENCODER = "ranker.multitask", "retrieval.model.query"  # keys of the config
REMEDY = (
    "TorchScript takes a part of Python: https://docs.pytorch.org/docs/stable/jit_language_reference.html"
)
N_CHECKOUTS, N_CANDIDATES = 3, 5  # sizes of the synthetic rows


def check_modules(cfg: DictConfig, sizes: dict[str, Any]) -> None:
    """Raises ConfigError for a loss that cannot train, and for a module that cannot be trained or exported.

    `sizes` is FeatureSchema.table_sizes(). The check takes a second and does not change the random state.
    """
    with torch.random.fork_rng(devices=[]):
        check_query_encoder(cfg, TableSizes(**sizes))
        if cfg.stage != "retrieval":
            check_ranker(build_ranker(cfg, sizes), cfg.ranker.multitask[TARGET])
            check_losses(read_tasks(cfg), cfg.ranker.train.entire_space)


def check_losses(tasks: Sequence[Task], entire_space: bool) -> None:
    """Raises ConfigError for a task's loss whose value is no finite scalar, or that has no gradient."""
    for task, loss in zip(tasks, pointwise_losses(tasks, entire_space), strict=True):
        where = f"tasks.{task.name}.loss ({loss_name(task, entire_space)})"
        logit = torch.randn(N_CANDIDATES, requires_grad=True)
        label = torch.tensor([1.0, 0.0, 1.0, 0.0, 0.0]) * (1.0 if task.is_binary else 3.5)
        parent = torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0])
        weight = torch.tensor([1.0, 1.0, 10.0, 10.0, 0.0])
        value = _run(where, loss, TaskRows(logit, nn.functional.logsigmoid(logit), label, parent, weight))
        if not isinstance(value, Tensor) or value.shape != () or not value.isfinite():
            raise ConfigError(f"{where} gives {_describe(value)}: expected one finite number, as a tensor")
        if not value.requires_grad:
            raise ConfigError(f"{where} has no gradient: compute it with torch from rows.logit")


def check_query_encoder(cfg: DictConfig, tables: TableSizes) -> None:
    """Raises ConfigError for a query encoder without query vectors, or that TorchScript cannot compile."""
    encoder, dims = build_query_encoder(cfg, tables).eval(), query_encoder_dims(cfg, tables)
    where = f"{ENCODER} ({cfg.retrieval.model.query[TARGET]})"
    vectors = nn.functional.normalize(torch.randn(4, dims.item), dim=1)
    query = invented_query(len(tables.context), len(tables.profile))
    attributes = torch.randn(N_CHECKOUTS, dims.attributes)
    expected = []
    for table in (vectors, pack_int8(vectors)):  # item vectors of training, and of serving
        arguments = (query, table, query.history_item, query.basket_item, attributes)
        output = _run(where, encoder, *arguments)
        if not isinstance(output, Tensor) or output.shape != (N_CHECKOUTS, dims.item):
            raise ConfigError(
                f"{where}: forward returns {_describe(output)}: expected a tensor of shape "
                f"[{N_CHECKOUTS}, {dims.item}] for {N_CHECKOUTS} checkouts"
            )
        if not output.isfinite().all() or not (output.norm(dim=1) > 0).all():
            raise ConfigError(
                f"{where}: forward returns a vector that is zero or not finite: expected a direction for "
                "every checkout, also without history and basket"
            )
        expected.append((arguments, output))
    if dims.sales > 0:
        _check_sales_unread(where, encoder, *expected[0], dims.sales)
    _check_script(where, encoder, expected)


def check_ranker(ranker: Ranker, class_name: str) -> None:
    """Raises ConfigError for a network without output `{task: logit}` or that TorchScript cannot compile."""
    where, tasks = f"{NETWORK} ({class_name})", ranker.task_names
    network: Any = copy.deepcopy(ranker.multitask).eval()
    query_dim, candidate_dim = ranker.network_dims
    query, candidate = torch.randn(2, query_dim), torch.randn(N_CANDIDATES, candidate_dim)
    expected = []
    for segment in (torch.tensor([0, 0, 1, 1, 1]), torch.zeros(N_CANDIDATES, dtype=torch.int64)):
        arguments = (query[: int(segment.max()) + 1], candidate, segment)
        output = _run(where, network, *arguments)
        _check_logits(where, output, tasks)
        expected.append((arguments, output))
    _check_shared_weight(where, network, expected[0][1])
    _check_script(where, network, expected)
    _script("ranker", lower_ranker(ranker))


def invented_query(n_context: int, n_profile: int) -> Query:
    """Three synthetic checkouts: with history and basket, without history, and with neither."""
    day, now = 86_400, 1_700_000_000
    return Query(
        ts=torch.full([N_CHECKOUTS], now),
        snapshot=torch.zeros(N_CHECKOUTS, dtype=torch.int64),
        history_offsets=torch.tensor([0, 3, 3, 3]),
        history_item=torch.tensor([1, 2, 1]),
        history_ts=now - day * torch.tensor([90, 5, 1]),
        history_kind=torch.tensor([0, 1, 0]),
        history_quantity=torch.tensor([2.0, 1.0, 1.0]),
        history_price=torch.tensor([3.5, 0.0, 3.0]),
        basket_offsets=torch.tensor([0, 2, 3, 3]),
        basket_item=torch.tensor([3, 0, 2]),
        basket_quantity=torch.ones(3),
        basket_price=torch.tensor([1.0, 2.0, 4.0]),
        context=torch.zeros(N_CHECKOUTS, n_context, dtype=torch.int64),
        profile=torch.zeros(N_CHECKOUTS, n_profile, dtype=torch.int64),
    )


def _run(where: str, module: Callable[..., Any], *arguments: Any) -> Any:
    """Run a module and return its output. Raises ConfigError, with file and line, for any exception."""
    try:
        return module(*arguments)
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        # The last line of the module's code, not of a library that the module calls.
        frame = [each for each in frames if "site-packages" not in each.filename][-1]
        raise ConfigError(
            f"{where}: {frame.filename}, line {frame.lineno}: {type(error).__name__}: {error}"
        ) from error


def _check_sales_unread(
    where: str, encoder: nn.Module, arguments: tuple[Any, ...], output: Tensor, n_sales: int
) -> None:
    """Raises ConfigError if an encoder reads the sales in item vectors, which are missing in training."""
    query, table, *others = arguments
    if not torch.allclose(_run(where, encoder, query, without_sales(table, n_sales), *others), output):
        raise ConfigError(
            f"{where}: forward reads the sales, the last {n_sales} columns of the item vectors, but they are "
            "0 in training. To do: apply without_sales to the vectors before forward pools them (example: "
            "Readout in models/retrieval/item_sales.py), or set retrieval.model.sales=false"
        )


def _check_logits(where: str, output: Any, tasks: Sequence[str]) -> None:
    expected = f"expected a dict with a tensor [n] for each task: {', '.join(tasks)}"
    if not isinstance(output, dict):
        raise ConfigError(f"{where}: forward returns {_describe(output)}: {expected}")
    if set(output) != set(tasks):
        raise ConfigError(f"{where}: forward returns {', '.join(map(str, output)) or 'no task'}: {expected}")
    for task, logit in output.items():
        if not isinstance(logit, Tensor) or logit.shape != (N_CANDIDATES,):
            raise ConfigError(
                f"{where}: forward returns {_describe(logit)} for {task} of {N_CANDIDATES} candidates: "
                f"{expected}"
            )


def _check_shared_weight(where: str, network: Any, logits: dict[str, Tensor]) -> None:
    """Raises ConfigError unless `last_shared_weight` returns None or a parameter that every task trains."""
    method = getattr(network, "last_shared_weight", None)
    if method is None:
        raise ConfigError(
            f"{where} has no last_shared_weight(): return the last parameter that all tasks train, or None"
        )
    weight = method()
    if weight is None:
        return
    for task, logit in logits.items():
        gradient = None
        if logit.requires_grad and isinstance(weight, nn.Parameter):
            (gradient,) = torch.autograd.grad(logit.sum(), weight, retain_graph=True, allow_unused=True)
        if gradient is None:
            raise ConfigError(
                f"{where}: last_shared_weight() gives a tensor on which {task} has no gradient: return a "
                "parameter that all tasks train, or None"
            )


def _check_script(where: str, module: nn.Module, expected: list[tuple[tuple[Any, ...], Any]]) -> None:
    """Raises ConfigError unless TorchScript compiles a module and gives the same outputs."""
    scripted = _script(where, module)
    for arguments, output in expected:
        try:
            torch.testing.assert_close(_run(f"{where}, as TorchScript", scripted, *arguments), output)
        except AssertionError as error:
            raise ConfigError(f"{where}: its TorchScript gives other outputs: {error}") from error


def _script(where: str, module: nn.Module) -> Any:
    try:
        return script(module)
    except ScriptingError as error:
        raise ConfigError(f"{where} cannot be exported: {error}. {REMEDY}") from error


def _describe(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {list(value.shape)}" if value.ndim else str(float(value))
    return f"a {type(value).__name__}"
