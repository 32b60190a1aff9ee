# SPDX-License-Identifier: Apache-2.0
"""The section of docs/teachers.md on networks of recording devices, from the results file of teachers/devices.py."""

from __future__ import annotations

import textwrap
from typing import Any

from edgepress.benchmarks.report.teacher_tables import percent, points

_ARMS = {
    "general": "general network",
    "device models": "a network for each known device",
    "all devices": "general network, trained on with all devices",
}


def device_section(found: dict[str, Any]) -> str:
    """What was trained, the figures, and what they say."""
    plan, data, chosen = found["plan"], found["data"], found["chosen"]
    clips = data["train_clips"]
    rare = sorted(clips, key=lambda name: clips[name])[:-1]
    numbers = sorted(clips[name] for name in rare)
    made = f"""Recipe dcase2025 on {data["task"]}, seeds {", ".join(map(str, found["seeds"]))} ({found["date"]}, torch
    {found["environment"]["tools"].get("torch")}): a CP-ResNet of {found["macs"] / 1e6:.1f} M MACs, trained for
    {plan["epochs"]} epochs with DIR and Freq-MixStyle, then from its checkpoint one network for each of the
    {len(clips)} known recording devices, {plan["adapt_epochs"]} epochs on the clips of that device alone, without DIR.
    A clip of an unknown device goes through the general network, so that nothing changes there. Of
    {max(clips, key=lambda name: clips[name])} there are {max(clips.values()):,} clips to train on, of the others
    {numbers[0]} to {numbers[-1]} each."""
    if "all devices" in found["arms"]:
        made += " The control is the general network, trained on in the same way with the clips of all devices."
    way = f"""How to fine-tune was chosen on the validation recordings, with the first seed: learning rate
    {chosen["learning_rate"]:g}, {"with" if chosen["mixstyle_probability"] else "without"} Freq-MixStyle."""
    parts = [
        "## Networks for single recording devices",
        "    " + found["command"],
        _filled(made),
        _filled(way),
        _tried(found),
        _figures(found),
        _differences(found),
        _filled(_says(found)),
    ]
    return "\n\n".join(part for part in parts if part)


def _filled(text: str) -> str:
    return textwrap.fill(" ".join(text.split()), 120, break_long_words=False, break_on_hyphens=False)


def _tried(found: dict[str, Any]) -> str:
    lines = ["| learning rate | Freq-MixStyle | log loss, validation | accuracy, validation, % |", "|---|---|---|---|"]
    lines += [
        f"| {row['learning_rate']:g} | {row['mixstyle_probability']:g} | {row['log_loss']:.3f} | "
        f"{100 * row['accuracy']:.1f} |"
        for row in found["tried"]
    ]
    return "\n".join(lines)


def _figures(found: dict[str, Any]) -> str:
    arms = {arm: title for arm, title in _ARMS.items() if arm in found["arms"]}
    devices = found["data"]["recording_devices"]
    unseen = found["data"]["unseen_devices"]
    lines = ["| test clips of | " + " | ".join(f"{title}, %" for title in arms.values()) + " |"]
    lines.append("|---" * (1 + len(arms)) + "|")
    for name, key in (("all devices", "all"), ("known devices", "seen"), ("unknown devices", "unseen")):
        lines.append(f"| {name} | " + " | ".join(percent(found["arms"][arm][key]["accuracy"]) for arm in arms) + " |")
    for device in devices:
        cells = [percent(found["arms"][arm]["by_recording_device"][device]["accuracy"]) for arm in arms]
        lines.append(f"| {device}{' (unknown)' if device in unseen else ''} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _differences(found: dict[str, Any]) -> str:
    known = [name for name in found["data"]["recording_devices"] if name not in found["data"]["unseen_devices"]]
    lines = [
        "Differences of accuracy in points, with 95 % intervals as above; of log loss in nats, all known devices.\n",
        "| | log loss | known devices | " + " | ".join(known) + " |",
        "|---" * (3 + len(known)) + "|",
    ]
    for one in found["comparisons"]:
        cells = [points(one["log_loss"]["seen"], 1, 3), *(points(one["accuracy"][name]) for name in ("seen", *known))]
        lines.append(f"| {one['title']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _says(found: dict[str, Any]) -> str:
    sentences = []
    for one in found["comparisons"]:
        seen = one["accuracy"]["seen"]
        word = "no difference shown" if not seen["differs"] else "a gain" if seen["difference"] > 0 else "a loss"
        sentences.append(
            f"{one['title'][0].upper()}{one['title'][1:]}: {word} on known devices, {points(seen)} points."
        )
    return " ".join(sentences)
