# SPDX-License-Identifier: Apache-2.0
"""The search for Adam's parameters of section 2.1 of the report, on Optuna.

Learning rate lambda in (1e-5, 1e-1), beta1 and beta2 in (0, 1), epsilon in (1e-10, 1e3), the report's ranges. What is
drawn is 1 - beta, on a logarithmic scale like the rates, as in the paper that the report follows (Choi et al. 2020,
"On empirical comparisons of optimizers for deep learning", arXiv 1910.05446): half of all draws of a uniform beta
would lie below 0.5, where nobody trains. A trial is worth its lowest validation log loss; trials that are worse at
some epoch than the median of the others are stopped (median pruner), those that diverge too.

Several processes may share a database. A trial's draws follow from its number, which the database gives once, and
count what the others are at as bad (constant liar): no point is drawn twice. Who finds all trials given away waits for
them, and takes over what a process that died has left.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgepress.models.errors import RuntimeFailure, UsageError
from edgepress.models.terminal.words import say

if TYPE_CHECKING:
    import optuna

    from edgepress.compress.recipes.recipe import TrainSettings

#: Parameter of a trial -> the range that is searched, on a logarithmic scale.
RANGES = {
    "learning_rate": (1e-5, 1e-1),
    "one_minus_beta1": (1e-4, 1.0),
    "one_minus_beta2": (1e-4, 1.0),
    "epsilon": (1e-10, 1e3),
}
_WEIGHT_DECAY = (1e-5, 1e-1)
#: Of a database: a machine that was silent for so long is given up, and its trial is drawn again.
_HEARTBEAT_S, _GRACE_S = 60, 300
#: How often a process looks whether the others are done, and how long it waits for a database that is busy.
_POLL_S, _BUSY_S = 1.0, 120


@dataclass(frozen=True)
class Search:
    """How trials are drawn.

    Attributes:
        name: of the study; the same name in the same storage goes on with it.
        trials: finished ones in all, stopped ones included.
        epochs: of each.
        weight_decay: also draw the weight decay, in the range of the learning rate.
        seed: of the draws.
        subject: what else the trials follow from, such as the teacher's network; a study of another one is refused.
    """

    name: str
    trials: int
    epochs: int
    weight_decay: bool = False
    seed: int = 0
    subject: str = ""


class _NotNeeded(Exception):
    """Enough trials are given away: this one withdraws."""


def run_trials(
    search: Search,
    settings: TrainSettings,
    storage: str | Path,
    trial_of: Callable[[TrainSettings, Callable[[dict[str, float]], None]], Any],
    after_each: Callable[[optuna.Study], None],
) -> optuna.Study:
    """Draw and train until enough trials are finished.

    Args:
        search: what is searched.
        settings: of the training; its optimizer parameters are replaced by each trial's.
        storage: the journal file of one process (the caller keeps others away), or the URL of a database that several
            share.
        trial_of: trains with the settings and calls the function with each epoch's record.
        after_each: called behind every trial.

    Raises:
        UsageError: a storage that cannot be opened, or a study of other settings.
    """
    import optuna

    study = _open(search, settings, storage)
    if isinstance(storage, Path):
        _give_up_killed(study)
    alone = isinstance(storage, Path)

    def objective(trial: optuna.Trial) -> float:
        if not alone:
            if _given_away(study, before=trial.number) >= search.trials:
                raise _NotNeeded
            study.sampler = _sampler(search, trial.number, liar=True)
        losses: list[float] = []

        def watch(record: dict[str, float]) -> None:
            losses.append(record["validation_loss"])
            trial.report(losses[-1], len(losses))
            trial.set_user_attr(
                "accuracy", max(record.get("validation_accuracy", 0.0), trial.user_attrs.get("accuracy", 0.0))
            )
            if len(losses) < search.epochs and trial.should_prune():
                raise optuna.TrialPruned

        try:
            trial_of(settings_of(_draw(trial, search), settings, search.epochs), watch)
        except RuntimeFailure as error:  # the loss is not finite any more: the worst that a trial can be
            trial.set_user_attr("diverged", True)
            raise optuna.TrialPruned from error
        return min(losses)

    def note(found: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        if trial.state.is_finished() and trial.state != optuna.trial.TrialState.FAIL:
            after_each(found)

    waited = False
    while (finished := _finished(study)) < search.trials:
        if alone:
            # Seeded anew by what was drawn before: a search that was killed goes on as if it had not been.
            drawn = sum(trial.state != optuna.trial.TrialState.FAIL for trial in study.get_trials(deepcopy=False))
            study.sampler = _sampler(search, drawn)
        elif _given_away(study) >= search.trials:
            if not waited:
                say(f"waiting for {search.trials - finished} trials of other processes")
                waited = True
            time.sleep(_POLL_S)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                optuna.storages.fail_stale_trials(study)
            continue
        study.optimize(objective, n_trials=1, callbacks=[note], catch=(_NotNeeded,))
    return study


def _sampler(search: Search, draw: int, liar: bool = False) -> optuna.samplers.TPESampler:
    """What draws the parameters of one trial, with a seed of its own."""
    import optuna

    from edgepress.compress.training.batches import seed_of

    seed = seed_of(search.seed, draw) % 2**32
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=8, constant_liar=liar)


def _finished(study: optuna.Study) -> int:
    import optuna

    states = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    return len(study.get_trials(deepcopy=False, states=states))


def _given_away(study: optuna.Study, before: int | None = None) -> int:
    """Trials that are finished, and those that are begun or wait to be; of these only the ones `before` a number."""
    import optuna

    count = 0
    for trial in study.get_trials(deepcopy=False):
        if trial.state in (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED):
            count += 1
        elif trial.state == optuna.trial.TrialState.RUNNING or (
            before is not None and trial.state == optuna.trial.TrialState.WAITING
        ):
            count += before is None or trial.number < before
    return count


def settings_of(parameters: dict[str, float], settings: TrainSettings, epochs: int) -> TrainSettings:
    """The settings of a training with a trial's parameters."""
    from edgepress.compress.recipes.recipe import TrainSettings, validated

    changed = {
        "optimizer": "adam",
        "epochs": epochs,
        "select": "log_loss",
        "learning_rate": parameters["learning_rate"],
        "epsilon": parameters["epsilon"],
        "betas": (1 - parameters["one_minus_beta1"], 1 - parameters["one_minus_beta2"]),
    }
    if "weight_decay" in parameters:
        changed["weight_decay"] = parameters["weight_decay"]
    return validated(TrainSettings, {**settings.model_dump(), **changed}, "the settings of a trial")


