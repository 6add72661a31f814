"""Builds the packages of a runtime once, in the user's cache, for the cells to bind read-only."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import shutil
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

from harness.cases import Runtime
from harness.errors import UserError
from harness.records import sha256

WANTED = (3, 11)
"""The version that environment.md promises to the services."""


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME`` or ``~/.cache``, and this project's folder in it."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base).absolute() / "backend-skill-harness"


@lru_cache(maxsize=1)
def interpreter() -> tuple[str, str]:
    """Path and full version of the Python for services: the promised one, else our own."""
    if sys.version_info[:2] != WANTED:
        found = shutil.which(f"python{WANTED[0]}.{WANTED[1]}")
        if found:
            asked = subprocess.run(
                [found, "-c", "import ensurepip, platform; print(platform.python_version())"],
                capture_output=True,
                text=True,
            )
            if asked.returncode == 0:
                return found, asked.stdout.strip()
    return sys.executable, ".".join(str(part) for part in sys.version_info[:3])


def ensure(runtime: Runtime) -> Path:
    """The virtual environment of a runtime; built at the first call, which takes half a minute.

    Raises UserError with the end of pip's output where it cannot be built.
    """
    python, version = interpreter()
    content = runtime.requirements.read_text(encoding="utf-8")
    digest = sha256(f"{version}\n{content}")[:12]
    folder = cache_folder() / "runtimes" / f"{runtime.id}-{digest}"
    ready = folder / ".ready"
    if ready.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if ready.exists():
            return folder
        # A virtual environment cannot be moved, so it is made in place and marked when whole.
        shutil.rmtree(folder, ignore_errors=True)
        print(f"building the runtime {runtime.id} (once) …", file=sys.stderr, flush=True)
        inside = str(folder / "bin" / "python")
        if importlib.util.find_spec("pip"):
            # Our own pip installs into it, so that services find none.
            _run([python, "-m", "venv", "--without-pip", str(folder)], runtime)
            pip = [sys.executable, "-m", "pip", "--python", inside]
        else:
            _run([python, "-m", "venv", str(folder)], runtime)
            pip = [inside, "-m", "pip"]
        options = ["--quiet", "--disable-pip-version-check", "--no-input", "--prefer-binary"]
        _run([*pip, "install", *options, "-r", str(runtime.requirements)], runtime)
        ready.write_text(version + "\n")
    return folder


def _run(command: list[str], runtime: Runtime) -> None:
    try:
        # Cells read it as another user, whatever the umask here.
        done = subprocess.run(command, capture_output=True, text=True, umask=0o022)
    except OSError as error:
        raise UserError(f"runtime {runtime.id}: {command[0]}: {error.strerror}") from None
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines()[-8:]
        raise UserError(
            f"runtime {runtime.id}: `{' '.join(command[1:4])} …` failed; "
            f"it needs the package index:\n" + "\n".join(lines)
        )
