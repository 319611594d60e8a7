"""deploy/Dockerfile built and run without a container engine: buildah builds, namespaces of Linux run.

The base image is not that of the registry but Debian 12 with its Python 3.11, made by debootstrap.
"""

import ast
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PACKAGES = "python3,python3-venv,python3-pip,ca-certificates"
BASE = "localhost/python:3.11-slim"
IMAGE = "localhost/sextet"
# The root is read-only but for /tmp and /var/lib/sextet; the bundle is read-only; /proc is that of systemd's
# ProtectProc. Arguments: root, bundle.
ENTER = """
set -e
mount --bind "$1" "$1"
mount -t proc -o hidepid=invisible proc "$1/proc"
mount --rbind /dev "$1/dev"
mount --bind "$2" "$1/srv/sextet/bundle"
mount -o remount,bind,ro "$1/srv/sextet/bundle"
mount -t tmpfs -o mode=1777 tmpfs "$1/tmp"
mount -t tmpfs -o uid=10001,gid=10001,mode=0700 tmpfs "$1/var/lib/sextet"
mount -o remount,bind,ro "$1"
ip link set lo up
root=$1; shift 2
exec chroot --userspec="$USER_ID" "$root" "$@"
"""
ASK = """
import sys, urllib.request
method, path, body = sys.argv[1:]
headers = {"Content-Type": "application/json"}
url = "http://127.0.0.1:8000" + path
request = urllib.request.Request(url, body.encode() or None, headers, method=method)
print(urllib.request.urlopen(request, timeout=30).read().decode())
"""


def missing_tools() -> list[str]:
    """What this machine lacks to build and run an image."""
    tools = [
        name for name in ("buildah", "debootstrap", "unshare", "nsenter", "ip") if not shutil.which(name)
    ]
    return tools + ["root"] * bool(os.geteuid())


def run(*command: str) -> str:
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, f"{shlex.join(command)}\n{process.stdout[-2000:]}{process.stderr[-3000:]}"
    return process.stdout


class Images:
    """Images in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._buildah = ("buildah", "--root", str(folder / "storage"), "--runroot", str(folder / "run"))

    def buildah(self, *arguments: str) -> str:
        return run(*self._buildah, *arguments).strip()

    def build(self) -> None:
        """The base, then the image of deploy/Dockerfile."""
        base = self.folder / "base"
        run("debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", str(base))
        container = self.buildah("from", "scratch")
        self.buildah("add", "--quiet", container, str(base), "/")
        self.buildah("commit", "--quiet", container, BASE)
        shutil.rmtree(base)
        volumes = [option for path in self._pip_files() for option in ("--volume", f"{path}:{path}:ro")]
        configuration = f"{self._pip_configuration()}:/etc/pip.conf:ro"
        self.buildah(
            "build", "--isolation", "chroot", "--format", "docker", "--file", "deploy/Dockerfile",
            "--build-arg", f"PYTHON_IMAGE={BASE}", "--build-arg", "TORCH_INDEX=https://pypi.org/simple",
            *volumes, "--volume", configuration, "--tag", IMAGE, ".",
        )  # fmt: skip

    def config(self) -> dict[str, Any]:
        """Entrypoint, Cmd, Env, User, Healthcheck … of the image."""
        inspected: dict[str, Any] = json.loads(self.buildah("inspect", "--type", "image", IMAGE))
        return inspected["Docker"]["config"]

    def mount(self) -> Path:
        """The files of a new container."""
        return Path(self.buildah("mount", self.buildah("from", IMAGE)))

    def close(self) -> None:
        """Remove containers and images."""
        self.buildah("umount", "--all")
        self.buildah("rm", "--all")
        self.buildah("rmi", "--all", "--force")

    def _pip_settings(self) -> dict[str, str]:
        """Where pip of this machine takes packages from: the base image has a pip without settings."""
        lines = run(sys.executable, "-m", "pip", "config", "list").splitlines()
        pairs = (line.partition("=") for line in lines)
        return {name.rpartition(".")[2]: ast.literal_eval(value) for name, _, value in pairs}

    def _pip_configuration(self) -> Path:
        file = self.folder / "pip.conf"
        settings = [f"{name} = {value}" for name, value in self._pip_settings().items()]
        file.write_text("\n".join(["[global]", *settings, ""]))
        return file

    def _pip_files(self) -> list[Path]:
        """The files and folders that the settings name; an index with the folder around it."""
        words = [word for value in self._pip_settings().values() for word in value.split()]
        paths = [Path(word.removeprefix("file://")) for word in words]
        indices = {
            path.parent if word.startswith("file://") else path
            for word, path in zip(words, paths, strict=True)
        }
        return sorted(path for path in indices if path.is_absolute() and path.exists())


class Container:
    """A running container: its entry point is process 1 of namespaces of its own."""

    def __init__(self, root: Path, config: dict[str, Any], bundle: Path, arguments: Sequence[str]) -> None:
        enter = ["sh", "-c", ENTER, "sh", str(root), str(bundle), "/usr/bin/env", "-i"]
        command = ["-C", config["WorkingDir"], *config["Env"], *config["Entrypoint"], *arguments]
        self._process = subprocess.Popen(
            ["unshare", "--mount", "--pid", "--net", "--fork", "--kill-child", *enter, *command],
            env={**os.environ, "USER_ID": config["User"]},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        printed = ""
        while not (line := self._process.stdout.readline()).startswith("starting "):
            printed += line
            assert line, printed
        pid = self._process.pid
        self.pid = int(Path(f"/proc/{pid}/task/{pid}/children").read_text())

    def execute(self, *command: str) -> subprocess.CompletedProcess[str]:
        """A command inside, as `docker exec`."""
        enter = ["nsenter", "--target", str(self.pid), "--mount", "--pid", "--net", "--root", "--wd"]
        return subprocess.run([*enter, *command], capture_output=True, text=True, env={})

    def ask(self, method: str, path: str, content: Any = None) -> Any:
        """The JSON that the service answers to a client on its network."""
        return json.loads(self.text(method, path, content))

    def text(self, method: str, path: str, content: Any = None) -> str:
        """What the service answers."""
        body = "" if content is None else json.dumps(content)
        enter = ("nsenter", "--target", str(self.pid), "--net")
        return run(*enter, sys.executable, "-c", ASK, method, path, body)

    def owner(self) -> tuple[int, str]:
        """The user id of process 1, and its command."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        (uid,) = (int(line.split()[1]) for line in status.splitlines() if line.startswith("Uid:"))
        return uid, Path(f"/proc/{self.pid}/cmdline").read_text()

    def stop(self) -> tuple[int, str]:
        """SIGTERM to process 1: the exit code and what it printed."""
        os.kill(self.pid, signal.SIGTERM)
        printed, _ = self._process.communicate(timeout=60)
        return self._process.returncode, printed

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


@contextmanager
def running(root: Path, config: dict[str, Any], bundle: Path, *arguments: str) -> Iterator[Container]:
    container = Container(root, config, bundle, arguments or config["Cmd"])
    try:
        yield container
    finally:
        container.kill()
