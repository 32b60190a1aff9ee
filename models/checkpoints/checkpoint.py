# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: a directory with `model.json`, `weights.safetensors`, `metrics.json` and perhaps `quantization.json`,
and beside this `folded.safetensors`, for layers whose quantized tensors have no place in the network's own.

Nothing in it is executed and nothing in it is pickled; the file names are fixed, so that a file cannot point elsewhere.
"""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgepress.models.atomic import new_directory, write_bytes
from edgepress.models.checkpoints.registry import build, make_network
from edgepress.models.checkpoints.spec import ModelSpec
from edgepress.models.errors import ConfigError, UsageError
from edgepress.models.files.arrays import LARGEST_BYTES, load_tensors, refuse_numbers_that_are_none
from edgepress.models.files.reading import file_sha256, open_bytes, read_json

if TYPE_CHECKING:
    import torch
    from torch import nn

SCHEMA = 1
KIND = "edgepress checkpoint"
MODEL, WEIGHTS, METRICS, QUANTIZATION = "model.json", "weights.safetensors", "metrics.json", "quantization.json"
FOLDED = "folded.safetensors"
#: Plans and metrics are kilobytes; a description beyond this is damaged or hostile.
MAX_JSON_BYTES = 64 * 10**6
#: The largest network of the zoo has 85 M; a description that asks for more would only fill the memory.
MAX_PARAMS = 1_000_000_000


def save_checkpoint(
    path: str | Path,
    model: nn.Module,
    spec: ModelSpec,
    metrics: dict[str, Any] | None = None,
    *,
    quantization: dict[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a checkpoint, whole or not at all.

    Args:
        path: the directory to make.
        model: the network; its state dict is saved, from whatever device it is on.
        spec: what rebuilds it. For a network of the zoo it is checked that it really does, names and shapes.
        metrics: what was measured, on which data, by which command; JSON-able.
        quantization: scheme and activation ranges of an int8 network; JSON-able but for its "tensors".
        overwrite: replace an existing checkpoint.

    Returns:
        `path`.

    Raises:
        UsageError: the path exists or cannot be written, `spec` builds another network, or a value is no JSON.
    """
    path = Path(path)
    state = _plain_state(model)
    if ":" not in spec.factory:
        _check_state(state, _rebuild(spec), f"spec does not describe this model ({spec.factory})", MODEL)
    with new_directory(path, overwrite=overwrite) as folder:
        description = {"schema": SCHEMA, "kind": KIND, "weights": _write_tensors(folder / WEIGHTS, state)}
        if quantization is not None:
            numbers = {name: value for name, value in quantization.items() if name != "tensors"}
            write_bytes(folder / QUANTIZATION, _dump({"schema": SCHEMA, "quantization": numbers}, "quantization"))
            if folded := quantization.get("tensors"):
                description["folded"] = _write_tensors(folder / FOLDED, folded)
        write_bytes(folder / MODEL, _dump({**description, "spec": spec.to_json()}, MODEL))
        write_bytes(folder / METRICS, _dump({"schema": SCHEMA, "metrics": metrics or {}}, "metrics"))
    return path


