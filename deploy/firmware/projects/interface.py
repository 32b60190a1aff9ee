# SPDX-License-Identifier: Apache-2.0
"""NAME_classes.h and .c: floats in and out of a network's integers, names of its classes, the one that wins."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgepress.deploy.firmware.lowering.steps import Value
from edgepress.deploy.firmware.operators.values import float_text
from edgepress.deploy.firmware.sources import Firmware

_C_TYPES = {"int8": "int8_t", "int16": "int16_t", "float32": "float"}


def class_names(made: Firmware, classes: Sequence[str]) -> tuple[str, ...]:
    """One for each value of output 0: those of the checkpoint where their number fits, else numbers."""
    count = made.network.values[made.network.outputs[0]].shape[-1:]
    known = count[0] if count else 1
    return tuple(classes) if len(classes) == known else tuple(map(str, range(known)))


def interface_header(made: Firmware, names: Sequence[str]) -> str:
    """NAME_classes.h."""
    name, upper, network = made.name, made.name.upper(), made.network
    lines = [
        f"/* Real numbers for {name}, and what its outputs mean. */",
        f"#ifndef {upper}_CLASSES_H_",
        f"#define {upper}_CLASSES_H_",
        "",
        f'#include "{name}.h"',
        "",
        f"#define {upper}_CLASSES {len(names)}",
        "",
        "#ifdef __cplusplus",
        'extern "C" {',
        "#endif",
        "",
    ]
    for i, tensor in enumerate(network.inputs):
        if network.values[tensor].dtype in _C_TYPES:
            lines += [
                f"/* Round {_count(network.values[tensor])} real numbers to input {i}. */",
                f"void {name}_set_input_{i}(const float *values);",
            ]
    for i, tensor in enumerate(network.outputs):
        if network.values[tensor].dtype in _C_TYPES:
            lines += [
                f"/* Output {i} as {_count(network.values[tensor])} real numbers. */",
                f"void {name}_get_output_{i}(float *values);",
            ]
    lines += [
        "/* The class with the largest of the last values of output 0, from 0, and the name of a class. */",
        f"int32_t {name}_winner(const void *output);",
        f"const char *{name}_label(int32_t index);",
        "",
        "#ifdef __cplusplus",
        "}",
        "#endif",
        "",
        "#endif",
        "",
    ]
    return "\n".join(lines)


def interface_source(made: Firmware, names: Sequence[str]) -> str:
    """NAME_classes.c."""
    name, upper, network = made.name, made.name.upper(), made.network
    lines = [f'#include "{name}_classes.h"', "", "#include <string.h>", "", '#include "ep_operators.h"', ""]
    for i, tensor in enumerate(network.inputs):
        value = network.values[tensor]
        if value.dtype in _C_TYPES:
            lines.append(f"void {name}_set_input_{i}(const float *values) {{")
            lines += [f"  {_to_integers(value, 'values', f'{name}_input({i})')};", "}", ""]
    for i, tensor in enumerate(network.outputs):
        value = network.values[tensor]
        if value.dtype in _C_TYPES:
            lines.append(f"void {name}_get_output_{i}(float *values) {{")
            lines += [f"  {_to_reals(value, f'{name}_output({i})', 'values')};", "}", ""]
    first = network.values[network.outputs[0]]
    kind = _C_TYPES.get(first.dtype, f"{first.dtype}_t")
    start = _count(first) - len(names)
    lines += [
        f"int32_t {name}_winner(const void *output) {{",
        f"  const {kind} *const values = (const {kind} *)output{f' + {start}' if start else ''};",
        "  int32_t best = 0;",
        f"  for (int32_t i = 1; i < {upper}_CLASSES; ++i)",
        "    if (values[i] > values[best]) best = i;",
        "  return best;",
        "}",
        "",
        f"const char *{name}_label(int32_t index) {{",
        f"  static const char *const labels[{upper}_CLASSES] = {{",
        *(f"      {_text(label)}," for label in names),
        "  };",
        f'  return index >= 0 && index < {upper}_CLASSES ? labels[index] : "";',
        "}",
        "",
    ]
    return "\n".join(lines)


def _count(value: Value) -> int:
    return int(np.prod(value.shape))


def _to_integers(value: Value, source: str, target: str) -> str:
    if value.dtype == "float32":
        return f"memcpy({target}, {source}, {value.size_bytes})"
    return _converted("ep_quantize", value, source, f"({_C_TYPES[value.dtype]} *){target}")


def _to_reals(value: Value, source: str, target: str) -> str:
    if value.dtype == "float32":
        return f"memcpy({target}, {source}, {value.size_bytes})"
    return _converted("ep_dequantize", value, f"(const {_C_TYPES[value.dtype]} *){source}", target)


def _converted(kernel: str, value: Value, source: str, target: str) -> str:
    scale = float_text(np.float32(1.0 if value.scale is None else value.scale))
    zero = "" if value.dtype == "int16" else f"{value.zero_point or 0}, "
    return f"{kernel}{'_16' if value.dtype == 'int16' else ''}({scale}, {zero}{_count(value)}, {source}, {target})"


def _text(label: str) -> str:
    """A string of C: what is no plain ASCII becomes octal bytes of UTF-8, which end after three digits."""
    plain = "".join(chr(b) if 32 <= b < 127 and chr(b) not in '"\\?' else f"\\{b:03o}" for b in label.encode())
    return f'"{plain}"'