def rows_in(search: Search, storage: str) -> list[dict[str, Any]]:
    """`rows_of` of a study in a database, which others may be at."""
    with _first(storage):
        return rows_of(_study(search, storage))


def rows_of(study: optuna.Study) -> list[dict[str, Any]]:
    """One record per trial: number, state, parameters as in a recipe, log loss and accuracy on validation."""
    rows = []
    for trial in study.get_trials(deepcopy=False):
        if not RANGES.keys() <= trial.params.keys():  # killed while it was drawn
            continue
        values = dict(trial.params)
        betas = [1 - values.pop(f"one_minus_beta{number}") for number in (1, 2)]
        losses = list(trial.intermediate_values.values())
        rows.append(
            {
                "trial": trial.number,
                "state": trial.state.name.lower(),
                **values,
                "beta1": betas[0],
                "beta2": betas[1],
                "log_loss": min(losses) if losses else None,
                "accuracy": trial.user_attrs.get("accuracy"),
                "epochs": len(losses),
                "diverged": bool(trial.user_attrs.get("diverged")),
            }
        )
    return rows


def figure_of(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """A Vega-Lite figure like the report's Figure 1: log loss over each parameter, a point a trial."""
    names = {
        "learning_rate": "learning rate λ",
        "beta1": "1 − β₁",
        "beta2": "1 − β₂",
        "epsilon": "ε",
        "weight_decay": "weight decay",
    }
    shown = [
        {**row, "beta1": 1 - row["beta1"], "beta2": 1 - row["beta2"]} for row in rows if row["log_loss"] is not None
    ]
    colour = {
        "field": "state",
        "type": "nominal",
        "title": "trial",
        "scale": {"domain": ["complete", "pruned"], "range": ["#0072B2", "#D55E00"]},
    }
    panels = [
        {
            "width": 220,
            "height": 200,
            "mark": {"type": "point", "filled": True, "size": 50},
            "encoding": {
                "x": {
                    "field": name,
                    "type": "quantitative",
                    "title": title,
                    "scale": {"type": "log"},
                    "axis": {"format": "~e", "tickCount": 4},
                },
                "y": {
                    "field": "log_loss",
                    "type": "quantitative",
                    "title": "validation log loss",
                    "scale": {"zero": False},
                },
                "color": colour,
            },
        }
        for name, title in names.items()
        if any(name in row for row in shown)
    ]
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "data": {"values": shown},
        "hconcat": panels,
        "config": {"background": "white", "view": {"stroke": "#dddddd"}},
    }


