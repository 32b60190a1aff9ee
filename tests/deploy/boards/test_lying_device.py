"""What a device says is believed within bounds: programs in place of ssh and scp say what a hostile one would."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest

from edgepress.deploy.boards import ssh
from edgepress.deploy.boards.agent import MARKER
from edgepress.deploy.boards.ssh import Host, run_remote
from edgepress.models.errors import RuntimeFailure

ANSWER = {"outputs": 1, "latency_ms": {"p50": 1.0}, "device": {"machine": "liar"}}


@pytest.fixture
def device(tmp_path, monkeypatch):
    """Sets what the device prints when it is asked to run, and what is done when its outputs are fetched."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (tmp_path / "m.tflite").write_bytes(b"model")

    def run(says: str, brings: str = ":") -> None:
        for name, text in {
            "ssh": f'case "$*" in *mktemp*) echo /tmp/edgepress-remote-abcdefgh;; *request.json*) {says};; esac',
            "scp": f'for last; do :; done; case "$last" in */back) cd "$last"; {brings};; esac',
        }.items():
            (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
            (tmp_path / name).chmod(0o755)
        run_remote(tmp_path / "m.tflite", [np.zeros((1, 4), np.int8)], Host("liar", 22), timeout_s=30)

    return run


def said(**changes) -> str:
    return f"echo '{MARKER}{json.dumps({**ANSWER, **changes})}'"


@pytest.mark.parametrize(
    ("says", "match"),
    [
        (said(outputs=10**9), "claims 1000000000 outputs"),
        (said(outputs=0), "claims 0 outputs"),
        (said(outputs="x"), "damaged"),
        (said(latency_ms=[1]), "damaged"),
        (said(device={"machine": []}), "damaged"),
        (f"echo '{MARKER}[1, 2]'", "damaged"),
        (f"echo '{MARKER}'", "damaged"),
        (f"printf '{MARKER}'; head -c 100000 /dev/zero | tr '\\0' '['; echo", "damaged"),
        ("cat /dev/zero", "prints more than"),
        ("cat /dev/zero >&2", "prints more than"),
    ],
)
def test_answers_that_are_not_believed(device, says, match):
    began = time.monotonic()
    with pytest.raises(RuntimeFailure, match=match):
        device(says)
    assert time.monotonic() - began < 25


@pytest.mark.parametrize(
    ("brings", "match"),
    [
        ("cat /dev/zero > output0.npy", "sends more than"),
        ("echo hello > output0.npy", "damaged result"),
        (":", "damaged result"),
        ("mkfifo output0.npy", "damaged result"),
        ("ln -s /dev/zero output0.npy", "damaged result"),
    ],
)
def test_outputs_that_are_not_believed(device, monkeypatch, brings, match):
    monkeypatch.setattr(ssh, "_LARGEST_OUTPUTS_BYTES", 1_000_000)
    with pytest.raises(RuntimeFailure, match=match):
        device(said(), brings)
    assert not Path("/tmp/edgepress-remote-abcdefgh").exists()
