# SPDX-License-Identifier: Apache-2.0
"""The C of a front end: NAME_listen.h and NAME_listen.c."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgepress.deploy.artifact import find_manifest
from edgepress.deploy.firmware.front_end.tables import NoFrontEnd, Tables, front_end_tables
from edgepress.deploy.firmware.lowering.constants import number_rows
from edgepress.deploy.firmware.lowering.steps import Network
from edgepress.deploy.firmware.operators.values import float_text
from edgepress.models.tasks.front_ends.front_end import read_front_end
from edgepress.models.tasks.front_ends.log_mel import LogMel

HEADERS = ("ep_log_mel.h",)
SOURCES = ("ep_log_mel.c", "ep_ear.c")
#: Lengths of clips that are tried, in tenths of a second: a network's input says how many frames, not how many samples.
_TENTHS = (10, *(10 * seconds for seconds in range(2, 61)), *range(1, 600))
_VALUE_BYTES = 4


@dataclass(frozen=True)
class FrontEnd:
    """What a network hears through.

    Attributes:
        config: the definition of training.
        clip_samples: of one decision.
        tables: its numbers.
    """

    config: LogMel
    clip_samples: int
    tables: Tables

    @property
    def scratch_bytes(self) -> int:
        """Of the arena, while a frame is computed."""
        return _VALUE_BYTES * (self.config.n_fft + self.config.n_mels)


def definition_of(path: str | Path) -> LogMel | None:
    """The log-mel front end that a file's manifest names, or None.

    Raises:
        UsageError: the manifest is damaged.
    """
    spec = (find_manifest(Path(path)) or {}).get("spec") or {}
    return log_mel_in(spec.get("front_end"))


def log_mel_in(definition: Mapping[str, Any] | None) -> LogMel | None:
    """The front end of a description, or None where it is none of sound."""
    found = read_front_end(definition)
    return found if isinstance(found, LogMel) else None


def front_end_of(network: Network, config: LogMel) -> FrontEnd:
    """The front end of a lowered network.

    Raises:
        NoFrontEnd: the network does not take what this definition gives, or the definition has no C.
    """
    if len(network.inputs) != 1:
        raise NoFrontEnd(f"the network has {len(network.inputs)} inputs, not one")
    value = network.values[network.inputs[0]]
    count = int(np.prod(value.shape))
    if value.dtype != "int8" or value.scale is None or value.zero_point is None:
        raise NoFrontEnd(f"the network takes {value.dtype}, not quantized int8")
    frames, rest = divmod(count, config.n_mels)
    bands_first = [size for size in (config.n_mels, frames) if size != 1]
    if rest or [size for size in value.shape if size != 1] != bands_first:
        raise NoFrontEnd(f"it gives [{config.n_mels} bands, frames] and the network takes {list(value.shape)}")
    samples = _clip_samples(config, frames)
    return FrontEnd(config, samples, front_end_tables(config, samples, value.scale, value.zero_point))


def _clip_samples(config: LogMel, frames: int) -> int:
    """A second where that gives so many frames, else the first of whole seconds and tenths, else the shortest clip."""
    rate = config.sample_rate_hz
    for tenths in _TENTHS:
        samples = rate * tenths // 10
        if samples - 1 > config.n_fft // 2 and config.frames(samples) == frames:
            return samples
    samples = max((frames - 1) * config.hop + 2, config.n_fft // 2 + 2)
    if config.frames(samples) != frames:
        raise NoFrontEnd(f"no clip gives {frames} frames of n_fft = {config.n_fft}")
    return samples


def listen_header(made: FrontEnd, name: str) -> str:
    """NAME_listen.h."""
    upper, config = name.upper(), made.config
    return f"""/* Sound goes in, classes come out: {name}'s log-mel front end and the network.
 *
 * {config.n_mels} bands from {config.fmin_hz:g} to {config.fmax_hz:g} Hz; a frame of {config.n_fft} samples every \
{config.hop}; {config.frames(made.clip_samples)} frames to a decision.
 */
#ifndef {upper}_LISTEN_H_
#define {upper}_LISTEN_H_

#include "{name}.h"
#include "ep_log_mel.h"

