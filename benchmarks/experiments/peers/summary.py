# SPDX-License-Identifier: Apache-2.0
"""What the finished trainings say: rows, differences with their intervals, and what is not measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgepress.benchmarks.experiments.peers.halving import Rungs, climb
from edgepress.benchmarks.experiments.peers.methods import KINDS, METHODS, OURS
from edgepress.benchmarks.experiments.peers.plan import SEARCHED, best_rate

#: Bootstrap samples, and how many are drawn at once.
_DRAWS, _AT_ONCE = 2000, 200


def summarize_cell(
    results: Sequence[Mapping[str, Any]],
    rates: Sequence[float],
    seeds: int,
    identifiers: Sequence[str] | None,
    keep: Sequence[str] | None = None,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """One experiment at one budget and length.

    Args:
        results: of the trainings of this cell.
        rates, seeds: the rates of the search, and how many seeds are wanted.
        identifiers: the recording of each test clip; None takes every clip for itself.
        keep: methods that halving (`peers.halving`) never drops; None where every method is trained with all seeds.

    Returns:
        The cell: rows of every method, in the order of `METHODS`, measured or not; and its differences, each with
        "draws" of the bootstrap, for `overall`. The best of ours and of theirs are chosen on validation, and only
        where all their methods are measured, or dropped by halving; a method that was only kept is not chosen.
    """
    searched = [seed for seed in SEARCHED if seed < seeds]
    found = {(r["method"], r["seed"], r["rate"]): r for r in results}
    rungs = Rungs(chosen=METHODS)
    if keep is not None:
        rungs = climb(METHODS, rates, searched, lambda *key: found.get(key), keep)
    rows = []
    for name in METHODS:
        own = [r for r in results if r["method"] == name]
        row = _row(name, own, rates, seeds)
        if name in rungs.dropped and not row["seeds"]:
            row = _dropped(row, own, rungs.dropped[name], searched, rates)
        rows.append(row)
    measured = {row["method"]: row for row in rows if row["complete"]}
    best = {
        who: max(standing, key=lambda name: measured[name]["validation_accuracy"]["mean"])
        for who, names in KINDS.items()
        if (standing := [name for name in names if name in rungs.chosen]) and all(name in measured for name in standing)
    }
    pairs = [
        *((name, best[who], who) for who in ("theirs", "scratch") if who in best for name in OURS if name in measured)
    ]
    right = {name: _right(results, name, measured[name]["rate"], seeds) for name in {n for p in pairs for n in p[:2]}}
    differences = []
    for ours, other, who in pairs:
        draws = bootstrap(right[ours] - right[other], identifiers)
        differences.append(
            {
                "ours": ours,
                "best_of_ours": best.get("ours") == ours,
                "against": who,
                "other": other,
                **stated(float((right[ours] - right[other]).mean()), draws),
                "draws": draws,
            }
        )
    return {"rows": rows, "best": best}, differences


def _row(method: str, results: Sequence[Mapping[str, Any]], rates: Sequence[float], seeds: int) -> dict[str, Any]:
    searched = [seed for seed in SEARCHED if seed < seeds]
    search = [r for r in results if r["seed"] in searched]
    tried = sorted([r["seed"], r["rate"], r["validation_accuracy"], r["test_accuracy"], r["macs"]] for r in results)
    if len(search) < len(searched) * len(rates):
        return {"method": method, "complete": False, "trainings": len(results), "seeds": [], "tried": tried}
    rate = best_rate(search)
    own = sorted((r for r in results if r["rate"] == rate), key=lambda r: r["seed"])

    def spread(key: str) -> dict[str, float]:
        values = [r[key] for r in own]
        return {"mean": float(np.mean(values)), "min": min(values), "max": max(values)}

    return {
        "method": method,
        "complete": len(own) == seeds,
        "trainings": len(results),
        "rate": rate,
        "rates": {
            f"{r:g}": float(np.mean([s["validation_accuracy"] for s in search if s["rate"] == r])) for r in rates
        },
        "seeds": [r["seed"] for r in own],
        **{
            key: spread(key)
            for key in ("validation_accuracy", "test_accuracy", "log_loss", "macs", "params", "epochs", "seconds")
        },
        "target_macs": own[0].get("target_macs"),
        "tried": tried,
        "by_seed": [[r["test_accuracy"], r["macs"]] for r in own],
    }


def _dropped(
    row: dict[str, Any],
    results: Sequence[Mapping[str, Any]],
    rung: int,
    searched: Sequence[int],
    rates: Sequence[float],
) -> dict[str, Any]:
    """The row of a method that halving dropped: the rung, and the trainings that decided, at the best rate."""
    seeds = searched[:1]
    at = {rate: [r for r in results if r["rate"] == rate and r["seed"] in seeds] for rate in rates}
    best = max(
        (rate for rate, own in at.items() if own),
        key=lambda rate: np.mean([r["validation_accuracy"] for r in at[rate]]),
    )
    own = at[best]
    return {
        **row,
        "dropped": {
            "rung": rung,
            "rate": best,
            "seeds": list(seeds),
            **{key: float(np.mean([r[key] for r in own])) for key in ("validation_accuracy", "test_accuracy", "macs")},
            "target_macs": own[0].get("target_macs"),
        },
    }


def _right(results: Sequence[Mapping[str, Any]], method: str, rate: float, seeds: int) -> np.ndarray:
    """[seeds, clips] 1 where right."""
    by_seed = {r["seed"]: r["right"] for r in results if r["method"] == method and r["rate"] == rate}
    return np.array([[character == "1" for character in by_seed[seed]] for seed in range(seeds)], np.float64)


def bootstrap(differences: np.ndarray, identifiers: Sequence[str] | None, seed: int = 0) -> np.ndarray:
    """[draws] means over seeds and clips, both drawn anew: clips of one recording together, one draw for all seeds.

    Args:
        differences: [seeds, clips].
        identifiers: the recording of each clip; None takes every clip for itself.
    """
    seeds, clips = differences.shape
    cluster = np.arange(clips) if identifiers is None else np.unique(list(identifiers), return_inverse=True)[1]
    count = int(cluster.max()) + 1
    sizes = np.bincount(cluster).astype(np.float64)
    sums = np.stack([np.bincount(cluster, row, count) for row in differences])
    generator = np.random.default_rng(seed)
    means = []
    for _ in range(_DRAWS // _AT_ONCE):
        by_seed = generator.multinomial(seeds, np.full(seeds, 1 / seeds), _AT_ONCE) / seeds
        by_cluster = generator.multinomial(count, np.full(count, 1 / count), _AT_ONCE).astype(np.float64)
        means.append(((by_seed @ sums) * by_cluster).sum(1) / (by_cluster @ sizes))
    return np.concatenate(means)


def stated(difference: float, draws: np.ndarray) -> dict[str, Any]:
    """A difference with its 95 % interval."""
    low, high = (float(value) for value in np.quantile(draws, (0.025, 0.975)))
    return {"difference": difference, "interval": [low, high]}


def overall(differences: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The mean of several cells' differences, each cell one weight; None of none."""
    if not differences:
        return None
    draws = np.mean([found["draws"] for found in differences], axis=0)
    return {"cells": len(differences), **stated(float(np.mean([f["difference"] for f in differences])), draws)}
