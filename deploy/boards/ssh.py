# SPDX-License-Identifier: Apache-2.0
"""Run a file on a device over ssh: copy model, inputs and agent there, run, bring the result back, leave nothing."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import IO, Any

import numpy as np
from typing_extensions import TypedDict

from edgepress.deploy.boards.agent import MARKER
from edgepress.models.children import bound
from edgepress.models.errors import RuntimeFailure, UsageError
from edgepress.models.files.arrays import read_npy
from edgepress.models.files.reading import check, parse_json

_TARGET = re.compile(
    r"ssh://(?:(?P<user>[A-Za-z0-9_][\w.-]*)@)?(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9][\w.-]*)(?::(?P<port>\d+))?/?\Z"
)
_CONNECT_TIMEOUT_S = 10
#: What a device is believed: its messages, the number of its outputs, and their bytes.
_LARGEST_OUTPUT_BYTES, _MOST_OUTPUTS, _LARGEST_OUTPUTS_BYTES = 16 << 20, 64, 1 << 30
#: ssh's own exit code, as against that of the command it ran.
_SSH_FAILED = 255


@dataclass(frozen=True)
class Host:
    """Where to: `address` is user@host as ssh takes it."""

    address: str
    port: int


@dataclass(frozen=True)
class RemoteAnswer:
    """What a device gave: raw outputs [N, ...] of the file, latency in ms with its percentiles, and what it is."""

    arrays: tuple[np.ndarray, ...]
    latency_ms: dict[str, Any]
    device: dict[str, Any]


class _Answer(TypedDict):
    """What `agent.py` prints."""

    outputs: int
    latency_ms: dict[str, float | int]
    device: dict[str, str | int | None]


def parse_target(text: str) -> Host:
    """Read ssh://user@host[:port].

    Raises:
        UsageError: it is written otherwise.
    """
    match = _TARGET.match(text)
    port = int(match["port"] or 22) if match else 0
    if match is None or not 1 <= port <= 65535:
        raise UsageError(f"--on {text} is not understood: write ssh://user@host or ssh://user@host:port")
    host = match["host"].strip("[]")
    return Host(f"{match['user']}@{host}" if match["user"] else host, port)


def run_remote(
    path: str | Path,
    inputs: Sequence[np.ndarray],
    host: Host,
    *,
    runtime: str = "litert",
    threads: int = 1,
    python: str = "python3",
    repeats: int = 50,
    identity: str | Path | None = None,
    known_hosts: str | Path | None = None,
    timeout_s: float = 600.0,
) -> RemoteAnswer:
    """Run raw inputs through a .tflite file on another machine.

    Args:
        path: the file.
        inputs: one raw array [N, ...] for each input, in the type and layout of the file.
        host: see `parse_target`. The connection must need no password (BatchMode): a key or an agent.
        runtime: "litert" (the interpreter's default kernels) or "litert-reference".
        python: the interpreter there that has NumPy and ai-edge-litert or tflite-runtime.
        repeats: timed runs of the first sample, after 10 for warming up.
        identity, known_hosts: files for ssh; the host's key must be known, it is never accepted silently.
        timeout_s: for the run itself.

    Raises:
        UsageError: the file is missing. RuntimeFailure: ssh or scp is missing or fails, the device has no interpreter,
        it cannot run the file, or it takes too long. What was written there is removed; where the connection stays
        broken, a run that had begun ends after `timeout_s` and removes it itself.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"{path} is not a file")
    for tool in ("ssh", "scp"):
        if shutil.which(tool) is None:
            raise RuntimeFailure(f"running on a device needs the program {tool}, which is not installed here")
    common = [
        "-o",
        "BatchMode=yes",
        "-o",
        f"ConnectTimeout={_CONNECT_TIMEOUT_S}",
        "-o",
        "ServerAliveInterval=5",
        "-o",
        "ServerAliveCountMax=3",
    ]
    if identity is not None:
        common += ["-i", str(identity), "-o", "IdentitiesOnly=yes"]
    if known_hosts is not None:
        common += ["-o", f"UserKnownHostsFile={known_hosts}"]
    ssh = ["ssh", *common, "-p", str(host.port), host.address]

    def there(command: str, limit_s: float) -> subprocess.CompletedProcess[str]:
        return _call([*ssh, command], limit_s, host)

    folder = _checked(
        there("umask 077 && mktemp -d /tmp/edgepress-remote-XXXXXXXX", 60), host, "making a folder"
    ).stdout.strip()
    if not re.fullmatch(r"/tmp/edgepress-remote-\w{8}", folder):
        raise RuntimeFailure(
            f"{host.address} answered {folder[:80]!r} instead of a folder's name: "
            "its shell prints something at login, or has no mktemp"
        )
    try:
        with TemporaryDirectory(prefix="edgepress-") as scratch:
            here = Path(scratch)
            shutil.copyfile(path, here / "model.tflite")
            shutil.copyfile(Path(__file__).with_name("agent.py"), here / "agent.py")
            request = {"runtime": runtime, "threads": threads, "repeats": repeats, "timeout_s": timeout_s}
            (here / "request.json").write_text(json.dumps(request))
            for i, array in enumerate(inputs):
                np.save(here / f"input{i}.npy", array, allow_pickle=False)
            scp = ["scp", "-q", *common, "-P", str(host.port)]
            remote = f"{_bracketed(host.address)}:{folder}/"
            sent = _call([*scp, *(str(file) for file in sorted(here.iterdir())), remote], timeout_s, host)
            _checked(sent, host, "copying the file there")
            ran = there(f"cd {folder} && {shlex.quote(python)} agent.py request.json", timeout_s)
            answer = _answer(ran, host, python)
            back = here / "back"
            back.mkdir()
            names = [f"output{i}.npy" for i in range(answer["outputs"])]
            brought = _call([*scp, *(remote + name for name in names), str(back)], timeout_s, host, fills=back)
            _checked(brought, host, "bringing the result back")
            arrays = tuple(read_npy(back / name) for name in names)
    except (UsageError, ValueError, KeyError, TypeError, OSError) as error:
        raise RuntimeFailure(f"{host.address} gave a damaged result: {error}") from error
    finally:
        _remove(ssh, folder)
    return RemoteAnswer(arrays, answer["latency_ms"], {"host": host.address, **answer["device"]})


