"""Errors become one sentence and the exit code of their kind."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import typer

from edgepress.models.command_line import application, import_path, run_command
from edgepress.models.errors import ConfigError, ParityError, RuntimeFailure, UsageError
from edgepress.models.interruption import Interrupted, Terminated


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("bad file"), 2),
        (ParityError("3 LSB apart"), 1),
        (RuntimeFailure("tflm aborted"), 3),
        (Interrupted(), 130),
        (KeyboardInterrupt(), 130),
        (Terminated(), 143),
        (PermissionError(13, "Permission denied", "/x"), 2),
        (ZeroDivisionError("oops"), 3),
        (ModuleNotFoundError("No module named 'torch'", name="torch"), 3),
        (ModuleNotFoundError("No module named 'x'", name="x"), 3),
    ],
)
def test_exit_codes(error, code, capsys):
    def app(args=None):
        raise error

    with pytest.raises(SystemExit) as caught:
        run_command(app)
    assert caught.value.code == code
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    assert captured.out == ""
    assert captured.err.strip()


def test_all_problems_of_a_configuration_come_together():
    error = ConfigError(["a is wrong", "b is missing"], "recipe.toml")
    assert str(error) == "recipe.toml has 2 problems:\n  - a is wrong\n  - b is missing"


def test_a_missing_package_names_its_extra(capsys):
    def app(args=None):
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    with pytest.raises(SystemExit):
        run_command(app)
    assert "[train]" in capsys.readouterr().err


def test_an_interrupt_while_the_command_line_is_read_is_told_as_one(monkeypatch, capsys):
    """typer itself would end with 130 and say nothing."""
    app = application("says", "It says one word.")

    @app.command()
    def say() -> None:
        """Say it."""

    def interrupted(*given: object, **named: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(typer.core.TyperGroup, "make_context", interrupted)
    with pytest.raises(SystemExit) as ended:
        run_command(app, ["say"])
    assert ended.value.code == 130
    assert capsys.readouterr().err == f"error: {Interrupted()}\n"


def test_an_interrupt_inside_exec_ends_with_the_commands_own_code(tmp_path):
    """The interpreter remembers one although it was caught, and would end by SIGINT in place of the code."""
    script = (
        "from edgepress.models.command_line import application, import_path, run_command\n"
        "app = application('says', 'It says one word.')\n"
        "@app.command()\n"
        "def say() -> None:\n"
        "    exec('raise KeyboardInterrupt')\n"
        "run_command(app, ['say'])\n"
    )
    (tmp_path / "says.py").write_text(script)
    done = subprocess.run(
        [sys.executable, "-m", "says"],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{import_path()}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (130, f"error: {Interrupted()}\n")
