"""Grading by running: which outcome follows from what happens to a check, a service or a cell."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.cases import Case
from harness.errors import UserError
from harness.grading import executed
from harness.grading.cell import Cell, CellFactory, Ended, Gate, Interrupted, Limits
from harness.records import Verdict
from tests.grading.conftest import service

Grade = Callable[..., dict[str, Verdict]]
MakeCase = Callable[..., Case]

CHECK = """
class TestIt:
    @pytest.mark.criterion("x.one")
    def test_one(self, service):
        {one}
    @pytest.mark.criterion("x.two")
    def test_two(self, service):
        {two}
"""
BOTH = ("x.one", "x.two")


def check(one: str = "pass", two: str = "pass") -> str:
    return CHECK.format(one=one, two=two)


def test_an_assertion_that_fails_is_the_evidence_and_touches_no_other_criterion(
    grade: Grade,
) -> None:
    text = check('assert 1 == 2, "POST /orders gave 500, wanted 201"')
    verdicts = grade(text, service(), criteria=BOTH)
    assert verdicts["x.one"].outcome == "fail"
    assert verdicts["x.one"].evidence == "POST /orders gave 500, wanted 201"
    assert verdicts["x.two"].outcome == "pass"
    assert verdicts["x.two"].evidence == "1 check passed"
    assert verdicts["starts"].outcome == "pass"


def test_an_assertion_without_a_message_names_its_line(grade: Grade) -> None:
    evidence = grade(check("assert 1 == 2"), service())["x.one"].evidence
    assert evidence == "assert 1 == 2 (test_small.py:7: assert 1 == 2)"


def test_an_answer_that_is_not_what_a_check_reads_fails(grade: Grade) -> None:
    text = check('service.http.get("/x").json()["id"]')
    evidence = grade(text, service())["x.one"].evidence
    assert evidence.startswith("KeyError: 'id' (test_small.py:7:")


def test_a_request_without_an_answer_fails_with_its_name(grade: Grade) -> None:
    text = check('service.http.get("/x", timeout=0.3)')
    files = service("import time\ndef answer(path):\n    time.sleep(5)")
    evidence = grade(text, files)["x.one"].evidence
    assert evidence.startswith("GET /x got no answer: ReadTimeout")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("undefined_name", "the check broke: NameError: name 'undefined_name' is not defined"),
        ("import no_such_module", "the check broke: ModuleNotFoundError"),
        ('pytest.skip("not on this machine")', "skipped: not on this machine"),
    ],
)
def test_an_error_of_the_check_itself_is_not_graded(grade: Grade, line: str, reason: str) -> None:
    verdicts = grade(check(line), service(), criteria=BOTH)
    assert verdicts["x.one"].outcome == "not_graded"
    assert verdicts["x.one"].reason.startswith(reason)
    assert verdicts["x.two"].outcome == "pass"


def test_a_test_file_that_cannot_be_read_is_not_graded(grade: Grade) -> None:
    text = 'import no_such_module\nclass TestIt:\n    mark = pytest.mark.criterion("x.one")\n'
    verdict = grade(text, service())["x.one"]
    assert verdict.outcome == "not_graded"
    assert "No module named 'no_such_module'" in verdict.reason


def test_a_criterion_that_no_check_carries_is_not_graded(grade: Grade) -> None:
    verdict = grade(check(), service(), criteria=("x.one", "x.none"))["x.none"]
    assert (verdict.outcome, verdict.reason) == ("not_graded", "no check carries this criterion")


@pytest.mark.parametrize(
    ("main", "evidence"),
    [
        ("raise ValueError('no carrier')", "service does not start: ValueError: no carrier"),
        ("import no_such_package", "service does not start: ModuleNotFoundError"),
        ("", "service does not start: exit code 0, no output"),
        ("import os; os.kill(os.getpid(), 9)", "service does not start: exit code 137, no output"),
    ],
)
def test_a_service_that_ends_at_start_fails_everything(
    grade: Grade, main: str, evidence: str
) -> None:
    text = (
        check()
        + """
