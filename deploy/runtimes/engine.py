# SPDX-License-Identifier: Apache-2.0
"""What every runtime can do behind a session, and how stacked samples are cut to a file's own batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from edgepress.deploy.runtimes.tensor_details import TensorDetails
from edgepress.models.errors import UsageError


@dataclass(frozen=True)
class EngineOptions:
    """How an engine is to run a file.

    Attributes:
        threads: at most so many compute.
        arena_bytes: what TFLite Micro may use; it is only reserved, and read afterwards.
        stateful: the file has variables: `run` resets them before every sample, `stream` does not.
        plain: every operator by itself, as the file has them: nothing is merged, so that all values are computed.
        anew: it has them by name, which no reset brings back to the values they begin with: the runtime is made anew.
        front_end: what the manifest says of the network's features, for firmware that hears; or None.
    """

    threads: int = 1
    arena_bytes: int = 16 << 20
    stateful: bool = False
    plain: bool = False
    anew: bool = False
    front_end: dict[str, Any] | None = None


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
        """Run N samples, each for itself: one array [N, ...] per input, one [N, ...] per output back."""
        ...

    def stream(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Run N samples one after the other, going on where the last call of `stream` stopped."""
        ...

    def reset(self) -> None:
        """The next `stream` begins anew."""
        ...

    def arena(self) -> dict[str, int]:
        """Bytes of TFLite Micro's arena: head (activations), tail (persistent), total; empty elsewhere."""
        ...

    def close(self) -> None:
        """Give everything back."""
        ...


class Stateless:
    """An engine that remembers nothing: what such a network remembers goes in and out by its inputs and outputs."""

    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """See `Engine`."""
        raise NotImplementedError

    def stream(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The same as `run`."""
        return self.run(arrays)

    def reset(self) -> None:
        return

    def arena(self) -> dict[str, int]:
        return {}


@dataclass(frozen=True)
class Batches:
    """How stacked inputs are cut into runs of a file.

    Inputs that all lead with one size have a batch of that size. Where they lead with different sizes (a state [2, 1,
    128] beside a frame [1, 512], the shape that a transposed convolution writes), a sample is a whole set of inputs:
    sample k has the rows k * size to (k + 1) * size of each.

    Attributes:
        rows: of each input, in one run.
        runs: how often the file runs.
        samples: N of one batch; None where the inputs have none in common.
    """

    rows: tuple[int, ...]
    runs: int
    samples: int | None


def lengths_of(samples: int, inputs: Sequence[TensorDetails]) -> list[int]:
    """The rows of each input that make so many samples."""
    rows = _rows_of(inputs)
    return [samples if len(set(rows)) <= 1 else samples * size for size in rows]


def _rows_of(inputs: Sequence[TensorDetails]) -> tuple[int, ...]:
    return tuple(max(1, details.shape[0]) if details.shape else 1 for details in inputs)


def batches_of(lengths: Sequence[int], inputs: Sequence[TensorDetails]) -> Batches:
    """The runs that inputs of these lengths take.

    Raises:
        UsageError: the inputs have different numbers of samples.
    """
    rows = _rows_of(inputs)
    if len(set(rows)) <= 1:
        if len(set(lengths)) > 1:
            raise UsageError(f"the inputs have different numbers of samples: {sorted(set(lengths))}")
        count = lengths[0] if lengths else 0
        return Batches(rows, -(-count // rows[0]) if rows else 0, count)
    runs = lengths[0] // rows[0]
    if any(length != runs * size for length, size in zip(lengths, rows, strict=True)):
        raise UsageError(
            f"the inputs have {', '.join(map(str, lengths))} rows; of this file, whose inputs have no common batch, a "
            f"sample is {', '.join(map(str, rows))} rows"
        )
    return Batches(rows, runs, None)


def samples(arrays: Sequence[np.ndarray], inputs: Sequence[TensorDetails]) -> Iterator[list[np.ndarray]]:
    """Cut stacked inputs into what one run takes; the last batch is filled up with zeros."""
    batches = batches_of([len(array) for array in arrays], inputs)
    for run in range(batches.runs):
        cut = [array[run * size : (run + 1) * size] for array, size in zip(arrays, batches.rows, strict=True)]
        missing = batches.rows[0] - len(cut[0])
        if missing:
            cut = [np.concatenate([a, np.zeros((missing, *a.shape[1:]), a.dtype)]) for a in cut]
        # A file's scalar is one row of what is stacked.
        yield [
            np.ascontiguousarray(a) if details.shape else a.reshape(()) for a, details in zip(cut, inputs, strict=True)
        ]


def stacked(
    rows: Sequence[list[np.ndarray]],
    arrays: Sequence[np.ndarray],
    inputs: Sequence[TensorDetails],
    outputs: Sequence[TensorDetails],
) -> list[np.ndarray]:
    """The outputs of all runs, one list of arrays per output, along their first axis.

    What leads with the batch has N rows; anything else has the rows of every run, one run after the other.
    """
    batches = batches_of([len(array) for array in arrays], inputs)
    if not batches.runs:
        return [np.zeros((0, *(abs(s) for s in d.shape[1:])), d.dtype) for d in outputs]
    found = []
    for of_one in rows:
        runs = [np.atleast_1d(row) for row in of_one]
        whole = np.concatenate(runs)
        found.append(whole[: batches.samples] if len(runs[0]) == batches.rows[0] else whole)
    return found


def in_batches(
    arrays: Sequence[np.ndarray],
    inputs: Sequence[TensorDetails],
    outputs: Sequence[TensorDetails],
    once: Callable[[Sequence[np.ndarray]], Sequence[np.ndarray]],
) -> list[np.ndarray]:
    """Run stacked samples by a runtime that takes several at once, where the file has a row for each everywhere.

    Args:
        arrays: N samples of each input.
        inputs, outputs: of the file.
        once: runs one batch.
    """
    free = all(details.shape and details.shape[0] == -1 for details in (*inputs, *outputs))
    batches: Iterable[list[np.ndarray]]
    if free:
        rows = max(1, min(64, (16 << 20) // max(1, sum(a[:1].nbytes for a in arrays))))
        batches = ([a[i : i + rows] for a in arrays] for i in range(0, len(arrays[0]), rows))
    else:
        batches = samples(arrays, inputs)
    kept: list[list[np.ndarray]] = [[] for _ in outputs]
    for batch in batches:
        for of_one, value in zip(kept, once(batch), strict=True):
            of_one.append(np.asarray(value))
    if free and len(arrays[0]):
        return [np.concatenate(of_one) for of_one in kept]
    return stacked(kept, arrays, inputs, outputs)


def one_line(error: BaseException) -> str:
    """What native code said, on one line and not endless."""
    return " ".join(str(error).split())[:300] or type(error).__name__
