# SPDX-License-Identifier: Apache-2.0
"""The C of a lowered network: layers, weights, and a header that states sizes, scales and shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from edgepress.deploy.firmware.layout import Layout
from edgepress.deploy.firmware.lowering.constants import LINE_WIDTH, number_rows
from edgepress.deploy.firmware.lowering.context import described
from edgepress.deploy.firmware.lowering.steps import FieldValue, Network, Step, Value, one_byte
from edgepress.deploy.firmware.operators.values import float_text

_C_TYPES = {name: f"{name}_t" for name in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32")} | {
    "float32": "float"
}
#: First line of every C file that is written, since it ends in the firmware of others.
LICENCE = "/* SPDX-License-Identifier: Apache-2.0 */\n"
#: Around declarations, so that C++ links what C compiled.
_FOR_CPP = (["#ifdef __cplusplus", 'extern "C" {', "#endif", ""], ["#ifdef __cplusplus", "}", "#endif", ""])


def header(network: Network, name: str, layouts: Mapping[str, Layout], source: str, tflm_head_bytes: int | None) -> str:
    """NAME.h."""
    upper = name.upper()
    head = "not measured here" if tflm_head_bytes is None else f"{tflm_head_bytes:,} bytes"
    arenas = ", ".join(f"{kernels} {layout.arena_bytes:,}" for kernels, layout in layouts.items())
    lines = [
        f"/* Generated from {source}: {network.operators} operators, {network.macs:,} multiply-accumulates.",
        " *",
        f" * Constants: {network.constant_bytes:,} bytes. Arena by kernels: {arenas} bytes;",
        f" * activations of TFLite Micro's arena (its head): {head}.",
        " *",
        f" * Write the inputs to {name}_input(i), call {name}_invoke(), read {name}_output(i).",
        " * The arena is reused: write every input before every call, read outputs before the next. Not reentrant.",
        " */",
        f"#ifndef {upper}_H_",
        f"#define {upper}_H_",
        "",
        '#include "ep_kernels.h"',
        '#include "ep_version.h"',
        "",
        *_by_kernels({k: [f"#define {upper}_ARENA_BYTES {layout.arena_bytes}"] for k, layout in layouts.items()}),
        f"#define {upper}_MACS {network.macs}",
        f"#define {upper}_LAYERS {len(network.steps)}",
        "",
    ]
    lines += _FOR_CPP[0]
    for side, tensors in (("INPUT", network.inputs), ("OUTPUT", network.outputs)):
        lines.append(f"#define {upper}_{side}S {len(tensors)}")
        for i, index in enumerate(tensors):
            lines += _port(network.values[index], f"{upper}_{side}_{i}")
        lines.append("")
    lines += [
        f"/* Place of input i: {_types(network, network.inputs)}. */",
        f"void *{name}_input(int32_t i);",
        f"/* Place of output i: {_types(network, network.outputs)}. */",
        f"const void *{name}_output(int32_t i);",
        f"void {name}_invoke(void);",
        *_reset_declared(network, name),
        "#if EP_CHECK",
        "/* After each layer, of its output; 0 where that is not whole yet. */",
        f"extern uint32_t {name}_checksums[{upper}_LAYERS];",
        "#endif",
        "/* The arena, aligned to 8 bytes: anyone's between the reading of outputs and the writing of inputs. */",
        f"void *{name}_arena(void);",
        "#if EP_CALLER_ARENA",
        f"/* Memory of {upper}_ARENA_BYTES, aligned to 8 bytes, from now on: several models can share it, each for the",
        " * time from its inputs to its outputs, and every instance of a model has its own. Give it first. */",
        f"void {name}_use_arena(void *memory);",
        "#endif",
        "",
        *_FOR_CPP[1],
        "#endif",
        "",
    ]
    return "\n".join(lines)


def _reset_declared(network: Network, name: str) -> list[str]:
    if not network.states:
        return []
    return [
        "/* What came before is forgotten: variables begin anew. */",
        f"#define {name.upper()}_VARIABLES {len(network.states)}",
        f"void {name}_reset(void);",
    ]


def _types(network: Network, tensors: Sequence[int]) -> str:
    return ", ".join(f"{_C_TYPES[network.values[t].dtype]} {list(network.values[t].shape)}" for t in tensors)


def _port(value: Value, prefix: str) -> list[str]:
    lines = [
        f"#define {prefix}_SHAPE {{{', '.join(map(str, value.shape))}}} /* {_comment(value.name)}, {value.dtype} */",
        f"#define {prefix}_BYTES {value.size_bytes}",
    ]
    if value.scale is not None:
        lines += [
            f"#define {prefix}_SCALE {float_text(np.float32(value.scale))} /* real = scale * (stored - zero) */",
            f"#define {prefix}_ZERO ({value.zero_point})",
        ]
    return lines


def _comment(text: str) -> str:
    """A name from a file, made harmless inside of a comment."""
    return "".join(c if c.isalnum() or c in " _-.:;,()[]" else "_" for c in text)[:60]


def layers(network: Network, name: str, layouts: Mapping[str, Layout], digest: str) -> str:
    """NAME.c: one function for each step, with its structure beside it; `digest` is that of its kernels."""
    upper = name.upper()
    out = [
        f'#include "{name}.h"',
        "",
        "#include <string.h>",
        "",
        '#include "ep_operators.h"',
        f'#include "{name}_weights.h"',
        "",
        "/* Layers stay functions of their own, so that a debugger and a profiler see them. */",
        "#if defined(__GNUC__)",
        "#define LAYER static __attribute__((noinline)) void",
        "#else",
        "#define LAYER static void",
        "#endif",
        "",
        f"#if EP_KERNELS_DIGEST != {digest}u",
        f'#error "{name} was generated for other kernels: export all models with one version of edgepress"',
        "#endif",
        "",
        "#if EP_CALLER_ARENA",
        "static int8_t *arena;",
        f"void {name}_use_arena(void *memory) {{ arena = (int8_t *)memory; }}",
        "#else",
        "/* The union gives the arena the alignment of everything that is ever in it. */",
        "static union {",
        f"  int8_t bytes[{upper}_ARENA_BYTES];",
        f"  float floats[{upper}_ARENA_BYTES / 4];",
        f"  int64_t words[{upper}_ARENA_BYTES / 8];",
        f"  void *pointers[{upper}_ARENA_BYTES / sizeof(void *)];",
        "} own EP_ARENA_SECTION;",
        "#define arena own.bytes",
        "#endif",
        "",
        "/* Offsets of tensors (T, by number in the file) and of scratch (S, by layer). */",
        *_by_kernels({kernels: _offsets(network, layout) for kernels, layout in layouts.items()}),
        "",
    ]
    out += _states(network, name)
    for number, step in enumerate(network.steps):
        out += _layer(network, name, number, step)
    for side, tensors, kind in (("input", network.inputs, ""), ("output", network.outputs, "const ")):
        out.append(f"{kind}void *{name}_{side}(int32_t i) {{")
        for i, tensor in enumerate(tensors[:-1]):
            out.append(f"  if (i == {i}) return {_place(network, name, tensor)};")
        out += ["  (void)i;", f"  return {_place(network, name, tensors[-1])};", "}", ""]
    out += [f"void *{name}_arena(void) {{ return arena; }}", ""]
    out += [
        "#if EP_CHECK",
        f"uint32_t {name}_checksums[{upper}_LAYERS];",
        f"#define CHECK(layer, output, bytes) {name}_checksums[layer] = ep_checksum(output, bytes);",
        "#else",
        "#define CHECK(layer, output, bytes)",
        "#endif",
        "",
        f"void {name}_invoke(void) {{",
    ]
    out += ["  if (!ready) " + f"{name}_reset();"] if network.states else []
    for number, step in enumerate(network.steps):
        out.append(f"  {layer_name(number, step)}();")
        if completes(network, number):
            size = network.values[network.home(step.output)].size_bytes
            out.append(f"  CHECK({number}, {_place(network, name, step.output)}, {size})")
    return "\n".join([*out, "}", ""])


def completes(network: Network, number: int) -> bool:
    """Whether a step leaves a whole tensor behind: what is filled part by part is whole after the last."""
    home = network.home(network.steps[number].output)
    for step in network.steps[number + 1 :]:
        if home in {network.home(t) for t in step.inputs}:
            return True
        if network.home(step.output) == home:
            return False
    return True


def _states(network: Network, name: str) -> list[str]:
    """What outlives an inference, and how it begins."""
    if not network.states:
        return []
    lines, begin, at = [], [], 0
    for number, values in network.states.items():
        lines.append(f"#define V{number} {at} /* {described(network.values[number].shape)} */")
        place = f"state.bytes + V{number}"
        begin.append(
            f"  memset({place}, {values.tobytes()[0]}, {values.nbytes});"
            if one_byte(values)
            else f"  memcpy({place}, {name}_state_{number}, {values.nbytes});"
        )
        at += -(-values.nbytes // 8) * 8
    return [
        "/* Variables, which outlive an inference. */",
        *lines,
        "static union {",
        f"  int8_t bytes[{at}];",
        f"  int64_t words[{at} / 8];",
        "} state;",
        "static int ready;",
        "",
        f"void {name}_reset(void) {{",
        *begin,
        "  ready = 1;",
        "}",
        "",
    ]


def layer_name(number: int, step: Step) -> str:
    """Name of a layer's function."""
    return f"layer_{number:02d}_{step.code.lower()}" + ("_fill" if step.kernel == "ep_fill" else "")


