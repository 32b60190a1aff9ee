# SPDX-License-Identifier: Apache-2.0
"""A name or a folder goes in, a Task comes out: clips, labels, devices, splits, and how well they are told apart."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgepress.models.tasks.front_ends.log_mel import LogMel as LogMel
    from edgepress.models.tasks.front_ends.log_mel import log_mel as log_mel
    from edgepress.models.tasks.front_ends.log_mel_torch import log_mel_torch as log_mel_torch
    from edgepress.models.tasks.kinds.classification import evaluate as evaluate
    from edgepress.models.tasks.sources.load import load_task as load_task
    from edgepress.models.tasks.task import Split as Split
    from edgepress.models.tasks.task import Task as Task

#: Public name -> the module that defines it; imported when first used, so that light commands stay light.
_HOME = {
    "LogMel": "edgepress.models.tasks.front_ends.log_mel",
    "log_mel": "edgepress.models.tasks.front_ends.log_mel",
    "log_mel_torch": "edgepress.models.tasks.front_ends.log_mel_torch",
    "evaluate": "edgepress.models.tasks.kinds.classification",
    "Split": "edgepress.models.tasks.task",
    "Task": "edgepress.models.tasks.task",
    "load_task": "edgepress.models.tasks.sources.load",
}
__all__ = ["LogMel", "Split", "Task", "evaluate", "load_task", "log_mel", "log_mel_torch"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
