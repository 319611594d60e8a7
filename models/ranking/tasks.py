"""Tasks of the ranker, as a config declares them: each with its kind, label, window and parent.

    click:    {kind: binary, label: click}
    purchase: {kind: binary, label: purchase, given: click}      p(purchase) = p(click) · p(purchase | click)
    value:    {kind: amount, label: spend, given: purchase}      E[spend | purchase]
    return:   {kind: binary, label: return, given: purchase, joint: false}      p(return | purchase)
    organic:  {kind: binary, label: organic}                     p(bought | not shown)
    uplift:   {kind: binary, label: bought, control: organic}    p(bought | shown) - p(bought | not shown)

A multi-task network has one logit per task. The logit of a binary task is its log-odds given the parent. The
logit of an amount or a count is the logarithm of its mean given the parent.

A task with a control reports an uplift: the probability that showing an item adds to the label.

    p(label | shown) = p(parent) · (c + (1 - c) · σ(logit))      c: the control, p(label | not shown)
    uplift           = p(parent) · (1 - c) · σ(logit)

So the logit describes the event "the slot sells the item to someone who would not have bought it". The model
assumes that showing an item never prevents a purchase, so uplifts are positive. The labels `bought` and
`organic` (of the control) count all purchases, with or without a click, because a click on an item that would
be bought anyway adds nothing. p(click and purchase) - p(organic) would be too low, because p(click and
purchase) excludes purchases of shown items without a click. With `given: click` an uplift would be too high,
because users who need an item click it more often.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.suggestions import suggest

KINDS = ("binary", "amount", "count")
# The pointwise losses of each kind. The first is the default of a task without parent.
LOSSES = {
    "binary": ("cross_entropy", "entire_space", "conditional", "escm2_ips", "escm2_dr"),
    "amount": ("gamma",),
    "count": ("poisson",),
}
LABEL_KINDS = {"spend": ("amount",), "quantity": ("amount", "count")}  # other labels are true or false
# Purchases with or without a click: of items that were shown, and of items that were not shown.
BOUGHT, ORGANIC = "bought", "organic"
NAME = re.compile(r"[a-z][a-z0-9_]*")
LABEL = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")  # also any kind of events
# Names with another meaning in an objective (serving/pipeline/objective.py).
RESERVED_NAMES = ("min", "max", "log", "exp", "margin", "price", "revenue_weight")


@dataclass(frozen=True, kw_only=True)
class Task:
    """A prediction of the ranker: the meaning of one logit.

    Args:
        name: name of the task's output in the objective, in serving and in reports.
        kind: binary, amount (a positive number) or count.
        label: click, purchase, spend, quantity, return, bought, organic, or another kind of event.
        window: time after the checkout in which the label counts, such as 12h or 7d; None for `data.horizon`.
        given: an earlier binary task that must have happened first.
        joint: whether a binary task with a parent reports p(parent) · p(task | parent) instead of p(task |
            parent).
        control: an earlier binary task, the probability of the label without the slot. A binary task with a
            control reports the uplift over it.
        loss: one of LOSSES, or the dotted path of a function (training/task_losses.py); None for the default.
        weight: weight of the task's loss, relative to the other tasks.
        counterfactual_weight: weight of the counterfactual risk in the losses escm2_ips and escm2_dr,
            relative to the loss over the entire space (λ_c / λ_g in the paper of models/ranking/escm2.py).
        calibration: whether its output is calibrated on the validation split.
        ranking: share of the ranking losses (`ranker.train.loss`) that order candidates by its output.
    """

    name: str
    kind: str
    label: str
    window: str | None = None
    given: str | None = None
    joint: bool = True
    control: str | None = None
    loss: str | None = None
    weight: float = 1.0
    counterfactual_weight: float = 0.1
    calibration: bool = True
    ranking: float = 0.0

    @property
    def is_binary(self) -> bool:
        return self.kind == "binary"

    @property
    def label_key(self) -> str:
        """Name of the label's column: `purchase`, or `purchase_7d` with a window."""
        return self.label if self.window is None else f"{self.label}_{self.window}"


DEFAULT_TASKS = (
    Task(name="click", kind="binary", label="click"),
    Task(name="purchase", kind="binary", label="purchase", given="click", ranking=0.5),
    Task(name="value", kind="amount", label="spend", given="purchase", weight=0.2, ranking=0.5),
)


