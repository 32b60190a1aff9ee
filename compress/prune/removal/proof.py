"""The proof of a removal: the removed network against its reference, on random inputs, with real and random weights."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgepress.compress.prune.coupling.channels import ChannelGraph, Selection
from edgepress.compress.prune.removal.surgery import Removal, cut, make_plan
from edgepress.models.cost.graph import as_inputs
from edgepress.models.errors import ProofError

if TYPE_CHECKING:
    import torch
    from torch import nn

TOLERANCE = 1e-4


@dataclass(frozen=True)
class Proof:
    """How far the removed network is from its reference.

    Attributes:
        max_abs_diff: largest difference of any output, divided by max(1, largest output of the reference).
        tolerance: what was allowed.
        runs: comparisons made (real weights, random weights).
        seconds: what the proof took.
        kind: "modules" (an edited copy) or "graph" (rebuilt from the trace).
    """

    max_abs_diff: float
    tolerance: float
    runs: int
    seconds: float
    kind: str


def remove(
    model: nn.Module, graph: ChannelGraph, selection: Selection, example_inputs: Any = None
) -> tuple[nn.Module, dict[str, Any]]:
    """A new network without the removed channels, and the plan that makes it; proven.

    Args:
        example_inputs: what the network was traced with; random inputs of the traced shapes where it is left out.

    Raises:
        ProofError: the removed network differs from its reference; the message names the group.
    """
    smaller, plan, _ = remove_with_proof(model, graph, selection, example_inputs)
    return smaller, plan


def remove_with_proof(
    model: nn.Module, graph: ChannelGraph, selection: Selection, example_inputs: Any = None
) -> tuple[nn.Module, dict[str, Any], Proof]:
    """`remove`, and the figures of its proof."""
    start = time.perf_counter()
    prover = Prover(model, graph, example_inputs)
    reasons = []
    for kind in ("modules", "graph"):
        plan = make_plan(model, graph, selection, kind, prover.inputs)
        try:
            difference = prover.difference(selection, plan)
        except Exception as error:  # a forward of a user's network may fail in any way
            reasons.append(f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}")
            continue
        if difference <= TOLERANCE:
            smaller = cut(model, graph, selection, plan)
            seconds = time.perf_counter() - start
            return smaller, plan, Proof(difference, TOLERANCE, len(prover.weights), seconds, plan["kind"])
        reasons.append(f"outputs differ by {difference:.3g}")
    raise ProofError(
        f"the removed network is not its reference: {prover.culprit(selection)}; as an edited copy: "
        f"{reasons[0]}; rebuilt from its trace: {reasons[-1]}. Nothing was removed; protect that layer"
    )


class Prover:
    """Compares removals of one network with their references."""

    def __init__(self, model: nn.Module, graph: ChannelGraph, example_inputs: Any = None):
        import torch

        from edgepress.models.checkpoints.plan import copied
        from edgepress.models.checkpoints.rebuild import export_program

        self.model, self.graph = model, graph
        shapes = [(node.shape or (), node.dtype) for node in graph.graph.nodes if node.kind == "input"]
        given = as_inputs(example_inputs) if example_inputs is not None else None
        generator = torch.Generator().manual_seed(0)
        inputs = []
        for number, (shape, dtype) in enumerate(shapes):
            kind = getattr(torch, dtype)
            if kind.is_floating_point:
                inputs.append(torch.randn(shape, generator=generator).to(kind))
            elif given is not None:  # indices and masks: random ones might not be allowed
                value = given[number]
                inputs.append((value[:1] if value.shape != torch.Size(shape) else value).clone())
            else:
                inputs.append(torch.zeros(shape, dtype=kind))
        self.inputs = tuple(inputs)
        dense = copied(model).eval().cpu()
        self.program = export_program(dense, self.inputs)
        self.weights = [dense, _randomised(copied(dense), generator)]
        # Random weights make a wrong map visible where zeros (a last layer initialised to zero) would hide it.
        if not all(torch.isfinite(value).all() for value in self._dense_outputs(self.weights[1])):
            self.weights.pop()

    def _dense_outputs(self, model: nn.Module) -> list[torch.Tensor]:
        from edgepress.compress.prune.removal.reference import run_reference

        return run_reference(self.program, Removal(self.graph, self.graph.full()), _tensors(model), self._copies())

    def _copies(self) -> tuple[torch.Tensor, ...]:
        return tuple(value.clone() for value in self.inputs)

    def difference(self, selection: Selection, plan: Mapping[str, Any]) -> float:
        """Largest relative difference over all weights; infinite where shapes differ."""
        import torch

        from edgepress.compress.prune.removal.reference import _flat, run_reference

        worst = 0.0
        removal = Removal(self.graph, selection)
        for dense in self.weights:
            expected = run_reference(self.program, removal, _tensors(dense), self._copies())
            smaller = cut(dense, self.graph, selection, plan).eval()
            with torch.no_grad():
                found = [value for value in _flat(_plain(smaller(*self._copies()))) if isinstance(value, torch.Tensor)]
            if [tuple(value.shape) for value in found] != [tuple(value.shape) for value in expected]:
                return float("inf")
            for reference, value in zip(expected, found, strict=True):
                if not reference.numel():
                    continue
                gap = float((reference.double() - value.double()).abs().max())
                scale = max(1.0, float(reference.double().abs().max()))
                worst = max(worst, gap / scale if np.isfinite(gap) else float("inf"))
        return worst

    def culprit(self, selection: Selection) -> str:
        """The group, or the pair of groups, whose removal alone fails; by bisection."""
        suspects = [number for number, kept in enumerate(selection) if not np.all(kept)]
        while len(suspects) > 1:
            half = suspects[: len(suspects) // 2]
            rest = suspects[len(suspects) // 2 :]
            failing = next((part for part in (half, rest) if self._fails(selection, part)), None)
            if failing is None:
                break
            suspects = failing
        names = ", ".join(self.graph.groups[number].name for number in suspects)
        return f"group {names}" if len(suspects) == 1 else f"the groups {names} together"

    def _fails(self, selection: Selection, part: list[int]) -> bool:
        trial = tuple(kept if number in part else np.ones_like(kept) for number, kept in enumerate(selection))
        for kind in ("modules", "graph"):
            try:
                if self.difference(trial, make_plan(self.model, self.graph, trial, kind, self.inputs)) <= TOLERANCE:
                    return False
            except Exception:  # whatever a broken removal raises
                continue
        return True


def _tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    return dict([*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)])


def _plain(value: Any) -> Any:
    """Outputs of a model as nested lists, in the order in which torch.export flattens them."""
    import torch.utils._pytree as pytree

    return pytree.tree_leaves(value)


def _randomised(model: nn.Module, generator: torch.Generator) -> nn.Module:
    """Random parameters and statistics, in the sizes in which trained ones come."""
    import torch

    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if not tensor.is_floating_point():
                continue
            noise = torch.randn(tensor.shape, generator=generator).to(tensor.dtype)
            if tensor.ndim > 1:  # the variance that keeps a signal alive behind ReLU
                tensor.copy_(noise * (2 / max(1, tensor[0].numel())) ** 0.5)
            else:
                tensor.copy_(0.3 * noise + (0.0 if "bias" in name else 1.0))
        for module in model.modules():
            mean, variance = getattr(module, "running_mean", None), getattr(module, "running_var", None)
            if isinstance(mean, torch.Tensor) and isinstance(variance, torch.Tensor):
                mean.copy_(0.3 * torch.randn(mean.shape, generator=generator))
                variance.copy_(0.5 + torch.rand(variance.shape, generator=generator))
    return model
