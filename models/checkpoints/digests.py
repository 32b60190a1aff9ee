# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint and a network are, as digests: equal wherever they lie."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from edgepress.models.files.reading import file_sha256

if TYPE_CHECKING:
    from torch import nn


def identity(checkpoint: Path) -> str:
    """The digest of a checkpoint's model.json, which holds the digest of its weights: what it is, wherever it lies.

    Raises:
        UsageError: there is none.
    """
    return file_sha256(checkpoint / "model.json")


def tensors_digest(model: nn.Module) -> str:
    """The SHA-256 of all tensors of a model with their names."""
    import torch

    found = hashlib.sha256()
    for name, value in model.state_dict().items():
        found.update(name.encode())
        if value.numel():
            found.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
