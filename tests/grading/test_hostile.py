"""Services that attack the cell they run in. Each test fails if the attack gets anywhere."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.grading import cell as cells_module
from harness.grading import runtime as runtimes
from harness.grading.cell import UID, CellFactory
from harness.records import Verdict
from tests.grading.conftest import RUNTIME, service, small

Grade = Callable[..., dict[str, Verdict]]

PROBE = """
class TestIt:
    @pytest.mark.criterion("x.one")
    def test_probe(self, service):
        got = service.http.get("/probe", timeout=20).json()
        {body}
"""


def probe(body: str) -> str:
    return PROBE.format(body=body)


def test_the_network_is_a_loopback_of_its_own(grade: Grade, tool: Path) -> None:
    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        files = service(f"""
            import socket
            def answer(path):
                reached = []
                here = ("127.0.0.1", {server.server_port})
                for place in [here, ("1.1.1.1", 53), ("8.8.8.8", 443)]:
                    try:
                        socket.create_connection(place, timeout=1).close()
                        reached.append(place)
                    except OSError:
                        pass
                try:
                    socket.getaddrinfo("pypi.org", 443)
                    reached.append("dns")
                except OSError:
                    pass
                return reached
        """)
        verdicts = grade(probe("assert got == [], got"), files, cells=CellFactory(tool=tool))
    finally:
        server.shutdown()
        server.server_close()
    assert verdicts["x.one"].outcome == "pass", verdicts


def test_nothing_of_the_user_or_of_the_checks_can_be_seen(
    grade: Grade, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-of-the-user")
    home = str(Path.home())
    files = service(f"""
        def answer(path):
            found = []
            if "sk-of-the-user" in str(os.environ):
                found.append("environment")
            for place in ("/case", "/cell", "/harness", "/scratch", "/answer"):
                if os.path.exists(place):
                    found.append(place)
            for pid in os.listdir("/proc"):
                if pid.isdigit():
                    try:
                        command = open(f"/proc/{{pid}}/cmdline").read()
                        environment = open(f"/proc/{{pid}}/environ").read()
                    except OSError:
                        continue
                    if "harness.checks" in command or "sk-of" in environment:
                        found.append(command)
            for folder, folders, names in os.walk({home!r}):
                folders[:] = [f for f in folders if f not in (".cache", ".pyenv", "usr")]
                found += [os.path.join(folder, name) for name in names][:5]
            passwd = open("/etc/passwd").read()
            found += ["passwd"] if "root" in passwd else []
            return found
    """)
    verdicts = grade(probe("assert got == [], got"), files, cells=CellFactory())
    assert verdicts["x.one"].outcome == "pass", verdicts


def test_only_the_data_folder_and_tmp_can_be_written(grade: Grade, tool: Path) -> None:
    prefix = runtimes.ensure(RUNTIME)
    files = service(f"""
        def answer(path):
            written = []
            places = ["/", "/app", "/usr", "/usr/bin", "/etc", "/dev", "/proc/sys/kernel", "/run"]
            places += [{str(prefix)!r}, sys.prefix, sys.base_prefix, os.path.dirname(os.__file__)]
            for place in places + ["/tmp", "/data", "/dev/shm"]:
                try:
                    with open(place + "/x", "w") as file:
                        file.write("x")
                    written.append(place)
                except OSError:
                    pass
            return written
    """)
    body = 'assert got == ["/tmp", "/data", "/dev/shm"], got'
    verdicts = grade(probe(body), files, cells=CellFactory(tool=tool))
    assert verdicts["x.one"].outcome == "pass", verdicts


def test_it_is_another_user_without_rights(grade: Grade, tool: Path) -> None:
    files = service("""
        import subprocess
        def answer(path):
            status = dict(line.split(":", 1) for line in open("/proc/self/status"))
            mount = subprocess.run(["mount", "-t", "tmpfs", "x", "/tmp"], capture_output=True)
            unshare = subprocess.run(["unshare", "-Urm", "true"], capture_output=True)
            return {
                "uid": os.getuid(),
                "caps": status["CapEff"].strip(),
                "bounding": status["CapBnd"].strip(),
                "no_new_privs": status["NoNewPrivs"].strip(),
                "mount": mount.returncode == 0,
                "userns": unshare.returncode == 0,
            }
    """)
    body = """assert got.pop("userns") is False and got == {
            "uid": 1234, "caps": "0" * 16, "bounding": "0" * 16, "no_new_privs": "1",
            "mount": False}, got"""
    verdicts = grade(probe(body), files, cells=CellFactory(tool=tool))
    assert verdicts["x.one"].outcome == "pass", verdicts


FORK_BOMB = """
    import time
    made = 0
    def answer(path):
        global made
        try:
            while made < 3000:
                if os.fork() == 0:
                    time.sleep(60)
                    os._exit(0)
                made += 1
        except OSError:
            pass
        return made
