"""The cache gives back what was put in, or makes it again."""

from __future__ import annotations

import numpy as np
import pytest

from edgepress.models.errors import UsageError
from edgepress.models.tasks import cache
from edgepress.models.tasks.cache import cache_directory, cached_array


def made(root, calls):
    def fill(array):
        calls.append(1)
        array[:] = np.arange(3000)

    return cached_array(root, "features", "abc", (3000,), "float32", fill)


@pytest.mark.parametrize("damage", ["zeros", "cut", "bit", "no checksum", "other checksum"])
def test_a_damaged_entry_is_made_again(tmp_path, monkeypatch, damage):
    calls: list[int] = []
    assert made(tmp_path, calls).tolist() == list(range(3000))
    assert made(tmp_path, calls).tolist() == list(range(3000))
    assert len(calls) == 1, "found again"
    entry = tmp_path / "features" / "abc"
    data = bytearray((entry / "data.npy").read_bytes())
    if damage == "zeros":  # what a disk gives back for a block that it lost
        data[4096:8192] = bytes(4096)
    elif damage == "bit":
        data[-1] ^= 1
    elif damage == "cut":
        del data[-1:]
    elif damage == "no checksum":
        (entry / "sha256").unlink()
    else:
        (entry / "sha256").write_text("0" * 64 + "\n")
    (entry / "data.npy").write_bytes(data)
    monkeypatch.setattr(cache, "_whole", set())  # another process
    assert made(tmp_path, calls).tolist() == list(range(3000))
    assert len(calls) == 2


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch, tmp_path):
    for name in ("EDGEPRESS_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pathlib.Path.home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    with pytest.raises(UsageError, match="set EDGEPRESS_CACHE"):
        cache_directory()
    monkeypatch.setenv("EDGEPRESS_CACHE", str(tmp_path))
    assert cache_directory() == tmp_path
