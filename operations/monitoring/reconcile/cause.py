"""What a check says: how much of the disagreement a cause accounts for, and how sure that is."""

from typing import NamedTuple

MIN_Z_SCORE = 4.0  # standard errors
MIN_EFFECT_SIZE = 0.02  # log-odds, or a factor of 1.02


class Cause(NamedTuple):
    """A cause with its evidence.

    `size` is in natural logarithms for all of them, so that they can be compared: of odds between what was
    logged and what the replay gives, of a rate that is missing, or of a mean that would be another.
    """

    name: str
    effect_size: float
    z: float  # standard errors from nothing
    evidence: str  # the evidence in a sentence
    remedy: str

    @property
    def is_significant(self) -> bool:
        """Whether the evidence is enough to say so."""
        return self.effect_size >= MIN_EFFECT_SIZE and self.z >= MIN_Z_SCORE


def rank_causes(causes: list[Cause]) -> list[Cause]:
    """What is named first, and of these what explains most."""
    return sorted(causes, key=lambda one: (one.is_significant, one.effect_size), reverse=True)
