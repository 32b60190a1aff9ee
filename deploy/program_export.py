# SPDX-License-Identifier: Apache-2.0
"""`deploy export PROGRAM.pt2`: a program of torch.export as a file for devices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgepress.deploy.artifact import SUFFIXES
from edgepress.models.errors import UsageError
from edgepress.models.terminal.progress import working
from edgepress.models.terminal.words import say

_SAMPLES = 64


def export_program(
    path: Path,
    format: str,
    *,
    output: Path | None,
    data: str | None,
    overwrite: bool,
    float_io: bool = False,
    onnx_integers: str = "u8u8",
) -> None:
    """Export a .pt2 file, compare it with the program, and say what came of it.

    Args:
        path: of torch.export.save.
        format: one of `SUFFIXES`.
        output: the file; None puts it beside the program.
        data: .npz with x (x0, x1, ... of several inputs) or .npy, float in torch's layout, on which file and program
            are compared; None makes noise.
        overwrite: replace an existing file.
        float_io, onnx_integers: as for `export_model`.

    Raises:
        UsageError: what is no program, no data for it, or an existing file.
    """
    from edgepress.deploy.export.export import export_model
    from edgepress.deploy.pt2.archive import load_program
    from edgepress.models.units import format_quantity

    if format not in SUFFIXES:
        raise UsageError(f"format = {format!r} is unknown for a program: allowed are {', '.join(SUFFIXES)}")
    target = output or path.with_suffix(SUFFIXES[format])
    if target.exists() and not overwrite:
        raise UsageError(f"{target} exists already; choose another name or allow overwriting with --overwrite")
    program = load_program(path)
    examples = _examples(program)
    samples = None if data is None else _samples(data, examples)
    with working("exporting"):
        artifact = export_model(
            program,
            tuple(x[:1] for x in samples) if samples is not None else examples,
            target,
            format,
            overwrite,
            float_io=float_io,
            onnx_integers=onnx_integers,
            samples=samples,
        )
    parity = artifact.manifest["parity"]
    for runtime, figures in parity["runtimes"].items():
        if "skipped" in figures:
            say(f"note: {runtime} does not run the file: {figures['skipped']}")
            continue
        far = f"{figures['max_abs']:.3g}" if figures["max_lsb"] is None else f"{figures['max_lsb']:g} LSB"
        say(f"{runtime}: at most {far} from the program on {parity['samples']} samples")
    if artifact.manifest["float_islands"]:
        say(f"in float, as in the program: {', '.join(artifact.manifest['float_islands'])}")
    print(f"wrote {artifact.path} ({format_quantity(artifact.file_bytes, 'bytes')})")


def _examples(program: Any) -> tuple[Any, ...]:
    """Noise in the shapes of the program's inputs, one sample where the batch is free."""
    import torch

    generator = torch.Generator().manual_seed(0)
    wanted = set(program.graph_signature.user_inputs)
    made = []
    for node in program.graph.nodes:
        if node.op != "placeholder" or node.name not in wanted:
            continue
        value = node.meta.get("val")
        if not isinstance(value, torch.Tensor):
            raise UsageError(f"the program takes {node.name}, which is no tensor; files take tensors alone")
        shape = [size if isinstance(size, int) else 1 for size in value.shape]
        if value.is_floating_point():
            made.append(torch.randn(shape, generator=generator).to(value.dtype))
        else:
            made.append(torch.zeros(shape, dtype=value.dtype))
    return tuple(made)


def _samples(data: str, examples: tuple[Any, ...]) -> tuple[Any, ...]:
    import torch

    from edgepress.deploy.verify.inputs import read_arrays

    path = Path(data)
    if path.suffix not in (".npz", ".npy") or not path.is_file():
        raise UsageError(f"--data {data} must be an .npz or .npy of a program's inputs")
    arrays = read_arrays(path)
    names = ["x"] if len(examples) == 1 else [f"x{index}" for index in range(len(examples))]
    missing = [name for name in names if name not in arrays]
    if missing:
        raise UsageError(f"{path} holds {', '.join(arrays) or 'nothing'}; the program takes {', '.join(names)}")
    found = []
    for name, example in zip(names, examples, strict=True):
        array = arrays[name]
        if array.shape[1:] != tuple(example.shape[1:]) or not len(array):
            raise UsageError(
                f"{path}: {name} has the shape {list(array.shape)}; the program takes [N, *{list(example.shape[1:])}]"
            )
        found.append(torch.from_numpy(array[:_SAMPLES].copy()).to(example.dtype))
    return tuple(found)
