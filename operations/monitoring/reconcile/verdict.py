"""Why offline and online disagree: the causes in their order."""

from dataclasses import dataclass

from operations.monitoring.reconcile.cause import Cause


@dataclass(frozen=True, slots=True)
class Verdict:
    """Causes in their order, and what they were looked for in."""

    causes: list[Cause]
    requests: int  # that were replayed
    same: float  # share of them that replay as logged
    observed: dict[str, tuple[float, float, int]]  # clicks, purchases → rate observed, predicted, items

    def said(self) -> str:
        """The first cause in a sentence."""
        first = self.causes[0]
        if not first.named:
            return f"Offline and online agree: {self.same:.0%} of {self.requests} requests replay as logged."
        return f"Most likely: {first.name}. {first.said}. To do: {first.todo}."


def rows(verdict: Verdict) -> list[dict[str, str]]:
    """A row per cause."""
    return [
        {
            "cause": one.name,
            "size": f"{one.size:.3f}",
            "z": f"{min(one.z, 99):.1f}",
            "": "NAMED" if one.named else "",
            "evidence": one.said,
        }
        for one in verdict.causes
    ]
