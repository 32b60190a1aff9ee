"""Children end with the process that started them, even where it is killed and they are busy in native code."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from threading import Thread

import pytest

from edgepress.models.children import bound

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the operating system does it on Linux")
#: Native code that holds the GIL for minutes: what reads from a pipe would not notice its end.
BUSY = "import hashlib; hashlib.pbkdf2_hmac('sha256', b'', b'', 2**31 - 1)"


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def gone(process: int) -> bool:
    until = time.monotonic() + 20
    while alive(process) and time.monotonic() < until:
        time.sleep(0.05)
    return not alive(process)


def parent(code: str) -> tuple[subprocess.Popen[str], int]:
    """A process that runs `code` and prints the number of its child."""
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def ended(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def test_a_bound_command_dies_with_the_process_that_started_it():
    code = (
        "import subprocess, sys, time; from edgepress.models.children import bound\n"
        f"child = subprocess.Popen(bound([sys.executable, '-c', {BUSY!r}]))\n"
        "print(child.pid, flush=True); time.sleep(60)"
    )
    process, child = parent(code)
    time.sleep(0.3)
    assert alive(child)
    ended(process)
    assert gone(child)


def test_a_process_that_asks_for_it_dies_with_its_parent():
    follows = f"from edgepress.models.children import end_with_parent; end_with_parent(); {BUSY}"
    code = (
        f"import subprocess, sys, time; child = subprocess.Popen([sys.executable, '-c', {follows!r}])\n"
        "print(child.pid, flush=True); time.sleep(60)"
    )
    process, child = parent(code)
    time.sleep(0.5)
    ended(process)
    assert gone(child)


def test_whose_parent_is_gone_already_ends_at_once():
    code = "from edgepress.models.children import end_with_parent; end_with_parent(1)"
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False)
    assert done.returncode == -9


def test_a_bound_command_is_that_command():
    command = [sys.executable, "-c", "import sys; print(sys.stdin.read(), sys.argv[1]); sys.exit(7)", "word"]
    done = subprocess.run(bound(command), input="given", capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (7, "given word\n")
    missing = subprocess.run(bound(["/no/such/program"]), capture_output=True, text=True, check=False)
    assert missing.returncode == 1
    assert missing.stderr == "cannot run /no/such/program: No such file or directory\n"


def test_a_thread_that_ends_takes_no_command_with_it():
    """The kernel would take the thread's end for that of the parent."""
    started: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        started.append(subprocess.Popen(bound([sys.executable, "-c", "import time; time.sleep(60)"])))

    thread = Thread(target=start)
    thread.start()
    thread.join()
    time.sleep(0.3)
    assert started[0].poll() is None
    started[0].kill()
    started[0].wait()


def test_an_isolated_engine_dies_with_a_killed_session(tmp_path):
    """Its process is held up in native code, as a slow kernel or a damaged file holds it up."""
    pytest.importorskip("ai_edge_litert")

    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nif any('runtimes.worker' in word for word in sys.orig_argv):\n    " + BUSY
    )
    code = (
        "import os, sys, threading, time\n"
        f"os.environ['PYTHONPATH'] = {str(tmp_path)!r}\n"
        "from edgepress.deploy.runtimes import isolated\n"
        "def say():\n"
        "    from edgepress.models.interruption import descendants\n"
        "    time.sleep(1); print(*descendants(), flush=True)\n"
        "threading.Thread(target=say, daemon=True).start()\n"
        "isolated.IsolatedEngine('litert-reference', b'x', isolated.EngineOptions())"
    )
    process, child = parent(code)
    assert alive(child)
    ended(process)
    assert gone(child)
