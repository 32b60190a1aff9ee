# SPDX-License-Identifier: Apache-2.0
"""A user's own network, a factory or a library's name with a file of weights, as a checkpoint of the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgepress.compress.pipeline.entries import enter, finished, free_name, key_of, network_facts
from edgepress.compress.pipeline.provenance import command, cost_facts, source_of, versions
from edgepress.models.checkpoints.digests import tensors_digest
from edgepress.models.errors import UsageError
from edgepress.models.run_directory import RunDirectory
from edgepress.models.terminal.words import say


def enter_own_network(
    run: RunDirectory, factory: str, weights: Path | None, inputs: tuple[str, ...], data: str | None
) -> dict[str, Any]:
    """Build it (its code is run: the user typed its name), load the weights, save it; returns the entry.

    Args:
        run: where it is saved.
        factory: package.module:factory, timm:NAME, torchvision:NAME, or a network of the zoo.
        weights: .safetensors, or .pt with tensors only; None keeps what the factory gives.
        inputs: shapes with the batch, "1,3,32,32", one for each input.
        data: the task, as the user typed it.

    Raises:
        UsageError: no such factory, weights that do not fit, or shapes that it does not take.
    """
    import torch

    from edgepress.models.checkpoints.registry import make_network, zoo
    from edgepress.models.checkpoints.spec import ModelSpec
    from edgepress.models.checkpoints.weights import load_weights
    from edgepress.models.cost.cost import cost_of

    if not inputs and factory not in zoo():
        raise UsageError("--model needs --input, the shape of its input with the batch, such as --input 1,3,32,32")
    shapes = tuple(_shape(text) for text in inputs) or zoo()[factory].input_shapes
    made = make_network(factory, {})
    if weights is not None:
        load_weights(made, weights)
    model = made.float().eval()
    spec = ModelSpec(factory, {}, shapes, task=source_of(data) if data else None, notes={"stage": "own"})
    try:
        with torch.no_grad():
            model(*spec.example_inputs())
    except Exception as error:
        raise UsageError(
            f"{factory} does not take inputs of shape {list(shapes)} besides the batch: {error}"
        ) from error
    key = key_of("own", factory, shapes, spec.task, tensors_digest(model))
    if entry := finished(run, key, f"own network {factory}"):
        return entry
    cost = cost_of(model, spec.example_inputs())
    name = free_name(run, factory.replace(":", "."))
    metrics = {
        "stage": "own",
        "key": key,
        "command": command(),
        "cost": cost_facts(cost),
        "weights": str(weights),
        "versions": versions(),
    }
    facts = network_facts(spec, cost, key=key, stage="own", pruned=False, scheme="float32")
    entry = enter(run, "checkpoint", name, model, spec, metrics, facts)
    say(f"own network: {entry['path']}, {cost.macs:,} MACs ({cost.rule}), {cost.params:,} parameters")
    return entry


def _shape(text: str) -> tuple[int, ...]:
    parts = text.replace("x", ",").split(",")
    if len(parts) < 2 or not all(part.strip().isdigit() and int(part) > 0 for part in parts):
        raise UsageError(f"--input = {text!r} must be positive sizes with the batch, such as 1,3,32,32")
    return tuple(int(part) for part in parts[1:])
