"""The toolkit that the cases' tests are written with: a service to break, and what it depends on.

It runs inside a grader's cell. `harness check CASE FOLDER` builds one; plain pytest skips.
"""

from harness.checks import faults
from harness.checks.fakes import Call, Fake, Reply
from harness.checks.service import LogLine, Service, Stopped
from harness.checks.timing import at_once, eventually, steady

__all__ = [
    "Call",
    "Fake",
    "LogLine",
    "Reply",
    "Service",
    "Stopped",
    "at_once",
    "eventually",
    "faults",
    "steady",
]