def parse_tasks(tasks: Mapping[str, Any]) -> tuple[Task, ...]:
    """The tasks of a config, in its order. Raises ValueError for invalid settings."""
    if not tasks:
        raise ValueError("tasks is empty: the ranker needs one task at least, as in tasks=purchase_only")
    parsed: list[Task] = []
    for name, settings in tasks.items():
        if settings is not None:  # null removes a task
            parsed.append(_parse_task(str(name), settings, parsed))
    if not any(task.is_binary for task in parsed):
        raise ValueError(
            "tasks: no task is binary. Candidates are ranked by a probability: declare a binary task"
        )
    return tuple(parsed)


def _parse_task(name: str, settings: Any, earlier: Sequence[Task]) -> Task:
    if not NAME.fullmatch(name) or name in RESERVED_NAMES:
        raise ValueError(
            f"tasks.{name}: a task's name has lower-case letters, digits and _, begins with a letter and is "
            f"none of {', '.join(RESERVED_NAMES)}"
        )
    if not isinstance(settings, Mapping):
        raise ValueError(f"tasks.{name} is {settings!r}: expected {{kind: …, label: …}}")
    known = [field.name for field in fields(Task) if field.name != "name"]
    for key in settings:
        if key not in known:
            raise ValueError(f"tasks.{name}.{key}: no such key.{suggest(str(key), known)}")
    for key in ("kind", "label"):
        if settings.get(key) is None:
            hint = suggest(name, [task.name for task in earlier])
            raise ValueError(f"tasks.{name}.{key} is missing.{hint}")
    task = Task(name=name, **settings)
    of_others = (_parent_error(task, earlier), _control_error(task, earlier))
    for error in (_value_error(task), *of_others, _label_error(task)):
        if error:
            raise ValueError(f"tasks.{name}.{error}")
    return task


