"""The run directory: newest fitting thing, lock, damage."""

from __future__ import annotations

import subprocess
import sys

import pytest

from edgepress.models.errors import UsageError
from edgepress.models.run_directory import RunDirectory


def make(run: RunDirectory, name: str, **facts) -> None:
    place = run.place("checkpoint", name)
    place.mkdir(parents=True)
    run.add("checkpoint", name, place, **facts)


def test_the_newest_that_fits_and_still_exists(tmp_path):
    run = RunDirectory(tmp_path / "run")
    make(run, "dense", macs=50)
    make(run, "small", macs=10)
    assert [entry["name"] for entry in run.entries("checkpoint")] == ["dense", "small"]
    newest = run.newest(
        "checkpoint", lambda entry: entry["macs"] > 20, wanted="checkpoint above 20 MACs", first="compress train"
    )
    assert newest["name"] == "dense"
    newest["path"].rmdir()
    with pytest.raises(UsageError, match="holds no checkpoint above 20 MACs; run `compress train` first"):
        run.newest(
            "checkpoint", lambda entry: entry["macs"] > 20, wanted="checkpoint above 20 MACs", first="compress train"
        )


def test_the_same_name_is_entered_once_and_becomes_the_newest(tmp_path):
    run = RunDirectory(tmp_path)
    make(run, "a")
    make(run, "b")
    run.add("checkpoint", "a", run.place("checkpoint", "a"))
    assert [entry["name"] for entry in run.entries("checkpoint")] == ["b", "a"]


@pytest.mark.parametrize("name", ["", "..", "a/b", "x\0"])
def test_names_cannot_leave_the_folder(tmp_path, name):
    with pytest.raises(UsageError, match="plain file name"):
        RunDirectory(tmp_path).place("checkpoint", name)


@pytest.mark.parametrize(
    "line",
    [
        "{",
        '{"kind": "checkpoint"}',
        '{"kind": "x", "name": "a", "path": "b"}',
        '{"kind": "checkpoint", "name": "a", "path": "/etc"}',
    ],
)
def test_a_damaged_index_is_named_with_its_line(tmp_path, line):
    (tmp_path / "index.jsonl").write_text(line + "\n")
    with pytest.raises(UsageError, match="line 1, is damaged"):
        RunDirectory(tmp_path).entries("checkpoint")


def test_a_second_command_is_kept_out_and_told_who_holds_it(tmp_path):
    run = RunDirectory(tmp_path)
    code = f"from edgepress.models.run_directory import RunDirectory\nwith RunDirectory({str(tmp_path)!r}).lock(): pass"
    with run.lock():
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "is in use by process" in other.stderr
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def test_a_lock_of_a_killed_command_is_stale(tmp_path):
    code = (
        f"from edgepress.models.run_directory import RunDirectory\nimport os, signal\n"
        f"with RunDirectory({str(tmp_path)!r}).lock(): os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    with RunDirectory(tmp_path).lock():
        pass


def test_the_next_holder_clears_up_after_a_killed_one(tmp_path):
    """A kill in the middle of a write leaves a hidden part; between two renames, the old thing under another name."""
    checkpoints = tmp_path / "checkpoints"
    (checkpoints / ".dense.abc12.partial").mkdir(parents=True)
    (tmp_path / ".index.jsonl.xyz.partial").write_text("{")
    (checkpoints / ".dense.q_1.replaced" / "old").mkdir(parents=True)
    (checkpoints / ".dense.q_1.replaced" / "old" / "model.json").write_text("old")
    inner = tmp_path / "tasks" / "a" / "checkpoints" / ".dense.abc.partial"
    inner.mkdir(parents=True)
    with RunDirectory(tmp_path).lock():
        assert (checkpoints / "dense" / "model.json").read_text() == "old"
        assert sorted(path.name for path in checkpoints.iterdir()) == ["dense"]
        assert not list(tmp_path.glob(".*.partial"))
        assert inner.exists(), "another run directory, with a lock of its own"
