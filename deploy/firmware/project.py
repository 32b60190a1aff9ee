"""The folder of C sources that `deploy export --format c-inference` makes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template

import numpy as np

from edgepress.deploy.firmware import emit
from edgepress.deploy.firmware.layout import Layout, lay_out
from edgepress.deploy.firmware.lowering.lower import lower
from edgepress.deploy.firmware.lowering.steps import Network
from edgepress.models.atomic import new_directory
from edgepress.models.errors import EdgepressError, UsageError

#: Kernels that every project is given; the linker leaves out what a network does not call.
KERNEL_HEADERS = ("ep_kernels.h", "ep_arithmetic.h")
KERNEL_SOURCES = ("ep_conv.c", "ep_conv_fast.c", "ep_elementwise.c", "ep_pool.c", "ep_move.c", "ep_softmax.c")


#: Kernels in which networks spend their time: compiled for speed (-O2), everything else for size (-Os).
HOT_SOURCES = ("ep_conv.c", "ep_conv_fast.c", "ep_elementwise.c", "ep_pool.c")
#: Without contraction, float operations (QUANTIZE, DEQUANTIZE) round as they are written.
EXACT = "-ffp-contract=off"


@dataclass(frozen=True)
class Firmware:
    """A lowered network with its layouts.

    Attributes:
        network: steps and constants.
        plain, fast: layout of the arena with either kind of kernels.
        name: prefix of its names in C.
    """

    network: Network
    plain: Layout
    fast: Layout
    name: str


def firmware(model: str | Path | bytes, name: str = "model") -> Firmware:
    """Lower a .tflite file and lay out its arenas.

    Raises:
        UsageError: something in the file has no kernel, or `name` is no identifier of C.
    """
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) or name.startswith("ep_"):
        raise UsageError(f"{name!r} cannot name C source: use letters, digits and _, not starting with a digit or ep_")
    network = lower(model)
    return Firmware(network, lay_out(network, fast=False), lay_out(network, fast=True), name)


def identifier(text: str) -> str:
    """A file's stem as a name in C."""
    name = re.sub(r"\W", "_", text, flags=re.ASCII).strip("_").lower() or "model"
    return f"model_{name}" if name[0].isdigit() or name.startswith("ep_") else name


def sources(made: Firmware, origin: str, tflm_head_bytes: int | None = None) -> dict[str, str]:
    """File name -> text of everything that is compiled into a program."""
    network, name = made.network, made.name
    texts = {file: template(file) for file in (*KERNEL_HEADERS, *KERNEL_SOURCES)}
    texts[f"{name}.h"] = emit.header(network, name, made.plain, made.fast, origin, tflm_head_bytes)
    texts[f"{name}.c"] = emit.layers(network, name, made.plain, made.fast)
    texts[f"{name}_weights.h"] = emit.weights_header(network, name)
    texts[f"{name}_weights.c"] = emit.weights(network, name)
    return texts


def host_main(made: Firmware) -> str:
    """A main that pipes samples through the network."""
    return substituted("host_main.c", made)


def substituted(file: str, made: Firmware, **more: str) -> str:
    """A template with the names and sizes of a network."""
    values = made.network.values
    return Template(template(f"{file}.template")).substitute(
        name=made.name,
        upper=made.name.upper(),
        **more,
        input_bytes=", ".join(str(values[t].size_bytes) for t in made.network.inputs),
        output_bytes=", ".join(str(values[t].size_bytes) for t in made.network.outputs),
    )


def template(file: str) -> str:
    """The text of a file of deploy/firmware/templates, by its name."""
    folders = (files("edgepress.deploy.firmware") / "templates" / name for name in ("kernels", "project", "cores"))
    return next(folder / file for folder in folders if (folder / file).is_file()).read_text(encoding="utf-8")


def compiled_sources(made: Firmware) -> tuple[str, ...]:
    """Names of the C files of a network, without any main."""
    return (*KERNEL_SOURCES, f"{made.name}.c", f"{made.name}_weights.c")