#define {upper}_SAMPLE_RATE_HZ {config.sample_rate_hz}
#define {upper}_CLIP_SAMPLES {made.clip_samples} /* heard for one decision */
#define {upper}_FRAMES {config.frames(made.clip_samples)}

#ifdef __cplusplus
extern "C" {{
#endif

/* What is remembered between calls: samples of the frames to come, a ring of frames. */
typedef struct {{
  ep_ear ear;
  ep_value history[{config.n_fft}];
  int8_t columns[{config.n_mels * config.frames(made.clip_samples)}];
}} {name}_ears;
#if EP_CALLER_ARENA
/* Ears of an instance from now on, all zeros before their first sample. Give them before anything else. */
void {name}_use_ears({name}_ears *memory);
#endif
/* Forget what was heard. every_frames = 0 (as before the first call): clips of {upper}_CLIP_SAMPLES, one after the
 * other, each as in training; otherwise a decision every so many frames about the last {upper}_FRAMES of them. */
void {name}_listen_start(int32_t every_frames);
/* Take any number of samples; frames are computed as they become complete. Gives output 0 of the network where a
 * decision fell (the last of several), else a null pointer. int16, or float in [-1, 1]: one of them per clip. */
const void *{name}_listen(const int16_t *samples, int32_t count);
const void *{name}_listen_float(const float *samples, int32_t count);

#ifdef __cplusplus
}}
#endif

#endif
"""


def listen_source(made: FrontEnd, name: str) -> str:
    """NAME_listen.c: the tables in both forms, what is remembered, and the functions of the header."""
    tables = made.tables
    lines = [f'#include "{name}_listen.h"', ""]
    for label, array in tables.shared.items():
        lines += _array("uint16_t", label, array.tolist())
    lines += ["#if EP_FIXED_POINT"]
    for label, array in tables.integers.items():
        lines += _array(f"{array.dtype.name}_t", label, array.tolist())
    lines += ["#else"]
    for label, array in tables.floats.items():
        lines += _array("float", label, [float_text(x) for x in array])
    lines += ["#endif", "", "static const ep_log_mel plan = {"]
    named = [*tables.shared, *tables.floats]
    lines += [f"    .{label} = {value}," for label, value in tables.numbers.items()]
    lines += [
        f"    .{label} = {label}{' + 1' if label == 'window' and tables.numbers['odd'] else ''}," for label in named
    ]
    lines += ["#if EP_FIXED_POINT"]
    lines += ["    .doublings = doublings,"]
    lines += [f"    .{label} = {value}," for label, value in tables.integer_numbers.items()]
    lines += ["#else"]
    lines += [f"    .{label} = {float_text(np.float32(value))}," for label, value in tables.float_numbers.items()]
    lines += ["#endif", "};", ""]
    lines += [
        "#if EP_CALLER_ARENA",
        f"static {name}_ears *ears;",
        f"void {name}_use_ears({name}_ears *memory) {{ ears = memory; }}",
        "#else",
        f"static {name}_ears own;",
        "#define ears (&own)",
        "#endif",
        "",
        f"void {name}_listen_start(int32_t every_frames) {{ ep_ear_start(&ears->ear, every_frames); }}",
        "",
        "static const void *decide(void) {",
        f"  ep_ear_input(&plan, &ears->ear, ears->columns, (int8_t *){name}_input(0));",
        f"  {name}_invoke();",
        f"  return {name}_output(0);",
        "}",
        "",
    ]
    for suffix, kind in (("", "int16_t"), ("_float", "float")):
        lines += [
            f"const void *{name}_listen{suffix}(const {kind} *samples, int32_t count) {{",
            "  const void *classes = (const void *)0;",
            "  while (count > 0) {",
            "    int32_t due;",
            f"    ep_value *const scratch = (ep_value *){name}_arena();",
            f"    const int32_t taken = ep_ear_hear{suffix}(",
            "        &plan, &ears->ear, ears->history, scratch, ears->columns, samples, count, &due);",
            "    samples += taken, count -= taken;",
            "    if (due) classes = decide();",
            "  }",
            "  return classes;",
            "}",
            "",
        ]
    return "\n".join(lines)


def _array(kind: str, label: str, values: list[int] | list[str]) -> list[str]:
    return [f"static const {kind} {label}[{len(values)}] EP_WEIGHTS_SECTION = {{", *number_rows(values), "};"]
