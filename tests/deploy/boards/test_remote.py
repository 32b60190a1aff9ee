from __future__ import annotations

import getpass
import os
import platform
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from edgepress.deploy.boards.run_inputs import run_there
from edgepress.deploy.boards.ssh import Host, parse_target, run_remote
from edgepress.deploy.runtimes.sessions import open_session
from edgepress.models.errors import RuntimeFailure, UsageError
from tests.deploy.small_models import chain


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("ssh://pi@raspberry", Host("pi@raspberry", 22)),
        ("ssh://10.0.0.7:2222", Host("10.0.0.7", 2222)),
        ("ssh://me@board.local:22/", Host("me@board.local", 22)),
        ("ssh://me@[fe80::1]:7", Host("me@fe80::1", 7)),
    ],
)
def test_targets(text: str, host: Host) -> None:
    assert parse_target(text) == host


@pytest.mark.parametrize(
    "text",
    [
        "pi@raspberry",
        "ssh://",
        "ssh://-oProxyCommand=x",
        "ssh://me@-x",
        "ssh://a b",
        "ssh://h:0",
        "ssh://h:99999",
        "http://h",
        "ssh://-l@h",
    ],
)
def test_wrong_targets_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="write ssh://user@host"):
        parse_target(text)


@dataclass(frozen=True)
class Daemon:
    host: Host
    identity: Path
    known_hosts: Path

    @property
    def url(self) -> str:
        return f"ssh://{self.host.address}:{self.host.port}"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A real sshd on loopback with throwaway keys."""
    sshd, keygen = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/sbin"), shutil.which("ssh-keygen")
    if sshd is None or keygen is None or shutil.which("ssh") is None:
        pytest.skip("needs openssh-server and openssh-client")
    folder = tmp_path_factory.mktemp("sshd")
    for name in ("host", "client"):
        subprocess.run([keygen, "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/client.pub\n"
        "PidFile none\n"
        "UsePAM no\nStrictModes no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\n"
        "Subsystem sftp internal-sftp\n"
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    (folder / "known").write_text(f"[127.0.0.1]:{port} {(folder / 'host.pub').read_text()}")
    log = (folder / "log").open("w")
    process = subprocess.Popen([sshd, "-D", "-e", "-f", str(folder / "config")], stderr=log)
    try:
        for _ in range(100):
            if process.poll() is not None:
                pytest.skip(f"sshd does not start here: {(folder / 'log').read_text()[-200:]}")
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield Daemon(Host(f"{getpass.getuser()}@127.0.0.1", port), folder / "client", folder / "known")
    finally:
        process.terminate()
        process.wait()
        log.close()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "net.tflite"
    path.write_bytes(chain([64, 32, 96]))
    return path


def _left_behind() -> set[str]:
    return {path.name for path in Path("/tmp").glob("edgepress-remote-*")}


@pytest.mark.slow
def test_device_gives_the_same_integers_and_keeps_nothing(daemon: Daemon, model: Path, tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(-128, 128, (20, 64)).astype(np.int8)
    with open_session(model, "litert") as session:
        expected = session.run_integer(x)
        floats = session.input.dequantize(x)
    before = _left_behind()
    answer = run_remote(
        model,
        [x],
        daemon.host,
        python=sys.executable,
        repeats=5,
        identity=daemon.identity,
        known_hosts=daemon.known_hosts,
    )
    np.testing.assert_array_equal(answer.arrays[0], expected)
    assert answer.device["interpreter"] == "ai-edge-litert"
    assert 0 < answer.latency_ms["p50"] <= answer.latency_ms["p99"]
    np.savez(tmp_path / "data.npz", x=floats, y=expected.argmax(1))
    outputs, result = run_there(
        model,
        tmp_path / "data.npz",
        daemon.url,
        python=sys.executable,
        repeats=5,
        identity=daemon.identity,
        known_hosts=daemon.known_hosts,
        device_class="raspberry-pi-5",
    )
    assert (result["correct"], result["total"]) == (20, 20)
    assert (result["runtime"], result["device_class"]) == ("litert", "raspberry-pi-5")
    assert outputs.dtype == np.float32
    assert _left_behind() <= before


@pytest.mark.slow
def test_failures_there_are_sentences_and_leave_nothing(daemon: Daemon, model: Path, tmp_path: Path) -> None:
    before = _left_behind()
    options = {"identity": daemon.identity, "known_hosts": daemon.known_hosts, "repeats": 5}
    x = [np.zeros((1, 64), np.int8)]
    with pytest.raises(RuntimeFailure, match="has no program /no/python: name its Python with --python"):
        run_remote(model, x, daemon.host, python="/no/python", **options)
    bare = tmp_path / "bare-python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    bare.chmod(0o755)
    with pytest.raises(RuntimeFailure, match="No module named 'numpy'"):
        run_remote(model, x, daemon.host, python=str(bare), **options)
    with pytest.raises(RuntimeFailure, match="ValueError"):
        run_remote(model, [np.zeros((1, 65), np.int8)], daemon.host, python=sys.executable, **options)
    damaged = tmp_path / "bad.tflite"
    damaged.write_bytes(b"hello")
    with pytest.raises(RuntimeFailure, match="valid Flatbuffer"):
        run_remote(damaged, x, daemon.host, python=sys.executable, **options)
    assert _left_behind() <= before


def _script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_a_connection_that_breaks_off_leaves_nothing(daemon: Daemon, model: Path, tmp_path: Path) -> None:
    """The server's side of the connection dies while the file runs; the process that it leaves is ended too."""
    before, pid = _left_behind(), tmp_path / "pid"
    up = 'p=$$; while case $(cat /proc/$p/comm) in sshd*) false;; esac; do p=$(ps -o ppid= -p $p | tr -d " "); done'
    cut = _script(tmp_path / "cut", f"echo $$ > pid; cp pid {pid}; {up}; kill -9 $p; exec sleep 60")
    with pytest.raises(RuntimeFailure, match="the connection failed or broke off"):
        run_remote(
            model,
            [np.zeros((1, 64), np.int8)],
            daemon.host,
            python=cut,
            identity=daemon.identity,
            known_hosts=daemon.known_hosts,
        )
    assert _left_behind() <= before
    for _ in range(100):
        if not Path(f"/proc/{pid.read_text().strip()}").exists():
            return
        time.sleep(0.05)
    pytest.fail("the process on the device still runs")