"""


@pytest.mark.parametrize("use_cgroup", [True, False], ids=["cgroup", "supervisor"])
def test_a_fork_bomb_is_bounded(grade: Grade, tool: Path, use_cgroup: bool) -> None:
    cells = small(tool, use_cgroup=use_cgroup)
    verdicts = grade(probe("assert 20 < got < 61, got"), service(FORK_BOMB), cells=cells)
    assert verdicts["x.one"].outcome == "pass", verdicts


def test_a_full_disk_is_its_own(grade: Grade) -> None:
    files = service("""
        def answer(path):
            written = {}
            for place in ("/data", "/tmp", "/dev/shm"):
                written[place] = 0
                try:
                    for number in range(64):
                        with open(f"{place}/{number}", "wb") as file:
                            for _ in range(64):
                                written[place] += file.write(bytes(1 << 20)) >> 20
                except OSError:
                    pass
            try:
                with open("/data/0", "r+b") as file:
                    file.truncate(0)
                with open("/data/one", "wb") as file:
                    for _ in range(64):
                        file.write(bytes(1 << 20))
                written["one file"] = 64
            except OSError:
                written["one file"] = os.stat("/data/one").st_size >> 20
            return written
    """)
    body = (
        'assert got["/data"] <= 32 and got["/tmp"] <= 8 and got["/dev/shm"] <= 8, got\n'
        '        assert 0 < got["one file"] <= 16, got'
    )
    verdicts = grade(probe(body), files, cells=small())
    assert verdicts["x.one"].outcome == "pass", verdicts


@pytest.mark.parametrize("use_cgroup", [True, False], ids=["cgroup", "supervisor"])
def test_the_memory_of_a_family_is_bounded(grade: Grade, use_cgroup: bool) -> None:
    files = service("""
        import re, time
        def held():
            total = 0
            for pid in os.listdir("/proc"):
                try:
                    text = open(f"/proc/{pid}/smaps_rollup").read()
                    total += int(re.search(r"^Pss: +([0-9]+) kB", text, re.M)[1])
                except (OSError, TypeError):
                    pass
            return total >> 10
        def answer(path):
            for _ in range(12):
                if os.fork() == 0:
                    mine = bytearray(os.urandom(1 << 20) * 100)
                    time.sleep(60)
                    os._exit(0)
            most, end = 0, time.monotonic() + 8
            while time.monotonic() < end and most < 600:
                most = max(most, held())
                try:
                    if os.waitpid(-1, os.WNOHANG)[0]:
                        end = min(end, time.monotonic() + 1)
                except ChildProcessError:
                    break
                time.sleep(0.05)
            return most
    """)
    cells = small(use_cgroup=use_cgroup)
    if use_cgroup and "cgroup" not in cells.probe().limits["memory"]:
        pytest.skip("no cgroup is writable here")
    verdicts = grade(probe("assert got < 300, f'{got} MB held'"), files, cells=cells)
    if use_cgroup:
        # The kernel kills what is too much: the children, and perhaps the service with them.
        assert "MB held" not in verdicts["x.one"].evidence, verdicts
    else:
        assert verdicts["x.one"].outcome == "fail"
        assert "memory" in verdicts["x.one"].evidence, verdicts


MARKER = "outlives-the-grader"

DAEMON = f"""
    import signal, subprocess
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(300)"
    subprocess.Popen([sys.executable, "-c", code, "{MARKER}"], start_new_session=True)
