"""A cause of disagreement between offline and online, with effect size and evidence."""

from typing import NamedTuple

MIN_Z_SCORE = 4.0  # standard errors
MIN_EFFECT_SIZE = 0.02  # of a log-odds ratio: a factor of 1.02


class Cause(NamedTuple):
    """A cause with its evidence.

    `effect_size` is always the natural logarithm of a ratio, so that causes can be compared. The ratio
    compares the odds in log and replay, the rates with and without missing events, or the mean predictions
    at two traffic mixes.
    """

    name: str
    effect_size: float
    z: float  # standard errors from 0
    evidence: str  # a sentence
    remedy: str

    @property
    def is_significant(self) -> bool:
        return self.effect_size >= MIN_EFFECT_SIZE and self.z >= MIN_Z_SCORE


def rank_causes(causes: list[Cause]) -> list[Cause]:
    """Order causes by effect size, all significant causes before all others."""
    return sorted(causes, key=lambda cause: (cause.is_significant, cause.effect_size), reverse=True)
