"""What bodies and queries must look like."""

import base64
import binascii
import json
from datetime import date
from typing import Annotated, Any, TypeVar

from domain import Refused
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError


def _real_date(text: str) -> str:
    date.fromisoformat(text)
    return text


Date = Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$"), AfterValidator(_real_date)]
Minutes = Annotated[int, Field(ge=1, le=1440)]
Note = Annotated[str, Field(max_length=500)]


class Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class NewProject(Strict):
    name: Annotated[str, Field(min_length=1, max_length=100)]
    hourly_rate: Annotated[str, Field(pattern=r"^[0-9]{1,4}\.[0-9]{2}$")]


class NewEntry(Strict):
    date: Date
    minutes: Minutes
    note: Note = ""


class EntryChange(Strict):
    date: Date = ""
    minutes: Minutes = 0
    note: Note = ""


class Filters(BaseModel):
    model_config = ConfigDict(populate_by_name=True)
    project_id: str | None = None
    user_id: str | None = None
    from_: Annotated[Date | None, Field(alias="from")] = None
    to: Date | None = None
    limit: Annotated[int, Field(ge=1, le=100)] = 50
    cursor: str | None = None


class Month(BaseModel):
    month: Annotated[str, Field(pattern=r"^[0-9]{4}-(0[1-9]|1[0-2])$")]


T = TypeVar("T", bound=BaseModel)


def parse(schema: type[T], value: Any) -> T:
    """Raises Refused (400) with the places that are wrong, never with the values."""
    try:
        return schema.model_validate(value)
    except ValidationError as error:
        wrong = [".".join(str(p) for p in e["loc"]) + ": " + e["msg"] for e in error.errors()]
        raise Refused("invalid", "; ".join(wrong)[:500]) from None


def parse_json(raw: bytes) -> Any:
    def refuse(constant: str) -> Any:
        raise ValueError(f"{constant} is no JSON")

    try:
        return json.loads(raw.decode(), parse_constant=refuse)
    except (ValueError, RecursionError):
        raise Refused("invalid", "the body is no JSON") from None


def write_cursor(position: tuple[str, int] | None) -> str | None:
    if position is None:
        return None
    return base64.urlsafe_b64encode(json.dumps(position).encode()).decode()


def read_cursor(cursor: str | None) -> tuple[str, int] | None:
    if cursor is None:
        return None
    try:
        day, seq = json.loads(base64.urlsafe_b64decode(cursor.encode()))
        if not isinstance(seq, int) or not -(2**63) <= seq < 2**63:
            raise ValueError
        return _real_date(day), seq
    except (ValueError, TypeError, binascii.Error, RecursionError):
        raise Refused("invalid", "cursor: not one of ours") from None