def _draw(trial: optuna.Trial, search: Search) -> dict[str, float]:
    ranges = {**RANGES, **({"weight_decay": _WEIGHT_DECAY} if search.weight_decay else {})}
    return {name: trial.suggest_float(name, low, high, log=True) for name, (low, high) in ranges.items()}


def _open(search: Search, settings: TrainSettings, storage: str | Path) -> optuna.Study:
    import json

    study = _opened(search, storage)
    what = [search.epochs, search.weight_decay, settings.model_dump(mode="json")]
    made = json.dumps([*what, search.subject] if search.subject else what, sort_keys=True)
    if study.user_attrs.setdefault("made", made) != made:
        raise UsageError(f"the search {search.name!r} was begun with other epochs or settings; choose another --name")
    study.set_user_attr("made", made)
    return study


def _opened(search: Search, storage: str | Path, tries: int = 3) -> optuna.Study:
    """Raises:
    UsageError: the storage cannot be opened."""
    try:
        with _first(storage):
            return _study(search, storage)
    except Exception as error:  # drivers and databases raise many kinds
        if tries > 1 and isinstance(storage, str) and "exists" in str(error):
            time.sleep(_POLL_S)  # another process makes the tables of a new database at this moment
            return _opened(search, storage, tries - 1)
        raise UsageError(
            f"--storage {str(storage)!r} cannot be opened: {str(error).splitlines()[0]:.200}; give a URL "
            "such as sqlite:///search.db, or leave it out for a file in the run"
        ) from error


def _study(search: Search, storage: str | Path) -> optuna.Study:
    import optuna
    from optuna.storages.journal import JournalFileBackend

    # It warns of a trial that is interrupted with the traceback; what a trial raises is raised here anyway.
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        opened: Any
        if isinstance(storage, Path):
            storage.parent.mkdir(parents=True, exist_ok=True)
            # Optuna's lock outlives a process that was killed while it held it.
            storage.with_name(f"{storage.name}.lock").unlink(missing_ok=True)
            opened = optuna.storages.JournalStorage(JournalFileBackend(str(storage)))
        else:
            opened = optuna.storages.RDBStorage(
                storage,
                engine_kwargs=_engine_options(storage),
                heartbeat_interval=_HEARTBEAT_S,
                grace_period=_GRACE_S,
                heartbeat_stale_trial_callback=optuna.storages.RetryHeartbeatStaleTrialCallback(max_retry=2),
            )
        return optuna.create_study(
            storage=opened,
            study_name=search.name,
            direction="minimize",
            load_if_exists=True,
            pruner=optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=max(1, search.epochs // 4)),
        )


def _engine_options(storage: str) -> dict[str, Any] | None:
    """SQLAlchemy's, for a SQLite file: a connection waits for those of others and is closed when it is not used."""
    if not storage.startswith("sqlite"):
        return None
    from sqlalchemy.pool import NullPool

    waits: dict[str, Any] = {"connect_args": {"timeout": _BUSY_S}}
    return waits if storage.endswith((":memory:", "://")) else {**waits, "poolclass": NullPool}


@contextmanager
def _first(storage: str | Path) -> Iterator[None]:
    """Of the processes that open a new SQLite file, one makes its tables while the others wait."""
    path = str(storage).partition("sqlite:///")[2] if isinstance(storage, str) else ""
    if not path or path == ":memory:":
        yield
        return
    from filelock import FileLock

    with FileLock(f"{path}.lock"):
        yield


def _give_up_killed(study: optuna.Study) -> None:
    """What a killed process left running is drawn again: a file has one process, so that nobody else can be at it."""
    import optuna

    for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