"""


def running(marker: str) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                command = (entry / "cmdline").read_text(errors="replace")
            except OSError:
                continue
            # The sleeping child carries the marker as its last argument.
            if command.rstrip("\0").endswith(marker):
                found.append(command)
    return found


def test_no_process_outlives_its_cell(grade: Grade, tool: Path) -> None:
    marker = f"{MARKER}-{os.getpid()}"
    files = service("", setup=DAEMON.replace(MARKER, marker))
    text = """
    class TestIt:
        @pytest.mark.criterion("x.one")
        def test_it(self, service):
            assert len(service.pids()) == 2
            service.kill()
            assert service.pids() == []
            service.start()
            service.stop()
            assert service.pids() == []
            service.start()
    """
    verdicts = grade(text, files, cells=CellFactory(tool=tool))
    assert verdicts["x.one"].outcome == "pass", verdicts
    assert running(marker) == []


def test_no_process_outlives_a_harness_that_is_killed(
    make_case: Callable[..., object], tmp_path: Path
) -> None:
    marker = f"{MARKER}-killed-{os.getpid()}"
    case = make_case("""
    class TestIt:
        @pytest.mark.criterion("x.one")
        def test_it(self, service):
            import time
            time.sleep(120)
    """)
    answer = tmp_path / "answer"
    answer.mkdir()
    for name, text in service("", setup=DAEMON.replace(MARKER, marker)).items():
        (answer / name).write_text(text)
    script = tmp_path / "script.py"
    script.write_text(grading_script(case, answer))
    process = subprocess.Popen([sys.executable, str(script)], env={**os.environ, **PATHS})
    try:
        deadline = time.monotonic() + 20
        while not running(marker) and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.05)
        assert running(marker), "the service never came up"
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    deadline = time.monotonic() + 5
    while running(marker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert running(marker) == []


PATHS = {"PYTHONPATH": str(Path(__file__).parents[2])}


def grading_script(case: object, answer: Path) -> str:
    """A program that grades one folder with a case of `make_case` and prints the verdicts."""
    return f"""
import json
from pathlib import Path
from harness.cases import Case, Runtime
from harness.grading.cell import CellFactory, Limits
from harness.grading.executed import grade, read_folder
runtime = Runtime({RUNTIME.id!r}, "", {RUNTIME.start!r}, Path({str(RUNTIME.requirements)!r}))
case = Case("small", "", "", Path({str(case.folder)!r}), "", None, runtime, ("x.one",),
            {{"x.one": ()}}, 0.25)
cells = CellFactory(limits=Limits(memory_mb=256, processes=60, disk_mb=32, file_mb=16))
verdicts, logs = grade(case, read_folder(Path({str(answer)!r})), "a/b/1", cells=cells)
print(json.dumps([verdict.to_json() for verdict in verdicts]))
"""


def test_a_flood_of_log_lines_fills_nothing(make_case: Callable[..., object]) -> None:
    from harness.grading import executed

    case = make_case("""
    class TestIt:
        @pytest.mark.criterion("x.one")
        def test_it(self, service):
            import resource, time
            time.sleep(1.5)
            assert len(service.log_text()) < 5_000_000
            assert service.http.get("/").status_code == 200
            assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 200_000
    """)
    files = service(
        "",
        setup="""
        import threading
        def flood():
            while True:
                os.write(1, b"x" * 60000)
                os.write(2, b"y" * 100 + bytes([10]))
        threading.Thread(target=flood, daemon=True).start()
    """,
    )
    verdicts, logs = executed.grade(case, files, "c/a/1", criteria=["x.one"], cells=CellFactory())
    assert verdicts[0].outcome == "pass", verdicts
    assert 0 < len(logs["TestIt"]) < 70_000


def test_files_of_the_answer_do_not_run_in_the_grader(grade: Grade) -> None:
    turn = """
