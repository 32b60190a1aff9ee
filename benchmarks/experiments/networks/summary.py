# SPDX-License-Identifier: Apache-2.0
"""The results of all networks against the goals: how many hold, and which do not, by name and figure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

Network = dict[str, Any]

#: Decibels that our file may lie below the better of the two plain ones.
ALLOWED_DB = 1.0
#: CPU seconds for pruning to one share, and for quantization with both files.
PRUNE_CPU_S, FILES_CPU_S = 5.0, 15.0
#: Where a file without noise stands.
_EXACT_DB = 200.0


@dataclass(frozen=True)
class Goal:
    """One line of the summary.

    Attributes:
        text: what should hold.
        of: how many networks it was looked at on.
        missed: "name: figure" of those where it does not hold.
    """

    text: str
    of: int
    missed: tuple[str, ...]

    @property
    def held(self) -> int:
        return self.of - len(self.missed)


def part(network: Network, name: str) -> dict[str, Any] | None:
    """The row of a part that gave figures; None where it failed or was not run."""
    row = network["parts"].get(name)
    return row if row is not None and "error" not in row else None


def failures(network: Network, kinds: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(part, what it said) of our own parts that failed in one of these ways."""
    for name in ("prune", "quantize", "tflite", "onnx", "firmware"):
        row = network["parts"].get(name)
        if row is not None and row.get("kind") in kinds:
            yield name, row["error"]


def goals(networks: Sequence[Network]) -> list[Goal]:
    """Every goal, on the networks whose parts it needs were run."""
    return [
        _goal(networks, ("prune",), "pruned to 50 % and 25 % of the MACs, proven, never above", _unpruned),
        _goal(networks, ("tflite",), "int8 TFLite written, loaded by LiteRT and compared", _failed("tflite")),
        _goal(networks, ("onnx",), "int8 ONNX written, loaded by ONNX Runtime and compared", _failed("onnx")),
        _goal(networks, ("tflite",), "the TFLite file also runs on TFLite Micro", _not_on_tflm),
        _goal(networks, ("tflite", "firmware"), "the TFLite file also becomes C (c-inference)", _failed("firmware")),
        _goal(
            networks,
            ("tflite", "plain-tflite"),
            "TFLite: no more float operators than litert-torch + ai-edge-quantizer",
            _more_floats("tflite"),
        ),
        _goal(
            networks,
            ("onnx", "plain-onnx"),
            "ONNX: no more float operators than onnxruntime's static quantization",
            _more_floats("onnx"),
        ),
        _goal(
            networks,
            ("tflite", "plain-tflite", "plain-onnx"),
            f"TFLite: signal to noise at most {ALLOWED_DB:g} dB below the better plain file",
            _noisier("tflite"),
        ),
        _goal(
            networks,
            ("onnx", "plain-tflite", "plain-onnx"),
            f"ONNX: signal to noise at most {ALLOWED_DB:g} dB below the better plain file",
            _noisier("onnx"),
        ),
        _goal(networks, ("tflite", "plain-tflite"), "TFLite: not larger than the plain file", _larger("tflite")),
        _goal(networks, ("onnx", "plain-onnx"), "ONNX: not larger than the plain file", _larger("onnx")),
        _goal(networks, ("prune",), f"a prune call takes less than {PRUNE_CPU_S:g} CPU s", _slow_prune),
        _goal(
            networks,
            ("quantize", "tflite", "onnx"),
            f"quantization, TFLite and ONNX together take less than {FILES_CPU_S:g} CPU s",
            _slow_files,
        ),
        _goal(networks, ("prune",), "whatever failed said so in a sentence, and nothing died", _without_sentence),
    ]


def _goal(networks: Sequence[Network], parts: Sequence[str], text: str, miss: Callable[[Network], str | None]) -> Goal:
    looked = [network for network in networks if all(name in network["parts"] for name in parts)]
    found = [(network["name"], miss(network)) for network in looked]
    # A file that was not written is counted once, where it should have been.
    skipped = [name for name, said in found if said == ""]
    return Goal(text, len(looked) - len(skipped), tuple(f"{name}: {said}" for name, said in found if said))


def _failed(name: str) -> Callable[[Network], str | None]:
    def miss(network: Network) -> str | None:
        row = network["parts"][name]
        if name == "firmware" and row.get("kind") == "not run":
            return ""
        return None if "error" not in row else short(row["error"])

    return miss


def _unpruned(network: Network) -> str | None:
    row = network["parts"]["prune"]
    if "error" in row:
        return short(row["error"])
    above = [target["ratio"] for target in row["targets"] if target["ratio"] > target["share"] + 1e-9]
    return f"above the budget: {above}" if above else None


def _not_on_tflm(network: Network) -> str | None:
    row = part(network, "tflite")
    if row is None or "tflm" not in row["runtimes"]:
        return ""
    said = row["runtimes"]["tflm"].get("skipped")
    return short(said) if said else None


def _more_floats(form: str) -> Callable[[Network], str | None]:
    def miss(network: Network) -> str | None:
        ours, theirs = part(network, form), part(network, f"plain-{form}")
        if ours is None or theirs is None:
            return ""
        a, b = (sum(row["float_operators"].values()) for row in (ours, theirs))
        return f"{a} against {b} ({kinds(ours['float_operators'])})" if a > b else None

    return miss


def _noisier(form: str) -> Callable[[Network], str | None]:
    def miss(network: Network) -> str | None:
        ours = part(network, form)
        plain = [_db(row) for name in ("plain-tflite", "plain-onnx") if (row := part(network, name)) is not None]
        if ours is None or not plain:
            return ""
        behind = max(plain) - _db(ours)
        return f"{_db(ours):.1f} dB against {max(plain):.1f}" if behind > ALLOWED_DB else None

    return miss


def _larger(form: str) -> Callable[[Network], str | None]:
    def miss(network: Network) -> str | None:
        ours, theirs = part(network, form), part(network, f"plain-{form}")
        if ours is None or theirs is None:
            return ""
        ratio = ours["file_bytes"] / theirs["file_bytes"]
        return f"{ratio:.2f}" if ratio > 1 else None

    return miss


def _slow_prune(network: Network) -> str | None:
    row = part(network, "prune")
    if row is None:
        return ""
    slowest = max(target["cpu_s"] for target in row["targets"])
    return f"{slowest:.1f} s" if slowest >= PRUNE_CPU_S else None


def _slow_files(network: Network) -> str | None:
    rows = [part(network, name) for name in ("quantize", "tflite", "onnx")]
    if any(row is None for row in rows):
        return ""
    total = sum(row["cpu_s"] for row in rows if row is not None)
    return f"{total:.1f} s" if total >= FILES_CPU_S else None


def _without_sentence(network: Network) -> str | None:
    found = [f"{name}: {short(said)}" for name, said in failures(network, ("fault", "crash", "stopped"))]
    return "; ".join(found) or None


def _db(row: dict[str, Any]) -> float:
    return _EXACT_DB if row["snr_db"] is None else row["snr_db"]


def kinds(counts: dict[str, int]) -> str:
    """ "Add 2, Mul" of counts by kind, most first."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{kind} {count}" if count > 1 else kind for kind, count in ordered[:4])


def short(text: str, most: int = 160) -> str:
    """One line, cut."""
    line = " ".join(text.split()).replace("|", "/")
    return line if len(line) <= most else f"{line[:most]}..."
