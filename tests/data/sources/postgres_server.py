"""A PostgreSQL server on loopback with a password, in a folder of its own."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

USER, PASSWORD = "shop", "p@ss/wörd"  # which a URL writes percent-encoded


def find_programs() -> Path | None:
    """The folder with `initdb` and `pg_ctl`; None where PostgreSQL is not installed."""
    if found := shutil.which("initdb"):
        return Path(found).parent
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))  # as Debian installs it
    return folders[-1].parent if folders else None


@contextmanager
def running_server(programs: Path) -> Iterator[int]:
    """The port of a new, empty server, which ends with the block."""
    account = pwd.getpwnam("nobody") if os.getuid() == 0 else pwd.getpwuid(os.getuid())
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))  # not pytest's, which other accounts cannot enter
    os.chown(folder, account.pw_uid, account.pw_gid)
    (folder / "password").write_text(PASSWORD)
    (folder / "password").chmod(0o644)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def run(program: str, *arguments: str) -> None:
        command = [str(programs / program), "-D", str(folder / "data"), *arguments]
        # Output to a file: the server would keep a pipe open.
        with (folder / "output").open("ab") as output:
            subprocess.run(
                command, check=True, cwd=folder, stdout=output, stderr=output,
                user=account.pw_uid, group=account.pw_gid,
            )  # fmt: skip

    try:
        run("initdb", "-U", USER, "-A", "scram-sha-256", "--pwfile", str(folder / "password"), "--no-sync",
            "-E", "UTF8", "--locale=C")  # fmt: skip
        settings = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
        run("pg_ctl", "-w", "-t", "60", "-o", settings, "start")
        try:
            yield port
        finally:
            run("pg_ctl", "-w", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
