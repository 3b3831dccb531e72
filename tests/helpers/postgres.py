"""A Postgres server on loopback with a data folder of its own, where the machine has the programs."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


class NoPostgres(Exception):
    """It cannot be started here; the message says why."""


@dataclass(frozen=True)
class Server:
    port: int
    pid: int

    @property
    def storage(self) -> dict[str, object]:
        """What dagster.yaml says of it."""
        url = f"postgresql+psycopg2://dagster@127.0.0.1:{self.port}/postgres"
        return {"storage": {"postgres": {"postgres_url": url}}}


def _program(name: str) -> str:
    places = [shutil.which(name), *sorted(map(str, Path("/usr/lib/postgresql").glob(f"*/bin/{name}")))]
    found = next((p for p in places if p), None)
    if found is None:
        raise NoPostgres(f"no Postgres on this machine ({name})")
    return found


@contextmanager
def running() -> Iterator[Server]:
    """Started and ended; root runs it as somebody else, as Postgres asks. Raises NoPostgres."""
    try:
        import dagster_postgres  # noqa: F401
        import psycopg2
    except ImportError as error:
        raise NoPostgres(f"{error.name} is not installed") from error
    user = None
    if os.getuid() == 0:
        user = next((u for u in ("postgres", "nobody") if u in {p.pw_name for p in pwd.getpwall()}), None)
        if user is None:
            raise NoPostgres("Postgres refuses to run as root, and there is nobody else here")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="pg", dir="/tmp") as name:
        data = Path(name) / "data"
        if user is not None:
            shutil.chown(name, user)
        options = {"user": user, "cwd": "/", "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        made = subprocess.run(
            [_program("initdb"), "-D", str(data), "-A", "trust", "-U", "dagster", "--no-sync"], **options
        )
        if made.returncode:
            raise NoPostgres(f"Postgres cannot be started here: {made.stderr.strip()[-200:]}")
        command = [_program("postgres"), "-D", str(data), "-p", str(port), "-h", "127.0.0.1", "-k", name]
        server = subprocess.Popen(command, **options)
        try:
            for _ in range(300):
                try:
                    psycopg2.connect(host="127.0.0.1", port=port, user="dagster", dbname="postgres").close()
                    break
                except psycopg2.OperationalError as error:
                    if server.poll() is not None:
                        assert server.stderr is not None
                        reason = server.stderr.read()[-200:]
                        raise NoPostgres(f"Postgres cannot be started here: {reason}") from error
                    time.sleep(0.1)
            yield Server(port, server.pid)
        finally:
            server.terminate()
            server.wait(30)
            assert server.stderr is not None
            server.stderr.close()