def _write_tensors(file: Path, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Write a safetensors file; its digest and size, for model.json."""
    from safetensors.torch import save

    data = save(tensors)
    write_bytes(file, data)
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data), "tensors": len(tensors)}


def load_checkpoint(path: str | Path, *, trust: bool = False) -> tuple[nn.Module, ModelSpec]:
    """Rebuild the network of a checkpoint, on the CPU, in evaluation mode; the global random state is left alone.

    Args:
        path: the checkpoint's directory.
        trust: allow it to name a factory outside the zoo, whose code is then imported and run.

    Raises:
        UsageError: no checkpoint, one that is truncated, altered or of a newer schema, a factory outside the zoo
            without `trust`, or weights that do not fit the network.
    """
    path = Path(path)
    description, spec = _read_model_json(path)
    if ":" in spec.factory and not trust:
        raise UsageError(
            f"{path} needs code outside edgepress, {spec.factory}: read that code, then allow it (trust=True, --trust)"
        )
    state = _read_tensors(path / WEIGHTS, description["weights"])
    try:
        model = _rebuild(spec)
    except UsageError as error:
        raise UsageError(f"{path / MODEL} does not describe a network that can be built: {error}") from error
    _check_state(state, model, f"{path / WEIGHTS} does not fit {MODEL}", WEIGHTS)
    model.load_state_dict(state)
    return model.eval(), spec


def fresh_network(spec: ModelSpec) -> nn.Module:
    """The network that `spec` describes with fresh weights, drawn from torch's own generator.

    The plan of an earlier pruning is applied. Code outside the zoo is run: that is the caller's decision.

    Raises:
        UsageError: an unknown network or argument, a factory that fails, or a plan of another network.
    """
    model = make_network(spec.factory, spec.arguments)
    if spec.plan is None:
        return model
    from edgepress.models.checkpoints.plan import apply_plan

    return apply_plan(model, spec.plan)


def read_spec(path: str | Path) -> ModelSpec:
    """The spec of a checkpoint, without importing torch and without reading the weights.

    Raises:
        UsageError: no checkpoint there, or a damaged `model.json`.
    """
    return _read_model_json(Path(path))[1]


def read_metrics(path: str | Path) -> dict[str, Any]:
    """What was measured; empty where nothing was.

    Raises:
        UsageError: no checkpoint there, or a damaged `metrics.json`.
    """
    return _read_section(Path(path), METRICS, "metrics") or {}


def read_quantization(path: str | Path) -> dict[str, Any] | None:
    """Scheme and activation ranges of an int8 checkpoint, and its "tensors" where it has some; None for a float one.

    Raises:
        UsageError: no checkpoint there, or a damaged `quantization.json` or `folded.safetensors`.
    """
    found = _read_section(Path(path), QUANTIZATION, "quantization")
    if found is None or (folded := _read_model_json(Path(path))[0].get("folded")) is None:
        return found
    return {**found, "tensors": _read_tensors(Path(path) / FOLDED, folded)}


def export_state_dict(path: str | Path, out: str | Path, *, overwrite: bool = False) -> Path:
    """Write the weights of a checkpoint for plain PyTorch: `out` ends in .safetensors, or in .pt for `torch.load`.

    Raises:
        UsageError: no checkpoint, a damaged one, another suffix, or `out` exists.
    """
    path, out = Path(path), Path(out)
    if out.suffix not in (".safetensors", ".pt"):
        raise UsageError(f"out = {str(out)!r} must end in .safetensors or .pt")
    if out.exists() and not overwrite:
        raise UsageError(f"{out} exists already; choose another name or allow overwriting")
    description, _ = _read_model_json(path)
    state = _read_tensors(path / WEIGHTS, description["weights"])
    if out.suffix == ".safetensors":
        return write_bytes(out, bytes(open_bytes(path / WEIGHTS, LARGEST_BYTES)))
    import torch

    buffer = io.BytesIO()
    torch.save(state, buffer)
    return write_bytes(out, buffer.getvalue())


def _plain_state(model: nn.Module) -> dict[str, torch.Tensor]:
    import torch

    state = {}
    for name, value in model.state_dict().items():
        if not isinstance(value, torch.Tensor):
            raise UsageError(
                f"{name} in the model's state dict is a {type(value).__name__}; a checkpoint holds tensors only"
            )
        # A copy: safetensors refuses tensors that share memory, which tied weights do.
        state[name] = value.detach().to("cpu", copy=True).contiguous()
    return state


def _rebuild(spec: ModelSpec) -> nn.Module:
    """The network that `spec` describes, with random weights, without touching the global random state."""
    import torch

    with torch.random.fork_rng(devices=[]):
        if ":" not in spec.factory:
            with torch.device("meta"):
                params = sum(p.numel() for p in build(spec.factory, **spec.arguments).parameters())
            if params > MAX_PARAMS:
                raise UsageError(f"it asks for {params:,} parameters; at most {MAX_PARAMS:,} are built")
        return fresh_network(spec)


def _check_state(state: dict[str, torch.Tensor], model: nn.Module, problem: str, source: str) -> None:
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in state.items()}
    if wanted == found:
        return
    for name in [*wanted, *found]:
        if wanted.get(name) != found.get(name):
            raise UsageError(
                f"{problem}: {name} has shape {wanted.get(name, 'none')} by {MODEL} and "
                f"{found.get(name, 'none')} in the weights; save it again with the spec that built it"
            )


def _read_model_json(path: Path) -> tuple[dict[str, Any], ModelSpec]:
    if not path.is_dir():
        what = "is a file" if path.exists() else "does not exist"
        raise UsageError(f"{path} {what}; a checkpoint is a directory with {MODEL} and {WEIGHTS}")
    file = path / MODEL
    if not file.is_file():
        raise UsageError(f"{path} is no checkpoint: it has no {MODEL}")
    description = _read_json(file)
    if description.get("kind") != KIND:
        raise UsageError(
            f"{file} is no checkpoint of edgepress: its kind is {description.get('kind')!r:.100}, not {KIND!r}"
        )
    _check_schema(file, description)
    for name, tensors in ((WEIGHTS, description.get("weights")), (FOLDED, description.get("folded", {"sha256": ""}))):
        if not isinstance(tensors, dict) or not isinstance(tensors.get("sha256"), str):
            raise UsageError(f"{file} is damaged: it does not give the sha256 of {name}")
    try:
        return description, ModelSpec.from_json(description.get("spec"))
    except ConfigError as error:
        raise UsageError(f"{file} is damaged: {'; '.join(error.errors)}") from error
    except UsageError as error:
        raise UsageError(f"{file} is damaged: {error}") from error


def _read_section(path: Path, file_name: str, key: str) -> dict[str, Any] | None:
    if not (path / MODEL).is_file():
        _read_model_json(path)
    file = path / file_name
    if not file.exists():
        return None
    content = _read_json(file)
    _check_schema(file, content)
    section = content.get(key)
    if not isinstance(section, dict):
        raise UsageError(f"{file} is damaged: {key!r} is not a JSON object")
    return section


def _check_schema(file: Path, content: dict[str, Any]) -> None:
    schema = content.get("schema")
    if schema != SCHEMA:
        newer = isinstance(schema, int) and schema > SCHEMA
        raise UsageError(
            f"{file} has schema {schema!r:.40}, this edgepress reads {SCHEMA}; "
            + ("update edgepress" if newer else "save the checkpoint again")
        )


def _read_json(file: Path) -> dict[str, Any]:
    content = read_json(file, largest_bytes=MAX_JSON_BYTES)
    if not isinstance(content, dict):
        raise UsageError(f"{file} is damaged: it holds a {type(content).__name__}, not a JSON object")
    return content


def _read_tensors(file: Path, expected: dict[str, Any]) -> dict[str, torch.Tensor]:
    if not file.is_file():
        raise UsageError(f"{file.parent} is incomplete: it has no {file.name}")
    if file_sha256(file) != expected["sha256"]:
        size, wanted = file.stat().st_size, expected.get("bytes")
        detail = "altered" if size == wanted else f"{size:,} bytes instead of {wanted!r:.20}"
        raise UsageError(
            f"{file} is damaged ({detail}): its sha256 is not the one in {MODEL}; restore the file or train again"
        )
    state = load_tensors(file)
    refuse_numbers_that_are_none(state, str(file))
    return state


def _dump(value: dict[str, Any], name: str) -> bytes:
    try:
        return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()
    except (TypeError, ValueError) as error:
        raise UsageError(f"{name} cannot be saved as JSON: {error}") from error
