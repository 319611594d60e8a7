"""How far a command is."""

import sys
import time


class ProgressReporter:
    """A line on stderr every few seconds; on a terminal, one that is written over."""

    def __init__(self) -> None:
        self.start_time = self.last_print_time = time.perf_counter()

    def __call__(self, done: int, rows: int = 0) -> None:
        """`rows`: of how many; 0 where that is not known."""
        now, over = time.perf_counter(), sys.stderr.isatty()
        if now - self.last_print_time < (0.5 if over else 10.0):
            return
        self.last_print_time = now
        line = self.format_line(done, f" of {rows:,}" if rows else "")
        print(line, file=sys.stderr, end="\r" if over else "\n", flush=True)

    def format_line(self, done: int, of: str = "") -> str:
        return f"{done:,}{of} rows, {done / (time.perf_counter() - self.start_time):,.0f} rows/s"