def _by_kernels(lines: Mapping[str, Sequence[str]]) -> list[str]:
    """Lines of C that hold for one kind of kernels each."""
    cases = (("#if EP_MVE", "mve"), ("#elif EP_DSP", "dsp"), ("#elif EP_FAST", "tiled"), ("#else", "plain"))
    return [line for start, kernels in cases for line in (start, *lines[kernels])] + ["#endif"]


def _offsets(network: Network, layout: Layout) -> list[str]:
    lines = [
        f"#define T{tensor} {offset} /* {described(network.values[tensor].shape)} */"
        for tensor, offset in sorted(layout.offsets.items())
    ]
    return lines + [f"#define S{number} {offset}" for number, offset in sorted(layout.scratch.items())]


def _layer(network: Network, name: str, number: int, step: Step) -> list[str]:
    macs = f", {step.macs:,} MACs" if step.macs else ""
    out = [f"/* {step.operator}: {step.code} {step.summary}{macs} */", f"LAYER {layer_name(number, step)}(void) {{"]
    arguments = [f"{name}_{a}_{number}" if a in step.arrays else a for a in step.arguments]
    if step.structure:
        out += [f"  static const {step.structure} layer = {{", *_fields(step, name, number), "  };"]
        arguments = ["&layer"]
    pointers = [_place(network, name, tensor) for tensor in step.inputs]
    target = _place(network, name, step.output)
    arguments += [*pointers, target]
    call = f"  {step.kernel}({', '.join(arguments)});"
    if step.fast_kernel:
        scratch = f"arena + S{number}" if step.scratch_bytes else "(void *)0"
        fast_call = f"  {step.fast_kernel}({', '.join([*arguments, scratch])});"
        return [*out, "#if EP_FAST", fast_call, "#else", call, "#endif", "}", ""]
    if step.scratch_bytes:
        call = f"  {step.kernel}({', '.join([*arguments, f'arena + S{number}'])});"
    return [*out, call, "}", ""]