class TestRefusal:
    @pytest.mark.criterion("x.three")
    def test_refuses(self, launch):
        assert launch(wait=False).wait_exit(5) is not None
"""
    )
    verdicts = grade(text, {"main.py": main}, criteria=(*BOTH, "x.three"))
    assert {v.outcome for v in verdicts.values()} == {"fail"}
    assert all(v.evidence.startswith(evidence) for v in verdicts.values()), verdicts


def test_a_service_that_never_listens_fails_after_the_time_for_it(
    grade: Grade, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = check().replace(
        "class TestIt", "from harness.checks import service as s\ns.READY_S = 1\nclass TestIt"
    )
    files = {"main.py": "import time\nprint('waiting for godot')\ntime.sleep(60)"}
    evidence = grade(text, files)["x.one"].evidence
    assert "nothing listens on 127.0.0.1:$PORT after 1 s" in evidence
    assert "waiting for godot" in evidence


def test_an_answer_without_files_fails_without_a_cell(grade: Grade) -> None:
    verdicts = grade(check(), {}, criteria=BOTH, cells=CellFactory(tool=Path("/bin/false")))
    assert {(v.outcome, v.evidence) for v in verdicts.values()} == {
        ("fail", "the answer has no file")
    }


def test_without_a_cell_nothing_is_run_and_the_reason_is_told(grade: Grade, tmp_path: Path) -> None:
    proof = tmp_path / "ran"
    files = {"main.py": f"open({str(proof)!r}, 'w')"}
    verdicts = grade(check(), files, criteria=BOTH, cells=CellFactory(tool=Path("/bin/false")))
    assert {v.outcome for v in verdicts.values()} == {"not_graded"}
    assert all("no cell can be built here: /bin/false" in v.reason for v in verdicts.values())
    assert not proof.exists()


def test_packages_that_the_cells_user_cannot_read_are_named_with_the_mend(
    grade: Grade, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root becomes another user")
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    (tmp_path / "venv" / "bin").chmod(0o700)
    monkeypatch.setattr(executed.sys, "prefix", str(tmp_path / "venv"))
    verdict = grade(check(), service())["x.one"]
    assert verdict.outcome == "not_graded"
    assert verdict.reason.endswith(f"mend it with: chmod -R o+rX {tmp_path / 'venv'}")


def test_a_check_that_does_not_end_fails_and_so_does_what_was_not_reached(
    grade: Grade, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executed, "GROUP_S", 4.0)
    text = check("import time; time.sleep(60)")
    verdicts = grade(text, service(), criteria=BOTH)
    assert verdicts["x.one"].evidence == (
        "in test_one the checks did not end: they ran into the limit of 4 s"
    )
    assert verdicts["x.two"].evidence == "not reached: they ran into the limit of 4 s"


def test_what_one_check_breaks_does_not_fail_the_next(grade: Grade) -> None:
    text = """
class TestIt:
    @pytest.mark.criterion("x.one")
    def test_one(self, service, fakes):
        fakes("carrier").fault(faults.Refuse())
        service.kill()
    @pytest.mark.criterion("x.two")
    def test_two(self, service, fakes):
        import httpx
        assert service.http.get("/").status_code == 200
        assert httpx.get(fakes("carrier").url, trust_env=False).status_code == 404
"""
    verdicts = grade(text, service(), criteria=BOTH)
    assert {v.outcome for v in verdicts.values()} == {"pass"}, verdicts


def test_data_survive_a_crash_and_belong_to_one_service(grade: Grade) -> None:
    text = """
