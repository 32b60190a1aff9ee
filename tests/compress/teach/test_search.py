"""The Adam search: what is drawn, how often, resume after a kill, bad trials stopped, the figure."""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from edgepress.compress.recipes.recipe import TrainSettings
from edgepress.compress.teach.search import RANGES, Search, figure_of, rows_of, run_trials, settings_of
from edgepress.models.errors import RuntimeFailure, UsageError

SETTINGS = TrainSettings()
ROOT = Path(__file__).resolve().parents[3]


class Killed(BaseException):
    pass


def bowl(settings, watch):
    """A training whose loss is least at a learning rate of 1e-3; a rate above 0.05 diverges."""
    if settings.learning_rate > 0.05:
        raise RuntimeFailure("the training diverged")
    for epoch in range(1, settings.epochs + 1):
        loss = abs(math.log10(settings.learning_rate) + 3) + 1 / epoch
        watch({"validation_loss": loss, "validation_accuracy": 1 / (1 + loss)})


def test_all_trials_are_in_the_ranges_and_the_worst_are_stopped(tmp_path):
    seen = []
    study = run_trials(Search("adam", 25, 4), SETTINGS, tmp_path / "adam.journal", bowl, lambda found: seen.append(1))
    rows = rows_of(study)
    assert len(rows) == len(seen) == 25
    for trial in study.trials:
        assert all(low <= trial.params[name] <= high for name, (low, high) in RANGES.items())
    assert {row["state"] for row in rows} == {"complete", "pruned"}
    stopped = [row for row in rows if row["state"] == "pruned" and not row["diverged"]]
    assert stopped
    assert all(0 < row["epochs"] < 4 for row in stopped)
    assert min(row["log_loss"] for row in rows if row["log_loss"]) < 0.25 + 0.7
    used = settings_of(study.best_params, SETTINGS, 4)
    assert used.betas == (1 - study.best_params["one_minus_beta1"], 1 - study.best_params["one_minus_beta2"])
    panels = figure_of(rows)["hconcat"]
    assert [panel["encoding"]["x"]["field"] for panel in panels] == ["learning_rate", "beta1", "beta2", "epsilon"]


def trials_of(study) -> list[dict]:
    """What was finished, without the numbers, which lost trials use up."""
    rows = [{name: value for name, value in row.items() if name != "trial"} for row in rows_of(study)]
    return [row for row in rows if row["state"] in ("complete", "pruned")]


def test_a_search_killed_at_random_points_ends_as_one_that_was_not(tmp_path):
    search, points = Search("adam", 25, 4), random.Random(3)
    whole = run_trials(search, SETTINGS, tmp_path / "whole.journal", bowl, lambda found: None)
    kills = 0

    def killed(settings, watch):
        at, epochs = points.choice([0, 1, 2, 3, 9, 9]), []

        def watched(record):
            epochs.append(record)
            if len(epochs) > at:
                raise Killed
            watch(record)

        bowl(settings, watched)

    while True:
        try:
            study = run_trials(search, SETTINGS, tmp_path / "killed.journal", killed, lambda found: None)
            break
        except Killed:
            kills += 1
    assert kills >= 15
    assert trials_of(study) == trials_of(whole)
    run_trials(search, SETTINGS, tmp_path / "killed.journal", None, lambda found: None)  # nothing is left to do


def test_a_trial_killed_while_it_is_drawn_is_drawn_again(tmp_path):
    search = Search("adam", 3, 2)
    whole = run_trials(search, SETTINGS, tmp_path / "whole.journal", bowl, lambda found: None)
    study = run_trials(Search("adam", 1, 2), SETTINGS, tmp_path / "killed.journal", bowl, lambda found: None)
    study.ask().suggest_float("learning_rate", *RANGES["learning_rate"], log=True)
    assert [row["trial"] for row in rows_of(study)] == [0]
    study = run_trials(search, SETTINGS, tmp_path / "killed.journal", bowl, lambda found: None)
    assert trials_of(study) == trials_of(whole)


