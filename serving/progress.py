"""Progress of a command on stderr."""

import sys
import time


class ProgressReporter:
    """Prints a line every 10 seconds; on a terminal it overwrites its line every 0.5 seconds."""

    def __init__(self) -> None:
        self.start_time = self.last_print_time = time.perf_counter()

    def update(self, done: int, total: int = 0) -> None:
        """Report `done` of `total` rows; 0 for an unknown total."""
        now, is_terminal = time.perf_counter(), sys.stderr.isatty()
        if now - self.last_print_time < (0.5 if is_terminal else 10.0):
            return
        self.last_print_time = now
        line = self.format_line(done, total)
        print(line, file=sys.stderr, end="\r" if is_terminal else "\n", flush=True)

    def format_line(self, done: int, total: int = 0) -> str:
        """`done of total rows, rows/s`."""
        of_total = f" of {total:,}" if total else ""
        return f"{done:,}{of_total} rows, {done / (time.perf_counter() - self.start_time):,.0f} rows/s"
