"""What may never happen: hours shown to another agency, hours lost, a wrong cent."""

from concurrent.futures import ThreadPoolExecutor

import migrate
import pytest
from domain import Caller, Refused, check_allowed, price
from store import Store

OWNER = Caller("north", "olga", "owner")
MEMBER = Caller("north", "mia", "member")
OTHER = Caller("south", "olga", "owner")
ENTRY = {"date": "2026-03-01", "minutes": 30, "note": ""}


@pytest.fixture
def store(tmp_path):
    database = migrate.connect(tmp_path)
    migrate.up(database)
    return Store(database)


@pytest.fixture
def project(store):
    return store.create_project(OWNER, "Site", 8750)["id"]


def test_another_tenant_sees_and_changes_nothing(store, project):
    entry, etag = store.log_entry(OWNER, project, "k", ENTRY, ENTRY)
    for act in (
        lambda: store.read_entry(OTHER, entry["id"]),
        lambda: store.edit_entry(OTHER, entry["id"], etag, {"minutes": 1}),
        lambda: store.log_entry(OTHER, project, "other", ENTRY, ENTRY),
    ):
        with pytest.raises(Refused) as refused:
            act()
        assert refused.value.code == "not_found"
    assert store.list_entries(OTHER, {}, 50, None) == ([], None)
    assert store.monthly_report(OTHER, "2026-03")["projects"] == []


def test_a_member_sees_only_his_own(store, project):
    entry, _ = store.log_entry(OWNER, project, "k", ENTRY, ENTRY)
    with pytest.raises(Refused):
        store.read_entry(MEMBER, entry["id"])
    assert store.list_entries(MEMBER, {"user_id": "olga"}, 50, None)[0] == []


def test_keys_belong_to_a_person_in_a_tenant(store, project):
    first, _ = store.log_entry(OWNER, project, "k", ENTRY, ENTRY)
    again, _ = store.log_entry(OWNER, project, "k", ENTRY, ENTRY)
    other, _ = store.log_entry(MEMBER, project, "k", ENTRY, ENTRY)
    assert first == again
    assert first["id"] != other["id"]
    with pytest.raises(Refused):
        store.log_entry(OWNER, project, "k", {"minutes": 1}, ENTRY)


def test_one_of_many_editors_wins(store, project):
    entry, etag = store.log_entry(OWNER, project, "k", ENTRY, ENTRY)

    def edit(minutes):
        try:
            return store.edit_entry(OWNER, entry["id"], etag, {"minutes": minutes})[0]["minutes"]
        except Refused:
            return None

    with ThreadPoolExecutor(8) as pool:
        won = [m for m in pool.map(edit, range(1, 9)) if m]
    assert len(won) == 1
    assert store.read_entry(OWNER, entry["id"])[0]["minutes"] == won[0]


def test_half_a_cent_goes_up():
    assert price(30, 201) == 101
    assert price(1, 30) == 1
    assert price(60, 10000) == 10000


def test_only_owners_bill():
    with pytest.raises(Refused):
        check_allowed(MEMBER, "monthly_report")


def test_the_schema_goes_up_and_down(tmp_path):
    database = migrate.connect(tmp_path)
    for _ in range(2):
        migrate.up(database)
        migrate.down(database)
        tables = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'"
        assert database.execute(tables).fetchall() == []
