"""`python -m pipelines.ui`: Dagster's UI and daemon for a data folder, started well and stopped cleanly.

    python -m pipelines.ui [--home DIR] [--port N] [--host 127.0.0.1]

Picks a free port and says the address once the server answers there. Ctrl-C and TERM end everything it started, also
when it runs in the background; one at a time for a data folder. DAGSTER_HOME is <home>/dagster; nothing is sent out.

Three programs run: the code server, which loads the definitions and is asked over a socket file of this user; the web
server (pipelines.web), which answers nobody but the UI's own pages; and the daemon.
"""

import argparse
import ctypes
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

import yaml

from pipelines.project import read_project, read_recipes
from soundvid.errors import SoundvidError

MARK = "SOUNDVID_UI_HOME"  # in the environment of everything that is started here, and of nothing else
CODE = Path(__file__).resolve().parent.parent
PATIENCE = 20.0  # seconds for a clean end
LARGEST_LOG = 20_000_000  # bytes of ui.log


class Stop(Exception):
    """Ctrl-C or TERM."""


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m pipelines.ui", description=__doc__.partition("\n")[0])
    parser.add_argument("--home", type=Path, default=Path(os.environ.get("SOUNDVID_HOME", "demo")))
    parser.add_argument("--port", type=int, default=0, help="0: a free one")
    parser.add_argument(
        "--host", default="127.0.0.1", help="0.0.0.0 shows it to the network, without a password: see docs/deploy.md"
    )
    parser.add_argument(
        "--recover", action="store_true", help="only end the runs that have lost their process, where nothing runs yet"
    )
    options = parser.parse_args(arguments)
    if options.recover:  # of $DAGSTER_HOME; a container's runs die with it
        say(f"{recover()} runs had lost their process and are ended")
        return 0

    # A shell starts background jobs with INT ignored; what is handled here is also reset in what is started from here.
    def stop(number: int, frame: FrameType | None) -> None:
        raise Stop

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    try:
        with ExitStack() as stack:
            return run(options.home.absolute(), options.host, options.port, stack)
    except Stop:
        return 0
    except SoundvidError as error:
        say(f"error: {error}")
        return 1


def run(home: Path, host: str, port: int, stack: ExitStack) -> int:
    folder = home / "dagster"
    recipes = check(home)
    folder.mkdir(parents=True, exist_ok=True)
    stack.enter_context(alone(folder))
    if not (folder / "dagster.yaml").exists():
        shutil.copy(Path(__file__).with_name("dagster.yaml"), folder / "dagster.yaml")
    os.environ["DAGSTER_HOME"], os.environ["SOUNDVID_HOME"] = str(folder), str(home)
    sweep(home)
    ended = recover()
    if ended:
        say(f"{ended} runs had lost their process and are ended; those that can are started again")
    if (home / "videos" / ".port").is_file() and read_project(home).demo:
        stack.enter_context(demo_server(home))
    port = port or free_port(host)
    url = f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"
    dagster = stack.enter_context(Dagster.running(home, host, port))
    if not dagster.answers(url):
        say(f"error: {dagster.ended()}; {folder / 'ui.log'} says why")
        return 1
    print(f"Dagster: {url}   ({', '.join(recipes)}; store {home / read_project(home).store})", flush=True)
    say("materialise source_catalogue of a group to begin; Ctrl-C ends it")
    while not (reason := dagster.ended()):
        dagster.limit_log()
        time.sleep(0.5)
    say(f"error: {reason}; {folder / 'ui.log'} says why")
    return 1


def check(home: Path) -> list[str]:
    """The names of the project's recipes; says which are wrong. Raises SoundvidError where there is none at all."""
    recipes, broken = read_recipes(home, read_project(home))
    for recipe in broken:
        say(f"warning: {recipe.error} (the others run; fix it and reload the definitions)")
    if not recipes and not broken:
        raise SoundvidError(
            f"{home}: no recipe in here: run 'make demo' first, or put one into {home / 'recipes'} "
            "(soundvid recipe hand > mine.yaml gives one to start from)"
        )
    return [r.name for r in recipes]


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Two daemons on one home would do everything twice."""
    with (folder / "ui.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            raise SoundvidError(f"{folder}: Dagster is running on it already ({lock.read().strip()})") from error
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {socket.gethostname()}")
        lock.flush()
        yield


@contextmanager
def demo_server(home: Path) -> Iterator[None]:
    """Show the demo's videos where they were downloaded from, so that an audit finds them."""
    from soundvid.demo.serve import served
    from soundvid.recipe.load import load

    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", int((home / "videos" / ".port").read_text())))
        except OSError:  # somebody has it: under another address the same videos would be other sources
            yield
            return
    with served(load("demo", base=home / "videos"), home / "videos"):
        yield


def recover() -> int:
    """End runs whose process cannot be alive any more: the launcher of a single machine does not notice by itself."""
    import dagster as dg
    from dagster._core.events import JobFailureData, RunFailureReason
    from dagster._core.launcher.default_run_launcher import DefaultRunLauncher
    from dagster._core.storage.dagster_run import RunsFilter

    status = dg.DagsterRunStatus
    with dg.DagsterInstance.get() as instance:
        if not isinstance(instance.run_launcher, DefaultRunLauncher):
            return 0  # a cluster's runs live on without us
        lost = instance.get_runs(filters=RunsFilter(statuses=[status.STARTING, status.STARTED, status.CANCELING]))
        for run in lost:
            why = JobFailureData(error=None, failure_reason=RunFailureReason.UNEXPECTED_TERMINATION)
            instance.report_run_failed(run, "its process was gone when Dagster started again", why)
            instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
        return len(lost)


