"""One style in all commands: help, examples that work, errors in one sentence, quiet and verbose, completion."""

from __future__ import annotations

import io
import json
import os
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from typer.main import get_command

from edgepress.models.terminal import words
from edgepress.models.terminal.chatter import without_chatter
from edgepress.models.terminal.progress import ProgressBar, time_left

ROOT = Path(__file__).resolve().parents[2]
GROUPS = {
    name: get_command(import_module(f"edgepress.{name}.cli").app) for name in ("compress", "deploy", "benchmarks")
}
COMMANDS = [(group, name) for group, app in GROUPS.items() for name in app.commands]  # type: ignore[attr-defined]


def call(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "edgepress", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def command(group: str, name: str):
    return GROUPS[group].commands[name]  # type: ignore[attr-defined]


@pytest.mark.parametrize(("group", "name"), COMMANDS)
def test_every_command_has_the_same_switches_and_ends_in_examples(group, name):
    found = command(group, name)
    options = {option for parameter in found.params for option in parameter.opts}
    assert {"--quiet", "-q", "--verbose", "-v"} <= options
    with found.make_context(name, [], resilient_parsing=True) as context:
        assert set(context.help_option_names) == {"--help"} or "-h" in context.help_option_names
    assert found.epilog is not None
    assert found.epilog.startswith("\b\nExamples:\n  ")


EXAMPLES = [line.strip() for group, name in COMMANDS for line in command(group, name).epilog.splitlines()[2:]]


@pytest.mark.parametrize("line", EXAMPLES)
def test_an_example_of_the_help_is_understood(line):
    group, name, *arguments = shlex.split(line)
    with command(group, name).make_context(name, arguments):
        pass


def test_examples_stand_one_a_line_and_summaries_are_whole():
    shown = call("compress", "distill", "--help").stdout
    assert "\n    compress distill esc10-mobile --data ./esc10-mobile\n" in shown
    listed = call("compress", "-h").stdout
    assert "..." not in listed.replace("COMMAND [ARGS]...", "")
    assert "list      What there is: recipes, networks, tasks, device classes.\n" in listed


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("compress", "prune", "--targt-macs", "3"), "no such option --targt-macs"),
        (("compress", "trian"), "no such command 'trian' (did you mean 'train'?)"),
        (("compress", "check"), "missing argument 'recipe'"),
        (("compress", "train", "--epochs", "-1"), "invalid value for '--epochs'"),
        (("benchmarks", "gate", "--limit"), "option '--limit' requires an argument"),
        (("compress", "check", "default", "-q", "-v"), "--quiet and --verbose are opposites"),
    ],
)
def test_wrong_usage_is_one_sentence_like_every_error(arguments, says):
    wrong = call(*arguments)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.lower().startswith(f"error: {says.lower()}")
    assert wrong.stderr.count("\n") == 1


def test_help_is_given_where_nothing_is_asked_for():
    assert "Usage: edgepress deploy " in call("deploy").stderr


def test_the_list_is_json_where_it_is_asked_for():
    listed = json.loads(call("compress", "list", "networks", "--format", "json").stdout)
    assert set(listed) == {"schema", "networks"}
    assert {"name", "summary"} == set(listed["networks"][0])
    assert "cp_resnet" in [network["name"] for network in listed["networks"]]
    assert call("compress", "list", "--format", "yaml").returncode == 2


def test_quiet_and_verbose_are_inherited_by_children(monkeypatch, capsys):
    monkeypatch.delenv("EDGEPRESS_VERBOSITY", raising=False)
    words.say("shown")
    words.set_verbosity("quiet")
    words.say("not shown")
    assert capsys.readouterr().err == "shown\n"
    child = [sys.executable, "-c", "from edgepress.models.terminal.words import verbosity; print(verbosity())"]
    assert subprocess.run(child, cwd=ROOT, capture_output=True, text=True, check=True).stdout == "quiet\n"
    monkeypatch.setenv("EDGEPRESS_VERBOSITY", "loud")
    assert words.verbosity() == "normal"
    monkeypatch.delenv("EDGEPRESS_VERBOSITY", raising=False)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_text_breaks_between_words_on_a_terminal_and_never_in_a_pipe(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    text = "error: the file models/a-very-long-name-with-hyphens.tflite is not there\n  - and more"
    assert words.wrapped(text, io.StringIO()) == text
    assert words.wrapped(text, Terminal()).split("\n") == [
        "error: the file",
        "models/a-very-long-name-with-hyphens.tflite",
        "is not there",
        "  - and more",
    ]


@pytest.mark.parametrize("level", ["normal", "verbose"])
def test_what_native_code_prints_is_shown_only_on_demand(level, monkeypatch, capfd):
    monkeypatch.setenv("EDGEPRESS_VERBOSITY", level)
    with without_chatter() as said:
        os.write(1, b"INFO: a\n")
        os.write(2, b"INFO: b\n")
        assert said() == ["INFO: b"]
    os.write(2, b"after\n")
    shown = capfd.readouterr()
    assert shown.out == ""
    assert shown.err == ("INFO: a\nINFO: b\n" if level == "verbose" else "") + "after\n"


def test_progress_tells_the_time_left_and_takes_no_name_for_markup(monkeypatch):
    assert time_left(1, 3, 20.0) == "40 s left"
    assert time_left(10, 40, 100.0) == "5 min left"
    assert time_left(1, 11, 1800.0) == "5.0 h left"
    monkeypatch.setattr("edgepress.models.terminal.progress._PATIENCE_S", -1.0)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("EDGEPRESS_VERBOSITY", "normal")
    monkeypatch.setattr(sys, "stderr", Terminal())
    with ProgressBar("names [train]", 4) as bar:
        bar.advance(2)
    shown = sys.stderr.getvalue()  # type: ignore[attr-defined]
    assert "names [train]" in shown
    assert "2/4" in shown
    assert "left" in shown


def test_a_sweep_shows_extras_as_they_are(tmp_path, monkeypatch):
    from rich.console import Console

    from edgepress.compress.commands import sweep

    monkeypatch.setattr(sweep, "last_line", lambda folder: "error: pip install 'edgepress[train]'")

    class Task:
        def folder(self, home: Path) -> Path:
            return home

    monkeypatch.setattr(sweep, "_id", lambda task: "30M/seed[0]")
    console = Console(file=io.StringIO(), width=120, force_terminal=False)
    console.print(sweep.table([Task()], tmp_path, {}))  # type: ignore[list-item]
    assert "edgepress[train]" in console.file.getvalue()  # type: ignore[attr-defined]
    assert "30M/seed[0]" in console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("entry", "typed", "offers"),
    [
        ("", "edgepress compress pr", "prune"),
        ("compress", "compress prune --target-m", "--target-macs"),
        ("benchmarks", "benchmarks ga", "gate"),
    ],
)
def test_a_shell_can_complete(entry, typed, offers):
    variable = f"_{(entry or 'edgepress').upper()}_COMPLETE"
    program = (
        f"import sys; sys.argv = ['{entry or 'edgepress'}']; import edgepress.__main__ as m; m.{entry or 'main'}()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            variable: "complete_bash",
            "COMP_WORDS": typed,
            "COMP_CWORD": str(len(typed.split()) - 1),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert offers in done.stdout.split(), done.stderr
