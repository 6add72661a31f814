"""The digest is the key of every stored answer: it must not change by accident."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from harness.records import Request, Trial, canonical_json, sha256

PLAIN = Request(
    model="claude-sonnet-5-5",
    system="You build.",
    messages=({"role": "user", "content": "Étage 3 → “ok” 😀\n"},),
    max_tokens=32_000,
)
FULL = Request(
    model="claude-opus-5-5",
    system="",
    messages=(
        {"role": "user", "content": [{"type": "text", "text": "a"}]},
        {"role": "assistant", "content": "b"},
    ),
    max_tokens=1,
    epoch=2,
    schema={"type": "object", "properties": {"b": {}, "a": {}}},
    effort="low",
    tools=({"name": "t", "input_schema": {"type": "object"}},),
)


def test_golden_digests() -> None:
    """If this fails, every recording is stale: raise DIGEST_VERSION, and mean it."""
    assert PLAIN.digest == "7d340c7da828f30f592a5cdcbc7c0f561d93485a60a08621ccb132f83b787d65"
    assert FULL.digest == "f861221707b989aa9c1703162888233a1eac23300a61b4725a9dde344fd2f2b6"


def test_canonical_form_is_plain_json_that_anyone_can_digest() -> None:
    assert canonical_json(PLAIN.canonical()) == (
        '{"epoch":1,"messages":[{"content":"Étage 3 → “ok” 😀\\n","role":"user"}],'
        '"model":"claude-sonnet-5-5","sampling":{"effort":null,"max_tokens":32000},'
        '"schema":null,"system":"You build.","tools":[],"v":1}'
    )


@pytest.mark.parametrize("request_", [PLAIN, FULL])
def test_canonical_form_survives_a_file(request_: Request) -> None:
    again = Request.from_canonical(json.loads(json.dumps(request_.canonical())))
    assert again.digest == request_.digest


@pytest.mark.parametrize(
    "field",
    [
        {"model": "other"},
        {"system": "You build. "},
        {"messages": ({"role": "user", "content": ""},)},
        {"max_tokens": 31_999},
        {"epoch": 2},
        {"schema": {}},
        {"effort": "low"},
        {"tools": ({"name": "t"},)},
    ],
)
def test_everything_that_the_model_sees_changes_the_digest(field: dict[str, object]) -> None:
    assert replace(PLAIN, **field).digest != PLAIN.digest  # type: ignore[arg-type]


def test_order_of_keys_does_not_change_the_digest() -> None:
    turned = ({"content": PLAIN.messages[0]["content"], "role": "user"},)
    assert replace(PLAIN, messages=turned).digest == PLAIN.digest


def test_foreign_form_is_refused() -> None:
    with pytest.raises(ValueError, match="form v2"):
        Request.from_canonical({**PLAIN.canonical(), "v": 2})


def test_lone_surrogates_have_a_digest() -> None:
    assert sha256("a\ud800") == sha256("a?")


def test_trial_id_reads_back() -> None:
    trial = Trial("meter-intake", "with", 12)
    assert Trial.from_id(trial.id) == trial
