# SPDX-License-Identifier: Apache-2.0
"""docs/runtimes.md, made from benchmarks/results/runtimes.json.

`python -m edgepress.benchmarks.experiments.runtimes_page` writes it anew.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

from edgepress.models.atomic import write_text

RESULTS = Path(__file__).parents[1] / "results" / "runtimes.json"
PAGE = Path(__file__).parents[2] / "docs" / "runtimes.md"
#: Points of accuracy by which a format may differ from the TFLite file on LiteRT.
ALLOWED_POINTS = 0.2
_TOOLS = ("torch", "litert-torch", "ai-edge-litert", "onnxruntime", "openvino", "executorch")
_TEXT = """# Formats and runtimes side by side

One set of integer parameters, five files. This page is made by `python -m
edgepress.benchmarks.experiments.runtimes_page`, its figures from `benchmarks/results`; a test holds them together.

## Ways there
```
deploy export --format tflite                  # LiteRT, TFLite Micro, C
deploy export --format onnx                    # ONNX Runtime, and OpenVINO as it is
deploy ort model.onnx                          # ONNX Runtime's own format, for its builds for phones
deploy openvino model.onnx                     # OpenVINO's own format, .xml and .bin (extra openvino)
deploy export --format executorch              # .pte for XNNPACK (extra executorch)
deploy verify model.pte --with model.tflite    # every runtime on the same inputs
deploy run model.pte --input clips.npz
benchmarks run model.pte --data test.npz && benchmarks gate model.pte --budget "accuracy>=0.9"
```

- **ExecuTorch**: the integers stand as quantize and dequantize pairs in torch.export's graph. XNNPACK takes
  convolutions, fully connected layers, sums, products, means, pooling and concatenation as integer kernels, and some
  functions of one variable in float between the pairs; ExecuTorch's portable kernels do the rest. Activations have 8
  bits, the 16-bit insides of norms and attention are float there, within the limits of their integers, the batch is 1,
  inputs and outputs are float; `forward_input0_scale` and its like in the file say what they are rounded to.
