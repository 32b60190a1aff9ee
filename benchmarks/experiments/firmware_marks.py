# SPDX-License-Identifier: Apache-2.0
"""What the firmware table is held to: the figures of CMSIS-NN on the same networks, and what is asked of each core.

CMSIS-NN (ARM-software/CMSIS-NN, July 2026) was measured once beside this project, with the same compiler
(arm-none-eabi-gcc 12.2, -O2), the same arena and main, and the same counting on QEMU, called layer by layer on the
same tensors without TFLite Micro's interpreter; crude cycles by the model of
`edgepress.benchmarks.measure.crude_cycles`. Nothing that builds it is here.
"""

from __future__ import annotations

from typing import Any

#: Of networks with these names and this many multiply-accumulates; those pruned by later versions have others.
NETWORKS = ("kws_ref_model", "pretrainedResnet_quant", "cp_resnet_5M", "cp_resnet_20M", "mobilenet", "cp_mobile")


def _row(*figures: float) -> dict[str, float]:
    return dict(zip(NETWORKS, figures, strict=True))


#: CMSIS-NN on the Cortex-M4: crude cycles and instructions for each multiply-accumulate, bytes of flash.
CMSIS_NN = {
    "crude_cycles_per_mac": _row(3.45, 2.92, 5.13, 3.07, 3.88, 3.39),
    "instructions_per_mac": _row(2.90, 2.39, 3.99, 2.50, 3.22, 2.84),
    "flash_bytes": _row(57_588, 106_884, 45_796, 134_996, 270_424, 171_004),
}
#: Instructions for each multiply-accumulate, at most.
LARGEST_PER_MAC = {
    "cortex-m4": _row(1.70, 1.20, 1.90, 1.30, 1.70, 1.55),
    "cortex-m55": _row(0.68, 0.39, 1.00, 0.46, 0.85, 0.60),
    "cortex-m3": _row(3.9, 3.0, 4.5, 3.1, 4.0, 3.7),
    "cortex-m0plus": _row(10.5, 7.5, 10.5, 7.8, 11, 10),
}


def missed(one: dict[str, Any]) -> list[str]:
    """Marks that the figures of one network miss, where there are any for it."""
    name, found = one["name"], []
    for row in one["cores"]:
        if not row["fits"] or row["kernels"] == "plain":
            continue
        largest = LARGEST_PER_MAC.get(row["core"], {}).get(name)
        if largest is not None and row["per_mac"] > largest:
            found.append(f"{name} on {row['core']}: {row['per_mac']:.3f} instructions per MAC, allowed are {largest:g}")
        if row["core"] == "cortex-m4" and (limit := CMSIS_NN["flash_bytes"].get(name)) and row["flash_bytes"] >= limit:
            found.append(f"{name}: {row['flash_bytes']:,} bytes of flash, CMSIS-NN's takes {limit:,.0f}")
    crude, limit = one.get("crude_cycles"), CMSIS_NN["crude_cycles_per_mac"].get(name)
    if crude is not None and limit is not None and crude["per_mac"] > limit:
        found.append(f"{name}: {crude['per_mac']:.2f} crude cycles per MAC, CMSIS-NN's takes {limit:g}")
    if one["arena_bytes"]["plain"] > one["tflm_arena_bytes"]["head"]:
        found.append(
            f"{name}: an arena of {one['arena_bytes']['plain']:,} bytes, larger than the head of TFLite Micro's"
        )
    return found


def violations(result: dict[str, Any]) -> list[str]:
    """What misses a mark of this module, or differs from TFLite Micro anywhere."""
    found = []
    for one in result["networks"]:
        wrong = [f"{one['name']} on the host, {r['kernels']}" for r in one["host"] if r["equal"] != r["inputs"]]
        wrong += [
            f"{one['name']} on {r['core']}, {r['kernels']}"
            for r in one["cores"]
            if r["fits"] and r["equal"] != r["inputs"]
        ]
        found += [f"{where}: departs from TFLite Micro" for where in wrong] + missed(one)
    return found
