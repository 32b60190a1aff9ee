"""Successive halving of the comparison's methods: its rungs by hand, its plan, its rows."""

from __future__ import annotations

from typing import Any

from typer.testing import CliRunner

from edgepress.benchmarks.experiments.peers.accuracy import app
from edgepress.benchmarks.experiments.peers.accuracy_page import _halving, _rows
from edgepress.benchmarks.experiments.peers.data import experiments
from edgepress.benchmarks.experiments.peers.halving import climb
from edgepress.benchmarks.experiments.peers.methods import METHODS, OURS, PEERS, SCRATCH
from edgepress.benchmarks.experiments.peers.plan import Log, Plan
from edgepress.benchmarks.experiments.peers.summary import summarize_cell
from edgepress.models.errors import UsageError

RATES = (1e-3, 3e-3, 1e-2)
ALL = tuple((method, seed, rate) for method in METHODS for seed in (0, 1) for rate in RATES)


def accuracies(found: dict[str, float]) -> dict[tuple[str, int, float], dict[str, Any]]:
    """Every training of every method: 0.5 on validation, or what is given."""
    return {key: {"validation_accuracy": found.get(key[0], 0.5)} for key in ALL}


def three_of_each() -> dict[str, float]:
    """Ours, theirs: descending accuracies, all different."""
    falling = {name: 0.9 - 0.01 * place for place, name in enumerate((*OURS, *PEERS))}
    return {**falling, "from scratch": 0.6}


def test_a_third_of_each_kind_goes_on() -> None:
    values, ours, theirs = accuracies(three_of_each()), tuple(OURS), tuple(PEERS)
    rungs = climb(METHODS, RATES, (0, 1), lambda *key: values[key])
    # 7, 18 and 2 methods; then 3, 6 and 1; then 1, 2 and 1.
    assert rungs.finished
    assert rungs.standing == rungs.chosen == (ours[0], *theirs[:2], "from scratch")
    assert rungs.dropped[ours[3]] == rungs.dropped[theirs[6]] == rungs.dropped["from scratch, dense steps added"] == 1
    assert rungs.dropped[ours[1]] == rungs.dropped[theirs[2]] == rungs.dropped[theirs[5]] == 2
    # 27 once; 10 with two more rates; 4 on the second seed with three rates.
    assert len(rungs.asked) == len(set(rungs.asked)) == 27 + 2 * 10 + 3 * 4


def test_rungs_wait_for_their_trainings() -> None:
    values = accuracies(three_of_each())
    first = climb(METHODS, RATES, (0, 1), lambda *_: None)
    assert first.asked == [(method, 0, 3e-3) for method in METHODS]
    assert not first.finished
    second = climb(METHODS, RATES, (0, 1), lambda *key: values[key] if key[2] == 3e-3 else None)
    assert len(second.asked) == 27 + 20
    assert len(second.standing) == 10


def test_equals_go_on_together() -> None:
    values = accuracies({})  # all the same
    rungs = climb(METHODS, RATES, (0, 1), lambda *key: values[key])
    assert rungs.standing == METHODS
    assert not rungs.dropped


def test_another_rate_may_save_a_method_only_while_it_is_in() -> None:
    """Ours: the second is best with a small rate, which only the first three are tried with; so is the last."""
    values = accuracies(three_of_each())
    ours = tuple(OURS)
    for name in (ours[1], ours[6]):
        values[name, 0, 1e-3] = {"validation_accuracy": 0.99}
    rungs = climb(METHODS, RATES, (0, 1), lambda *key: values[key])
    assert [name for name in rungs.standing if name in OURS] == [ours[1]]


def test_what_is_kept_takes_nobodys_place() -> None:
    values, ours = accuracies(three_of_each()), tuple(OURS)
    rungs = climb(METHODS, RATES, (0, 1), lambda *key: values[key], keep=(ours[6],))
    assert [name for name in rungs.standing if name in OURS] == [ours[0], ours[6]]
    assert [name for name in rungs.chosen if name in OURS] == [ours[0]]


