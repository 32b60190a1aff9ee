"""Crude cycles: the timings of single instructions by hand, and every instruction of a whole network."""

from __future__ import annotations

import pytest

from edgepress.benchmarks.measure.crude_cycles import _instructions, cost, crude_cycles
from edgepress.deploy.firmware.boards import missing_tools
from edgepress.deploy.firmware.emulated import EmulatedCore
from edgepress.deploy.firmware.sources import firmware, random_sample
from tests.deploy.integer_networks import random_network

needs_tools = pytest.mark.skipif(missing_tools("cortex-m4") is not None, reason=str(missing_tools("cortex-m4")))


@pytest.mark.parametrize(
    ("code", "cycles"),
    [
        (["add r0, r1", "smlad r0, r1, r2, r3", "sxtb16 r0, r1", "mul r0, r1", "it ne"], 5),
        (["ldr r0, [r1]"], 2),
        (["ldr r0, [r1]", "ldrb.w r2, [r1]", "add r0, r2", "ldr r0, [r1]"], 2 + 1 + 1 + 2),
        (["str r0, [r1]", "ldr r2, [r1]"], 1 + 1),
        (["ldrd r0, r1, [r2], #8", "strd r0, r1, [r2]"], 3 + 3),
        (["push {r4, r5, r6, lr}", "pop {r4-r6, pc}", "ldmia.w r0!, {r1, r2}", "vpush {d8-d9}"], 5 + 5 + 3 + 3),
        (["udiv r0, r1, r2"], 7),
    ],
)
def test_timings_of_instructions(code, cycles):
    assert cost([tuple((*line.split(" ", 1), "")[:2]) for line in code]) == cycles


def test_a_disassembly_is_read():
    text = (
        "00000110 <f>:\n     110:\t2800      \tcmp\tr0, #0\n     112:\tbf18      \tit\tne\n"
        "     114:\tf001 fde5 \tbl\t1d58 <g>\n     118:\t4770      \tbx\tlr ; back\n"
    )
    assert _instructions(text) == {
        0x110: (2, "cmp", "r0, #0"),
        0x112: (2, "it", "ne"),
        0x114: (4, "bl", "1d58 <g>"),
        0x118: (2, "bx", "lr "),
    }


@needs_tools
def test_every_instruction_of_a_network_is_in_its_cycles():
    made = firmware(random_network(3))
    sample = random_sample(made.network)
    with EmulatedCore(made, "cortex-m4") as core:
        counts = core.run(sample, count=True).instructions
    found = crude_cycles(made, sample)
    assert counts is not None
    assert found.instructions == counts.total
    assert counts.total < found.cycles < 3 * counts.total
