"""The rules: who may do what, and how money is rounded. Knows neither HTTP nor SQL."""

from dataclasses import dataclass

ROLES = {"owner", "member", "viewer"}

ALLOWED = {
    "create_project": {"owner"},
    "list_projects": {"owner", "member", "viewer"},
    "log_entry": {"owner", "member"},
    "read_entry": {"owner", "member", "viewer"},
    "list_entries": {"owner", "member", "viewer"},
    "edit_entry": {"owner", "member"},
    "monthly_report": {"owner"},
}


class Refused(Exception):
    """A request that is turned down; the code decides the HTTP status."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Caller:
    tenant: str
    sub: str
    role: str

    @property
    def sees_all(self) -> bool:
        """Whether entries of others in the tenant exist for this caller."""
        return self.role != "member"

    @property
    def sees_rates(self) -> bool:
        return self.role == "owner"


def check_allowed(caller: Caller, operation: str) -> None:
    if caller.role not in ALLOWED[operation]:
        raise Refused("forbidden", f"a {caller.role} may not do this")


def to_cents(amount: str) -> int:
    whole, _, cents = amount.partition(".")
    return int(whole) * 100 + int(cents)


def from_cents(cents: int) -> str:
    return f"{cents // 100}.{cents % 100:02d}"


def price(minutes: int, rate_cents: int) -> int:
    """Minutes at a rate an hour, in cents, rounded half up; integers all the way."""
    return (2 * minutes * rate_cents + 60) // 120
