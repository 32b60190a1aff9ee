# SPDX-License-Identifier: Apache-2.0
"""docs/integers.md, made from the files of `integer_accuracy` and `integer_files`.

`python -m edgepress.benchmarks.experiments.integers.page` writes it anew from benchmarks/results.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from edgepress.benchmarks.experiments.integers import accuracy as integer_accuracy
from edgepress.benchmarks.experiments.integers import files as integer_files
from edgepress.benchmarks.experiments.integers.tables import accuracy_tables, peer_tables
from edgepress.models.atomic import write_text

RESULTS = Path(__file__).parents[2] / "results"
ACCURACY, PEERS = RESULTS / "integers.json", RESULTS / "integer_peers.json"
PAGE = Path(__file__).parents[3] / "docs" / "integers.md"
#: Whose versions the page gives.
_TOOLS = (
    "torch",
    "litert-torch",
    "ai-edge-quantizer",
    "ai-edge-litert",
    "tflite-micro",
    "onnxruntime",
    "onnx2tf",
    "tensorflow",
)
_TEXT = """# Integers

One set of integer parameters feeds fake quantization, the TFLite file and the ONNX file (see conventions.md); what the
runtimes make of it is measured here. This page is made from `benchmarks/results` by `python -m
edgepress.benchmarks.experiments.integers.page`; a test holds the two together.

## Ways to integers
```
compress quantize                               # calibrate: mean squared error of the ranges, bias correction
compress quantize --qat --epochs 4              # train under the rounding, from there; the float network is the teacher
compress quantize --sensitivity                 # what each layer costs, as table, SVG and JSON
compress quantize --float head --a16w8 stem     # a layer in float, another with 16-bit activations
deploy export --format tflite && deploy verify --layers
deploy export --format onnx                     # u8u8: activations and weights as uint8, right on every CPU
deploy export --format onnx --onnx-integers u8s8  # the same values with int8 weights: faster on x86 with VNNI
```
In training, ranges are learned with the weights (LSQ+) for 60 % of all steps and stand still for the rest. Batch norm
is folded before, as the exporter folds it. The epoch with the least log loss on the validation split is kept.

## Known departures
- ONNX Runtime's kernels for x86 without VNNI (Intel before Ice Lake, AMD before Zen 4, many CI runners) add two
  products with int8 weights in saturating 16 bits: files of s8s8 and u8s8, quantize_static's default among them, depart
  there by up to tens of steps, most in dense layers. Ours are u8u8 unless asked; the comparison below was made on a
  processor with VNNI before that, with s8s8 (the default then) and u8s8.
- XNNPACK and ONNX Runtime scale the sum of a convolution in float32 and round once, as fake quantization does: they
  differ where a product lies within float32's own error of a half. LiteRT's reference kernels and TFLite Micro multiply
  by a 31-bit number, round, shift by n bits and round again (`SaturatingRoundingDoublingHighMul`, then
  `RoundingDivideByPOT`): what lies less than 2^-(n+1) of a step below a half is rounded up. With the usual n = 8 that
  is one value of 512 in every layer, whatever the ranges are.
- One value that differs moves sums behind it across a half, and so on: with depth, two runtimes come to differ by a
  part of the rounding noise which each of them has at the logits. So the logits of a network that amplifies little
  noise agree. CP-Mobile, with 21 convolutions and 12 roundings of response norms, has more of it than a CP-ResNet.
- `deploy verify --layers` gives, beside the differences of each layer, those of the layer by itself: fake quantization
  gets what the runtime computed before it.
- 1 / sqrt of response norms is an integer approximation on LiteRT (XNNPACK leaves it to the reference kernels) and on
  TFLite Micro: some of its 32,768 steps off, more where a channel is weak and its norm counts little.
- MEAN on LiteRT's reference kernels and on TFLite Micro rounds twice, first to 2^-k of a step with k near log2 of the
  number of positions, then to a step, halves away from zero. The fewer the positions, the more values come out one step
  off; fake quantization, XNNPACK and ONNX Runtime round once. AVERAGE_POOL_2D would be equal everywhere, but its output
  has the scale of its input, several times coarser than a mean needs. So it stays a MEAN, one step at most.
"""


def page(accuracy: dict[str, Any] | None, peers: dict[str, Any] | None) -> str:
    """The whole page; a part without results is left out."""
    parts = [_TEXT]
    for title, result, tables, missed, meaning in (
        (
            "Accuracy on every runtime",
            accuracy,
            accuracy_tables,
            integer_accuracy.violations,
            "Points are differences from fp32 in torch on the same clips; the interval is a paired bootstrap over "
            "recording locations of\nthe mean over seeds. LSB and labels: against fake quantization, the farthest "
            "seed. CP-Mobile is trained like the\ndense CP-ResNet of the recipe `esc10-mobile`.",
        ),
        (
            "Beside other converters",
            peers,
            peer_tables,
            integer_files.violations,
            "The same float networks, the same calibration clips, nothing trained. Latency is of this machine, one "
            "thread, both\nfiles in turn; below 1 ours is faster. Accuracy on LiteRT (XNNPACK) and ONNX Runtime.",
        ),
    ):
        if result is None:
            continue
        tools, lines = result["environment"]["tools"], missed(result)
        named = ", ".join(f"{name} {tools[name]}" for name in _TOOLS if name in tools)
        parts += [
            f"\n## {title}\n{meaning}\n\n`{result['command']}` ({result['date'][:10]}, "
            f"{result['environment']['cpu']}; {named})\n\n",
            tables(result),
        ]
        parts.append(
            "\nMissed:\n\n" + "".join(f"- {line}\n" for line in lines)
            if lines
            else "\nEvery figure is within its mark.\n"
        )
    return "".join(parts)


def read(path: Path) -> dict[str, Any] | None:
    """A result file, or None where it isn't there."""
    return json.loads(path.read_text()) if path.exists() else None


def main() -> int:
    """Entry point of `python -m edgepress.benchmarks.experiments.integers.page`."""
    write_text(PAGE, page(read(ACCURACY), read(PEERS)))
    print(PAGE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
