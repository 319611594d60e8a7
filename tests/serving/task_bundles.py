"""Bundles of other tasks, made of one whose ranker predicts click, purchase and value."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from serving.storage.bundle import Bundle
from serving.storage.formats import DEFAULT_TASKS, TaskOutput

CLICK, PURCHASE, VALUE = DEFAULT_TASKS
RETURN = TaskOutput("return", "binary", "return", given="purchase", joint=False)
WISHLIST = TaskOutput("wishlist", "binary", "wishlist", given="click")
UNITS = TaskOutput("units", "count", "quantity", given="purchase")
TASKS = (CLICK, PURCHASE, VALUE, RETURN, WISHLIST, UNITS)
# Outputs of the given bundle that stand for those of the task.
ROW_OF_TASK = {"click": 0, "purchase": 1, "value": 2, "return": 0, "wishlist": 1, "units": 2}


def with_tasks(bundle: Bundle, tasks: Sequence[TaskOutput], **slate: object) -> Bundle:
    """The bundle with these tasks, whose outputs are those of click, purchase and value again."""
    rows = torch.tensor([ROW_OF_TASK[task.name] for task in tasks])

    def ranker(*arguments: object) -> torch.Tensor:
        return bundle.ranker(*arguments)[rows]

    manifest = bundle.manifest | {"slate": slate}
    return replace(bundle, tasks=tuple(tasks), ranker=ranker, manifest=manifest)
