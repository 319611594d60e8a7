"""Why offline and online disagree: the causes in their order."""

from dataclasses import dataclass

from operations.monitoring.reconcile.cause import Cause


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Causes in their order, and what they were looked for in."""

    causes: list[Cause]
    requests: int  # that were replayed
    match_rate: float  # share of them that replay as logged
    observed_rates: dict[str, tuple[float, float, int]]  # clicks, purchases → rate observed, predicted, items

    def summary(self) -> str:
        """The first cause in a sentence."""
        first = self.causes[0]
        if not first.is_significant:
            return f"Offline and online agree: {self.match_rate:.0%} of {self.requests} requests replay as logged."
        return f"Most likely: {first.name}. {first.evidence}. To do: {first.remedy}."


def cause_rows(verdict: Diagnosis) -> list[dict[str, str]]:
    """A row per cause."""
    return [
        {
            "cause": one.name,
            "size": f"{one.effect_size:.3f}",
            "z": f"{min(one.z, 99):.1f}",
            "": "NAMED" if one.is_significant else "",
            "evidence": one.evidence,
        }
        for one in verdict.causes
    ]
