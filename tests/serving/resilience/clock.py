"""A clock that only the test advances."""


class ManualClock:
    """Returns its seconds when called, as time.monotonic does."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now
