# SPDX-License-Identifier: Apache-2.0
"""Counting executed instructions: a plugin for QEMU, built here, and what it wrote by layer."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgepress.deploy.firmware.emit import layer_name
from edgepress.deploy.firmware.host import CompilerFailure, compiler, run_compiler
from edgepress.deploy.firmware.sources import Firmware, template
from edgepress.models.children import bound
from edgepress.models.errors import RuntimeFailure

_FILE = "count_plugin.c"
#: Versions of the plugin interface to try, the one of Debian 12 first: a newer QEMU refuses the oldest.
_VERSIONS = (1, 2, 3, 4, 5)


@dataclass(frozen=True)
class LayerInstructions:
    """Instructions of one layer in one inference.

    Attributes:
        name: of its function in C.
        code: the operator's name.
        instructions: exact, on the emulated core. They are no cycles: memory, caches and pairing are not modelled.
        macs: multiply-accumulates, rule `core`.
    """

    name: str
    code: str
    instructions: int
    macs: int


@dataclass(frozen=True)
class Instructions:
    """Instructions of inferences, from the first of NAME_invoke() to its return.

    Attributes:
        total: of the first inference; exact and repeatable.
        layers: of the first inference; they add up to the total but for a few calls.
        smallest, largest: of all inferences of the run: clamping takes other branches with other inputs.
    """

    total: int
    layers: tuple[LayerInstructions, ...]
    smallest: int
    largest: int


def build_plugin(folder: Path, version: int) -> Path:
    """Compile the plugin into a folder.

    Raises:
        RuntimeFailure: no compiler here.
    """
    (folder / _FILE).write_text(template(_FILE), encoding="utf-8")
    target = folder / f"count{version}.so"
    run_compiler(
        [compiler(), "-O2", "-shared", "-fPIC", f"-DPLUGIN_VERSION={version}", "-o", target.name, _FILE], folder
    )
    return target


def counted(
    command: Sequence[str], folder: Path, marks: Sequence[int], timeout_s: float
) -> tuple[int, list[tuple[int, int]]]:
    """Run an emulator with the plugin.

    Args:
        command: without the plugin's option.
        marks: addresses.

    Returns:
        (exit code, [(address, instructions before it)] in the order of execution).

    Raises:
        RuntimeFailure: this QEMU takes no plugins, no compiler is here, or it took too long.
    """
    code, lines = _with_plugin(command, folder, marks, "", timeout_s)
    return code, [(int(address, 16), int(count)) for address, count in lines]


@dataclass(frozen=True)
class Block:
    """Instructions that are executed one after the other.

    Attributes:
        start: address.
        instructions: how many.
        times: how often it was executed.
        left: how often what came next was not what follows in memory.
    """

    start: int
    instructions: int
    times: int
    left: int


def executed_blocks(
    command: Sequence[str], folder: Path, start: int, end: int, timeout_s: float
) -> tuple[int, list[Block]]:
    """(exit code, blocks) of what an emulator executes from the first time at `start` to the first time at `end`.

    Raises:
        RuntimeFailure: see `counted`.
    """
    code, lines = _with_plugin(command, folder, (start, end), ",blocks=1", timeout_s)
    return code, [Block(int(address, 16), int(n), int(times), int(left)) for address, n, times, left in lines]


def _with_plugin(
    command: Sequence[str], folder: Path, marks: Sequence[int], more: str, timeout_s: float
) -> tuple[int, list[list[str]]]:
    """(exit code, the words of each line that the plugin wrote)."""
    said = ""
    for version in _VERSIONS:
        try:
            plugin = build_plugin(folder, version)
        except CompilerFailure as error:
            raise RuntimeFailure(f"the plugin that counts instructions cannot be built: {error}") from error
        out = folder / "marks.txt"
        option = f"{plugin},marks={':'.join(f'{mark:x}' for mark in marks)},out={out}{more}"
        try:
            done = subprocess.run(
                bound([*command, "-plugin", option]),
                cwd=folder,
                capture_output=True,
                text=True,
                timeout=timeout_s,
                stdin=subprocess.DEVNULL,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise RuntimeFailure(f"the emulated run took longer than {timeout_s:g} s") from None
        if out.exists():
            return done.returncode, [line.split() for line in out.read_text().splitlines()]
        said = done.stderr.strip()
        if "version" not in said:
            break
    raise RuntimeFailure(f"this QEMU does not take the plugin that counts instructions: {said[:200]}")


def by_layer(made: Firmware, symbols: dict[str, int], rows: Sequence[tuple[int, int]]) -> Instructions:
    """What the plugin wrote, as instructions by layer of the first inference.

    Raises:
        RuntimeFailure: the marks of an inference are not complete.
    """
    start, end = symbols[f"{made.name}_invoke"], symbols["ep_inference_done"]
    inferences: list[list[tuple[int, int]]] = []
    layers_and_ends = {start, end, *(symbols[layer_name(i, step)] for i, step in enumerate(made.network.steps))}
    for address, count in rows:
        if address not in layers_and_ends:
            continue
        if address == start:
            inferences.append([])
        if inferences:
            inferences[-1].append((address, count))
    steps = made.network.steps
    expected = [start, *(symbols[layer_name(i, step)] for i, step in enumerate(steps)), end]
    if not inferences or any([address for address, _ in one] != expected for one in inferences):
        raise RuntimeFailure(
            "the emulated run did not pass through all layers in order; its instructions are not known"
        )
    totals = {one[-1][1] - one[0][1] for one in inferences}
    counts = [count for _, count in inferences[0]]
    layers = tuple(
        LayerInstructions(layer_name(i, step), step.code, counts[i + 2] - counts[i + 1], step.macs)
        for i, step in enumerate(steps)
    )
    return Instructions(counts[-1] - counts[0], layers, min(totals), max(totals))


def front_end_instructions(made: Firmware, symbols: dict[str, int], rows: Sequence[tuple[int, int]]) -> int:
    """Instructions from the start of the first clip to its network, the reading of samples included.

    Raises:
        RuntimeFailure: the marks of a clip are not complete.
    """
    begins, invoke = symbols["ep_clip_begins"], symbols[f"{made.name}_invoke"]
    found = [(address, count) for address, count in rows if address in (begins, invoke)]
    if [address for address, _ in found[:2]] != [begins, invoke]:
        raise RuntimeFailure(
            "the emulated run did not hear a whole clip; the instructions of its front end are not known"
        )
    return found[1][1] - found[0][1]
