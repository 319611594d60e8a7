"""Runs the blocks of a page in a clone, in order, with small settings for what takes long."""

import json
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from tests.documentation.blocks import Block, Statement, page_blocks, shell_statements
from tests.documentation.page_checks import companion_files
from tests.documentation.shell_words import simple_commands
from tests.end_to_end.commands import HANG_SECONDS

SMALL = ("experiment=debug", "data=tables", "data.root=shop")  # where a line sets nothing else
LARGE_EXPERIMENTS = ("quick", "sequences", "simulated", "overfit", "profile", "incremental")
SERVICE = re.compile(
    r"(-m serving|sextet) serve\b(?!.*--(print-config|help))"
    r"|-m storefront\b(?!.*--help)|mlflow (ui|server)\b|-m http\.server"
)
DEFAULT_PORTS = {"http.server": 8000, "mlflow": 5000, "storefront": 8000, "serve": 8000}
READY_SECONDS = 120
DRIVER = """
import json, sys, traceback
names = {"__name__": "__main__"}
for line in sys.stdin:
    try:
        exec(compile(json.loads(line), "<block>", "exec"), names)
        state = "done"
    except BaseException:
        traceback.print_exc(file=sys.stdout)
        state = "failed"
    print("\\0" + state, flush=True)
"""


class Service(NamedTuple):
    process: subprocess.Popen[bytes]
    output: Path


class PageRunner:
    """Runs a page's blocks in a folder. A service runs until the page ends, or another takes its port."""

    def __init__(self, folder: Path, variables: dict[str, str], binaries: Path) -> None:
        self.folder = folder
        self.output = ""  # of all finished commands
        self._environment = variables
        self._binaries = binaries  # of an environment with the wheel
        self._state = folder.parent / "state.sh"  # variables of the page's shell
        self._ports: dict[int, int] = {}  # of the page → of this machine
        self._services: dict[int, Service] = {}  # by the page's port
        self._python: subprocess.Popen[str] | None = None

    def run(self, page: Path) -> None:
        """Run every block of a page. Raises AssertionError with the output of one that fails."""
        self.run_blocks(companion_files(page) + page_blocks(page))

    def run_blocks(self, blocks: list[Block]) -> None:
        """Run blocks as a page's. Raises AssertionError with the output of one that fails."""
        self._state.write_text("")
        self._ports.clear()
        blocks = [block for block in blocks if block.is_run]
        uses_wheel = any(block.language == "python" and "sextet" in block.text for block in blocks)
        for block in blocks:
            if block.path is not None:
                file = self.folder / block.path
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(self._with_ports(block.text))
            elif block.language == "python":
                self._run_python(block, uses_wheel)
            elif block.language == "bash":
                for statement in shell_statements(block):
                    self._run_statement(statement)
        self.close()

    def close(self) -> None:
        """Stop the services and the interpreter. Raises AssertionError for a service that failed."""
        if self._python is not None:
            self._python.stdin.close()  # type: ignore[union-attr]
            self._python.wait(60)
            self._python = None
        services = list(self._services.values())
        self._services.clear()
        for service in services:
            _stop(service)

    def _run_statement(self, statement: Statement) -> None:
        text = small_settings(statement.text)
        if SERVICE.search(text):
            self._start_service(text.strip().removesuffix("&").strip(), statement.line)
            return
        commands = simple_commands(statement.text)
        names = " ".join(sorted({name for command in commands for name in command.variables}))
        state = shlex.quote(str(self._state))
        keep = f"declare -p {names} >> {state} 2>/dev/null || true\n" if names else ""
        if any(command.words[:1] == ["cd"] for command in commands):
            keep += f"printf 'cd %q\\n' \"$PWD\" >> {state}"
        script = f"source {state}\n{self._with_ports(text)}\n{keep}"
        started = time.monotonic()
        finished = subprocess.run(
            ["bash", "-e", "-o", "pipefail", "-c", script], cwd=self.folder, capture_output=True, text=True,
            env=self._environment, stdin=subprocess.DEVNULL, timeout=HANG_SECONDS,
        )  # fmt: skip
        self.output += finished.stdout
        print(f"{time.monotonic() - started:6.1f} s  line {statement.line}: {statement.text}", flush=True)
        report = f"line {statement.line}: {text}\n{finished.stdout[-3000:]}\n{finished.stderr[-3000:]}"
        assert finished.returncode == 0, report
        assert "Traceback (most recent" not in finished.stderr, report  # which `||` would hide

    def _with_ports(self, text: str) -> str:
        """The text with the ports of this machine."""
        for port, free in self._ports.items():
            text = re.sub(rf"((?:localhost|127\.0\.0\.1):|--port[ =]){port}\b", rf"\g<1>{free}", text)
        return text

    def _start_service(self, text: str, line: int) -> None:
        kind = next(kind for kind in DEFAULT_PORTS if kind in text)
        match = re.search(r"--port[ =](\d+)", text)
        port = int(match[1]) if match else DEFAULT_PORTS[kind]
        if port in self._services:
            _stop(self._services.pop(port))
        self._ports[port] = _free_port()
        if match is None:
            text += f" --port {port}" if kind != "http.server" else f" {self._ports[port]}"
        text = self._with_ports(text)
        output = self.folder.parent / f"service-{port}.log"
        with output.open("w") as log:
            script = f"source {shlex.quote(str(self._state))}\nexec {text}"
            process = subprocess.Popen(
                ["bash", "-ec", script], cwd=self.folder, env=self._environment, stdout=log, stderr=log,
                stdin=subprocess.DEVNULL,
            )  # fmt: skip
        service = Service(process, output)
        try:
            self._wait_until_ready(service, self._ports[port], kind == "serve", f"line {line}: {text}")
        except BaseException:
            process.kill()
            raise
        self._services[port] = service

    def _wait_until_ready(self, service: Service, port: int, has_readiness: bool, report: str) -> None:
        url = f"http://127.0.0.1:{port}/" + ("readyz" if has_readiness else "")
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            assert service.process.poll() is None, f"{report}: ended\n{service.output.read_text()[-3000:]}"
            with suppress(urllib.error.URLError, ConnectionError, TimeoutError):
                urllib.request.urlopen(url, timeout=10).close()
                return
            time.sleep(0.2)
        raise AssertionError(f"{report}: is not ready\n{service.output.read_text()[-3000:]}")

    def _run_python(self, block: Block, uses_wheel: bool) -> None:
        """Run a snippet after the page's earlier ones, in one interpreter."""
        if self._python is None:
            program = self._binaries / "python" if uses_wheel else Path(sys.executable)
            self._python = subprocess.Popen(
                [str(program), "-c", DRIVER], cwd=self.folder, env=self._environment, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )  # fmt: skip
        stdin, stdout = self._python.stdin, self._python.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps(self._with_ports(block.text)) + "\n")
        stdin.flush()
        printed = ""
        for line in stdout:
            before, mark, state = line.partition("\0")
            printed += before
            if mark:
                self.output += printed
                assert state.strip() == "done", f"line {block.line}:\n{printed[-3000:]}"
                return
        raise AssertionError(f"line {block.line}: the interpreter ended\n{printed[-3000:]}")


