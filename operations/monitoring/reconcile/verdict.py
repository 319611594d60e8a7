"""The diagnosis: ranked causes, and the requests that they explain."""

from dataclasses import dataclass

from operations.monitoring.reconcile.cause import Cause


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Ranked causes of disagreement between log and replay."""

    causes: list[Cause]
    requests: int  # number of replayed requests
    match_rate: float  # share of the requests that replay as logged
    observed_rates: dict[str, tuple[float, float, int]]  # clicks, purchases → observed, predicted, items
    bundle_version: str = ""  # version of the bundle that replayed them
    further_versions: tuple[str, ...] = ()  # further versions that answered requests of the log

    def summary(self) -> str:
        """A sentence on the first cause."""
        cause = self.causes[0]
        if not cause.is_significant:
            share = f"{self.match_rate:.0%} of {self.requests} requests"
            return f"Offline and online agree: {share} replay as logged."
        return f"Most likely: {cause.name}. {cause.evidence}. To do: {cause.remedy}."


def cause_rows(diagnosis: Diagnosis) -> list[dict[str, str]]:
    """A row per cause."""
    return [
        {
            "cause": cause.name,
            "effect_size": f"{cause.effect_size:.3f}",
            "z": f"{min(cause.z, 99):.1f}",
            "": "SIGNIFICANT" if cause.is_significant else "",
            "evidence": cause.evidence,
        }
        for cause in diagnosis.causes
    ]