def test_a_program_of_another_architecture(daemon: Daemon, model: Path, tmp_path: Path) -> None:
    before, options = _left_behind(), {"identity": daemon.identity, "known_hosts": daemon.known_hosts}
    x = [np.zeros((1, 64), np.int8)]
    foreign = tmp_path / "python"
    machine = b"\xf3\0" if platform.machine() != "riscv64" else b"\x3e\0"
    foreign.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\0" + machine + bytes(44))
    foreign.chmod(0o755)
    with pytest.raises(RuntimeFailure, match=r"cannot execute .*built for another architecture"):
        run_remote(model, x, daemon.host, python=str(foreign), **options)
    package = tmp_path / "site" / "tflite_runtime"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "interpreter.py").write_text("raise ImportError('_wrapper.so: wrong ELF class: ELFCLASS32')")
    (tmp_path / "site" / "numpy.py").touch()
    alien = _script(tmp_path / "alien", f'PYTHONPATH={tmp_path}/site exec {sys.executable} -S "$@"')
    with pytest.raises(RuntimeFailure, match=rf"on {platform.machine()} .*tflite-runtime: _wrapper.so: wrong ELF"):
        run_remote(model, x, daemon.host, python=alien, **options)
    assert _left_behind() <= before


@pytest.mark.slow
def test_the_classic_interpreter_gives_the_same_integers(daemon: Daemon, model: Path) -> None:
    """tflite-runtime 2.14 needs NumPy 1, so that it lives in an environment of its own."""
    classic = os.environ.get("EDGEPRESS_CLASSIC_PYTHON")
    if classic is None:
        pytest.skip("set EDGEPRESS_CLASSIC_PYTHON to a Python with tflite-runtime 2.14 and NumPy 1")
    x = np.random.default_rng(1).integers(-128, 128, (20, 64)).astype(np.int8)
    with open_session(model, "litert-reference") as session:
        expected = session.run_integer(x)
    answer = run_remote(
        model,
        [x],
        daemon.host,
        runtime="litert-reference",
        python=classic,
        repeats=5,
        identity=daemon.identity,
        known_hosts=daemon.known_hosts,
    )
    np.testing.assert_array_equal(answer.arrays[0], expected)
    assert answer.device["interpreter"] == "tflite-runtime"
    assert answer.device["version"].startswith("2.14")


def test_the_agent_cleans_up_where_nobody_listens(tmp_path: Path) -> None:
    folder = tmp_path / "there"
    folder.mkdir()
    (folder / "request.json").write_text('{"runtime": "litert", "threads": 1, "repeats": 1, "timeout_s": 60}')
    agent = Path(run_remote.__code__.co_filename).with_name("agent.py")
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-S", str(agent), str(folder / "request.json")], stdout=write, check=False)
    os.close(write)
    assert done.returncode == 3
    assert not folder.exists()


@pytest.mark.slow
def test_connection_that_is_refused_or_not_trusted(daemon: Daemon, model: Path, tmp_path: Path) -> None:
    x = [np.zeros((1, 64), np.int8)]
    with pytest.raises(RuntimeFailure, match=r"port 1: the connection failed.*refused"):
        run_remote(model, x, Host("127.0.0.1", 1), identity=daemon.identity, known_hosts=daemon.known_hosts)
    (tmp_path / "empty").touch()
    with pytest.raises(RuntimeFailure, match="Host key verification failed"):
        run_remote(model, x, daemon.host, identity=daemon.identity, known_hosts=tmp_path / "empty")


def test_missing_ssh_is_a_runtime_failure(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(RuntimeFailure, match="needs the program ssh"):
        run_remote(model, [np.zeros((1, 64), np.int8)], Host("127.0.0.1", 22))
