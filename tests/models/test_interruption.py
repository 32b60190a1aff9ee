"""Signals end a command with its children, its scratch and one sentence; what a killed one left, the next removes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from edgepress.models.scratch import scratch_folder, sweep_up

ROOT = Path(__file__).resolve().parents[2]
#: A command that writes to TMPDIR, says that it is ready, and then waits in each of the ways that a command waits.
COMMAND = """
import hashlib, signal, subprocess, sys, tempfile, time
from edgepress.models.command_line import application, run_command
app = application("waits", "It waits.")

def ready(child=None):
    print(tempfile.mkdtemp(), child.pid if child else 0, flush=True)

@app.command()
def python():
    ready()
    time.sleep(60)

@app.command()
def child():
    waited = subprocess.Popen(["sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"])
    ready(waited)
    waited.wait()

@app.command()
def native():
    ready()
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)

@app.command()
def exits():
    # as Ray does while it starts
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))
    waited = subprocess.Popen(["sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"])
    ready(waited)
    waited.wait()

@app.command()
def nested():
    subprocess.run([sys.executable, sys.argv[0], "python"])

run_command(app)
"""


@pytest.fixture
def command(tmp_path):
    script = tmp_path / "waits.py"
    script.write_text(COMMAND)
    folder = tmp_path / "tmp"
    folder.mkdir()
    started = []

    def start(name: str) -> tuple[subprocess.Popen[str], Path, int]:
        process = subprocess.Popen(
            [sys.executable, str(script), name],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder)},
            # A shell without job control has its children ignore Ctrl-C, and so would this one.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        started.append(process)
        assert process.stdout is not None
        written, child = process.stdout.readline().rsplit(" ", 1)
        return process, Path(written), int(child)

    yield start
    for process in started:
        process.kill()
        process.communicate()


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="children are found in /proc")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("name", ["python", "child", "exits", "nested"])
def test_a_signal_ends_children_and_scratch_with_one_sentence(command, name, number, code):
    process, written, child = command(name)
    assert written.is_dir()
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    assert process.returncode == code
    assert len(said.strip().splitlines()) == 1, said
    assert "what was finished is kept" in said
    assert not written.exists()
    assert not list((written.parents[1] if name != "nested" else written.parents[2]).iterdir())
    assert not (child and alive(child))


#: A program that calls a command of ours, which is interrupted after it started a child and Python's resource tracker.
PROGRAM = """
import subprocess
from contextlib import suppress
from multiprocessing import resource_tracker
from edgepress.models.command_line import run_command

def interrupted(args=None):
    resource_tracker.ensure_running()
    started.append(subprocess.Popen(["sleep", "60"]))
    raise KeyboardInterrupt

started = [subprocess.Popen(["sleep", "60"])]
with suppress(SystemExit):
    run_command(interrupted)
resource_tracker.ensure_running()  # it would warn that the one before died
print([child.poll() for child in started])
started[0].kill()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="children are found in /proc")
def test_children_of_the_calling_program_and_its_resource_tracker_are_left_alone():
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=50,
    )
    assert done.stdout == f"[None, {-signal.SIGTERM}]\n"


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_the_scratch_folder_is_made_leaves_none(tmp_path, number):
    """It waits until the folder is one that somebody removes."""
    code = (
        "import os, sys\nfrom edgepress.models import scratch\nfrom edgepress import __main__\n"
        "make = scratch._make\n"
        f"def and_stop(above):\n    made = make(above)\n    os.kill(os.getpid(), {int(number)})\n    return made\n"
        "scratch._make = and_stop\nsys.argv = ['edgepress', 'benchmarks', 'devices']\n__main__.main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert done.returncode == (143 if number == signal.SIGTERM else 130), done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_native_code_that_does_not_return_is_ended_before_docker_would(command):
    process, written, _ = command("native")
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 143
    assert time.monotonic() - began < 10
    assert len(said.strip().splitlines()) == 1
    assert not written.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="locks of POSIX")
def test_the_next_command_sweeps_up_after_a_killed_one_and_leaves_a_living_one_alone(command):
    killed, gone, _ = command("python")
    killed.kill()
    killed.wait()
    assert gone.exists()
    living, kept, _ = command("python")
    assert not gone.exists()
    sweep_up(kept.parents[1])
    assert kept.exists()
    living.send_signal(signal.SIGTERM)
    living.wait(timeout=30)


def test_what_is_not_ours_is_not_swept_up(tmp_path, monkeypatch):
    other = tmp_path / "other"
    (other / "in").mkdir(parents=True)
    (tmp_path / "edgepress-scratch-link").symlink_to(other)
    (tmp_path / "edgepress-scratch-full").mkdir()
    (tmp_path / "edgepress-scratch-full" / "data").touch()
    (tmp_path / "edgepress-scratch-begun").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with scratch_folder() as scratch:
        assert scratch is not None
        assert tempfile.gettempdir() == str(scratch)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "edgepress-scratch-full",
        "edgepress-scratch-link",
        "other",
    ]
    assert (other / "in").exists()
    assert tempfile.gettempdir() == str(tmp_path)
