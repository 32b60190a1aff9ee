"""A checkpoint goes in, a proven file for a device comes out."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deploy.artifact import Artifact as Artifact
    from deploy.export import export_model as export_model
    from deploy.runtimes import open_session as open_session

#: Public name -> the module that defines it; imported when first used, so that light commands stay light.
_HOME = {
    "Artifact": "deploy.artifact",
    "export_model": "deploy.export",
    "open_session": "deploy.runtimes",
}
__all__ = ['Artifact', 'export_model', 'open_session']


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
