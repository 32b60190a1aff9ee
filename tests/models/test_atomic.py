"""Files are there whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from edgepress.models import atomic
from edgepress.models.errors import UsageError


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    target = atomic.write_text(tmp_path / "a.txt", "old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UsageError, match="No space left on device"):
        atomic.write_text(target, "new")
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_directory_appears_only_when_it_is_finished(tmp_path):
    def write_half():
        with atomic.new_directory(tmp_path / "d") as folder:
            (folder / "half").write_text("x")
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        write_half()
    assert os.listdir(tmp_path) == []
    with atomic.new_directory(tmp_path / "d") as folder:
        (folder / "whole").write_text("x")
    assert (tmp_path / "d" / "whole").read_text() == "x"


def test_nothing_is_overwritten_unasked(tmp_path):
    with atomic.new_directory(tmp_path / "d") as folder:
        (folder / "first").touch()
    with pytest.raises(UsageError, match="exists already"), atomic.new_directory(tmp_path / "d"):
        pass
    with atomic.new_directory(tmp_path / "d", overwrite=True) as folder:
        (folder / "second").touch()
    assert os.listdir(tmp_path / "d") == ["second"]
    assert os.listdir(tmp_path) == ["d"]


def test_json_refuses_nan(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        atomic.write_json(tmp_path / "x.json", {"a": float("nan")})
    assert os.listdir(tmp_path) == []


def test_a_killed_writer_leaves_the_old_file(tmp_path):
    target = tmp_path / "big.bin"
    target.write_bytes(b"old")
    code = (
        f"from edgepress.models.atomic import write_bytes\nimport sys\nprint('go', flush=True)\n"
        f"while True: write_bytes({str(target)!r}, b'n' * 20_000_000)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(0.05)
    process.kill()
    process.wait()
    process.stdout.close()
    assert target.read_bytes() in (b"old", b"n" * 20_000_000)
