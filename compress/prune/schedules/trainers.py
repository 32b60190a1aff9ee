# SPDX-License-Identifier: Apache-2.0
"""From a dense network and a budget to a trained smaller one: admm, gradual, one-shot, from-scratch.

Every method has the same number of epochs in all and goes through the same loop (`training.train`). `admm` and
`gradual` spend a share of them on the dense network before removal; what their stopping rule leaves over goes to
fine-tuning.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn

from edgepress.models.errors import InfeasibleBudget, UsageError
from edgepress.models.limits import Limits

if TYPE_CHECKING:
    from edgepress.compress.prune.coupling.channels import ChannelGraph, Selection
    from edgepress.compress.prune.model import Pruned
    from edgepress.compress.prune.schedules.admm import Admm
    from edgepress.compress.prune.schedules.gradual import Gradual
    from edgepress.compress.recipes.recipe import PruneSettings, TrainSettings
    from edgepress.compress.training.machine import Machine
    from edgepress.models.tasks import Task


@dataclass(frozen=True)
class PrunedAndTrained:
    """A network within its budget, fine-tuned.

    Attributes:
        pruned: what was removed, the costs before and after, the proof; `pruned.model` is as it was before fine-tuning.
        model: the fine-tuned network.
        history: one record per epoch; `phase` says "shape" or "finetune".
        best_epoch: the chosen epoch of the fine-tuning, 0 where nothing was trained.
        seconds: training time, those before a resume included.
    """

    pruned: Pruned
    model: nn.Module
    history: list[dict[str, Any]] = field(repr=False)
    best_epoch: int
    seconds: float


def prune_and_train(
    model: nn.Module,
    example_inputs: tuple[Tensor, ...],
    task: Task,
    limits: Limits,
    settings: PruneSettings,
    *,
    teacher: nn.Module | np.ndarray | None = None,
    fresh: Callable[[], nn.Module] | None = None,
    run: Path | None = None,
    resume: bool = True,
    seed: int = 0,
    machine: Machine | None = None,
    name: str = "prune",
) -> PrunedAndTrained:
    """Prune a trained network to a budget, with training.

    Args:
        model: the dense, trained network; left untouched, and the teacher of the fine-tuning where `settings.distill`
            is given and there is no other.
        example_inputs: one tensor per input, batch 1.
        task: its data.
        limits: the budget; only what pruning can hold is used.
        settings: method, projection, importance, and the training budget `settings.train.epochs`.
        teacher: another teacher, as in `training.train.train`; it also guides what comes before the removal, where
            the dense network would only follow itself.
        fresh: builds the network with fresh weights, for "from-scratch".
        run: folder of training states; a killed call goes on from there.
        resume, seed, machine, name: as in `edgepress.compress.training.train.train`.

    Raises:
        InfeasibleBudget: no pruning reaches the budget.
        ProofError: the removed network differs from its reference.
    """
    from edgepress.compress.prune.model import take_out
    from edgepress.compress.prune.removal.merging import merged_branches
    from edgepress.compress.training.machine import Machine
    from edgepress.compress.training.train import train

    machine = machine or Machine()
    before = split_epochs(settings)
    kept = {"run": run / "finetune" if run else None, "resume": resume, "machine": machine}
    history: list[dict[str, Any]] = []
    shaped, seconds, shaping = model, 0.0, None
    if before:
        shaping = make_shaping(settings, model, example_inputs, limits, task)
        result = train(
            model,
            task,
            at_constant_rate(settings.train, before),
            penalty=shaping,
            seed=seed,
            teacher=teacher,
            distill=settings.distill if teacher is not None else None,
            name=f"{name}, {settings.method}",
            **{**kept, "run": run / "shape" if run else None},
        )
        history += [{"phase": "shape", **record} for record in result.history]
        shaped, seconds = result.model, result.seconds
        if result.shaping is not None:  # it may have been shaped in another process
            shaping.load_state_dict(result.shaping)
    if settings.method == "from-scratch":
        pruned = _from_scratch(fresh, example_inputs, limits, settings, seed)
    elif (
        shaping is not None
        and merged_branches(shaped, example_inputs)[0] is None  # else the merged network is pruned
        and (selection := shaping.selection()) is not None
    ):
        # Chosen anew, other channels would go than those that training has learned to do without.
        said = below_the_budget(shaping.graph, selection, limits)
        pruned = take_out(shaped, example_inputs, shaping.graph, selection, limits, said)
    else:
        pruned = remove_once(shaped, example_inputs, limits, settings, task)
    left = settings.train.epochs - len(history)
    result = train(
        pruned.model,
        task,
        settings.train.model_copy(update={"epochs": left}),
        teacher=model if teacher is None else teacher,
        distill=settings.distill,
        seed=seed + 1,
        name=f"{name}, fine-tuning" if settings.method != "from-scratch" else name,
        **kept,
    )
    history += [{"phase": "finetune", **record} for record in result.history]
    return PrunedAndTrained(pruned, result.model, history, result.best_epoch, seconds + result.seconds)


def split_epochs(settings: PruneSettings) -> int:
    """How many of the epochs come before removal: a share for admm and gradual, at least one epoch on each side."""
    epochs = settings.train.epochs
    if settings.method not in ("admm", "gradual") or epochs < 2 or not settings.shaping_share:
        return 0
    return min(max(1, round(settings.shaping_share * epochs)), epochs - 1)


def below_the_budget(graph: ChannelGraph, selection: Selection, limits: Limits) -> tuple[str, ...]:
    """A note where shaping ends below 99 % of every limit.

    It gives nothing back, and instructions or arenas fall by more than a step where a kernel likes the new widths.
    """
    figures = graph.cost(selection)
    shares = {metric: figures.get(metric) / limit for metric, limit in limits.budgets().items() if limit}
    nearest = max(shares, key=shares.__getitem__, default=None)
    if nearest is None or shares[nearest] >= 0.99:
        return ()
    return (
        f"{nearest} is at {100 * shares[nearest]:.2f} % of its limit: what training took away does not come back, "
        "even where some of it would fit; one-shot pruning may come nearer",
    )


def make_shaping(
    settings: PruneSettings,
    model: nn.Module,
    example_inputs: tuple[Tensor, ...],
    limits: Limits,
    task: Task | None = None,
) -> Admm | Gradual:
    """The `Admm` or `Gradual` of these settings, for our loop or anyone's.

    Raises:
        UsageError: the method has no shaping.
    """
    from edgepress.compress.prune.coupling.channels import find_groups
    from edgepress.compress.prune.schedules.admm import Admm
    from edgepress.compress.prune.schedules.gradual import Gradual

    if settings.method not in ("admm", "gradual"):
        raise UsageError(f"method = {settings.method!r} shapes no weights before removal; admm and gradual do")
    graph = find_groups(
        copy.deepcopy(model).eval(),
        example_inputs,
        settings.protect,
        limits.rule,
        limits.scheme,
        settings.freeze,
        limits.on_device,
    )
    importance = importance_for(settings, task)
    common: dict[str, Any] = {
        "projection": settings.projection,
        "importance": importance,
        "scoring": data_scoring(importance, task, settings.clips),
        "divisor": settings.divisor,
        "min_channels": settings.min_channels,
        "floor": settings.floor,
    }
    if settings.updates is not None:
        common["updates"] = settings.updates
    if settings.method == "gradual":
        return Gradual(graph, limits, **common)
    return Admm(
        graph,
        limits,
        w_step=settings.w_step,
        rho_start=settings.rho_start,
        rho_end=settings.rho_end,
        tolerance=settings.tolerance,
        **common,
    )


def uniform_selection(graph: ChannelGraph, limits: Limits) -> Selection:
    """The widest network within the budget in which every group keeps the same share of its width.

    The first channels of each group are kept. After the largest share that fits, single channels are given to the
    groups in turn while they fit, so that the budget is used as well as by the projections.

    Args:
        graph: of the network.
        limits: the budget.

    Raises:
        InfeasibleBudget: one channel per group is too much already.
    """
    sizes = [group.size for group in graph.groups]

    def selection(widths: list[int]) -> tuple[np.ndarray, ...]:
        return tuple(np.arange(size) < width for size, width in zip(sizes, widths, strict=True))

    def fits(widths: list[int]) -> bool:
        figures = graph.cost(selection(widths))
        return all(figures.get(metric) <= limit for metric, limit in limits.budgets().items())

    def widths_at(share: float) -> list[int]:
        return [max(1, math.floor(size * share)) for size in sizes]

    if not fits(widths_at(0)):
        raise InfeasibleBudget(
            f"from-scratch: one channel per group costs {graph.cost(selection(widths_at(0)))}, more "
            f"than the budget {limits.budgets()}; raise it"
        )
    low, high = 0.0, 1.0
    if fits(widths_at(1)):
        return selection(widths_at(1))
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(widths_at(middle)) else (low, middle)
    widths, grown = widths_at(low), True
    while grown:
        grown = False
        for index in sorted(range(len(sizes)), key=lambda i: widths[i] / sizes[i]):
            wider = [width + (i == index) for i, width in enumerate(widths)]
            if wider[index] <= sizes[index] and fits(wider):
                widths, grown = wider, True
    return selection(widths)


def remove_once(
    model: nn.Module,
    example_inputs: tuple[Tensor, ...],
    limits: Limits,
    settings: PruneSettings,
    task: Task | None,
) -> Pruned:
    """Prune without training, with the choice of these settings."""
    from edgepress.compress.prune.model import prune_model

    importance = importance_for(settings, task)
    return prune_model(
        model,
        example_inputs,
        **limits.budgets(),
        device=limits.device if limits.on_device else None,
        scheme=limits.scheme,
        rule=limits.rule,
        importance=importance,
        projection=settings.projection,
        protect=settings.protect,
        freeze=settings.freeze,
        divisor=settings.divisor,
        min_channels=settings.min_channels,
        floor=settings.floor,
        **data_scoring(importance, task, settings.clips),
    )


def importance_for(settings: PruneSettings, task: Task | None) -> str:
    """The importance of the settings; unasked "fisher" where there is a classification task, else "l2".

    "fisher" draws labels from the softmax of the outputs, which are class scores in classification alone.
    """
    if settings.importance is not None:
        return settings.importance
    return "fisher" if task is not None and task.kind == "classification" else "l2"


def data_scoring(importance: str, task: Task | None, clips: int = 512) -> dict[str, Any]:
    """What importances of data need: `batches` of inputs, for "taylor" labelled ones and their `loss`.

    Raises:
        UsageError: such an importance without a task.
    """
    from edgepress.compress.prune.budget.importance import OF_DATA

    if importance not in OF_DATA:
        return {}
    if task is None:
        raise UsageError(f"importance = {importance!r} looks at data: give --data")
    import torch
    import torch.nn.functional as F

    split = "calibration" if task.has("calibration") else "train"
    features, labels = task.features(split), task.split(split).labels
    chosen = np.sort(np.random.default_rng(0).permutation(len(labels))[:clips])
    parts = np.array_split(chosen, -(-len(chosen) // 64))
    inputs = [torch.from_numpy(np.array(features[part])) for part in parts]
    if importance != "taylor":
        return {"batches": inputs}
    labelled = [torch.from_numpy(np.asarray(labels)[part]) for part in parts]
    return {
        "batches": list(zip(inputs, labelled, strict=True)),
        "loss": lambda network, batch: F.cross_entropy(network(batch[0]), batch[1]),
    }


def _from_scratch(
    fresh: Callable[[], nn.Module] | None,
    example_inputs: tuple[Tensor, ...],
    limits: Limits,
    settings: PruneSettings,
    seed: int,
) -> Pruned:
    import torch

    if fresh is None:
        raise UsageError(
            "method = 'from-scratch' needs the network's factory: a network of the zoo, or --model "
            "package.module:factory"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = fresh().eval()
    return prune_uniformly(model, example_inputs, limits, settings.protect, settings.freeze)


def prune_uniformly(
    model: nn.Module,
    example_inputs: tuple[Tensor, ...],
    limits: Limits,
    protect: tuple[str, ...] = (),
    freeze: tuple[str, ...] = (),
) -> Pruned:
    """The first channels of every group, the same share of each, as many as fit the budget; proven like any removal."""
    from edgepress.compress.prune.coupling.channels import find_groups
    from edgepress.compress.prune.model import take_out

    graph = find_groups(model, example_inputs, protect, limits.rule, limits.scheme, freeze, limits.on_device)
    return take_out(model, example_inputs, graph, uniform_selection(graph, limits), limits)


def at_constant_rate(settings: TrainSettings, epochs: int) -> TrainSettings:
    """The same training at a constant rate, ending with its last epoch: what shapes weights must not fade out."""
    return settings.model_copy(
        update={"epochs": epochs, "ramp_up": 0.0, "decay_from": 1.0, "decay_to": 1.0, "select": "last"}
    )
