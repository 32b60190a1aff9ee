"""Batches read one ahead from a file are those that are gathered from memory."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from edgepress.compress.training import batches as module
from edgepress.models.errors import UsageError

pytestmark = pytest.mark.skipif(not hasattr(os, "preadv"), reason="this platform reads through the mapping")


@pytest.fixture
def mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    np.save(tmp_path / "x.npy", np.arange(50 * 3, dtype=np.float32).reshape(50, 3))
    monkeypatch.setattr(module, "_LARGE_BYTES", 0)
    return np.load(tmp_path / "x.npy", mmap_mode="r")


@pytest.mark.parametrize("shuffle", [True, False])
def test_the_same_batches_in_the_same_order(mapped: np.ndarray, shuffle: bool, monkeypatch) -> None:
    ahead = module.batches((mapped,), 8, seed=3, shuffle=shuffle)
    assert isinstance(ahead, module.AheadLoader)
    monkeypatch.setattr(module, "_LARGE_BYTES", 2**28)
    plain = module.batches((mapped,), 8, seed=3, shuffle=shuffle)
    assert not isinstance(plain, module.AheadLoader)
    for _ in range(2):  # epochs
        pairs = list(zip(ahead, plain, strict=True))
        assert len(pairs) == len(ahead) == (6 if shuffle else 7)
        for one, other in pairs:
            assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_an_epoch_may_be_left_in_the_middle(mapped: np.ndarray) -> None:
    loader = module.batches((mapped,), 8)
    first = next(iter(loader))
    assert torch.equal(first[1], torch.arange(8))
    assert torch.equal(next(iter(loader))[0], first[0])


def test_a_file_that_becomes_shorter_is_named(mapped: np.ndarray, tmp_path: Path) -> None:
    loader = iter(module.batches((mapped,), 8))
    next(loader)
    os.truncate(tmp_path / "x.npy", 300)
    with pytest.raises(UsageError, match="ends before row"):
        list(loader)