- **OpenVINO** runs our ONNX file as it is, with float32 asked for between integers, so that no processor puts bfloat16
  in its place. Its own format says the same, in `rt_info`. What has 16 bits it computes in float32 and drops the pair
  of QuantizeLinear and DequantizeLinear with its limits
  ([openvino 35902](https://github.com/openvinotoolkit/openvino/pull/35902)). 1 / sqrt in a norm needs them: without, a
  channel that is nearly 0 moved a whole sample by 25 LSB. So the file says them in a Clip before the pair, which ONNX
  Runtime melts into it; `deploy verify` names files of others that lack it.
- A program that XNNPACK refuses when it is loaded (it may abort the process) is not written: `deploy export` says so.
- Each of these runs in a child process until it has run a file once: what crashes, is an error.
"""


_UNMEASURED = """## Figures
None yet for this version. On a quiet machine with the extras `executorch` and `openvino`: `python -m
edgepress.benchmarks.experiments.runtimes --train ds_cnn@digits resnet8@digits cp_resnet@digits mobilenet@digits
cp_mobile@digits --work runtimes --output benchmarks/results/runtimes.json --page` writes them here: accuracy, LSB
against fake quantization, bytes and latency of each format, and what misses its mark.
"""


def page(result: dict[str, Any] | None) -> str:
    """The page as Markdown; without a result, what is known without one."""
    if result is None:
        return f"{_TEXT}\n{_UNMEASURED}"
    tools = result["environment"]["tools"]
    versions = ", ".join(f"{name} {tools[name]}" for name in _TOOLS if name in tools)
    return "\n".join(
        [
            _TEXT,
            "## Networks side by side",
            "Post-training int8 of one checkpoint each. Accuracy over the test split; LSB and labels against fake "
            "quantization in torch. Latency: one sample on one thread, the runtimes in turns on a shared machine, so "
            "that the fastest run says more than the median.",
            "",
            "Spread, where a runtime is beyond 3 LSB: fake quantization against itself, every value moved before it is "
            "rounded by what float32 leaves open (up to 2^-15 of an 8-bit step, two roundings of a number 2^8 steps "
            "from zero; half a 16-bit step, which who stays in float does not round). Two right runtimes may be so "
            "far apart, and none may be farther.",
            "",
            "The network on cifar was trained by `compress init images:cifar --device cortex-m4` and `compress train "
            "images.toml --network mobilenet --epochs 30 --run runs/mobilenet`.",
            "",
            f"`{result['command']}` ({result['date'][:10]}, {result['environment']['cpu']}; {versions})",
            "",
            runtime_tables(result),
            "",
            *_verdict(result),
            "",
        ]
    )


def runtime_tables(result: dict[str, Any]) -> str:
    """A table for each network."""
    parts = []
    for network in result["networks"]:
        parts += [
            f"### {network['network']} on {network['task']}",
            "",
            f"{network['macs']:,} MACs ({network['rule']}), {network['params']:,} parameters, {network['samples']:,} "
            f"test samples; fake quantization in torch: {100 * network['torch_accuracy']:.2f} %.{_spread(network)}",
            "",
            "| runtime | accuracy | LSB max | mean | labels | bytes | fastest, ms | median, ms |",
            "|---|---|---|---|---|---|---|---|",
            *(
                f"| {row['row']} | {100 * row['accuracy']:.2f} % | {row['max_lsb']:g} | {row['mean_lsb']:.3f} | "
                f"{100 * row['label_agreement']:.2f} % | {row['file_bytes']:,} | {row['min_ms']:.3f} | "
                f"{row['p50_ms']:.3f} |"
                for row in network["rows"]
            ),
            "",
        ]
    return "\n".join(parts).rstrip("\n")


def violations(result: dict[str, Any]) -> list[str]:
    """What misses the marks: points from LiteRT; LSB against fake quantization, or the network's own spread."""
    found, limits = [], result["limits"]
    for network in result["networks"]:
        litert = next(row for row in network["rows"] if row["row"] == "litert")
        allowed = max(limits["max_lsb"], network["spread"]["max_lsb"] if network["spread"] else 0)
        for row in network["rows"]:
            name = f"{network['network']}, {row['row']}"
            points = 100 * (row["accuracy"] - litert["accuracy"])
            if round(abs(points), 6) > ALLOWED_POINTS:
                found.append(f"{name}: {points:+.2f} points from LiteRT, allowed are {ALLOWED_POINTS:g}")
            if row["max_lsb"] > allowed:
                found.append(f"{name}: {row['max_lsb']:g} LSB at most, allowed are {allowed:g}")
            if row["mean_lsb"] >= limits["mean_lsb"]:
                found.append(f"{name}: {row['mean_lsb']:.3f} LSB in the mean, allowed are below {limits['mean_lsb']:g}")
    return found


def _spread(network: dict[str, Any]) -> str:
    spread = network["spread"]
    if spread is None:
        return ""
    return (
        f" Spread of {spread['draws']} draws: at most {spread['max_lsb']:g} LSB (median "
        f"{median(spread['max_lsb_by_draw']):g}), {spread['mean_lsb']:.3f} in the mean."
    )


def _verdict(result: dict[str, Any]) -> list[str]:
    missed = violations(result)
    if missed:
        return ["Beyond the marks:", "", *(f"- {line}" for line in missed)]
    limit, farther = result["limits"]["max_lsb"], []
    for network in result["networks"]:
        worst = max(row["max_lsb"] for row in network["rows"])
        if worst > limit:  # within the marks, so that there is a spread
            farther.append(f"{network['network']} ({worst:g} LSB, its spread is {network['spread']['max_lsb']:g})")
    said = f"Every format is within {ALLOWED_POINTS:g} points of LiteRT and within {limit:g} LSB of fake quantization"
    if farther:
        said += (
            f", but for {', '.join(farther)}: these amplify roundings that may go either way, see "
            "[integers](integers.md), and no runtime is beyond what they make of fake quantization's own"
        )
    return [f"{said}."]


def main() -> int:
    """Entry point of `python -m edgepress.benchmarks.experiments.runtimes_page`."""
    write_text(PAGE, page(json.loads(RESULTS.read_text()) if RESULTS.exists() else None))
    return 0


if __name__ == "__main__":
    sys.exit(main())
