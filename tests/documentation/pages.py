"""Pages whose commands and snippets run: their blocks, and a folder like a clone to run them in."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from tests.end_to_end.commands import HANG_SECONDS, ROOT, environment

FENCE = re.compile(r"^```(?P<language>[\w-]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
COMMENT_WITH_PATH = re.compile(r"# ([\w./-]+\.(?:py|yaml|toml|sql))\n")
FILE_LANGUAGES = ("python", "yaml", "toml", "sql")
UNREAD_LANGUAGES = ("text", "json", "http", "promql")  # output and examples
PORT = "8000"  # as pages write it
SMALL = ("experiment=debug", "data=tables", "data.root=shop", "logger=none")  # where a page sets nothing else


class Block(NamedTuple):
    """A fenced block: its language, text and the path of the file that it is, if it is one."""

    language: str
    text: str
    path: str | None


def page_blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    blocks = []
    for language, text in FENCE.findall(page.read_text()):
        match = COMMENT_WITH_PATH.match(text) if language in FILE_LANGUAGES else None
        blocks.append(Block(language, text, match[1] if match else None))
    return blocks


def command_lines(text: str) -> list[str]:
    """The commands of a shell block, without comments; a line that ends in a backslash goes on."""
    joined = re.sub(r"\\\n\s*", "", text)
    lines = (re.sub(r"\s{2,}#\s.*$", "", line).strip() for line in joined.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def clone(folder: Path) -> Path:
    """Links to all that the repository tracks; what commands write stays in the folder."""
    tracked = subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).splitlines()
    for name in {line.split("/")[0] for line in tracked}:
        (folder / name).symlink_to(ROOT / name)
    (folder / ".venv").symlink_to(Path(sys.prefix))
    return folder


class PageRunner:
    """Runs the blocks of pages in a folder, in order. A service runs until the next, or its page ends."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.output = ""  # of all finished commands
        self._service: subprocess.Popen[bytes] | None = None
        self._port = 0

    def run(self, page: Path) -> None:
        """Run every block of a page. Raises AssertionError with the output of one that fails."""
        for block in page_blocks(page):
            if block.path is not None:
                file = self.folder / block.path
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(block.text)
            elif block.language == "python":
                self._finish([sys.executable, "-c", block.text], block.text)
            elif block.language == "bash":
                for line in command_lines(block.text):
                    self._run_line(line)
        self.close()

    def close(self) -> None:
        """Stop the service, if one runs."""
        if self._service is not None:
            self._service.send_signal(signal.SIGTERM)
            self._service.wait(60)
            self._service = None

    def _run_line(self, line: str) -> None:
        if " serving serve " in line:
            self._start_service(line)
            return
        if re.search(r"\btrain\.py\b(?!.*stage=check)", line):
            line += "".join(f" {each}" for each in SMALL if each.split("=")[0] + "=" not in line)
        if re.match(r"make (\w|-)+$", line):
            line = line.replace("make ", "make -n ", 1)  # the target exists; the page has its commands
        self._finish(["bash", "-ec", line.replace(f"localhost:{PORT}", f"localhost:{self._port}")], line)

    def _start_service(self, line: str) -> None:
        self.close()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        line = line.replace(f"--port {PORT}", f"--port {self._port}")
        self._service = subprocess.Popen(["bash", "-ec", f"exec {line}"], cwd=self.folder, env=environment())
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            assert self._service.poll() is None, f"{line} ended"
            with suppress(urllib.error.URLError, ConnectionError):
                urllib.request.urlopen(f"http://127.0.0.1:{self._port}/readyz", timeout=10)
                return
            time.sleep(0.2)
        raise AssertionError(f"{line} is not ready")

    def _finish(self, command: list[str], shown: str) -> None:
        finished = subprocess.run(
            command, cwd=self.folder, capture_output=True, text=True, timeout=HANG_SECONDS,
            env={**environment(), "PYTHONPATH": f"{self.folder}{os.pathsep}{ROOT}"},
        )  # fmt: skip
        self.output += finished.stdout
        assert finished.returncode == 0, f"{shown}\n{finished.stdout[-3000:]}\n{finished.stderr[-3000:]}"


def page_runner(folder: Path) -> Iterator[PageRunner]:
    """A runner in a clone, closed at the end."""
    runner = PageRunner(clone(folder))
    try:
        yield runner
    finally:
        runner.close()