def test_the_plan_goes_down_the_rungs(tmp_path) -> None:
    experiment, values = experiments()["digits"], three_of_each()
    plan = Plan({"digits": (experiment, "")}, lengths=("short",), seeds=4, shares=(0.12,), halving=True)
    log, counts = Log(tmp_path / "t.jsonl"), []
    while ready := plan.ready(log):
        counts.append(len(ready))
        for trial in ready:
            log.add({**trial.key, "validation_accuracy": values.get(trial.method or "", 0.5)})
    # Dense networks, the three rungs, and the other two seeds of what is left.
    assert counts == [4, 27, 20, 12, 8]
    assert {result["share"] for result in log.found.values()} == {1.0, 0.12}
    assert len(log.found) <= plan.total()


def trained(method: str, seed: int, rate: float, validation: float) -> dict[str, Any]:
    return {
        "method": method,
        "seed": seed,
        "rate": rate,
        "right": "1100",
        "validation_accuracy": validation,
        "test_accuracy": 0.5,
        "log_loss": 1.0,
        "macs": 90,
        "target_macs": 100,
        "params": 5,
        "epochs": 3,
        "seconds": 1.0,
    }


def test_dropped_methods_are_rows_with_what_dropped_them() -> None:
    values, kept = three_of_each(), "gradual l2"
    find = accuracies(values)
    asked = climb(METHODS, RATES, (0, 1), lambda *key: find[key], keep=(kept,)).asked
    results = [trained(method, seed, rate, values.get(method, 0.5)) for method, seed, rate in asked]
    cell, differences = summarize_cell(results, RATES, 2, None, keep=(kept,))
    assert [row["method"] for row in cell["rows"]] == list(METHODS)
    rows = {row["method"]: row for row in cell["rows"]}
    assert cell["best"] == {"ours": "gradual l2", "theirs": next(iter(PEERS)), "scratch": "from scratch"}
    assert {d["ours"] for d in differences} == {"gradual l2"}
    assert "dropped" not in rows["gradual l2"]
    dropped = rows["gradual fisher"]
    assert (dropped["complete"], dropped["dropped"]["rung"], dropped["dropped"]["seeds"]) == (False, 2, [0])
    shown = "\n".join(_rows(cell, 2))
    assert "| gradual fisher | dropped after rung 2 | 0.001 | 89.00 | 50.00 (seed 0) | 90.0 | - |" in shown
    assert "| admm fisher | dropped after rung 1 | 0.003 | 85.00 | 50.00 (seed 0) | 90.0 | - |" in shown
    # From scratch is not finished: what is known of the others stands.
    without = [r for r in results if r["method"] != "from scratch" or r["seed"] == 0]
    assert summarize_cell(without, RATES, 2, None, keep=(kept,))[0]["best"] == {
        "ours": "gradual l2",
        "theirs": next(iter(PEERS)),
    }
    assert "successive halving" in _halving([])
    assert kept in _halving([kept])
    # Without the rule no kind has a best: most of its methods have not been trained.
    assert summarize_cell(results, RATES, 2, None)[0]["best"] == {}
    assert len(SCRATCH) == 2


def test_a_kept_method_is_not_the_best_by_being_kept() -> None:
    """It does better on the later seed than what the rungs chose, and stays out of the choice."""
    values = {**three_of_each(), "one-shot fisher": 0.1}
    find, kept = accuracies(values), ("one-shot fisher",)
    asked = climb(METHODS, RATES, (0, 1), lambda *key: find[key], keep=kept).asked
    results = [trained(method, seed, rate, values.get(method, 0.5)) for method, seed, rate in asked]
    results += [trained(method, 2, 1e-3, 1.0 if method in kept else 0.2) for method in {key[0] for key in asked}]
    cell, differences = summarize_cell(results, RATES, 3, None, keep=kept)
    assert cell["best"]["ours"] == "gradual l2"
    assert {d["ours"] for d in differences} == {"gradual l2", "one-shot fisher"}


def test_options_that_do_not_fit_are_refused(tmp_path) -> None:
    for options, said in (
        (["--keep", "gradual l2"], "--halving"),
        (["--halving", "--keep", "magic"], "--keep = 'magic' is unknown"),
        (["--shares", "0.3"], "--shares = 0.3 is no budget of digits: they have 0.12, 0.25"),
        (["--shares", "half"], "must be numbers"),
    ):
        ran = CliRunner().invoke(app, ["--run", str(tmp_path), "--only", "digits", "--jobs", "0", *options])
        assert isinstance(ran.exception, UsageError), options
        assert said in str(ran.exception)
