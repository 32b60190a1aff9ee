# SPDX-License-Identifier: Apache-2.0
"""A lowered network and the C sources that are compiled for it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from string import Template

import numpy as np

import edgepress
from edgepress.deploy.firmware import emit
from edgepress.deploy.firmware.front_end import emit as front_ends
from edgepress.deploy.firmware.front_end.emit import FrontEnd
from edgepress.deploy.firmware.front_end.tables import NoFrontEnd
from edgepress.deploy.firmware.layout import Layout, lay_out
from edgepress.deploy.firmware.lowering.steps import KERNELS, Network
from edgepress.deploy.firmware.operators.lower import lower
from edgepress.models.errors import UsageError
from edgepress.models.tasks.front_ends.log_mel import LogMel

#: Kernels that every project is given; the linker leaves out what a network does not call.
KERNEL_HEADERS = (*front_ends.HEADERS, "ep_kernels.h", "ep_operators.h", "ep_arithmetic.h", "ep_vectors.h", "ep_wide.h")
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
    *front_ends.SOURCES,
    "ep_binary.c",
    "ep_reduce.c",
    "ep_resize.c",
    "ep_products.c",
    "ep_wide.c",
    "ep_lstm.c",
)


#: Kernels in which networks spend their time: compiled for speed (-O2), everything else for size (-Os).
HOT_SOURCES = tuple(name for name in KERNEL_SOURCES if name not in ("ep_move.c", "ep_softmax.c", "ep_binary.c"))
#: Without contraction, float operations (QUANTIZE, DEQUANTIZE) round as they are written.
EXACT = "-ffp-contract=off"


@dataclass(frozen=True)
class Firmware:
    """A lowered network with its layouts.

    Attributes:
        network: steps and constants.
        layouts: of the arena, by kind of kernels.
        name: prefix of its names in C.
        front_end: what it hears through, or None.
        deaf: why a definition of a front end that was given has no C; empty where it has.
    """

    network: Network
    layouts: Mapping[str, Layout]
    name: str
    front_end: FrontEnd | None = None
    deaf: str = ""


def firmware(model: str | Path | bytes, name: str = "model", front_end: LogMel | None = None) -> Firmware:
    """Lower a .tflite file and lay out its arenas.

    Args:
        model: the file or its bytes.
        name: prefix of its names in C.
        front_end: the definition of its features, whose C goes with it where it has one.

    Raises:
        UsageError: something in the file has no C, or `name` is no identifier of C.
    """
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) or name.startswith("ep_") or name.lower() in RESERVED:
        raise UsageError(
            f"{name!r} cannot name C source: use letters, digits and _, not starting with a digit or ep_, and no word "
            "of C or C++ or name of a standard header"
        )
    network = lower(model)
    heard, deaf = None, ""
    if front_end is not None:
        try:
            heard = front_ends.front_end_of(network, front_end)
        except NoFrontEnd as error:
            deaf = str(error)
    least = max(16, heard.scratch_bytes if heard else 0)
    return Firmware(network, {kernels: lay_out(network, kernels, least) for kernels in KERNELS}, name, heard, deaf)


#: Words of C and C++; headers of C libraries (glibc, newlib, picolibc), compilers and Arduino, which a folder of others
#: hides; targets and libraries of CMake and linkers. No model's files and functions can be called so.
RESERVED = frozenset(
    re.findall(
        r"\w+",
        """alignas alignof and asm auto bool break case catch char class compl concept const constexpr continue decltype
    default delete do double else enum explicit export extern false float for friend goto if import inline int long
    main module mutable namespace new not nullptr operator or private protected public register requires restrict
    return short signed sizeof static struct switch template this throw true try typedef typeid typename union unsigned
    using virtual void volatile while xor assert complex ctype errno fenv inttypes iso646 limits locale math memory
    setjmp signal stdalign stdarg stdatomic stdbool stddef stdint stdio stdlib stdnoreturn string strings tgmath
    threads time uchar unistd wchar wctype

    aio alloca ar argp argz byteswap cpio crypt devctl dirent dlfcn elf endian envlock envz err error execinfo fastmath
    fcntl features fmtmsg fnmatch form fstab fts ftw gcov getopt glob grp iconv ieeefp ifaddrs langinfo libgen libintl
    link malloc mntent monetary mqueue ndbm netdb newlib obstack paths picolibc poll printf pthread pty pwd quadmath
    reent regdef regex regexp resolv sched search semaphore semihost sgtty shadow spawn stab stdfix syscall sysexits
    syslimits syslog tar term termio termios ttyent ucontext ulimit unctrl unwind utime utmp values varargs wait wordexp
    arm_acle arm_mve arm_neon arduino print printable server stream udp client ipaddress wiring

    all c clean depend edit_cache ep example gcc help install m package rebuild_cache test uninstall""",
    )
)


def identifier(text: str) -> str:
    """A file's stem as a name in C that hides nothing: `main.tflite` gives model_main."""
    name = re.sub(r"\W", "_", text, flags=re.ASCII).strip("_").lower() or "model"
    return f"model_{name}" if name[0].isdigit() or name.startswith("ep_") or name in RESERVED else name


