# SPDX-License-Identifier: Apache-2.0
"""The state of a training on disk: written whole or not at all, and read without unpickling objects."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import CheckpointIO

from edgepress.models.atomic import write_bytes
from edgepress.models.checkpoints.checkpoint import MAX_PARAMS
from edgepress.models.errors import UsageError
from edgepress.models.files.arrays import load_torch

#: Under which key of a Lightning checkpoint our own state lies.
STATE = "edgepress"
#: The file of a training state in its folder.
LAST = "last.ckpt"
#: Weights of the largest network that is built, with the three copies that optimiser and averages hold.
_LARGEST_BYTES = 4 * 4 * MAX_PARAMS


class AtomicCheckpoints(CheckpointIO):
    """Lightning's checkpoints, written whole or not at all, and read without unpickling objects."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        write_bytes(Path(path), buffer.getvalue())

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = True) -> dict[str, Any]:
        # Also called for the weights that a spawned process hands back, which are no training state.
        return read_state(Path(path)) if Path(path).name == LAST else load_torch(path, _LARGEST_BYTES)

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)


def read_state(path: Path) -> dict[str, Any]:
    """A Lightning checkpoint of ours: tensors and plain values only.

    Raises:
        UsageError: damaged, or it holds something else.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:  # torch writes checksums, and does not read them
                raise ValueError("checksum")
        state = load_torch(path, _LARGEST_BYTES)
        if not isinstance(state[STATE]["history"], list):
            raise TypeError("history")
        return state
    except Exception as error:  # torch raises many kinds for a damaged file
        raise UsageError(
            f"{path} is damaged or not a training state of edgepress; remove it to train from the beginning"
        ) from error
