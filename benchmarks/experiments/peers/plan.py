# SPDX-License-Identifier: Apache-2.0
"""Which trainings the comparison needs, and which can be run now."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgepress.benchmarks.experiments.peers.data import LENGTHS, Experiment
from edgepress.benchmarks.experiments.peers.halving import climb
from edgepress.benchmarks.experiments.peers.methods import METHODS
from edgepress.benchmarks.experiments.peers.trial import Trial

#: The seeds on which a method's learning rate is searched, on validation; the others use what was found.
SEARCHED = (0, 1)


class Log:
    """Finished trainings, one JSON object a line; what a crash tore off is not read."""

    def __init__(self, path: Path):
        self.path = path
        self.found: dict[str, dict[str, Any]] = {}
        for line in path.read_text().splitlines() if path.exists() else ():
            try:
                result = json.loads(line)
            except ValueError:
                continue
            self.found[_named(result)] = result

    def get(self, trial: Trial) -> dict[str, Any] | None:
        return self.found.get(_named(trial.key))

    def add(self, result: dict[str, Any]) -> None:
        """Write one more line, to the disk."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            if file.tell() and not self.path.read_bytes().endswith(b"\n"):
                file.write("\n")
            file.write(json.dumps(result) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.found[_named(result)] = result


def _named(key: Mapping[str, Any]) -> str:
    return json.dumps([key[part] for part in ("experiment", "method", "share", "length", "rate", "seed")])


class Plan:
    """All trainings of some experiments.

    Args:
        experiments: with the data of each.
        methods: names; default all.
        lengths: of `LENGTHS`.
        seeds: how many; default the experiment's own number.
        shares: budgets; default the experiment's own.
        halving: drop methods after the rungs of `peers.halving`.
        keep: methods that halving never drops.
    """

    def __init__(
        self,
        experiments: Mapping[str, tuple[Experiment, str]],
        methods: Sequence[str] = METHODS,
        lengths: Sequence[str] = tuple(LENGTHS),
        seeds: int | None = None,
        shares: Sequence[float] | None = None,
        halving: bool = False,
        keep: Sequence[str] = (),
    ):
        self._experiments, self._methods, self._lengths, self._seeds = experiments, methods, lengths, seeds
        self._shares, self._halving, self._keep = shares, halving, keep

    def seeds(self, experiment: Experiment) -> range:
        return range(experiment.seeds if self._seeds is None else min(self._seeds, experiment.seeds))

    def ready(self, log: Log) -> list[Trial]:
        """Trainings that are not finished and whose beginnings are: dense networks, then the search, then the rest."""
        dense = [
            Trial(experiment, data, seed)
            for experiment, data in self._experiments.values()
            for seed in self.seeds(experiment)
        ]
        left = [trial for trial in dense if log.get(trial) is None]
        if left:
            return left
        return [trial for cell in self.cells() for trial in self.wanted(*cell, log.get) if log.get(trial) is None]

    def cells(self) -> Iterable[tuple[str, float, str]]:
        """(experiment, share, length), all short ones of an experiment first."""
        return [
            (name, share, length)
            for name, (experiment, _) in self._experiments.items()
            for length in self._lengths
            for share in experiment.shares
            if self._shares is None or share in self._shares
        ]

    def wanted(
        self, name: str, share: float, length: str, get: Callable[[Trial], dict[str, Any] | None]
    ) -> list[Trial]:
        """Trainings of one cell as far as they are known: the search, and behind a finished search the other seeds."""
        experiment, data = self._experiments[name]
        searched = [seed for seed in SEARCHED if seed in self.seeds(experiment)]
        trials, methods = [], self._methods
        if self._halving:
            rungs = climb(
                methods,
                experiment.rates,
                searched,
                lambda method, seed, rate: get(Trial(experiment, data, seed, method, share, length, rate)),
                self._keep,
            )
            trials = [Trial(experiment, data, seed, method, share, length, rate) for method, seed, rate in rungs.asked]
            methods = rungs.standing if rungs.finished else ()
        for method in methods:
            search = [
                Trial(experiment, data, seed, method, share, length, rate)
                for seed in searched
                for rate in experiment.rates
            ]
            trials += [trial for trial in search if trial not in trials]
            results = [get(trial) for trial in search]
            if all(results):
                rate = best_rate([result for result in results if result is not None])
                trials += [
                    Trial(experiment, data, seed, method, share, length, rate)
                    for seed in self.seeds(experiment)
                    if seed not in SEARCHED
                ]
        return trials

    def total(self) -> int:
        """Trainings in all; at most, with halving."""
        count = 0
        for experiment, _ in self._experiments.values():
            seeds = self.seeds(experiment)
            searched = sum(seed in seeds for seed in SEARCHED)
            each = searched * len(experiment.rates) + len(seeds) - searched
            shares = [share for share in experiment.shares if self._shares is None or share in self._shares]
            count += len(seeds) + each * len(self._methods) * len(self._lengths) * len(shares)
        return count


def best_rate(results: Sequence[Mapping[str, Any]]) -> float:
    """The learning rate with the highest mean accuracy on validation; of equals the smallest."""
    rates = sorted({result["rate"] for result in results})
    means = [np.mean([r["validation_accuracy"] for r in results if r["rate"] == rate]) for rate in rates]
    return rates[int(np.argmax(means))]