def write_project(
    model: str | Path, folder: str | Path, *, name: str | None = None, overwrite: bool = False
) -> Firmware:
    """Write a folder with sources, CMakeLists.txt, an example main and a test vector.

    Args:
        model: a .tflite file.
        folder: to make.
        name: prefix of its names in C; None takes the file's.
        overwrite: replace an existing folder.

    Raises:
        UsageError: something in the file has no kernel (nothing is written then), or the folder exists.
    """
    path = Path(model)
    made = firmware(path, name or identifier(path.stem))
    vector, head = _reference(path)
    texts = sources(made, path.name, head)
    texts["CMakeLists.txt"] = substituted(
        "CMakeLists.txt", made, sources=" ".join(compiled_sources(made)), hot=" ".join(HOT_SOURCES)
    )
    if vector is None:
        vector = _own_vector(made)
    if vector is not None:
        inputs, outputs, origin = vector
        texts[f"{made.name}_test_vector.h"] = _test_vector(made, inputs, outputs, origin)
        texts["main.c"] = _example(made)
    with new_directory(folder, overwrite=overwrite) as draft:
        emit.write_sources(draft, texts)
    return made


Vector = tuple[Sequence[np.ndarray], Sequence[np.ndarray], str]


def random_sample(network: Network, seed: int = 1) -> list[np.ndarray]:
    """One random input, each of the shape [1, *its own], int8 or float32."""
    generator = np.random.default_rng(seed)
    found: list[np.ndarray] = []
    for tensor in network.inputs:
        value = network.values[tensor]
        shape = (1, *value.shape)
        found.append(
            generator.integers(-128, 128, shape, dtype=np.int8)
            if value.dtype == "int8"
            else generator.standard_normal(shape).astype(np.float32)
        )
    return found


def _reference(path: Path) -> tuple[Vector | None, int | None]:
    """A test vector from TFLite Micro, and the head of its arena; nothing where it does not run here."""
    from edgepress.deploy.runtimes.sessions import open_session

    network = lower(path)
    if any(network.values[t].shape[:1] != (1,) for t in network.inputs):
        return None, None
    inputs = [sample[0] for sample in random_sample(network)]
    try:
        with open_session(path, "tflm") as session:
            outputs = session.run_integer(*inputs)
            outputs = outputs if isinstance(outputs, tuple) else (outputs,)
            return (inputs, outputs, "TFLite Micro"), session.arena_bytes().get("head")
    except EdgepressError:
        return None, None


def _own_vector(made: Firmware) -> Vector | None:
    """A test vector of this very C, compiled here: it shows that another compiler gives the same."""
    from edgepress.deploy.firmware.host import HostProgram

    inputs = random_sample(made.network)
    try:
        with HostProgram(made) as program:
            return inputs, program.run(inputs), "this C, compiled on a host"
    except EdgepressError:
        return None


def _test_vector(made: Firmware, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray], origin: str) -> str:
    lines = [f"/* A random input and the output that {origin} gives for it. */", "#include <stdint.h>", ""]
    for side, arrays in (("input", inputs), ("output", outputs)):
        for i, array in enumerate(arrays):
            declared = emit.declared(f"{made.name}_test_{side}_{i}", array).removeprefix("const ")
            lines += [f"static const {declared} = {{", *emit.number_rows(array.reshape(-1).tolist()), "};"]
    return "\n".join([*lines, ""])


def _example(made: Firmware) -> str:
    name, upper = made.name, made.name.upper()
    given = [
        f"  memcpy({name}_input({i}), {name}_test_input_{i}, {upper}_INPUT_{i}_BYTES);\n"
        for i in range(len(made.network.inputs))
    ]
    checked = [
        f"  wrong |= memcmp({name}_output({i}), {name}_test_output_{i}, {upper}_OUTPUT_{i}_BYTES) != 0;\n"
        for i in range(len(made.network.outputs))
    ]
    return substituted("main.c", made, set_inputs="".join(given), check_outputs="".join(checked))
