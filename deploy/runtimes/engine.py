# SPDX-License-Identifier: Apache-2.0
"""What every runtime can do behind a session, and how stacked samples are cut to a file's own batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from edgepress.deploy.runtimes.tensor_details import TensorDetails


@dataclass(frozen=True)
class EngineOptions:
    """How an engine is to run a file.

    Attributes:
        threads: at most so many compute.
        arena_bytes: what TFLite Micro may use; it is only reserved, and read afterwards.
        stateful: the file has variables, which are reset before every sample.
    """

    threads: int = 1
    arena_bytes: int = 16 << 20
    stateful: bool = False


class Engine(Protocol):
    """A runtime with a file in it. Arrays are in the layout and type of the file, stacked along the batch.

    It lives in the caller's process, or in a child (`worker.py`), where a crash of native code ends the child only.
    """

    @property
    def inputs(self) -> tuple[TensorDetails, ...]:
        """Details of each input, as the file has it."""
        ...

    @property
    def outputs(self) -> tuple[TensorDetails, ...]:
        """Details of each output, as the file has it."""
        ...

    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Run N samples: one array [N, ...] per input, one [N, ...] per output back."""
        ...

    def arena(self) -> dict[str, int]:
        """Bytes of TFLite Micro's arena: head (activations), tail (persistent), total; empty elsewhere."""
        ...

    def close(self) -> None:
        """Give everything back."""
        ...


def samples(arrays: Sequence[np.ndarray], inputs: Sequence[TensorDetails]) -> Iterator[list[np.ndarray]]:
    """Cut stacked inputs into batches of the file's own fixed size, the last one filled up with zeros."""
    batch = max(1, inputs[0].shape[0]) if inputs and inputs[0].shape else 1
    for start in range(0, len(arrays[0]), batch):
        cut = [np.ascontiguousarray(array[start : start + batch]) for array in arrays]
        missing = batch - len(cut[0])
        if missing:
            cut = [np.concatenate([a, np.zeros((missing, *a.shape[1:]), a.dtype)]) for a in cut]
        yield cut


def stacked(rows: Sequence[list[np.ndarray]], count: int, outputs: Sequence[TensorDetails]) -> list[np.ndarray]:
    """The outputs of all batches, one list of batches per output, as one array [count, ...] each."""
    if not count:
        return [np.zeros((0, *(abs(s) for s in d.shape[1:])), d.dtype) for d in outputs]
    return [np.concatenate([np.atleast_1d(row) for row in of_one])[:count] for of_one in rows]


def one_line(error: BaseException) -> str:
    """What native code said, on one line and not endless."""
    return " ".join(str(error).split())[:300] or type(error).__name__