@pytest.mark.slow
def test_the_process_of_a_search_may_be_killed(tmp_path):
    """With real trainings and SIGKILL; the weights' seeds are the recipe's, so that every log loss is the same."""
    from tests.compress.commands.test_cli import RECIPE, call
    from tests.compress.train_cases import write_task

    (tmp_path / "small.toml").write_text(RECIPE)
    write_task(tmp_path)
    arguments = ("search", "small.toml", "--data", "task.npz", "--trust", "--trials", 4, "--epochs", 2)
    done = call(tmp_path, *arguments, "--run", "whole")
    assert done.returncode == 0, done.stderr
    journal = tmp_path / "killed" / "search" / "adam.journal"
    for at_least in (1, 8, 14):  # lines of the journal: into the first trial, and into later ones
        process = subprocess.Popen(
            [sys.executable, "-m", "edgepress.compress", *map(str, arguments), "--run", "killed"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while process.poll() is None and not (journal.exists() and len(journal.read_text().splitlines()) > at_least):
            time.sleep(0.01)
        process.kill()
        process.wait()
    done = call(tmp_path, *arguments, "--run", "killed")
    assert done.returncode == 0, done.stderr
    found = [
        [
            {name: value for name, value in row.items() if name != "trial"}
            for row in json.loads((tmp_path / run / "search" / "adam.json").read_text())["trials"]
            if row["state"] in ("complete", "pruned")
        ]
        for run in ("whole", "killed")
    ]
    assert len(found[0]) == 4
    assert found[0] == found[1]


def test_a_database_holds_a_search_too_and_other_settings_are_refused(tmp_path):
    url = f"sqlite:///{tmp_path / 'adam.db'}"
    study = run_trials(Search("adam", 2, 2, weight_decay=True), SETTINGS, url, bowl, lambda found: None)
    assert all("weight_decay" in row for row in rows_of(study))
    with pytest.raises(UsageError, match="begun with other epochs or settings"):
        run_trials(Search("adam", 3, 5, weight_decay=True), SETTINGS, url, bowl, lambda found: None)
    with pytest.raises(UsageError, match="cannot be opened"):
        run_trials(Search("adam", 1, 1), SETTINGS, "nosuchdriver://x", bowl, lambda found: None)


#: One process of several: it says the parameters of every trial that it trains.
WORKER = """
import json, sys, time
from edgepress.compress.recipes.recipe import TrainSettings
from edgepress.compress.teach import search
search._POLL_S = 0.1
def slow(settings, watch):
    print(json.dumps([settings.learning_rate, settings.epsilon, *settings.betas]), flush=True)
    time.sleep(0.3)
    watch({"validation_loss": abs(settings.learning_rate - 1e-3), "validation_accuracy": 0.5})
search.run_trials(search.Search("adam", int(sys.argv[2]), 1), TrainSettings(), sys.argv[1], slow, lambda found: None)
"""


def side_by_side(folder: Path, processes: int, trials: int) -> tuple[list[list[float]], list[dict]]:
    """What processes trained that began at once on a fresh database, and the rows of the study."""
    url = f"sqlite:///{folder / 'adam.db'}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", WORKER, url, str(trials)]
    started = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(processes)
    ]
    trained = []
    for process in started:
        out, errors = process.communicate()
        assert process.returncode == 0, errors
        trained += [json.loads(line) for line in out.splitlines()]
    return trained, rows_of(run_trials(Search("adam", trials, 1), SETTINGS, url, bowl, lambda found: None))


@pytest.mark.parametrize(("processes", "trials"), [(2, 6), pytest.param(10, 20, marks=pytest.mark.slow)])
def test_processes_share_a_fresh_database(tmp_path, processes, trials):
    trained, rows = side_by_side(tmp_path, processes, trials)
    assert len(trained) == trials, "as many as asked for are trained, and none is lost"
    assert len({tuple(point) for point in trained}) == trials, "no point is drawn twice"
    ended = [row for row in rows if row["state"] in ("complete", "pruned")]
    assert sorted(row["learning_rate"] for row in ended) == sorted(point[0] for point in trained)


