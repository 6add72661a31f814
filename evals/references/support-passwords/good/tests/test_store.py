"""The two things that must hold: no second use of a code, no eleventh try."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from store import Store


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


def test_a_code_works_once_and_ends_every_session(store):
    account = store.add_account("a@wol.nl", "A", "old hash")["id"]
    token = store.open_session(account)
    code = store.new_reset_code(account)
    assert not store.reset_password(account, "AAAA-AAAA", "new hash")
    assert store.reset_password(account, code, "new hash")
    assert not store.reset_password(account, code, "newer hash")
    assert store.find_account("a@wol.nl")["password_hash"] == "new hash"
    assert store.account_of_session(token) is None


def test_ten_of_many_tries_at_once_are_made(store):
    with ThreadPoolExecutor(16) as pool:
        made = list(pool.map(lambda _: store.may_try("a@wol.nl"), range(40)))
    assert sum(made) == 10
    assert store.may_try("b@wol.nl")
