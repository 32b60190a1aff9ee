# SPDX-License-Identifier: Apache-2.0
"""SIGKILL in every phase of a run, in trainings of several processes, in sweeps and in single commands.

Behind each kill no process is left and all that can be seen is whole; nothing that was finished is ever lost. The same
command, started once more and not killed, ends well and makes what it makes undisturbed: the same weights and files.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgepress.benchmarks.experiments.hostile.endings.forks import Forks, forks
from edgepress.benchmarks.experiments.hostile.endings.log import Log
from edgepress.benchmarks.experiments.hostile.endings.processes import copied, environment_in, remaining
from edgepress.benchmarks.experiments.hostile.endings.project import (
    TRAINED,
    Command,
    command,
    environment,
    write_project,
)
from edgepress.benchmarks.experiments.hostile.endings.whole import broken, finished, made, others


@dataclass(frozen=True)
class Series:
    """A command that is killed again and again, in as many copies of the project as it takes.

    Attributes:
        command: what is killed.
        phases: how the line begins with which a phase does -> kills in it, of 60 in all; "" is the whole command.
        name: of the series.
    """

    command: Command
    phases: tuple[tuple[str, int], ...]
    name: str = ""

    def __str__(self) -> str:
        return self.name or self.command.name


#: Copies of the project for a series at most.
_COPIES = 8
_RUN = (("train:", 6), ("prune", 6), ("quantize:", 5), ("export:", 2), ("run:", 5), ("gate:", 4), ("report", 4))
_TRAIN_TWO = command("compress train own.toml --devices 2", "new", *TRAINED)
SERIES = (
    Series(command("compress run own.toml", "new", *TRAINED), _RUN),
    Series(_TRAIN_TWO, (("train:", 8),), name="compress train, 2 processes"),
    Series(command("compress sweep --recipe own.toml --budget 60% --seed 0 --data task.npz", "swept"), (("", 4),)),
    Series(command("deploy export --format onnx --data task.npz --output new.onnx", "run"), (("", 4),)),
    Series(command("benchmarks run m.tflite --data task.npz --runtime litert", "run"), (("", 6),)),
    Series(command("benchmarks gate m.tflite --limit macs=10k", "run"), (("", 3),)),
    Series(command("benchmarks report --overwrite", "run"), (("", 3),)),
)


def measure(kills: int, folder: Path, say: Callable[[str], None], series: Sequence[Series] = SERIES) -> dict[str, Any]:
    """{"kills", "series": name -> kills by phase, "bad"}; `kills` scales those of every phase."""
    project, log = write_project(folder), Log(folder / "kills.jsonl")
    share = kills / sum(count for one in SERIES for _, count in one.phases)
    found: dict[str, dict[str, int]] = {}
    bad: list[dict[str, Any]] = []
    with forks(environment(folder)) as server:
        for one in series:
            alone = log.once(f"{one} alone", lambda one=one: _alone(one, server, project, folder))
            left = {phase: max(1, round(share * count)) for phase, count in one.phases}
            for number in range(_COPIES):
                if not any(left.values()):
                    break
                case = f"{one} {number}"
                entry = log.once(
                    case,
                    lambda one=one, number=number, left=left, alone=alone: _killed(
                        one, number, left, alone, server, project, folder
                    ),
                )
                for phase in entry["kills"]:
                    left[phase] = max(0, left[phase] - 1)
                    own = found.setdefault(str(one), {})
                    own[phase or "anywhere"] = own.get(phase or "anywhere", 0) + 1
                bad += [{"case": case, "why": why, "said": entry["said"]} for why in entry["bad"]]
            say(f"kills: {one}")
    return {"kills": sum(sum(own.values()) for own in found.values()), "series": found, "bad": bad}


def _alone(series: Series, server: Forks, project: Path, folder: Path) -> dict[str, Any]:
    with copied(project, folder) as place:
        ended = server.run(series.command.words, place, environment_in(place, folder), None)
        if ended["code"] not in (0, 1):
            raise RuntimeError(f"{series} ended with {ended['code']}: {ended['lines'][-3:]}")
        return {**ended, "made": made(place, series.command.run)}


def _killed(
    series: Series, number: int, left: dict[str, int], alone: dict[str, Any], server: Forks, project: Path, folder: Path
) -> dict[str, Any]:
    draw, kills, bad = random.Random(f"{series} {number}"), [], []
    with copied(project, folder) as place:
        surroundings = environment_in(place, folder)
        before: set[str] = set()
        for phase, count in left.items():
            for _ in range(count):
                delay_s = draw.uniform(0, _seconds_of(phase, series, alone))
                ended = server.run(series.command.words, place, surroundings, phase, delay_s)
                if not ended["killed"]:
                    if phase:
                        break  # it is over
                    continue  # the whole command, which came to its end, does its work again
                kills.append(phase)
                bad += [f"left process {process}" for process in remaining(place)]
                if (place / series.command.run).exists():
                    bad += broken(place, series.command.run)
                    now = finished(place, series.command.run)
                    bad += [f"lost {name}" for name in sorted(before - now)]
                    before |= now
        ended = server.run(series.command.words, place, surroundings, None)
        if ended["code"] != alone["code"]:
            bad.append(f"exit code {ended['code']} behind the kills, {alone['code']} undisturbed")
        else:
            bad += others(alone["made"], made(place, series.command.run))
        bad += broken(place, series.command.run)
        bad += [f"left {path.name}" for path in (place / series.command.run).rglob("*.partial")]
        said = [line for _, line in ended["lines"]][-5:]
    return {"name": str(series), "kills": kills, "bad": bad, "said": "\n".join(said)[-600:]}


def _seconds_of(phase: str, series: Series, alone: dict[str, Any]) -> float:
    """From the first line of a phase to the first of another one, undisturbed, in s."""
    if not phase:
        return alone["seconds"]
    names = tuple(name for name, _ in series.phases)
    lines = [(second, line) for second, line in alone["lines"] if line.startswith(names)]
    begins = next((second for second, line in lines if line.startswith(phase)), 0.0)
    ends = (second for second, line in lines if second > begins and not line.startswith(phase))
    return max(0.0, next(ends, alone["seconds"]) - begins)