def _place(network: Network, name: str, tensor: int) -> str:
    home = network.home(tensor)
    value = network.values[home]
    if value.data is not None:
        return f"{name}_tensor_{home}"
    place = f"state.bytes + V{home}" if home in network.states else f"arena + T{home}"
    return place if value.dtype == "int8" else f"(void *)({place})"


def _fields(step: Step, name: str, number: int) -> list[str]:
    parts = [f".{field} = {_field(value, step, name, number)}" for field, value in step.fields.items()]
    lines, line = [], "   "
    for part in parts:
        if len(line) + len(part) + 2 > LINE_WIDTH:
            lines.append(line)
            line = "   "
        line += f" {part},"
    return [*lines, line]


def _field(value: FieldValue, step: Step, name: str, number: int) -> str:
    if isinstance(value, str):
        return f"{name}_{value}_{number}"
    if isinstance(value, tuple):
        return "{" + ", ".join(map(str, value)) + "}"
    return str(value)


def arrays(network: Network, name: str) -> list[tuple[str, np.ndarray]]:
    """Every constant array: name in C, values."""
    found = [
        (f"{name}_{label}_{number}", array)
        for number, step in enumerate(network.steps)
        for label, array in step.arrays.items()
    ]
    used = sorted(
        {network.home(t) for step in network.steps for t in step.inputs} | {network.home(t) for t in network.outputs}
    )
    for tensor in used:
        data = network.values[tensor].data
        if data is not None:
            found.append((f"{name}_tensor_{tensor}", data))
    return found + [(f"{name}_state_{i}", v) for i, v in network.states.items() if not one_byte(v)]


def weights_header(network: Network, name: str) -> str:
    """NAME_weights.h."""
    upper = name.upper()
    lines = [
        f"/* Constants of {name}.c; the number is the layer's. */",
        f"#ifndef {upper}_WEIGHTS_H_",
        f"#define {upper}_WEIGHTS_H_",
        "",
        "#include <stdint.h>",
        "",
    ]
    lines += _FOR_CPP[0]
    lines += [f"extern {declared(label, array)};" for label, array in arrays(network, name)]
    return "\n".join([*lines, "", *_FOR_CPP[1], "#endif", ""])


def weights(network: Network, name: str) -> str:
    """NAME_weights.c."""
    lines = [f'#include "{name}_weights.h"', "", '#include "ep_version.h"', ""]
    for label, array in arrays(network, name):
        numbers = array.reshape(-1).tolist()
        lines += [
            f"{declared(label, array)} EP_WEIGHTS_SECTION = {{",
            *number_rows(numbers, array.dtype == np.uint32),
            "};",
            "",
        ]
    return "\n".join(lines)


def declared(label: str, array: np.ndarray) -> str:
    return f"const {_C_TYPES[array.dtype.name]} {label}[{array.size}]"


def write_sources(folder: Path, texts: dict[str, str]) -> None:
    """Write files into a folder and those within; C says under which licence it is."""
    for file, text in texts.items():
        licensed = text if text.startswith(LICENCE) or Path(file).suffix not in (".c", ".h") else LICENCE + text
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(licensed, encoding="utf-8")
