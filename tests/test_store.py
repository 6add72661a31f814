"""A run folder outlives kills, torn writes and strangers."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from messages_server import Answer, Call, MessagesServer

from harness.errors import UserError
from harness.records import PlannedTrial, Request, Response, Trial, Usage, Verdict
from harness.store import Run

PLAN = {"model": "m"}


def request(number: int = 1) -> Request:
    return Request("m", "s", ({"role": "user", "content": f"{number} ä"},), 100, number)


def planned(number: int) -> list[PlannedTrial]:
    return [PlannedTrial(Trial("case", "with", n), request(n)) for n in range(1, number + 1)]


def new_run(folder: Path, trials: int = 3) -> Run:
    return Run.create(folder / "run", dict(PLAN), planned(trials))


def answered(text: str = "x") -> Response:
    return Response(text, "end_turn", "m", Usage(1, 2, 3, 4), 1.5, "2026-11-24T00:00:00+00:00")


def test_everything_reads_back(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    response = answered("ä😀\r\n\x00 end")
    run.add_response(request(1).digest, response)
    verdict = Verdict("case/with/1", "a.b", "fail", "“ä” it says", how="judged", seconds=0.5)
    run.add_verdicts([verdict])
    run.add_log("case.with.1.x.log", "line\n")
    again = Run(run.folder)
    assert again.trials() == {p.trial: p.request.digest for p in planned(3)}
    assert again.request(request(2).digest) == request(2)
    assert again.response(request(1).digest) == response
    assert again.response(request(2).digest) is None
    assert again.verdicts() == [verdict]
    assert again.log("case.with.1.x.log") == "line\n"
    assert again.log("none.log") == ""


def test_first_answer_stays(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    for text in ("first", "second"):
        run.add_response(request(1).digest, answered(text))
    assert Run(run.folder).response(request(1).digest) == answered("first")


def test_equal_texts_of_two_requests_share_a_file(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    for number in (1, 2):
        run.add_response(request(number).digest, answered("same"))
    assert len(list((run.folder / "texts").iterdir())) == 1
    assert len(Run(run.folder).responses()) == 2


def test_newest_verdict_counts(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    for outcome in ("fail", "pass"):
        run.add_verdicts([Verdict("case/with/1", "a.b", outcome)])  # type: ignore[arg-type]
    assert [verdict.outcome for verdict in Run(run.folder).verdicts()] == ["pass"]


def test_lone_surrogates_are_stored_as_text(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    run.add_response(request(1).digest, Response("a\ud800b", "end\udfff", "m\ud800"))
    run.add_verdicts([Verdict("case/with/1", "a.b", "fail", "\udcff")])
    again = Run(run.folder)
    assert again.response(request(1).digest) == Response("a?b", "end?", "m?")
    assert again.verdicts()[0].evidence == "?"


@pytest.mark.parametrize("cut", [1, 5, 40, 10_000])
def test_torn_last_line_is_left_out_and_mended(tmp_path: Path, cut: int) -> None:
    run = new_run(tmp_path)
    for number in (1, 2):
        run.add_response(request(number).digest, answered(str(number)))
    path = run.folder / "responses.jsonl"
    whole = path.read_bytes()
    last = whole[: -len(whole.splitlines(keepends=True)[-1])]
    path.write_bytes(whole[: max(len(last) + 1, len(whole) - cut)])
    torn = Run(run.folder)
    assert list(torn.responses()) == [request(1).digest]
    torn.add_response(request(3).digest, answered("3"))
    assert list(Run(run.folder).responses()) == [request(1).digest, request(3).digest]
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_line_that_was_altered_is_named(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    path = run.folder / "responses.jsonl"
    for wrong in ("{broken\n", "null\n", '{"request": "x"}\n'):
        path.write_text(wrong)
        with pytest.raises(UserError, match=r"responses\.jsonl: line 1"):
            Run(run.folder).responses()


def test_altered_text_is_refused(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    run.add_response(request(1).digest, answered("original"))
    (text,) = (run.folder / "texts").iterdir()
    text.write_text("edited by hand")
    with pytest.raises(UserError, match="altered"):
        Run(run.folder).response(request(1).digest)
    text.unlink()
    with pytest.raises(UserError, match="cannot be read"):
        Run(run.folder).response(request(1).digest)


def test_altered_request_is_refused(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    path = run.folder / "requests" / f"{request(1).digest}.json"
    path.write_text(path.read_text().replace("1 ä", "2 ä"))
    with pytest.raises(UserError, match="altered"):
        run.request(request(1).digest)
    path.write_text("{}")
    with pytest.raises(UserError, match="not a stored request"):
        run.request(request(1).digest)


def test_folder_that_is_no_run(tmp_path: Path) -> None:
    assert not Run(tmp_path).exists()
    with pytest.raises(UserError, match="is this a run folder"):
        _ = Run(tmp_path).plan
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        _ = Run(tmp_path).plan


def test_run_is_never_planned_over(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    run.unlock()
    with pytest.raises(UserError, match="there is a run already"):
        new_run(tmp_path)


def test_second_process_is_refused_until_the_first_ends(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    code = "import sys, pathlib, harness.store as s; s.Run(pathlib.Path(sys.argv[1])).lock()"
    command = [sys.executable, "-c", code, str(run.folder)]
    second = subprocess.run(command, capture_output=True, text=True)
    assert "another process works in this run" in second.stderr
    run.unlock()
    assert subprocess.run(command).returncode == 0


def test_full_disk_is_one_message_and_loses_nothing(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    run.add_response(request(1).digest, answered("kept"))
    (run.folder / "texts").rename(run.folder / "gone")
    with pytest.raises(UserError, match="what was written before stays readable"):
        run.add_response(request(2).digest, answered())
    (run.folder / "gone").rename(run.folder / "texts")
    assert Run(run.folder).response(request(1).digest) == answered("kept")
    assert request(2).digest not in Run(run.folder).responses()


# --- kills --------------------------------------------------------------------------------------

TRIALS, AT_ONCE, KILLS = 60, 3, 20

WORKER = """
import asyncio, os, sys
from pathlib import Path
from harness.models.collect import collect
from harness.models.live import Live
from harness.records import Request
from harness.store import Run

