"""The grader's program in its cell: runs one group of checks and reports through the pipe."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path

# httpx loads these for a command line that nobody uses here: a tenth of a second of each group.
for name in ("click", "rich"):
    sys.modules[name] = None  # type: ignore[assignment]

UNUSED = "cacheprovider terminal junitxml pastebin doctest stepwise faulthandler logging unittest"
UNUSED += " debugging setuponly setupplan warnings legacypath nose unraisableexception"
UNUSED += " threadexception"


def main() -> int:
    """Exit code 0 whenever the checks ran, whatever they found: verdicts go through the pipe."""
    config = json.loads(Path("/cell/cell.json").read_text(encoding="utf-8"))
    os.set_inheritable(config["report_fd"], False)
    threading.stack_size(512 * 1024)

    import pytest

    from harness.checks.plugin import CheckPlugin, sender

    send = sender(config["report_fd"])
    options = [option for name in UNUSED.split() for option in ("-p", f"no:{name}")]
    options += ["-c", "/dev/null", "--rootdir", "/case", "--import-mode=importlib", "--capture=no"]
    options += ["--continue-on-collection-errors", *config["tests"]]
    code = pytest.main(options, plugins=[CheckPlugin(config, send)])
    send({"done": int(code), "cpu": round(time.process_time(), 3)})
    return 0 if code in (0, 1) else int(code)


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads of fakes and clients may still wait for a service that is gone.
    os._exit(status)
