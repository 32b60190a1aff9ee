"""Errors become one sentence and the exit code of their kind."""

from __future__ import annotations

import pytest

from edgepress.models.command_line import run_command
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
    assert "edgepress[train]" in capsys.readouterr().err