def sources(made: Firmware, origin: str, tflm_head_bytes: int | None = None) -> dict[str, str]:
    """File name -> text of everything that is compiled into a program."""
    network, name = made.network, made.name
    texts = kernels()
    texts[f"{name}.h"] = emit.header(network, name, made.layouts, origin, tflm_head_bytes)
    texts[f"{name}.c"] = emit.layers(network, name, made.layouts, kernels_digest())
    texts[f"{name}_weights.h"] = emit.weights_header(network, name)
    texts[f"{name}_weights.c"] = emit.weights(network, name)
    if made.front_end:
        texts[f"{name}_listen.h"] = front_ends.listen_header(made.front_end, name)
        texts[f"{name}_listen.c"] = front_ends.listen_source(made.front_end, name)
    return texts


def kernels() -> dict[str, str]:
    """File name -> text of the kernels, the same for every network, and of the header that says which they are."""
    texts = {file: template(file) for file in (*KERNEL_HEADERS, *KERNEL_SOURCES)}
    version = {"version": edgepress.__version__, "digest": kernels_digest()}
    return {**texts, "ep_version.h": Template(template("ep_version.h.template")).substitute(version)}


@cache
def kernels_digest() -> str:
    """Of all kernels, as a number of C: models of one program must have been generated for the same."""
    texts = "".join(template(file) for file in sorted((*KERNEL_HEADERS, *KERNEL_SOURCES)))
    return f"0x{sha256(texts.encode()).hexdigest()[:8]}"


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


_TEMPLATES = ("kernels", "operators", "front_end", "project", "cores")


def template(file: str) -> str:
    """The text of a file of deploy/firmware/templates, by its name."""
    folders = (files("edgepress.deploy.firmware") / "templates" / name for name in _TEMPLATES)
    return next(folder / file for folder in folders if (folder / file).is_file()).read_text(encoding="utf-8")


def compiled_sources(made: Firmware) -> tuple[str, ...]:
    """Names of the C files of a network, without any main."""
    listening = (f"{made.name}_listen.c",) if made.front_end else ()
    return (*KERNEL_SOURCES, f"{made.name}.c", f"{made.name}_weights.c", *listening)


def random_sample(network: Network, seed: int = 1) -> list[np.ndarray]:
    """One random input, each of the shape [1, *its own], int8 or float32."""
    generator = np.random.default_rng(seed)
    found: list[np.ndarray] = []
    for tensor in network.inputs:
        value = network.values[tensor]
        shape = (1, *value.shape)
        found.append(
            generator.integers(np.iinfo(value.dtype).min, np.iinfo(value.dtype).max + 1, shape, dtype=value.dtype)
            if value.dtype != "float32"
            else generator.standard_normal(shape).astype(np.float32)
        )
    return found