def _call(
    command: list[str], limit_s: float, host: Host, fills: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command; what it prints, and the files that it brings to the folder `fills`, is the other machine's word.

    Raises:
        RuntimeFailure: it takes too long, or says or sends more than an answer can have.
    """
    with TemporaryFile() as out, TemporaryFile() as err:
        process = subprocess.Popen(bound(command), stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        ends = time.monotonic() + limit_s
        try:
            while process.poll() is None:
                if time.monotonic() > ends:
                    raise RuntimeFailure(f"{host.address} gave no answer within {limit_s:g} s")
                if max(os.fstat(out.fileno()).st_size, os.fstat(err.fileno()).st_size) > _LARGEST_OUTPUT_BYTES:
                    raise RuntimeFailure(
                        f"{host.address} prints more than {_LARGEST_OUTPUT_BYTES:,} bytes: that is no answer"
                    )
                if fills is not None and _size_of(fills) > _LARGEST_OUTPUTS_BYTES:
                    raise RuntimeFailure(
                        f"{host.address} sends more than {_LARGEST_OUTPUTS_BYTES:,} bytes of outputs: that is no answer"
                    )
                with suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=0.05)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        said = [_text_of(file) for file in (out, err)]
    return subprocess.CompletedProcess(command, process.returncode, *said)


def _size_of(folder: Path) -> int:
    return sum(file.lstat().st_size for file in folder.iterdir())


def _text_of(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read(_LARGEST_OUTPUT_BYTES).decode("utf-8", "replace")


def _checked(done: subprocess.CompletedProcess[str], host: Host, what: str) -> subprocess.CompletedProcess[str]:
    if done.returncode:
        said = " ".join(line for line in done.stderr.splitlines() if line.strip() and not line.startswith("Warning"))[
            :300
        ]
        broken = (
            "the connection failed or broke off"
            if done.returncode == _SSH_FAILED
            else f"it ended with {done.returncode}"
        )
        raise RuntimeFailure(f"{what} on {host.address}, port {host.port}: {broken}" + (f" ({said})" if said else ""))
    return done


def _answer(ran: subprocess.CompletedProcess[str], host: Host, python: str) -> dict[str, Any]:
    lines = [line for line in ran.stdout.splitlines() if line.startswith(MARKER)]
    if not lines:
        if ran.returncode == 127:
            raise RuntimeFailure(f"{host.address} has no program {python}: name its Python with --python")
        if ran.returncode == 126:
            raise RuntimeFailure(
                f"{host.address} cannot execute {python}: it is built for another architecture or is no program; "
                "name its Python with --python"
            )
        if ran.returncode > 128 and ran.returncode != _SSH_FAILED:
            raise RuntimeFailure(
                f"the interpreter on {host.address} crashed on this file (signal {ran.returncode - 128})"
            )
        _checked(ran, host, "running the file")
        raise RuntimeFailure(f"{host.address} ended without a result")
    answer = parse_json(lines[-1].removeprefix(MARKER), f"the answer of {host.address}", dict[str, Any])
    if "error" in answer:
        raise RuntimeFailure(f"{host.address}: {str(answer['error'])[:500]}")
    check(answer, f"the answer of {host.address}", _Answer)
    if not 1 <= answer["outputs"] <= _MOST_OUTPUTS:
        raise RuntimeFailure(f"{host.address} claims {answer['outputs']} outputs; 1 to {_MOST_OUTPUTS} are believed")
    return answer


def _remove(ssh: list[str], folder: str) -> None:
    """Best effort: a device that no longer answers cleans up itself, and the first error is the one to show."""
    try:
        command = [*ssh, f"kill $(cat {folder}/pid) 2>/dev/null; rm -rf {folder}"]
        subprocess.run(bound(command), stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False)
    except (subprocess.TimeoutExpired, OSError):
        return


def _bracketed(address: str) -> str:
    user, at, host = address.rpartition("@")
    return f"{user}{at}[{host}]" if ":" in host else address
