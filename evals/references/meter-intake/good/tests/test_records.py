"""The rules about a line."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))

from intake.records import BadLine, parse, show_kwh, show_moment  # noqa: E402

METER, TIME = '"meter": "NL-0012345"', '"time": "2026-03-01T10:15:00+01:00"'


def test_string_and_number_and_offsets_give_the_same_reading():
    first = parse(f'{{{METER}, {TIME}, "kwh": "12.5"}}'.encode())
    assert first == parse(f'{{{METER}, "time": "2026-03-01T09:15:00Z", "kwh": 12.500}}'.encode())
    assert (show_moment(first.at), show_kwh(first.wh)) == ("2026-03-01T09:15:00Z", "12.500")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"\xff\xfe", "bad_json"),
        (b"[" * 200_000, "bad_json"),
        (b"7", "bad_json"),
        (b'{"meter": "nl-0012345"}', "bad_meter"),
        (f'{{{METER}, "time": "2026-03-01T10:15:00"}}'.encode(), "bad_time"),
        (f'{{{METER}, "time": "2026-02-30T10:15:00Z"}}'.encode(), "bad_time"),
        (f'{{{METER}, {TIME}, "kwh": -1}}'.encode(), "bad_kwh"),
        (f'{{{METER}, {TIME}, "kwh": true}}'.encode(), "bad_kwh"),
        (f'{{{METER}, {TIME}, "kwh": {"9" * 6000}}}'.encode(), "bad_kwh"),
    ],
)
def test_the_first_thing_wrong_is_the_reason(line, reason):
    with pytest.raises(BadLine) as bad:
        parse(line)
    assert str(bad.value) == reason
