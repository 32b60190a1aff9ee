# SPDX-License-Identifier: Apache-2.0
"""edgepress: small neural networks that fit their devices, and the proof that they do.

Everything public is here and is imported when it is first used, so that light commands stay light. The four parts are
`edgepress.models`, `edgepress.compress`, `edgepress.deploy` and `edgepress.benchmarks`; imports among them point left.
"""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgepress.benchmarks.gate.gate import evaluate_gate as evaluate_gate
    from edgepress.benchmarks.measure.profiling import profile as profile
    from edgepress.compress.prune.model import Pruned as Pruned
    from edgepress.compress.prune.model import prune_model as prune_model
    from edgepress.compress.quantize.model import Quantized as Quantized
    from edgepress.compress.quantize.model import quantize_model as quantize_model
    from edgepress.deploy.artifact import Artifact as Artifact
    from edgepress.deploy.export.export import export_model as export_model
    from edgepress.deploy.runtimes.sessions import open_session as open_session
    from edgepress.models.checkpoints.checkpoint import load_checkpoint as load_checkpoint
    from edgepress.models.checkpoints.checkpoint import save_checkpoint as save_checkpoint
    from edgepress.models.checkpoints.hub import load_from_hub as load_from_hub
    from edgepress.models.checkpoints.hub import push_to_hub as push_to_hub
    from edgepress.models.checkpoints.registry import build as build
    from edgepress.models.checkpoints.spec import ModelSpec as ModelSpec
    from edgepress.models.cost.cost import Cost as Cost
    from edgepress.models.cost.cost import LayerCost as LayerCost
    from edgepress.models.cost.cost import cost_of as cost_of
    from edgepress.models.limits import Limits as Limits
    from edgepress.models.tasks.sources.load import load_task as load_task
    from edgepress.models.tasks.task import Split as Split
    from edgepress.models.tasks.task import Task as Task

#: Public name -> the module that defines it.
_HOME = {
    "Artifact": "deploy.artifact",
    "Cost": "models.cost.cost",
    "LayerCost": "models.cost.cost",
    "Limits": "models.limits",
    "ModelSpec": "models.checkpoints.spec",
    "Pruned": "compress.prune.model",
    "Quantized": "compress.quantize.model",
    "Split": "models.tasks.task",
    "Task": "models.tasks.task",
    "build": "models.checkpoints.registry",
    "cost_of": "models.cost.cost",
    "evaluate_gate": "benchmarks.gate.gate",
    "export_model": "deploy.export.export",
    "load_checkpoint": "models.checkpoints.checkpoint",
    "load_from_hub": "models.checkpoints.hub",
    "load_task": "models.tasks.sources.load",
    "open_session": "deploy.runtimes.sessions",
    "profile": "benchmarks.measure.profiling",
    "prune_model": "compress.prune.model",
    "push_to_hub": "models.checkpoints.hub",
    "quantize_model": "compress.quantize.model",
    "save_checkpoint": "models.checkpoints.checkpoint",
}
__all__ = [
    "Artifact",
    "Cost",
    "LayerCost",
    "Limits",
    "ModelSpec",
    "Pruned",
    "Quantized",
    "Split",
    "Task",
    "build",
    "cost_of",
    "evaluate_gate",
    "export_model",
    "load_checkpoint",
    "load_from_hub",
    "load_task",
    "open_session",
    "profile",
    "prune_model",
    "push_to_hub",
    "quantize_model",
    "save_checkpoint",
]

#: Nothing phones home. Every process of ours passes here before it imports anything else, and its children inherit it:
#: ONNX Runtime (device id and telemetry), Ray (usage statistics, which its worker environments ask for as well),
#: Hugging Face (telemetry and the look-up of new versions), and whatever heeds the general wish.
_QUIET = {
    "ORT_DISABLE_TELEMETRY": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_UPDATE_CHECK": "1",
    "DO_NOT_TRACK": "1",
}
os.environ.update(_QUIET)

# In a checkout the four parts stand beside this folder, not in it: `python -m edgepress` works there uninstalled, too.
_CHECKOUT = Path(__file__).resolve().parents[1]
if not (Path(__file__).parent / "models").exists() and (_CHECKOUT / "models" / "cost").is_dir():
    __path__.append(str(_CHECKOUT))


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"edgepress.{_HOME[name]}"), name)
    if name == "__version__":
        from importlib.metadata import version

        return version("edgepress")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