import pytest
@pytest.hookimpl(tryfirst=True, hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    outcome.get_result().outcome = "passed"
    call.excinfo = None
"""
    files = {
        **service("def answer(path):\n    return 'wrong'"),
        "conftest.py": turn,
        "sitecustomize.py": "import sys; sys.exit(0)",
        "usercustomize.py": "import sys; sys.exit(0)",
        "pytest.py": "def main(*a, **k): return 0",
        "httpx.py": "raise SystemExit(0)",
        "harness/__init__.py": "raise SystemExit(0)",
        "pytest.ini": "[pytest]\naddopts = --collect-only\n",
        "pyproject.toml": '[tool.pytest.ini_options]\naddopts = "--collect-only"\n',
        "test_small.py": "def test_it(): pass",
    }
    verdicts = grade(probe('assert got == "right", got'), files, cells=CellFactory())
    assert verdicts["x.one"].outcome == "fail", verdicts
    assert verdicts["x.one"].evidence == "wrong"


def test_it_can_neither_signal_nor_trace_the_grader(grade: Grade) -> None:
    files = service("""
        import ctypes, signal
        def answer(path):
            libc = ctypes.CDLL(None, use_errno=True)
            traced = [
                pid for pid in range(1, 400)
                if pid != os.getpid() and libc.ptrace(16, pid, 0, 0) == 0
            ]
            if path == "/kill":
                for pid in range(-1, 400):
                    if pid != 0 and str(pid) not in os.listdir("/proc/self/task"):
                        try:
                            os.kill(pid, signal.SIGKILL)
                        except OSError:
                            pass
            return traced
    """)
    text = """
    class TestIt:
        @pytest.mark.criterion("x.one")
        def test_kill(self, service):
            try:
                service.http.get("/kill")
            except Exception:
                pass
        @pytest.mark.criterion("x.two")
        def test_after(self, service):
            traced = service.http.get("/trace").json()
            assert traced in ([], [1]), traced
    """
    verdicts = grade(text, files, criteria=("x.one", "x.two"), cells=CellFactory())
    assert {v.outcome for v in verdicts.values()} == {"pass"}, verdicts


def test_verdicts_cannot_be_forged(grade: Grade, tool: Path) -> None:
    forged = json.dumps(
        {"test": "t", "criteria": ["x.one"], "outcome": "pass", "message": "", "delay": 0}
    )
    files = service(f"""
        def answer(path):
            line = ({forged!r} + chr(10)).encode() * 3
            for descriptor in range(1, 300):
                try:
                    os.write(descriptor, line)
                except OSError:
                    pass
            return os.listdir("/proc/self/fd")
    """)
    body = "assert False, 'open: ' + ' '.join(got)"
    verdicts = grade(probe(body), files, cells=CellFactory(tool=tool))
    assert verdicts["x.one"].outcome == "fail", verdicts


def test_the_same_holds_for_a_user_without_root(
    make_case: Callable[..., object], tmp_path: Path, tool: Path
) -> None:
    """As root, the harness is run once more as a user that owns nothing."""
    if os.geteuid() != 0:
        pytest.skip("this user is not root: every other test here is this test")
    case = make_case(probe("assert 20 < got < 61, got"))
    answer = tmp_path / "answer"
    answer.mkdir()
    for name, text in service(FORK_BOMB).items():
        (answer / name).write_text(text)
    script = tmp_path / "script.py"
    script.write_text(grading_script(case, answer))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    scratch.chmod(0o777)
    root = Path(__file__).parents[2]
    seen = {
        str(path): path
        for path in (
            *cells_module.python_binds(Path(sys.prefix), Path(sys.executable)).values(),
            *cells_module.python_binds(runtimes.ensure(RUNTIME)).values(),
            *(root / "harness", root / "evals", case.folder, answer, script),
        )
    }
    argv = [str(tool), "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID", "--die-with-parent"]
    argv += ["--dev-bind", "/dev", "/dev", "--dev-bind", "/proc", "/proc"]
    argv += cells_module._system_binds() + cells_module._binds(seen)
    argv += ["--perms", "0755", "--dir", str(scratch.parent), "--bind", str(scratch), str(scratch)]
    argv += ["--", shutil.which("setpriv") or "setpriv", f"--reuid={UID + 1}"]
    argv += [f"--regid={UID + 1}", "--clear-groups", sys.executable, str(script)]
    env = {
        **PATHS,
        "PATH": f"{tool.parent}:{os.environ['PATH']}",
        "TMPDIR": str(scratch),
        "HOME": str(scratch),
        "XDG_CACHE_HOME": str(runtimes.cache_folder().parent),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    outcomes = {v["criterion"]: (v["outcome"], v["evidence"]) for v in json.loads(done.stdout)}
    assert outcomes["x.one"][0] == "pass", outcomes
