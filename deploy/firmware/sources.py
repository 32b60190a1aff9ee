# SPDX-License-Identifier: Apache-2.0
"""A lowered network and the C sources that are compiled for it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template

import numpy as np

from edgepress.deploy.firmware import emit
from edgepress.deploy.firmware.layout import Layout, lay_out
from edgepress.deploy.firmware.lowering.lower import lower
from edgepress.deploy.firmware.lowering.steps import KERNELS, Network
from edgepress.models.errors import UsageError

#: Kernels that every project is given; the linker leaves out what a network does not call.
KERNEL_HEADERS = ("ep_kernels.h", "ep_arithmetic.h", "ep_vectors.h")
KERNEL_SOURCES = (
    "ep_conv.c",
    "ep_conv_fast.c",
    "ep_conv_mve.c",
    "ep_depthwise_fast.c",
    "ep_depthwise_mve.c",
    "ep_elementwise.c",
    "ep_pool.c",
    "ep_move.c",
    "ep_softmax.c",
)


#: Kernels in which networks spend their time: compiled for speed (-O2), everything else for size (-Os).
HOT_SOURCES = tuple(name for name in KERNEL_SOURCES if name not in ("ep_move.c", "ep_softmax.c"))
#: Without contraction, float operations (QUANTIZE, DEQUANTIZE) round as they are written.
EXACT = "-ffp-contract=off"


@dataclass(frozen=True)
class Firmware:
    """A lowered network with its layouts.

    Attributes:
        network: steps and constants.
        layouts: of the arena, by kind of kernels.
        name: prefix of its names in C.
    """

    network: Network
    layouts: Mapping[str, Layout]
    name: str


def firmware(model: str | Path | bytes, name: str = "model") -> Firmware:
    """Lower a .tflite file and lay out its arenas.

    Raises:
        UsageError: something in the file has no kernel, or `name` is no identifier of C.
    """
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) or name.startswith("ep_") or name.lower() in RESERVED:
        raise UsageError(
            f"{name!r} cannot name C source: use letters, digits and _, not starting with a digit or ep_, and no word "
            "of C or C++ or name of a standard header"
        )
    network = lower(model)
    return Firmware(network, {kernels: lay_out(network, kernels) for kernels in KERNELS}, name)


#: Words of C and C++, and names of headers of the standard library: no model's files and functions can be called so.
RESERVED = frozenset(
    re.findall(
        r"\w+",
        """alignas alignof and asm auto bool break case catch char class compl concept const constexpr continue decltype
    default delete do double else enum explicit export extern false float for friend goto if import inline int long
    main module mutable namespace new not nullptr operator or private protected public register requires restrict
    return short signed sizeof static struct switch template this throw true try typedef typeid typename union unsigned
    using virtual void volatile while xor assert complex ctype errno fenv inttypes iso646 limits locale math memory
    setjmp signal stdalign stdarg stdatomic stdbool stddef stdint stdio stdlib stdnoreturn string strings tgmath
    threads time uchar unistd wchar wctype""",
    )
)


def identifier(text: str) -> str:
    """A file's stem as a name in C that hides nothing: `main.tflite` gives model_main."""
    name = re.sub(r"\W", "_", text, flags=re.ASCII).strip("_").lower() or "model"
    return f"model_{name}" if name[0].isdigit() or name.startswith("ep_") or name in RESERVED else name


def sources(made: Firmware, origin: str, tflm_head_bytes: int | None = None) -> dict[str, str]:
    """File name -> text of everything that is compiled into a program."""
    network, name = made.network, made.name
    texts = {file: template(file) for file in (*KERNEL_HEADERS, *KERNEL_SOURCES)}
    texts[f"{name}.h"] = emit.header(network, name, made.layouts, origin, tflm_head_bytes)
    texts[f"{name}.c"] = emit.layers(network, name, made.layouts)
    texts[f"{name}_weights.h"] = emit.weights_header(network, name)
    texts[f"{name}_weights.c"] = emit.weights(network, name)
    return texts


def host_main(made: Firmware) -> str:
    """A main that pipes samples through the network."""
    return substituted("host_main.c", made)


def switches(kernels: str) -> list[str]:
    """Options of the compiler that choose a kind of kernels.

    Raises:
        UsageError: no such kind.
    """
    if kernels not in KERNELS:
        raise UsageError(f"kernels = {kernels!r} is unknown: allowed are {', '.join(KERNELS)}")
    return [f"-D{name}={value}" for name, value in KERNELS[kernels].items()]


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
