"""What a check says: how much of the disagreement a cause accounts for, and how sure that is."""

from typing import NamedTuple

SURE = 4.0  # standard errors
LEAST = 0.02  # log-odds, or a factor of 1.02


class Cause(NamedTuple):
    """A cause with its evidence.

    `size` is in natural logarithms for all of them, so that they can be compared: of odds between what was
    logged and what the replay gives, of a rate that is missing, or of a mean that would be another.
    """

    name: str
    size: float
    z: float  # standard errors from nothing
    said: str  # the evidence in a sentence
    todo: str

    @property
    def named(self) -> bool:
        """Whether the evidence is enough to say so."""
        return self.size >= LEAST and self.z >= SURE


def ranked(causes: list[Cause]) -> list[Cause]:
    """What is named first, and of these what explains most."""
    return sorted(causes, key=lambda one: (one.named, one.size), reverse=True)