class TestIt:
    @pytest.mark.criterion("x.one")
    def test_one(self, service, launch):
        assert service.http.get("/add").json() == 1
        service.kill()
        assert not service.alive
        service.start()
        assert service.http.get("/add").json() == 2
        assert service.restart() is None
        assert service.http.get("/add").json() == 3
        assert service.data_bytes() == b"xxx"
        other = launch()
        assert other.http.get("/add").json() == 1
        assert service.http.get("/add").json() == 4
"""
    files = service("""
def answer(path):
    with open(os.environ["DATA_DIR"] + "/n", "a+") as file:
        file.write("x")
        file.flush()
        return file.tell()
""")
    assert grade(text, files)["x.one"].outcome == "pass"


def test_the_service_gets_its_environment_and_no_other(grade: Grade) -> None:
    text = """
class TestIt:
    @pytest.fixture(scope="class")
    def environment(self, fakes):
        return {"CARRIER_URL": fakes("carrier").url, "LIMIT": 3}
    @pytest.mark.criterion("x.one")
    def test_one(self, service, fakes):
        got = service.http.get("/env").json()
        for key in ("LC_CTYPE", "PWD"):
            got.pop(key, None)
        path = got.pop("PATH")
        assert path.endswith("/bin:/usr/bin:/bin"), path
        assert got == {
            "CARRIER_URL": fakes("carrier").url, "LIMIT": "3", "PORT": str(service.port),
            "DATA_DIR": "/data", "HOME": "/tmp", "LANG": "C.UTF-8",
            "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1",
        }, got
"""
    verdict = grade(text, service("def answer(path):\n    return dict(os.environ)"))["x.one"]
    assert verdict.outcome == "pass", verdict


def test_stop_sends_one_signal_to_the_service_itself(grade: Grade) -> None:
    text = """
class TestIt:
    @pytest.mark.criterion("x.one")
    def test_one(self, service):
        stopped = service.stop()
        assert stopped.exit_code == 7, stopped
        assert stopped.seconds < 3
        assert service.log_text() == "bye"
    @pytest.mark.criterion("x.two")
    def test_two(self, service):
        service.http.get("/deaf")
        stopped = service.stop(timeout=0.5)
        assert stopped.exit_code is None
        assert not service.alive
"""
    files = service(
        "def answer(path):\n    global deaf\n    deaf = path == '/deaf'",
        "import signal\ndeaf = False\ndef bye(*args):\n    if not deaf:\n"
        "        print('bye')\n        os._exit(7)\nsignal.signal(15, bye)",
    )
    verdicts = grade(text, files, criteria=BOTH)
    assert {v.outcome for v in verdicts.values()} == {"pass"}, verdicts


def test_groups_have_loopbacks_of_their_own(grade: Grade) -> None:
    one = """
class TestIt{n}:
    @pytest.mark.criterion("x.{n}")
    def test_it(self, service, fakes):
        import time
        time.sleep(1)
        assert (service.port, fakes("a").port) == (8001, 9001)
