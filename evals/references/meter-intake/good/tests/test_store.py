"""What must add up: counts after duplicates, conflicts and a crash between two chunks."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))

from intake.config import Config  # noqa: E402
from intake.processor import Processor  # noqa: E402
from intake.store import Store  # noqa: E402
from migrate import migrate  # noqa: E402


@pytest.fixture
def store(tmp_path):
    config = Config(1, tmp_path, "http://billing", "token", max_backlog=2)
    config.files.mkdir()
    migrate(config.database)
    return Store(config)


def accept(store, name, count):
    lines = [
        f'{{"meter":"NL-0000001","time":"2026-03-01T{n // 60:02}:{n % 60:02}:00Z","kwh":{n}}}\n'
        for n in range(count)
    ]
    store.path(name).write_text("".join(lines))
    return store.accept(name, name, name, "r", "00-a-b-01")


def test_a_crash_between_two_chunks_leaves_the_counts_as_if_nothing_had_happened(store):
    accept(store, "one", 1200)
    apply, calls = store.apply, []

    def apply_once(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise SystemExit
        return apply(*arguments)

    processor = Processor(store, on_done=lambda: None)
    store.apply = apply_once
    with pytest.raises(SystemExit):
        processor._process(store.next_batch())
    assert (store.next_batch()["line"], store.next_batch()["stored"]) == (500, 500)
    store.apply = apply
    processor._process(store.next_batch())
    batch = store.batch("one")
    assert (batch["status"], batch["stored"], batch["duplicates"]) == ("done", 1200, 0)


def test_no_more_files_wait_than_allowed_and_known_ones_are_known(store):
    assert [accept(store, name, 1)[1] for name in ("a", "b", "c", "a")] == [
        "new",
        "new",
        "full",
        "known",
    ]
    assert store.accept("a", "other bytes", "x", "r", "t")[1] == "reused"


def test_the_tables_go_back(store, tmp_path):
    migrate(tmp_path / "intake.db", 0)
    migrate(tmp_path / "intake.db")
    assert store.waiting() == 0
