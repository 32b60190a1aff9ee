# SPDX-License-Identifier: Apache-2.0
"""What the example of a project shows: a recording (or an input) in flash, and the label that must come out."""

from __future__ import annotations

import io
import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgepress.deploy.firmware.front_end.emit import FrontEnd
from edgepress.deploy.firmware.listening import HostEar
from edgepress.deploy.firmware.lowering.constants import number_rows
from edgepress.deploy.firmware.sources import Firmware, template
from edgepress.deploy.firmware.vectors import Vectors
from edgepress.models.errors import EdgepressError


@dataclass(frozen=True)
class Example:
    """The files of an example beside its main program.

    Attributes:
        files: name -> text of C, which any of the build systems compiles.
        source: where the recording or input comes from.
    """

    files: dict[str, str]
    source: str


def audio_example(made: Firmware, front_end: FrontEnd, data: str | None, trust: bool) -> Example:
    """A WAV file in flash through NAME_listen()."""
    samples, source = _recording(front_end, data, trust)
    try:
        with HostEar(made) as ear:
            decision = ear.hear(samples).decisions[0]
        expected: int | None = int(decision.reshape(-1)[-_classes(made) :].argmax())
    except EdgepressError:
        expected = None
    words = np.frombuffer(_wav(samples, front_end.config.sample_rate_hz), "<i2")
    body = f"""  const int16_t *samples;
  const int32_t count = wav_samples(recording, (int32_t)sizeof recording, {made.name.upper()}_SAMPLE_RATE_HZ, &samples);
  const void *output = NULL;
  {made.name}_listen_start(0);
  for (int32_t at = 0; at < count; at += 256) {{ /* in pieces, as a microphone gives them */
    const void *const heard = {made.name}_listen(samples + at, count - at < 256 ? count - at : 256);
    if (heard != NULL) output = heard;
  }}
  return output == NULL ? -1 : {made.name}_winner(output);"""
    text = _text(
        made, body, expected, [f'#include "{made.name}_listen.h"', '#include "recording.h"', '#include "wav.h"']
    )
    array = [
        f"/* A WAV file, two bytes in a number: {source}. */",
        "#include <stdint.h>",
        "",
        f"static const int16_t recording[{len(words)}] = {{",
        *number_rows(words.tolist()),
        "};",
        "",
    ]
    return Example({**text, "recording.h": "\n".join(array), "wav.h": template("wav.h")}, source)


def input_example(made: Firmware, vectors: Vectors | None) -> Example:
    """The first test vector through NAME_invoke()."""
    name, upper = made.name, made.name.upper()
    if vectors is None:
        return Example(
            _text(made, f"  {name}_invoke();\n  return {name}_winner({name}_output(0));", None, []), "nothing"
        )
    expected = int(vectors.outputs[0][0].reshape(-1)[-_classes(made) :].argmax())
    copied = [
        f"  memcpy({name}_input({i}), {name}_test_input_{i}, {upper}_INPUT_{i}_BYTES);"
        for i in range(len(made.network.inputs))
    ]
    body = "\n".join([*copied, f"  {name}_invoke();", f"  return {name}_winner({name}_output(0));"])
    includes = ["#include <string.h>", f'#include "{name}_test_vector.h"']
    return Example(_text(made, body, expected, includes), vectors.source)


def _classes(made: Firmware) -> int:
    shape = made.network.values[made.network.outputs[0]].shape
    return shape[-1] if shape else 1


def _text(made: Firmware, body: str, expected: int | None, includes: list[str]) -> dict[str, str]:
    name = made.name
    header = f"""/* The label of what lies in flash. */
#ifndef LABEL_H_
#define LABEL_H_

#include <stdint.h>

#include "{name}_classes.h"

/* The class that generated C gave for it on the machine that made this; -1 where it could not be run there. */
#define EXPECTED_CLASS ({-1 if expected is None else expected})

#ifdef __cplusplus
extern "C" {{
#endif

int32_t found_class(void);

#ifdef __cplusplus
}}
#endif

#endif
"""
    lines = ['#include "label.h"', "", "#include <stddef.h>", "", *includes, ""]
    return {"label.h": header, "label.c": "\n".join([*lines, "int32_t found_class(void) {", body, "}", ""])}


def _recording(front_end: FrontEnd, data: str | None, trust: bool) -> tuple[np.ndarray, str]:
    """int16 [clip_samples]: the first test clip of the data where they have sound, else a chirp in noise."""
    if data is not None and Path(data).suffix not in (".npz", ".npy"):
        from edgepress.models.tasks.sources.load import load_task

        task = load_task(data, front_end=front_end.config, trust=trust)
        if task.read_waveforms is not None:
            clip = np.asarray(task.waveforms("test")[0])[: front_end.clip_samples]
            if clip.dtype != np.int16:
                clip = np.clip(np.round(clip * 32768), -32768, 32767).astype(np.int16)
            return clip, f"a test recording of {task.name}, {task.split('test').names[0]}".replace("*/", "")
    rng, t = np.random.default_rng(0), np.arange(front_end.clip_samples) / front_end.config.sample_rate_hz
    chirp = 0.3 * np.sin(2 * np.pi * (300 + 400 * t) * t) + 0.02 * rng.normal(size=len(t))
    return np.round(chirp * 32767).astype(np.int16), "a chirp in noise"


def _wav(samples: np.ndarray, rate: int) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.astype("<i2").tobytes())
    return buffer.getvalue()