def test_what_a_dead_process_left_is_taken_over(tmp_path, monkeypatch):
    import optuna

    from edgepress.compress.teach import search as module

    monkeypatch.setattr(module, "_POLL_S", 0.01)
    monkeypatch.setattr(module, "_HEARTBEAT_S", 1)
    monkeypatch.setattr(module, "_GRACE_S", 1)
    url, search = f"sqlite:///{tmp_path / 'adam.db'}", Search("adam", 3, 1)
    study = run_trials(Search("adam", 1, 1), SETTINGS, url, bowl, lambda found: None)
    with pytest.warns(UserWarning, match="Heartbeat"):
        lost = study.ask()  # begun by a process that is no more: its heart beat once
    point = module._draw(lost, search)
    storage: Any = study._storage
    storage.record_heartbeat(lost._trial_id)
    time.sleep(2.1)
    rows = rows_of(run_trials(search, SETTINGS, url, bowl, lambda found: None))
    ended = [row for row in rows if row["state"] in ("complete", "pruned")]
    assert len(ended) == 3
    assert point["learning_rate"] in [row["learning_rate"] for row in ended]
    assert optuna.trial.TrialState.RUNNING not in {trial.state for trial in study.get_trials()}


def test_a_study_of_another_network_is_refused(tmp_path):
    url = f"sqlite:///{tmp_path / 'adam.db'}"
    run_trials(Search("adam", 1, 1, subject="passt"), SETTINGS, url, bowl, lambda found: None)
    with pytest.raises(UsageError, match="begun with other epochs or settings"):
        run_trials(Search("adam", 2, 1, subject="cp_resnet"), SETTINGS, url, bowl, lambda found: None)


@pytest.mark.slow
def test_the_command_writes_trials_and_their_figure(tmp_path):
    from tests.compress.commands.test_cli import RECIPE, call
    from tests.compress.train_cases import write_task

    (tmp_path / "small.toml").write_text(RECIPE)
    write_task(tmp_path)
    done = call(tmp_path, "search", "small.toml", "--data", "task.npz", "--trust", "--trials", 3, "--epochs", 1)
    assert done.returncode == 0, done.stderr
    paths = [Path(line) for line in done.stdout.splitlines() if line.startswith("runs")]
    assert [path.suffix for path in paths] == [".json", ".svg"]
    assert (tmp_path / paths[1]).read_text().startswith("<svg")


@pytest.mark.slow
def test_the_teacher_is_searched_by_instances_on_ray(tmp_path):
    pytest.importorskip("ray")
    from tests.compress.commands.test_cli import call
    from tests.compress.train_cases import RECIPE, write_task

    write_task(tmp_path)
    (tmp_path / "small.toml").write_text(
        RECIPE.format(task="task.npz") + "[teacher]\ncount = 2\n[teacher.train]\nepochs = 9\nbatch_size = 16\n"
        '[teacher.network]\nname = "ds_cnn"\narguments = { channels = 20, n_blocks = 1 }\n'
    )
    arguments = ("search", "small.toml", "--teacher", "--trials", 3, "--epochs", 1, "--instances", 2)
    done = call(tmp_path, *arguments, "--accelerator", "cpu", "--run", "run")
    assert done.returncode == 0, done.stderr
    assert "2 instances share sqlite:///" in done.stderr
    assert "Using an existing study" not in done.stderr
    found = json.loads((tmp_path / "run" / "search" / "adam-teacher.json").read_text())
    assert (found["teacher"], found["network"]["arguments"]["channels"]) == (True, 20)
    assert len([row for row in found["trials"] if row["state"] in ("complete", "pruned")]) == 3
    refused = call(tmp_path, "search", "default", "--teacher", "--run", "other")
    assert refused.returncode == 2
    assert "has no section [teacher]" in refused.stderr
