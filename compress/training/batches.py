# SPDX-License-Identifier: Apache-2.0
"""Batches gathered by index from memory-mapped arrays: one gather for a batch, none for a sample."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from edgepress.models.errors import UsageError

#: Smaller arrays are left to the mapping: they fit, and a gather of them is one call.
_LARGE_BYTES = 2**28


def seed_of(*numbers: int) -> int:
    """One 63-bit seed from several numbers (seed, epoch, rank); neighbours give unrelated seeds."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


@dataclass(frozen=True)
class Strata:
    """Batches in which every recording device has its share (`training.contrastive.stratified_order`).

    Attributes:
        devices: the recording device of each clip, or what else says which clips are alike.
        balance: 0 keeps the shares of the clips, 1 gives every device the same.
    """

    devices: Sequence[str] | np.ndarray
    balance: float = 0.0


class BatchOrder:
    """The indices of each batch of an epoch, derived from seed and epoch alone, so that a resumed run sees them again.

    Every rank of a distributed run takes its share of each batch: the batch of all ranks together, and so the number
    of steps, does not depend on how many there are.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        seed: int,
        *,
        shuffle: bool,
        rank: int = 0,
        ranks: int = 1,
        strata: Strata | None = None,
    ):
        self._count, self._batch_size, self._seed, self._shuffle = count, min(batch_size, count), seed, shuffle
        self._rank, self._ranks, self._epoch, self._strata = rank, ranks, 0, strata

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __len__(self) -> int:
        # In training an incomplete batch is left out: batch statistics of one or two clips do harm.
        return self._count // self._batch_size if self._shuffle else -(-self._count // self._batch_size)

    def __iter__(self) -> Iterator[np.ndarray]:
        order = np.arange(self._count)
        if self._shuffle and self._strata is not None:
            from edgepress.compress.training.contrastive import stratified_order

            order = stratified_order(
                self._strata.devices, balance=self._strata.balance, seed=self._seed, epoch=self._epoch
            )
        elif self._shuffle:
            order = np.random.default_rng([self._seed, self._epoch]).permutation(self._count)
        for step in range(len(self)):
            batch = order[step * self._batch_size : (step + 1) * self._batch_size]
            # In rising order a memory-mapped file is read forwards; the order inside a batch has no meaning.
            yield np.sort(batch)[self._rank :: self._ranks]


@dataclass(frozen=True)
class MappedFile:
    """Where a memory-mapped array lies: enough to open it in another process."""

    path: str
    dtype: str
    offset: int
    shape: tuple[int, ...]


def named(array: np.ndarray) -> np.ndarray | MappedFile:
    """A whole or sliced memory-mapped array as the place in its file; any other array as it is."""
    root: Any = array
    while isinstance(root, np.memmap) and isinstance(root.base, np.memmap):
        root = root.base
    if not isinstance(root, np.memmap) or root.filename is None or not array.flags.c_contiguous:
        return array
    begin = array.__array_interface__["data"][0] - root.__array_interface__["data"][0]
    return MappedFile(str(root.filename), array.dtype.str, root.offset + begin, array.shape)


def opened(array: np.ndarray | MappedFile) -> np.ndarray:
    """The array again, from what `named` gave."""
    if isinstance(array, MappedFile):
        return np.memmap(array.path, array.dtype, "r", array.offset, array.shape)
    return array


class RowFile:
    """Rows of a mapped array, read by their place in the file."""

    def __init__(self, place: MappedFile):
        self._place = place
        self._row_bytes = int(np.prod(place.shape[1:], dtype=np.int64)) * np.dtype(place.dtype).itemsize
        self._handle = os.open(place.path, os.O_RDONLY)

    def __del__(self) -> None:
        os.close(self._handle)

    def read(self, indices: np.ndarray) -> np.ndarray:
        """[B, ...] for indices [B] from 0 to N - 1.

        Raises:
            UsageError: the file has become shorter.
        """
        found = np.empty((len(indices), *self._place.shape[1:]), self._place.dtype)
        for row, index in zip(found.reshape(len(indices), -1).view(np.uint8), indices.tolist(), strict=True):
            begin = self._place.offset + index * self._row_bytes
            if os.preadv(self._handle, [row.data], begin) != self._row_bytes:
                raise UsageError(f"{self._place.path} ends before row {index}: it was changed while it was read")
        return found


class GatheredArrays(Dataset[tuple[Tensor, ...]]):
    """Arrays of equal length whose item is a whole batch: `self[indices]` gathers rows of each, and the indices.

    Rows of a memory-mapped array are read from its file instead of through the mapping: pages of a mapping that were
    touched count as memory of the process, which would grow to the size of the data.
    """

    def __init__(self, *arrays: np.ndarray):
        self._arrays = arrays
        direct = hasattr(os, "preadv")
        places = [named(array) if direct and array.nbytes > _LARGE_BYTES else array for array in arrays]
        self._files = [RowFile(place) if isinstance(place, MappedFile) else None for place in places]

    @property
    def reads_files(self) -> bool:
        """Whether rows of some array are read from its file."""
        return any(file is not None for file in self._files)

    def __getitem__(self, indices: Any) -> tuple[Tensor, ...]:
        rows = (
            np.ascontiguousarray(np.asarray(array[indices])) if file is None else file.read(indices)
            for array, file in zip(self._arrays, self._files, strict=True)
        )
        return (*(torch.from_numpy(found) for found in rows), torch.from_numpy(np.asarray(indices)))

    def __len__(self) -> int:
        return len(self._arrays[0])


class AheadLoader(DataLoader[tuple[Tensor, ...]]):
    """Reads the next batch while the present one is worked on; the batches and their order are the same."""

    def __iter__(self) -> Any:
        rows = super().__iter__()
        with ThreadPoolExecutor(1, thread_name_prefix="batches") as reader:
            coming = reader.submit(next, rows, None)
            while (batch := coming.result()) is not None:
                coming = reader.submit(next, rows, None)
                yield batch


def batches(
    arrays: tuple[np.ndarray, ...],
    batch_size: int,
    *,
    seed: int = 0,
    shuffle: bool = False,
    rank: int = 0,
    ranks: int = 1,
    pin_memory: bool = False,
    strata: Strata | None = None,
) -> DataLoader[tuple[Tensor, ...]]:
    """A loader whose batches are gathered in the main process, from large files one batch ahead.

    Args:
        arrays: [N, ...] each; memory-mapped ones are read batch by batch.
        batch_size: clips of all ranks together.
        seed: with the epoch, it gives the order (`loader.sampler.set_epoch`).
        shuffle: training order, whole batches only; otherwise every row once, in order.
        rank, ranks: which share of each batch.
        pin_memory: for copies to a GPU.
        strata: in training, give every recording device its share of each batch; None: random batches.

    Returns:
        A loader of tuples: one tensor for each array, then the indices [B].
    """
    order = BatchOrder(len(arrays[0]), batch_size, seed, shuffle=shuffle, rank=rank, ranks=ranks, strata=strata)
    gathered = GatheredArrays(*arrays)
    # Gathering from memory takes no time; reading rows from a disk does.
    loader = AheadLoader if gathered.reads_files else DataLoader
    return loader(gathered, sampler=order, batch_size=None, num_workers=0, pin_memory=pin_memory)
