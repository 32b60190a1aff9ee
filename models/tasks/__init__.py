"""Tasks: labelled clips in splits, their features, and how predictions on them are measured."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from models.tasks.features import LogMel as LogMel
    from models.tasks.features import log_mel as log_mel
    from models.tasks.features import log_mel_torch as log_mel_torch
    from models.tasks.metrics import evaluate as evaluate
    from models.tasks.task import Split as Split
    from models.tasks.task import Task as Task
    from models.tasks.task import load_task as load_task

#: Public name -> the module that defines it; imported when first used, so that light commands stay light.
_HOME = {
    "LogMel": "models.tasks.features",
    "log_mel": "models.tasks.features",
    "log_mel_torch": "models.tasks.features",
    "evaluate": "models.tasks.metrics",
    "Split": "models.tasks.task",
    "Task": "models.tasks.task",
    "load_task": "models.tasks.task",
}
__all__ = ['LogMel', 'Split', 'Task', 'evaluate', 'load_task', 'log_mel', 'log_mel_torch']


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
