# SPDX-License-Identifier: Apache-2.0
"""The proof of a removal: the removed network against its reference, on random inputs, with real and random weights."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgepress.compress.prune.coupling.channels import ChannelGraph, ChannelGroup, Member, Selection
from edgepress.compress.prune.coupling.propagation import Propagation
from edgepress.compress.prune.removal.edits import Removal
from edgepress.compress.prune.removal.surgery import WAYS, cut, make_plan
from edgepress.models.cost.graph import as_inputs
from edgepress.models.errors import ProofError, UsageError

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
    reasons: dict[str, str] = {}
    tried: list[dict[str, Any]] = []
    for way in WAYS:
        try:
            plan = make_plan(model, graph, selection, way, prover.traces)
        except UsageError as error:  # another trace of the network couples more than the one that was chosen from
            if way != "graph":
                raise
            reasons["graph"] = str(error)
            continue
        if plan in tried:
            continue
        tried.append(plan)
        try:
            difference = prover.difference(selection, plan)
            smaller = cut(model, graph, selection, plan, prover.traces)
            differs = f"outputs differ by {difference:.3g}" if difference > TOLERANCE else ""
            reason = differs or prover.fails_in_training(smaller)
        except Exception as error:  # a forward of a user's network may fail in any way
            reasons[plan["kind"]] = _said(error)
            continue
        if not reason:
            seconds = time.perf_counter() - start
            return smaller, plan, Proof(difference, TOLERANCE, len(prover.weights), seconds, plan["kind"])
        reasons[plan["kind"]] = reason
    suspects = prover.culprits(selection)
    names = ", ".join(graph.groups[number].name for number in suspects)
    raise ProofError(
        "the removed network is not its reference: "
        + (f"group {names}" if len(suspects) == 1 else f"the groups {names} together")
        + f"; as an edited copy: {reasons.get('modules')}; rebuilt from its trace: {reasons.get('graph')}. "
        "Nothing was removed; freeze that layer (freeze=, --freeze)",
        dict.fromkeys(member.tensor for number in suspects for member in made_by(graph.groups[number])),
        next(iter(reasons.values()), ""),
    )


def made_by(group: ChannelGroup) -> tuple[Member, ...]:
    """The tensors that make the channels of a group; all that it couples where no layer makes them."""
    return tuple(group.members[index] for index in group.produced) or group.members


def _said(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:200] if text else ''}"


class Prover:
    """Compares removals of one network with their references."""

    def __init__(self, model: nn.Module, graph: ChannelGraph, example_inputs: Any = None):
        import torch

        from edgepress.models.checkpoints.copying import copied
        from edgepress.models.checkpoints.rebuild import Traces

        self.model: nn.Module = model
        self.graph: ChannelGraph = graph
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
        self.inputs: tuple[torch.Tensor, ...] = tuple(inputs)
        dense = copied(model).eval().cpu()
        self.traces: Traces = Traces(dense, self.inputs)
        if graph.graph.program is not None:  # the trace that the groups were found in
            self.traces.programs["evaluation", None] = graph.graph.program
        self.weights: list[nn.Module] = [dense, _randomised(copied(dense), generator)]
        # Random weights make a wrong map visible where zeros (a last layer initialised to zero) would hide it.
        if not all(torch.isfinite(value).all() for value in self._dense_outputs(graph.state, self.weights[1])):
            self.weights.pop()
        self._expected: dict[bytes, list[list[torch.Tensor] | None]] = {}

    def _dense_outputs(self, state: Propagation, model: nn.Module) -> list[torch.Tensor]:
        nothing = Removal(state, np.zeros(state.space.size, bool))
        return self._reference(nothing, model)

    def _reference(self, removal: Removal, model: nn.Module, double: bool = False) -> list[torch.Tensor]:
        from edgepress.compress.prune.removal.reference import run_reference

        program = removal.graph.program or self.traces.program("evaluation", None)
        return run_reference(program, removal, _tensors(model), self._copies(double))

    def _copies(self, double: bool = False) -> tuple[torch.Tensor, ...]:
        """Of the inputs; those that are real numbers in double precision where it is asked for."""
        return tuple(value.double() if double and value.is_floating_point() else value.clone() for value in self.inputs)

    def expected(self, selection: Selection) -> list[list[torch.Tensor] | None]:
        """Outputs of the reference for evaluation with every weight, then for the heads of training; None if random."""
        key = b"".join(np.packbits(np.asarray(kept, bool)).tobytes() for kept in selection)
        if key not in self._expected:
            removed = self.graph.removed_labels(selection)
            self._expected[key] = []
            for phase in self.graph.phases:
                removal = Removal(phase, removed)
                runs = [self._reference(removal, dense) for dense in self.weights]
                again = None if phase is self.graph.state else self._reference(removal, self.weights[0])
                random = again is not None and not _equal(runs[0], again)
                self._expected[key] += [None] * len(runs) if random else runs
        return self._expected[key]

    def difference(self, selection: Selection, plan: Mapping[str, Any]) -> float:
        """Largest relative difference over all weights; infinite where shapes differ.

        Heads that only training uses are compared in an edited copy; a rebuilt network has its own training graph.
        """
        from edgepress.models.cost.program import MODES

        expected = self.expected(selection)
        runs = [("evaluation", dense) for dense in self.weights]
        if plan["kind"] == "modules":
            runs += [("heads", dense) for _ in self.graph.phases[1:] for dense in self.weights]
        worst = 0.0
        for (mode, dense), reference in zip(runs, expected, strict=False):
            if reference is None:
                continue
            smaller = cut(dense, self.graph, selection, plan, self.traces)
            MODES[mode](smaller)
            gap = _gap(reference, self._found(smaller))
            if TOLERANCE < gap < float("inf") and mode == "evaluation" and plan["kind"] == "modules":
                gap = self._gap_in_double(selection, plan, dense, gap)
            worst = max(worst, gap)
            if worst > TOLERANCE:
                break
        return worst

    def _found(self, smaller: nn.Module, double: bool = False) -> list[torch.Tensor]:
        """Outputs of a removed network."""
        import torch

        from edgepress.models.cost.program import plain_precision

        with torch.no_grad(), plain_precision():
            return [value for value in _plain(smaller(*self._copies(double))) if isinstance(value, torch.Tensor)]

    def _gap_in_double(
        self, selection: Selection, plan: Mapping[str, Any], dense: nn.Module, in_single: float
    ) -> float:
        """The same difference in double precision: deep networks with random weights amplify roundings of single
        precision beyond the tolerance, and what is wrong differs there, too. `in_single` where it cannot be run.
        """
        from edgepress.models.checkpoints.copying import copied

        try:
            exact = copied(dense).double()
            removal = Removal(self.graph.state, self.graph.removed_labels(selection))
            reference = self._reference(removal, exact, double=True)
            found = self._found(cut(exact, self.graph, selection, plan, self.traces).eval(), double=True)
        except Exception:  # constants of single precision in a forward, and whatever else asks for it
            return in_single
        return _gap(reference, found)

    def fails_in_training(self, smaller: nn.Module) -> str:
        """Why the removed network cannot run in training mode although the dense one can; "" where it can."""
        import torch

        from edgepress.models.checkpoints.copying import copied

        inputs = self.inputs
        if self.traces.batch is not None:  # batch statistics need more than one sample
            inputs = tuple(torch.cat([value, value]) for value in inputs)

        def attempt(model: nn.Module) -> str:
            try:
                with torch.random.fork_rng(devices=[]), torch.no_grad():
                    copied(model).train()(*(value.clone() for value in inputs))
            except Exception as error:  # a forward of a user's network may fail in any way
                return f"in training mode, {_said(error)}"
            return ""

        reason = attempt(smaller)
        return reason if reason and not attempt(self.weights[0]) else ""

    def culprits(self, selection: Selection) -> list[int]:
        """The group, or the groups together, whose removal alone fails; by bisection."""
        suspects = [number for number, kept in enumerate(selection) if not np.all(kept)]
        while len(suspects) > 1:
            half = suspects[: len(suspects) // 2]
            rest = suspects[len(suspects) // 2 :]
            failing = next((part for part in (half, rest) if self._fails(selection, part)), None)
            if failing is None:
                break
            suspects = failing
        return suspects

    def _fails(self, selection: Selection, part: list[int]) -> bool:
        trial = tuple(kept if number in part else np.ones_like(kept) for number, kept in enumerate(selection))
        for way in WAYS:
            try:
                if self.difference(trial, make_plan(self.model, self.graph, trial, way, self.traces)) <= TOLERANCE:
                    return False
            except Exception:  # whatever a broken removal raises
                continue
        return True


def output_gap(left: nn.Module, right: nn.Module, inputs: tuple[torch.Tensor, ...]) -> float:
    """Largest relative difference of the outputs of two networks in evaluation mode; neither is changed."""
    import torch

    from edgepress.models.checkpoints.copying import copied

    with torch.no_grad():
        outputs = [_plain(copied(model).eval()(*(value.clone() for value in inputs))) for model in (left, right)]
    return _gap(*([value for value in values if isinstance(value, torch.Tensor)] for values in outputs))


def _gap(expected: list[torch.Tensor], found: list[torch.Tensor]) -> float:
    """Largest difference, divided by max(1, largest value expected); infinite where shapes differ."""
    if [tuple(value.shape) for value in found] != [tuple(value.shape) for value in expected]:
        return float("inf")
    worst = 0.0
    for reference, value in zip(expected, found, strict=True):
        if reference.numel():
            gap = float((reference.double() - value.double()).abs().max())
            scale = max(1.0, float(reference.double().abs().max()))
            worst = max(worst, gap / scale if np.isfinite(gap) else float("inf"))
    return worst


def _equal(left: list[torch.Tensor], right: list[torch.Tensor]) -> bool:
    return _gap(left, right) <= TOLERANCE


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