def small_settings(text: str) -> str:
    """A statement with the settings of a small training, and a target of make named but not made."""
    if re.search(r"\bmake [\w-]", text):
        return re.sub(r"\bmake (?=[\w-])", "make -n ", text)  # the target exists; the page has its commands
    text = re.sub(r"hydra\.sweeper\.n_trials=\d+", "hydra.sweeper.n_trials=2", text)
    text = text.replace("seed=0,1,2", "seed=0,1")
    for name in LARGE_EXPERIMENTS:
        text = re.sub(rf"\bexperiment={name}\b", f"experiment=[{name},debug]", text)
    match = re.search(r"\b(train|retrain)\.py((?:[ \\\n]+(?:-m|--multirun|--config-dir[ =]\S+))*)", text)
    if match is None or "stage=check" in text or "--help" in text:
        return text
    added = [each for each in SMALL if each.split("=")[0] + "=" not in text]
    if re.search(r"\bdata=(?!tables)", text):
        added = [each for each in added if not each.startswith("data.")]
    return text[: match.end()] + "".join(f" {each}" for each in added) + text[match.end() :]


def restore(state: Path, folder: Path) -> None:
    """Make a folder a copy of another; links and times stay."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(state, folder, symlinks=True)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def _stop(service: Service) -> None:
    """End a service as a supervisor does. Raises AssertionError if it fails."""
    output = service.output.read_text()[-3000:]
    if service.process.poll() is None:
        service.process.terminate()  # background jobs of a shell ignore SIGINT
    try:
        code = service.process.wait(60)
    except subprocess.TimeoutExpired:
        service.process.kill()
        raise AssertionError(f"the service does not end: {output}") from None
    assert code in (0, 143, -signal.SIGTERM), f"the service ended with {code}: {output}"