def free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _with_parent() -> None:
    """In the child: end when the parent does, even where that was killed (Linux)."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM, 0, 0, 0)


def _answers(socket_file: Path) -> bool:
    """Whether a code server answers at its socket."""
    from dagster._core.errors import DagsterUserCodeUnreachableError
    from dagster._grpc.client import DagsterGrpcClient

    try:
        return bool(DagsterGrpcClient(socket=str(socket_file)).ping("there"))
    except DagsterUserCodeUnreachableError:
        return False


class Dagster:
    """The three programs, and the files that they need while they run."""

    def __init__(self, home: Path, scratch: Path) -> None:
        self.home, self.scratch = home, scratch
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.log_path = home / "dagster" / "ui.log"
        self.log_path.unlink(missing_ok=True)
        self.log = self.log_path.open("ab")

    @classmethod
    @contextmanager
    def running(cls, home: Path, host: str, port: int) -> Iterator["Dagster"]:
        """Started, and in the end ended with everything that was started by it."""
        with tempfile.TemporaryDirectory(prefix="soundvid-") as name:  # of this user alone, and a short path
            dagster = cls(home, Path(name))
            try:
                dagster.start(host, port)
                yield dagster
            finally:
                dagster.end()

    def start(self, host: str, port: int) -> None:
        socket_file, workspace = self.scratch / "code", self.scratch / "workspace.yaml"
        location = next(iter(yaml.safe_load((CODE / "workspace.yaml").read_text())["load_from"]))["python_module"]
        name, module = location["location_name"], location["module_name"]
        workspace.write_text(
            yaml.safe_dump({"load_from": [{"grpc_server": {"socket": str(socket_file), "location_name": name}}]})
        )
        code = ["dagster", "code-server", "start", "--socket", str(socket_file), "--location-name", name]
        self._run("code server", [*code, "--module-name", module, "--working-directory", str(CODE)])
        while not self.ended() and not _answers(socket_file):  # who asks earlier remembers an error
            time.sleep(0.1)
        self._run("web server", ["pipelines.web", "--workspace", str(workspace), "--host", host, "--port", str(port)])
        self._run("daemon", ["dagster._daemon", "run", "--workspace", str(workspace)])

    def _run(self, name: str, command: list[str]) -> None:
        environment = {**os.environ, MARK: str(self.home), "DAGSTER_DISABLE_TELEMETRY": "1", "PYTHONUNBUFFERED": "1"}
        self.processes[name] = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=CODE,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,
            preexec_fn=_with_parent if sys.platform == "linux" else None,
        )

    def ended(self) -> str:
        """Which of them has ended by itself, and how; empty while all run."""
        for name, process in self.processes.items():
            if process.poll() is not None:
                return f"Dagster's {name} ended with {process.returncode}"
        return ""

    def limit_log(self) -> None:
        """Keep ui.log and one older part. The programs append to it, and go on where it was cut."""
        if self.log_path.stat().st_size > LARGEST_LOG:
            shutil.copyfile(self.log_path, self.log_path.with_suffix(".log.1"))
            os.truncate(self.log_path, 0)

    def answers(self, url: str) -> bool:
        """Wait until the server answers; False where something ended instead."""
        while not self.ended():
            try:
                with urllib.request.urlopen(f"{url}/server_info", timeout=5) as reply:
                    return bool(reply.status == 200)
            except OSError:
                time.sleep(0.3)
        return False

    def end(self) -> None:
        """End them and everything they started: first by asking, then for certain."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # impatience must not leave a daemon behind
        say("ending Dagster ...")
        deadline = time.monotonic() + PATIENCE
        for names in (("daemon", "web server"), ("code server",)):  # the daemon may be launching a run through it
            asked = {n: p for n, p in self.processes.items() if n in names and p.poll() is None}
            for process in asked.values():
                process.send_signal(signal.SIGINT)
            for name, process in asked.items():
                try:
                    process.wait(max(0.1, deadline - time.monotonic()))
                except subprocess.TimeoutExpired:
                    say(f"the {name} did not end by itself; it is ended now")
        sweep(self.home)
        for process in self.processes.values():
            process.wait()
        self.log.close()


def sweep(home: Path) -> None:
    """Kill what an earlier start for this data folder has left behind. Nothing else has its mark."""
    wanted = f"{MARK}={home}".encode()
    for _ in range(50):
        left = [p for p in marked(wanted) if p != os.getpid()]
        if not left:
            return
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.1)


def marked(wanted: bytes) -> list[int]:
    """Processes of this user with this entry in their environment; zombies have none."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/environ"):
        try:
            if wanted in entry.read_bytes().split(b"\0"):
                found.append(int(entry.parent.name))
        except OSError:
            continue
    return found


if __name__ == "__main__":
    sys.exit(main())
