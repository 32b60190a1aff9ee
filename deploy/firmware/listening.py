# SPDX-License-Identifier: Apache-2.0
"""A front end and its network in C as a program of this machine, which hears clips and shows its features."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType

import numpy as np

from edgepress.deploy.firmware.emit import write_sources
from edgepress.deploy.firmware.host import SANITIZERS, WARNINGS, bytes_to_samples, compiler, run_compiler
from edgepress.deploy.firmware.sources import Firmware, compiled_sources, sources, substituted, switches
from edgepress.models.errors import RuntimeFailure, UsageError


@dataclass(frozen=True)
class Heard:
    """What came of samples: features float32 [frames, n_mels], decisions [N, ...] as output 0 of the network."""

    features: np.ndarray
    decisions: np.ndarray


class HostEar:
    """The C of a network with its front end; a context manager.

    Args:
        made: with a front end.
        fixed_point: the form for cores without a floating-point unit.
        kernels: of the network, a key of `KERNELS`.
        sanitize: under AddressSanitizer and UndefinedBehaviorSanitizer.

    Raises:
        UsageError: there is no front end. RuntimeFailure: there is no compiler.
    """

    def __init__(
        self,
        made: Firmware,
        *,
        fixed_point: bool = False,
        kernels: str = "plain",
        sanitize: bool = False,
        timeout_s: float = 300.0,
    ):
        if made.front_end is None:
            raise UsageError("this network has no front end to listen through")
        self._made, self._timeout_s = made, timeout_s
        self._temporary = TemporaryDirectory(prefix="edgepress-")
        self._folder = Path(self._temporary.name)
        write_sources(
            self._folder, {**sources(made, "a .tflite file"), "main.c": substituted("host_listen_main.c", made)}
        )
        optimization = ("-O1", "-g", *SANITIZERS) if sanitize else ("-O2",)
        chosen = (f"-DEP_FIXED_POINT={int(fixed_point)}", "-DEP_WATCH_FRAME=ep_watch_frame", *switches(kernels))
        flags = (*WARNINGS, *optimization, "-ffp-contract=off", *chosen)
        try:
            run_compiler([compiler(), *flags, "-o", "program", "main.c", *compiled_sources(made), "-lm"], self._folder)
        except BaseException:
            self.close()
            raise

    def hear(self, samples: np.ndarray, *, every_frames: int = 0, at_once: int = 1000) -> Heard:
        """Let samples be heard, int16 or float32 [count], in pieces of `at_once`.

        Args:
            samples: clips one after the other, or a stream.
            every_frames: frames from one decision to the next; 0 for clips.
            at_once: samples of a piece, at most 65,536.

        Raises:
            RuntimeFailure: it crashed, a sanitizer stopped it, or it took too long.
        """
        kind = "int16" if samples.dtype == np.int16 else "float"
        command = [str(self._folder / "program"), str(every_frames), str(at_once), kind, "decisions.bin"]
        given = np.ascontiguousarray(samples, np.int16 if kind == "int16" else np.float32).tobytes()
        try:
            done = subprocess.run(
                command, input=given, capture_output=True, timeout=self._timeout_s, check=False, cwd=self._folder
            )
        except subprocess.TimeoutExpired:
            raise RuntimeFailure(f"the generated C took longer than {self._timeout_s:g} s") from None
        if done.returncode != 0:
            said = [line for line in done.stderr.decode(errors="replace").splitlines() if "rror" in line]
            raise RuntimeFailure(
                f"the generated C ended with code {done.returncode}" + (f": {said[0][:300]}" if said else "")
            )
        network, front_end = self._made.network, self._made.front_end
        assert front_end is not None
        data, value = (self._folder / "decisions.bin").read_bytes(), network.values[network.outputs[0]]
        decisions = bytes_to_samples([value], data, len(data) // value.size_bytes)[0]
        return Heard(np.frombuffer(done.stdout, np.float32).reshape(-1, front_end.config.n_mels), decisions)

    def close(self) -> None:
        """Remove the program."""
        self._temporary.cleanup()

    def __enter__(self) -> HostEar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