"""
    text = one.format(n="one") + one.format(n="two")
    verdicts = grade(text, service(), criteria=BOTH)
    assert {v.outcome for v in verdicts.values()} == {"pass"}, verdicts


class Watched(CellFactory):
    """Notes which criteria each cell was run for, and whether it was alone."""

    def __init__(self) -> None:
        super().__init__()
        self.runs: list[tuple[object, bool]] = []

    def run(
        self, cell: Cell, on_line: Callable[[str], None], *, timeout: float, alone: bool = False
    ) -> Ended:
        self.runs.append((cell.config.get("criteria"), alone))
        return super().run(cell, on_line, timeout=timeout, alone=alone)


def test_what_failed_while_the_grader_was_late_is_repeated_alone(grade: Grade) -> None:
    cells = Watched()
    text = check("assert False, 'late'")
    verdicts = grade(text, service(), criteria=BOTH, cells=cells, tolerance_s=-1)
    assert cells.runs == [(["x.one", "x.two"], False), (["x.one"], True)]
    assert verdicts["x.one"].evidence == "late"
    assert verdicts["x.two"].outcome == "pass"


def test_a_failure_of_a_grader_in_time_is_not_repeated(grade: Grade) -> None:
    cells = Watched()
    verdicts = grade(check("assert False"), service(), cells=cells, tolerance_s=60)
    assert len(cells.runs) == 1
    assert verdicts["x.one"].outcome == "fail"


def test_a_delay_of_the_grader_is_measured(grade: Grade, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = Watched()
    # Stopped by a signal, the grader is woken late.
    line = (
        "import os, subprocess; pid = os.getpid(); "
        "subprocess.run(['sh', '-c', f'kill -STOP {pid}; sleep 0.7; kill -CONT {pid}']); "
        "assert False"
    )
    grade(check(line), service(), cells=cells, tolerance_s=0.5)
    assert [alone for _, alone in cells.runs] == [False, True]


def test_evidence_and_logs_name_no_path_of_this_machine(make_case: MakeCase) -> None:
    case = make_case(check("assert False, service.log_text().replace(chr(10), ' ')"))
    files = service(
        setup="import uvicorn, traceback\nprint(uvicorn.__file__, os.__file__, __file__)"
    )
    verdicts, logs = executed.grade(case, files, "c/a/1", criteria=["x.one"], cells=CellFactory())
    for text in (verdicts[0].evidence, logs["TestIt"]):
        assert "/runtime/lib/python3" in text, text
        assert "/python/lib/python3" in text or "/usr/lib/python3" in text, text
        assert "/app/main.py" in text
        assert str(Path.home()) + "/" not in text


def test_evidence_is_one_printable_line(grade: Grade) -> None:
    text = check(r"assert False, 'a\x1b[31mb\x00c' + 'd' * 2000")
    evidence = grade(text, service())["x.one"].evidence
    assert evidence.startswith("a [31mb c")
    assert len(evidence) <= 600
    assert evidence.isprintable()


def test_grading_that_is_stopped_ends_at_once_without_a_verdict(grade: Grade) -> None:
    cells = CellFactory(jobs=1)
    text = check("import time; time.sleep(50)") + check("pass").replace("TestIt", "TestOther")
    timer = threading.Timer(3.0, cells.stop)
    timer.start()
    began = time.monotonic()
    with pytest.raises(Interrupted):
        grade(text, service(), criteria=BOTH, cells=cells)
    assert time.monotonic() - began < 20
    with pytest.raises(Interrupted):
        grade(text, service(), cells=cells)


# --- tests.shipped --------------------------------------------------------------------------------


SHIPPED = [
    ({"test_a.py": "def test_a(): pass\ndef test_b(): pass"}, "pass", "its own tests pass: 2"),
    ({"tests/test_a.py": "import main\ndef test_a(): assert main.x == 1"}, "pass", "pass: 1"),
    (
        {"test_a.py": "def test_a(): assert 1 == 2"},
        "fail",
        "1 of its own 1 tests fail; first: test_a",
    ),
    ({"test_a.py": "import nothing_such"}, "fail", "1 of its own 1 tests fail; first: test_a"),
    ({"README.md": "no tests"}, "fail", "it ships no test that pytest finds"),
    (
        {"test_a.py": "import pytest\n@pytest.mark.skip\ndef test_a(): pass"},
        "fail",
        "0 of its own 1",
    ),
    ({"test_a.py": "import os\ndef test_a(): os._exit(0)"}, "fail", "it ships no test"),
]


@pytest.mark.parametrize(("files", "outcome", "evidence"), SHIPPED)
def test_the_tests_that_an_answer_ships(
    grade: Grade, files: dict[str, str], outcome: str, evidence: str
) -> None:
    verdicts = grade("", {"main.py": "x = 1", **files}, criteria=("tests.shipped",))
    assert verdicts["tests.shipped"].outcome == outcome, verdicts
    assert evidence in verdicts["tests.shipped"].evidence
    assert "starts" not in verdicts


def test_shipped_tests_may_write_and_use_the_loopback_but_nothing_else(grade: Grade) -> None:
    test = """
