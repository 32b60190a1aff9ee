"""Ray as a sweep starts it: nothing listens beyond loopback, nothing is left, and a Ray that does not start is told."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgepress.compress.sweep.cluster import connected
from edgepress.models.errors import RuntimeFailure

ROOT = Path(__file__).resolve().parents[3]
#: Starts Ray as a sweep does, runs one task on it, and prints the local addresses of all listening sockets of its
#: processes, as the kernel writes them.
LISTENING = r"""
import os, re
from pathlib import Path
from edgepress.compress.sweep.cluster import connected
from edgepress.models.command_line import run_command
from edgepress.models.interruption import descendants

def app(args=None):
    with connected(None) as ray:
        assert ray.get(ray.remote(lambda x: x + 1).remote(1)) == 2
        owned = set()
        for process in (os.getpid(), *descendants()):
            for handle in Path(f"/proc/{process}/fd").glob("*"):
                try:
                    owned |= set(re.findall(r"socket:\[(\d+)\]", os.readlink(handle)))
                except OSError:
                    pass
        for table in ("tcp", "tcp6"):
            for row in Path("/proc/net", table).read_text().splitlines()[1:]:
                fields = row.split()
                if fields[3] == "0A" and fields[9] in owned:
                    print("LISTENS", fields[1].split(":")[0], flush=True)
        print("HOME", sorted(path.name for path in Path.home().rglob("*")))

run_command(app)
"""
#: 127.0.0.1, alone and inside IPv6; ::1.
LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="sockets are found in /proc")
def test_nothing_listens_beyond_loopback(tmp_path):
    pytest.importorskip("ray")
    (tmp_path / "home").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", LISTENING],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path / "home")},
    )
    assert done.returncode == 0, done.stderr
    found = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("LISTENS")]
    assert len(found) >= 3, "raylet, gcs_server and the driver listen"
    assert set(found) <= LOOPBACK
    assert "HOME []" in done.stdout


def test_a_ray_that_does_not_start_is_one_sentence(monkeypatch):
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)

    def late(*arguments, **options):
        raise Exception("The current node timed out during startup.\nMore")

    monkeypatch.setattr(ray, "init", late)
    for name in ("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_TMPDIR"):
        monkeypatch.setenv(name, "0")
    with (
        pytest.raises(RuntimeFailure, match="did not start on this machine: The current node timed out"),
        connected(None),
    ):
        pass
