"""How far a command is."""

import sys
import time


class Progress:
    """A line on stderr every few seconds; on a terminal, one that is written over."""

    def __init__(self) -> None:
        self.started = self.said = time.perf_counter()

    def __call__(self, done: int, rows: int = 0) -> None:
        """`rows`: of how many; 0 where that is not known."""
        now, over = time.perf_counter(), sys.stderr.isatty()
        if now - self.said < (0.5 if over else 10.0):
            return
        self.said = now
        line = self.line(done, f" of {rows:,}" if rows else "")
        print(line, file=sys.stderr, end="\r" if over else "\n", flush=True)

    def line(self, done: int, of: str = "") -> str:
        return f"{done:,}{of} rows, {done / (time.perf_counter() - self.started):,.0f} rows/s"