import os, socket, urllib.request
from http.server import HTTPServer, BaseHTTPRequestHandler
def test_a(tmp_path):
    (tmp_path / "x").write_text("x")
    open("here.txt", "w").write("x")
    open(os.environ["DATA_DIR"] + "/x", "w").write("x")
    server = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    socket.create_connection(server.server_address).close()
    try:
        socket.create_connection(("1.1.1.1", 53), timeout=1)
        assert False
    except OSError:
        pass
"""
    verdicts = grade("", {"main.py": "", "test_a.py": test}, criteria=("tests.shipped",))
    assert verdicts["tests.shipped"].outcome == "pass", verdicts


def test_shipped_tests_that_hang_fail(grade: Grade, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executed, "SHIPPED_S", 3.0)
    test = "import time\ndef test_a(): time.sleep(60)"
    verdict = grade("", {"test_a.py": test}, criteria=("tests.shipped",))["tests.shipped"]
    assert verdict.evidence == "its own tests did not end: they ran into the limit of 3 s"


# --- what is read without running -------------------------------------------------------------


def test_groups_are_read_from_the_file_without_running_it(tmp_path: Path) -> None:
    path = tmp_path / "test_x.py"
    path.write_text(
        "raise SystemExit\n"
        "class Helper: pass\n"
        "@pytest.mark.criterion('a.class')\n"
        "class TestA:\n"
        "    @pytest.mark.criterion('a.one')\n"
        "    def test_one(self): pass\n"
        "    @pytest.mark.parametrize('x', [\n"
        "        pytest.param(1, marks=pytest.mark.criterion('a.two'))])\n"
        "    def test_two(self, x): pass\n"
        "class TestB(TestA): pass\n"
    )
    assert executed.groups(path) == {
        "TestA": {"a.class", "a.one", "a.two"},
        "TestB": {"a.class", "a.one", "a.two"},
    }


def test_a_test_file_with_a_syntax_error_is_named(tmp_path: Path) -> None:
    path = tmp_path / "test_x.py"
    path.write_text("class TestA(:\n")
    with pytest.raises(UserError, match=r"test_x\.py:1: "):
        executed.groups(path)


@pytest.mark.parametrize("path", ["../evil.py", "/tmp/evil.py", "a\0b", "x" * 300, "main.py/x"])
def test_names_that_no_folder_can_hold_are_the_answers_failure(grade: Grade, path: str) -> None:
    verdicts = grade(check(), {**service(), path: "x"}, criteria=BOTH)
    assert {v.outcome for v in verdicts.values()} == {"fail"}
    assert all("files cannot be written" in v.evidence for v in verdicts.values())


def test_text_that_is_no_unicode_can_still_be_run(grade: Grade) -> None:
    verdicts = grade(check(), {**service(), "notes.md": "half a pair: \ud83d"})
    assert verdicts["x.one"].outcome == "pass"


def test_an_alone_cell_waits_for_all_and_all_wait_for_it() -> None:
    gate, seen, inside = Gate(2), [], []

    def work(alone: bool) -> None:
        with gate.enter(alone=alone):
            inside.append(alone)
            seen.append((alone, len(inside)))
            time.sleep(0.02)
            inside.remove(alone)

    threads = [threading.Thread(target=work, args=(n % 4 == 0,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(count == 1 for alone, count in seen if alone)
    assert max(count for _, count in seen) == 2
    assert len(seen) == 16


def test_the_report_says_what_bounds_a_cell() -> None:
    report = CellFactory(limits=Limits(memory_mb=300), use_cgroup=False).probe()
    assert report.ok, report.reason
    assert report.version[0].isdigit()
    assert report.limits["memory"] == "300 MB by a supervisor that sums the cell"
    assert report.limits["network"] == "loopback of its own"
