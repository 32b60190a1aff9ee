# SPDX-License-Identifier: Apache-2.0
"""docs/tasks.md from benchmarks/results/tasks.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgepress.models.units import format_quantity

_HEAD = """# Kinds of task on real recordings

Written by `python -m edgepress.benchmarks.experiments.tasks` (its first lines say how) from
`benchmarks/results/tasks.json`; not edited by hand.
"""
_PICTURES = """## Pictures

The recipe that `compress init images:DIR --device cortex-m4` writes, as it stands, on {train:,} pictures of CIFAR-10
for training and {validation:,} for validation, which decide every choice; {test:,} are the test. ResNet-8 has the shape
of MLPerf Tiny's reference model. One seed; intervals (95 %) are over pictures. `cortex-m4` is the firmware on the
emulated core.
"""
_BELOW = "On {runtime}, {name} is {points:.1f} points below {dense}."
_ANOMALY = """## Sounds that go wrong

The recipe `anomaly` from data to the gate, as it stands, on a set that `experiments.tasks.machines` builds from
[ESC-10](https://github.com/karoldvl/ESC-10) in the layout of DCASE Task 2: seconds of rain, sea waves and helicopters
are normal, and the same with a foreign sound in them, as loud as they are, anomalous. The test has {normal} normal and
{anomalous} anomalous seconds. It is a smaller set than those of DCASE and MLPerf Tiny, of recordings that have less in
common: its figures say how far the runtimes agree, and nothing of how good an auto-encoder is on theirs.
"""
_AGREE = "The AUC of each file on each runtime is at most {difference:.4f} from that of the float network."
_KEYWORDS = """## Spoken words

The MLPerf Tiny reference model for keyword spotting (`{file}`) on {total:,} of the utterances that its benchmark is
measured with; they are network inputs already. The gate asks for {limit:.0%}, as MLPerf Tiny does of the first label
(`benchmarks gate --limit accuracy={limit:g}`). It is no result of MLPerf Tiny, and the network was not trained here. We
know no package that brings Speech Commands itself, so that the recipe `keywords` has no figures on real words.
"""
_STREAMS = """## Streams

TFLite Micro's DTLN (`{file}`: two LSTMs of 128, int8 with cells of int16) hears {frames} frames of each sequence as one
stream: magnitudes of noise, of silence, and of the first recording of each class of ESC-10. Differences are in steps of
the output, the largest and the mean.
"""
_WHY = """LiteRT's kernels agree to the bit, TFLite Micro and LiteRT to at most {worst} steps. Their operators
UNIDIRECTIONAL_SEQUENCE_LSTM differ in one step that is not rounding: TFLite Micro saturates the hidden state's part of
a gate at 8 before it adds it to the input's part, LiteRT saturates the sum alone. "Its saturation" is NumPy with that
step as the runtime does it, and everything else exact and rounded once (`experiments/tasks/lstm.py`): it stays within
{own} steps of each, which is rounding that the states amplify. States go from call to call alike and begin alike (int8
at its zero point). The difference is the runtimes' own: `deploy verify --streams` measures it and names the operator.
"""


def page(result: Mapping[str, Any]) -> str:
    """The page of what was measured."""
    parts = [_HEAD]
    if found := result.get("pictures"):
        parts += [_PICTURES.format(**found["clips"]), _pictures(found)]
    if found := result.get("anomaly"):
        parts += [
            _ANOMALY.format(**found),
            _anomaly(found),
            _AGREE.format(difference=found["largest_difference"]) + "\n",
        ]
    if found := result.get("keywords"):
        total = found["data"]["samples"]
        parts += [_KEYWORDS.format(file=found["file"], total=total, limit=found["limit"]), _keywords(found)]
    if found := result.get("streams"):
        own = max(row[f"{name} and its saturation"]["max_lsb"] for row in found["rows"] for name in ("tflm", "litert"))
        worst = max(row["tflm and litert"]["max_lsb"] for row in found["rows"])
        parts += [_STREAMS.format(**found), _streams(found), _WHY.format(own=own, worst=worst)]
    return "\n".join(parts)


def _pictures(found: Mapping[str, Any]) -> str:
    runtimes = list(dict.fromkeys(name for one in found["networks"].values() for name in one["runtimes"]))
    whole = [name for name in runtimes if not name.startswith("cortex")]
    rows = []
    for name, one in found["networks"].items():
        measured = one["runtimes"]
        low, high = measured[whole[0]]["interval"]
        rows.append(
            [
                name,
                format_quantity(one["macs"], "macs"),
                format_quantity(one["file_bytes"], "bytes"),
                f"{one['float']:.2%}",
                *(f"{measured[runtime]['accuracy']:.2%}" for runtime in whole),
                f"{low:.2%} to {high:.2%}",
                *(
                    f"{measured[runtime]['correct']} of {measured[runtime]['total']}"
                    for runtime in runtimes
                    if runtime not in whole
                ),
            ]
        )
    cores = [name for name in runtimes if name not in whole]
    (dense, first), *others = found["networks"].items()
    below = [
        _BELOW.format(
            runtime=whole[0],
            name=name,
            points=100 * (first["runtimes"][whole[0]]["accuracy"] - one["runtimes"][whole[0]]["accuracy"]),
            dense=dense,
        )
        for name, one in others
    ]
    table = _table(["network", "MACs", "int8 file", "float", *whole, f"95 %, {whole[0]}", *cores], rows)
    return "\n".join([table, *(line + "\n" for line in below)])


def _anomaly(found: Mapping[str, Any]) -> str:
    runtimes = list(next(iter(found["networks"].values()))["runtimes"])
    machines = list(next(iter(next(iter(found["networks"].values()))["runtimes"].values()))["by_machine"])
    rows = []
    for name, one in found["networks"].items():
        low, high = one["runtimes"][runtimes[0]]["interval"]
        rows.append(
            [
                name,
                format_quantity(one["macs"], "macs"),
                format_quantity(one["file_bytes"], "bytes"),
                f"{one['float']:.4f}",
                *(f"{one['runtimes'][runtime]['auc']:.4f}" for runtime in runtimes),
                f"{low:.3f} to {high:.3f}",
                f"{one['runtimes'][runtimes[0]]['pauc']:.3f}",
                *(f"{one['runtimes'][runtimes[0]]['by_machine'][machine]:.3f}" for machine in machines),
            ]
        )
    heads = ["network", "MACs", "int8 file", "AUC, float", *runtimes, "95 %", f"pAUC, {runtimes[0]}", *machines]
    return _table(heads, rows)


def _keywords(found: Mapping[str, Any]) -> str:
    rows = [
        [
            name,
            f"{one['correct']} of {one['total']}",
            f"{one['accuracy']:.2%}",
            f"{one['interval'][0]:.2%} to {one['interval'][1]:.2%}",
            "passed" if one["passed"] else "failed",
        ]
        for name, one in found["runtimes"].items()
    ]
    return _table(["runtime", "right", "accuracy", "95 %", "gate"], rows)


def _streams(found: Mapping[str, Any]) -> str:
    pairs = [name for name in found["rows"][0] if name != "sequence"]
    rows = [
        [row["sequence"].replace("_", " "), *(f"{row[pair]['max_lsb']}, {row[pair]['mean_lsb']:.2f}" for pair in pairs)]
        for row in found["rows"]
    ]
    return _table(["sequence", *pairs], rows)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows)]
    return "\n".join(lines) + "\n"
