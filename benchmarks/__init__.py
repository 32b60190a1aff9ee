"""Files, devices and limits go in, verdicts come out."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.gate import evaluate_gate as evaluate_gate
    from benchmarks.profiling import profile as profile

#: Public name -> the module that defines it; imported when first used, so that light commands stay light.
_HOME = {
    "evaluate_gate": "benchmarks.gate",
    "profile": "benchmarks.profiling",
}
__all__ = ['evaluate_gate', 'profile']


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
