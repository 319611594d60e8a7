"""Every multi-task variant, small: a factory (Q, X) → module by the name of its config."""

from functools import partial

from models.ranking.multitask.cascade import Cascade
from models.ranking.multitask.esmm import ESMM
from models.ranking.multitask.mmoe import MMoE
from models.ranking.multitask.ple import PLE
from models.ranking.multitask.shared_bottom import SharedBottom

VARIANTS = {
    "shared_bottom": partial(SharedBottom, hidden=(16, 8), tower=4),
    "mmoe": partial(MMoE, experts=3, hidden=(16, 8), tower=4),
    "ple": partial(PLE, specific_experts=2, shared_experts=1, hidden=(16, 8), tower=4),
    "ple of one layer": partial(PLE, specific_experts=1, shared_experts=2, hidden=(16,), tower=4),
    "esmm": partial(ESMM, hidden=(16, 8), tower=4),
    "cascade": partial(Cascade, hidden=(16, 8), tower=4),
}
