"""The Adam search: what is drawn, how often, resume after a kill, bad trials stopped, the figure."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from compress.recipe import TrainSettings
from compress.teach.search import RANGES, Search, figure_of, rows_of, run_trials, settings_of
from models.errors import RuntimeFailure, UsageError

SETTINGS = TrainSettings()


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


def test_a_killed_search_goes_on_and_draws_the_lost_trial_again(tmp_path):
    calls = []

    def killed_in_the_third(settings, watch):
        calls.append(settings.learning_rate)
        if len(calls) == 3:
            raise Killed
        bowl(settings, watch)

    storage = tmp_path / "adam.journal"
    with pytest.raises(Killed):
        run_trials(Search("adam", 6, 2), SETTINGS, storage, killed_in_the_third, lambda found: None)
    again = []

    def counted(settings, watch):
        again.append(settings.learning_rate)
        bowl(settings, watch)

    study = run_trials(Search("adam", 6, 2), SETTINGS, storage, counted, lambda found: None)
    assert again[0] == pytest.approx(calls[2])
    assert len([row for row in rows_of(study) if row["state"] in ("complete", "pruned")]) == 6
    run_trials(Search("adam", 6, 2), SETTINGS, storage, None, lambda found: None)  # nothing is left to do


def test_a_database_holds_a_search_too_and_other_settings_are_refused(tmp_path):
    url = f"sqlite:///{tmp_path / 'adam.db'}"
    study = run_trials(Search("adam", 2, 2, weight_decay=True), SETTINGS, url, bowl, lambda found: None)
    assert all("weight_decay" in row for row in rows_of(study))
    with pytest.raises(UsageError, match="begun with other epochs or settings"):
        run_trials(Search("adam", 3, 5, weight_decay=True), SETTINGS, url, bowl, lambda found: None)
    with pytest.raises(UsageError, match="cannot be opened"):
        run_trials(Search("adam", 1, 1), SETTINGS, "nosuchdriver://x", bowl, lambda found: None)


@pytest.mark.slow
def test_the_command_writes_trials_and_their_figure(tmp_path):
    from tests.compress.test_cli import RECIPE, call
    from tests.compress.train_cases import write_task

    (tmp_path / "small.toml").write_text(RECIPE)
    write_task(tmp_path)
    done = call(tmp_path, "search", "small.toml", "--data", "task.npz", "--trust", "--trials", 3, "--epochs", 1)
    assert done.returncode == 0, done.stderr
    paths = [Path(line) for line in done.stdout.splitlines() if line.startswith("runs")]
    assert [path.suffix for path in paths] == [".json", ".svg"]
    assert (tmp_path / paths[1]).read_text().startswith("<svg")
