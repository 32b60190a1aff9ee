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
        f"from edgepress.models.atomic import append_lines, write_bytes\nimport sys\nprint('go', flush=True)\n"
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


def test_lines_are_appended_behind_what_is_there(tmp_path):
    path = atomic.append_lines(tmp_path / "new" / "a.jsonl", ['{"a": 1}', '{"a": 2}'])
    atomic.append_lines(path, ['{"a": 3}'])
    assert path.read_text() == '{"a": 1}\n{"a": 2}\n{"a": 3}\n'


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('{"a": 1}\n{"a": ', '{"a": 1}\n'),
        ('{"a": 1}\n{"a": 2}', '{"a": 1}\n{"a": 2}\n'),
        ('{"a": ', ""),
        ("{" + "x" * 200_000, ""),
        ("", ""),
    ],
)
def test_a_torn_last_line_is_mended_before_more_is_appended(tmp_path, before, after):
    (tmp_path / "a").write_text(before)
    atomic.append_lines(tmp_path / "a", ['{"b": 1}'])
    assert (tmp_path / "a").read_text() == after + '{"b": 1}\n'


@pytest.mark.skipif(sys.platform == "win32", reason="limits of POSIX")
@pytest.mark.parametrize("room", [0, 1, 500, 999])
def test_an_append_is_whole_or_not_at_all(tmp_path, room):
    """As on a full disk: the kernel takes the first bytes of a write and refuses the rest."""
    path = atomic.append_lines(tmp_path / "a", ["x" * 99])
    code = (
        "import resource, signal, sys; from edgepress.models.atomic import append_lines\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({100 + room}, {100 + room}))\n"
        "try: append_lines(sys.argv[1], ['y' * 499, 'z' * 499])\n"
        "except Exception as error: sys.exit(str(error))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "cannot write" in done.stderr
    assert path.read_text() == "x" * 99 + "\n"
    atomic.append_lines(path, ["y"])
    assert path.read_text() == "x" * 99 + "\ny\n"
