"""Nothing phones home: no connection, and no file outside the run, the cache and TMPDIR, while the main job runs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.compress.train_cases import RECIPE, write_task

ROOT = Path(__file__).resolve().parents[1]
_CALLS = "connect,sendto,sendmsg,bind,openat,open,creat,mkdir,mkdirat,rename,renameat,renameat2,link,linkat,symlink"
#: A file that is opened for writing or made. What the kernel offers as files (terminals, shared memory) is none.
_WRITES = re.compile(r"open(?:at)?\(.*O_(?:WRONLY|RDWR|CREAT)|(?:creat|mkdir|rename|link|symlink)\w*\(")
_KERNEL = ("/dev/", "/proc/", "/sys/")


def traced(folder: Path, *command: str) -> str:
    """What a command asks the kernel for, with a home and a TMPDIR of its own."""
    strace = shutil.which("strace")
    works = (
        strace and not subprocess.run([strace, "-o", os.devnull, "true"], check=False, capture_output=True).returncode
    )
    if not works:
        pytest.skip("needs strace and the right to trace")
    for name in ("home", "tmp", "cache", "run"):
        (folder / name).mkdir(exist_ok=True)
    log = folder / "strace.log"
    tracer = [str(strace), "-f", "--seccomp-bpf", "-y", "-s", "300", "-o", str(log), "-e", f"trace={_CALLS}"]
    environment = {name: value for name, value in os.environ.items() if name not in ("ORT_DISABLE_TELEMETRY",)}
    done = subprocess.run(
        [*tracer, sys.executable, "-m", "edgepress", *command],
        cwd=folder / "run",
        capture_output=True,
        text=True,
        check=False,
        env={
            **environment,
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
            "HOME": str(folder / "home"),
            "TMPDIR": str(folder / "tmp"),
            "EDGEPRESS_CACHE": str(folder / "cache"),
        },
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return log.read_text(errors="replace")


def check(log: str, folder: Path) -> None:
    lines = [line for line in log.splitlines() if "= -1 E" not in line]
    outside = [line for line in lines if re.search(r"AF_INET|AF_NETLINK.*RTM_GETROUTE", line)]
    assert not outside, outside[:5]
    allowed = tuple(str(folder / name) for name in ("run", "cache", "tmp"))
    for line in lines:
        if not _WRITES.match(line.split(maxsplit=1)[-1]):
            continue
        # With -y the folder of a relative name is told: openat(3</a/b>, "c", ...); an absolute name stands for itself.
        names = re.findall(r'(?:<([^>]*)>, )?"([^"]*)"', line)
        for at, name in names:
            path = os.path.normpath(os.path.join(at or folder / "run", name))
            assert path.startswith((*allowed, *_KERNEL)), line
    assert [path.name for path in (folder / "home").rglob("*")] == []
    assert not list((folder / "tmp").iterdir()), "scratch is gone"


def test_a_run_of_onnx_runtime_leaves_nothing_and_calls_nobody(onnx_file, tmp_path):
    np.savez(tmp_path / "inputs.npz", x=np.zeros((2, 1, 16, 16), np.float32))
    check(traced(tmp_path, "deploy", "run", str(onnx_file), "--input", str(tmp_path / "inputs.npz")), tmp_path)


@pytest.mark.slow
def test_a_whole_recipe_leaves_nothing_and_calls_nobody(tmp_path):
    pytest.importorskip("litert_torch")
    recipe = tmp_path / "tiny.toml"
    text = RECIPE.replace("epochs = 5", "epochs = 1").replace("epochs = 3", "epochs = 1")
    text = text.replace("formats = []", 'formats = ["tflite", "onnx"]').replace(
        "runtimes = []", 'runtimes = ["tflm", "litert", "onnxruntime"]'
    )
    recipe.write_text(text.format(task=write_task(tmp_path)))
    check(traced(tmp_path, "compress", "run", str(recipe), "--run", str(tmp_path / "run" / "it")), tmp_path)


def test_the_check_would_notice(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "tmp").mkdir()
    for line in (
        '7 openat(AT_FDCWD</x>, "/root-of-all/.cache/id", O_WRONLY|O_CREAT, 0600) = 3</root-of-all/.cache/id>',
        '7 openat(5</home/x>, "id", O_RDWR|O_CREAT, 0600) = 3</home/x/id>',
        '7 mkdir("/elsewhere", 0777) = 0',
        "7 connect(3<socket:[1]>, {sa_family=AF_INET, sin_port=htons(53)}, 16) = 0",
    ):
        with pytest.raises(AssertionError):
            check(line, tmp_path)
    check(f'7 openat(AT_FDCWD</x>, "{tmp_path}/tmp/a", O_WRONLY|O_CREAT, 0600) = 3', tmp_path)
    check('7 openat(AT_FDCWD</x>, "/etc/passwd", O_RDONLY|O_CLOEXEC) = 3</etc/passwd>', tmp_path)