def _value_error(task: Task) -> str | None:
    if task.kind not in KINDS:
        return f"kind={task.kind}: expected {', '.join(KINDS)}.{suggest(task.kind, KINDS)}"
    for name in ("weight", "ranking", "counterfactual_weight"):
        value = getattr(task, name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1e6:
            return f"{name}={value}: expected a number from 0 to 1e+06"
    for name in ("joint", "calibration"):
        if not isinstance(getattr(task, name), bool):
            return f"{name}={getattr(task, name)}: expected true or false"
    losses = LOSSES[task.kind]
    if task.loss is not None and "." not in task.loss and task.loss not in losses:
        return (
            f"loss={task.loss}: expected {', '.join(losses)} or the dotted path of a function."
            f"{suggest(task.loss, losses)}"
        )
    if task.loss in LOSSES["binary"][1:] and task.given is None:
        return f"loss={task.loss} needs a parent: set given, or loss=cross_entropy"
    return None


def _parent_error(task: Task, earlier: Sequence[Task]) -> str | None:
    if task.given is None:
        return None if task.joint else "joint=false needs a parent: set given"
    parents = [parent.name for parent in earlier if parent.is_binary and parent.control is None]
    if task.given in parents:
        return None
    return (
        f"given={task.given}: expected a binary task declared before it "
        f"({', '.join(parents) or 'there is none'}).{suggest(task.given, parents)}"
    )


def _control_error(task: Task, earlier: Sequence[Task]) -> str | None:
    if task.control is None:
        return None
    if not task.is_binary:
        return f"control={task.control}: only a binary task has a control; kind={task.kind} has none"
    controls = [control.name for control in earlier if is_control(control)]
    if task.control in controls:
        return None
    return (
        f"control={task.control}: expected a binary task without given and control declared before it "
        f"({', '.join(controls) or 'there is none'}).{suggest(task.control, controls)}"
    )


def is_control(task: Task) -> bool:
    """Whether a task can be the control of another."""
    return task.is_binary and task.given is None and task.control is None


def _label_error(task: Task) -> str | None:
    if not LABEL.fullmatch(str(task.label)) or task.label == "impression":  # every candidate has one, or none
        return (
            f"label={task.label}: expected click, purchase, spend, quantity, return or a kind of event other "
            "than impression: letters, digits, - and _, a letter first"
        )
    if task.label in (BOUGHT, ORGANIC) and task.window is not None:
        return f"window={task.window}: the label {task.label} has the data's horizon; leave the window out"
    kinds = LABEL_KINDS.get(task.label, ("binary",))
    if task.kind not in kinds:
        return f"label={task.label} is not a label of kind {task.kind}: expected kind={' or '.join(kinds)}"
    return None


def default_objective(tasks: Sequence[Task]) -> str:
    """The default objective: added spend (with an uplift task), expected spend, or the last probability."""
    if (incremental := incremental_objective(tasks)) is not None:
        return incremental
    for task in tasks:
        if task.label == "spend" and task.window is None:
            return task.name if task.given is None else f"{task.given} * {task.name}"
    return [task.name for task in tasks if task.is_binary and task.joint][-1]


def incremental_objective(tasks: Sequence[Task]) -> str | None:
    """The expected spend that the slot adds: uplift · E[spend | purchase].

    Without a spend task the objective is the uplift. None if no task reports an uplift.
    """
    uplifts = [task.name for task in tasks if task.control is not None and task.joint]
    spends = [task.name for task in tasks if task.label == "spend" and task.window is None]
    return " * ".join([uplifts[-1], *spends[:1]]) if uplifts else None


def parent_indices(tasks: Sequence[Task]) -> list[int]:
    """The position of each task's parent, -1 for none."""
    names = [task.name for task in tasks]
    return [-1 if task.given is None else names.index(task.given) for task in tasks]


def control_indices(tasks: Sequence[Task]) -> list[int]:
    """The position of each task's control, -1 for none."""
    names = [task.name for task in tasks]
    return [-1 if task.control is None else names.index(task.control) for task in tasks]


def parent_labels(labels: Tensor, tasks: Sequence[Task]) -> list[Tensor]:
    """Returns a tensor [n] for each task: 1 where its parent happened, by the labels [n, T].

    All 1 for a task without a parent.
    """
    everywhere = torch.ones_like(labels[:, 0])
    return [everywhere if p < 0 else labels[:, p] for p in parent_indices(tasks)]


def log_probabilities(logits: Tensor, parents: list[int], binary: list[bool]) -> list[Tensor]:
    """Returns log p(task and all its ancestors) [n] for each task, from logits [n, T] given the parents.

    For an amount or a count the value is log p(parent). Products are sums of logarithms, as in ESMM (Ma et
    al., SIGIR 2018, equation 1).
    """
    logs: list[Tensor] = []
    for task, parent in enumerate(parents):
        own = F.logsigmoid(logits[:, task]) if binary[task] else torch.zeros_like(logits[:, task])
        logs.append(own if parent < 0 else logs[parent] + own)
    return logs


class TaskOutputs(nn.Module):
    """Turns logits into the outputs of tasks: probabilities, uplifts, and means given the parent.

    The joint probability of a task never exceeds that of its parent, not even by a rounding error.

    Args:
        of_labels: whether the logits come from `calibration.label_logits`. Then the outputs predict the
        labels: a task with a control gives the probability of its label, not the uplift.
    """

    def __init__(self, tasks: Sequence[Task], of_labels: bool = False) -> None:
        super().__init__()
        self.parents = parent_indices(tasks)
        self.controls = [-1 for _ in tasks] if of_labels else control_indices(tasks)
        self.binary = [task.is_binary for task in tasks]
        self.joint = [task.joint for task in tasks]

    def forward(self, logits: Tensor) -> Tensor:
        """Turns logits [n, T] into outputs [T, n]."""
        logs = log_probabilities(logits, self.parents, self.binary)
        joint: list[Tensor] = []
        outputs: list[Tensor] = []
        for task, parent in enumerate(self.parents):
            own = logits[:, task].sigmoid()
            log_joint = logs[task]
            if self.controls[task] >= 0:
                control = logits[:, self.controls[task]]
                own = own * (-control).sigmoid()
                log_joint = log_joint + F.logsigmoid(-control)
            joint.append(own if parent < 0 else torch.minimum(log_joint.exp(), joint[parent]))
            if not self.binary[task]:
                outputs.append(logits[:, task].exp())
            else:
                outputs.append(joint[task] if self.joint[task] else own)
        return torch.stack(outputs)