def work(folder, url, at_once):
    run = Run(Path(folder))
    run.lock()
    requests = [run.request(digest) for digest in run.trials().values()]
    async def main():
        model = Live(base_url=url, concurrency=at_once)
        await collect(requests, model, run, concurrency=at_once)
        await model.aclose()
    asyncio.run(main())

async def warm(url):
    model = Live(base_url=url)
    await model.respond(Request("m", "", ({"role": "user", "content": "warm"},), 10))
    await model.aclose()

# One process has the SDK imported, and all that its first request imports; it forks for each round.
asyncio.run(warm(sys.argv[2]))
for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        work(sys.argv[1], sys.argv[2], int(sys.argv[3]))
        os._exit(0)
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


def test_killed_at_any_moment_it_resumes_and_repeats_only_what_was_in_flight(
    tmp_path: Path,
) -> None:
    run = new_run(tmp_path, TRIALS)
    run.unlock()
    texts = {p.request.digest: str(p.request.messages[0]["content"]) for p in planned(TRIALS)}
    chance = random.Random(20_261_124)

    def answer(call: Call) -> None:
        text = call.body["messages"][0]["content"] * 500
        Answer(text, latency=0.05 * chance.random() + 0.04)(call)

    with MessagesServer(answer) as server:
        worker = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(run.folder), server.url, str(AT_ONCE)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert worker.stdin and worker.stdout

        def round_(kill_after: float | None) -> int:
            assert worker.stdin and worker.stdout
            worker.stdin.write("\n")
            worker.stdin.flush()
            pid = int(worker.stdout.readline())
            if kill_after is not None:
                before = len(server.calls)
                deadline = time.monotonic() + 5
                while len(server.calls) == before and time.monotonic() < deadline:
                    time.sleep(0.001)
                time.sleep(kill_after)
                os.kill(pid, signal.SIGKILL)  # not reaped before its exit code is read
            return int(worker.stdout.readline())

        killed = 0
        stored: set[str] = set()
        for _ in range(KILLS):
            code = round_(chance.uniform(0, 0.15))
            if code == 0:
                break
            assert code == -signal.SIGKILL
            killed += 1
            now = set(Run(run.folder).responses())
            assert now >= stored, "a stored answer was lost"
            stored = now
        assert killed >= 8, "the run was over too soon to show anything"
        assert round_(None) == 0
        worker.stdin.close()
        worker.wait(timeout=10)
        asked = Counter(call.body["messages"][0]["content"] for call in server.calls)
        assert asked.pop("warm") == 1

    done = Run(run.folder)
    assert set(done.responses()) == set(texts)
    for digest, text in texts.items():
        assert done.response(digest).text == text * 500  # type: ignore[union-attr]
    assert len((run.folder / "responses.jsonl").read_bytes().splitlines()) == TRIALS
    assert sum(asked.values()) - TRIALS <= killed * AT_ONCE
    assert set(asked) == set(texts.values())
