"""The packages that a service may use: what the model is told is what is installed."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from harness.cases import Runtime
from harness.errors import UserError
from harness.grading import runtime as runtimes
from tests.grading.conftest import RUNTIME

PINNED = re.compile(r"^([A-Za-z0-9_.-]+)==([0-9][A-Za-z0-9_.]*)$")


def offered() -> dict[str, str]:
    """Package → version of the first part of requirements.txt: what a service may import."""
    first, _, rest = RUNTIME.requirements.read_text().partition("\n\n")
    lines = [line for line in first.splitlines() if not line.startswith("#")]
    every = [line for line in rest.splitlines() if not line.startswith("#")]
    assert all(PINNED.match(line) for line in [*lines, *every]), "every package is pinned exactly"
    return dict(line.split("==") for line in lines)


def test_the_prompt_lists_exactly_what_is_installed() -> None:
    text = RUNTIME.requirements.with_name("environment.md").read_text()
    told = text.partition("it may import: ")[2].partition(".\n")[0]
    listed = dict(entry.rsplit(" ", 1) for entry in told.split(", "))
    assert listed == offered()


def test_every_offered_package_can_be_imported() -> None:
    modules = {
        "argon2-cffi": "argon2",
        "email-validator": "email_validator",
        "Flask": "flask",
        "opentelemetry-api": "opentelemetry.trace",
        "opentelemetry-sdk": "opentelemetry.sdk.trace",
        "prometheus_client": "prometheus_client",
        "pydantic-settings": "pydantic_settings",
        "PyJWT": "jwt",
        "pytest-asyncio": "pytest_asyncio",
        "python-dotenv": "dotenv",
        "python-json-logger": "pythonjsonlogger",
        "python-multipart": "python_multipart",
        "PyYAML": "yaml",
        "SQLAlchemy": "sqlalchemy",
    }
    names = [modules.get(package, package) for package in offered()]
    python = runtimes.ensure(RUNTIME) / "bin" / "python"
    done = subprocess.run(
        [python, "-I", "-c", "import " + ", ".join(names)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_a_runtime_is_built_once() -> None:
    folder = runtimes.ensure(RUNTIME)
    assert runtimes.ensure(RUNTIME) == folder
    assert folder.is_relative_to(runtimes.cache_folder())


def test_another_list_of_packages_is_another_runtime_and_a_wrong_one_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("no-such-package-at-all==1.0\n")
    runtime = Runtime("bare", "", ("python", "main.py"), requirements)
    with pytest.raises(UserError, match="runtime bare: ") as caught:
        runtimes.ensure(runtime)
    assert "it needs the package index" in str(caught.value)
    assert "no-such-package-at-all" in str(caught.value)
    # What was left half-made does not count as built.
    monkeypatch.setattr(runtimes, "sha256", lambda text: "0" * 64)
    (runtimes.cache_folder() / "runtimes" / ("bare-" + "0" * 12) / "bin").mkdir(parents=True)
    requirements.write_text("# none\n")
    assert (runtimes.ensure(runtime) / "bin" / "python").exists()
    assert "building the runtime bare (once)" in capsys.readouterr().err
