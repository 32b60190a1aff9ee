"""The figure of a search on the report's page."""

from __future__ import annotations

import json

from edgepress.benchmarks.report.teacher_tables import blocks
from edgepress.models.run_directory import RunDirectory


def trial(number: int, loss: float | None, state: str = "complete") -> dict:
    return {
        "trial": number,
        "state": state,
        "learning_rate": 10.0**-number,
        "epsilon": 1e-8,
        "beta1": 0.9,
        "beta2": 0.999,
        "log_loss": loss,
        "accuracy": 0.5,
        "epochs": 3,
        "diverged": loss is None,
    }


def test_a_search_is_shown_with_its_best_trials(tmp_path):
    (tmp_path / "search").mkdir()
    found = {"epochs": 3, "teacher": True, "network": {"name": "passt"}}
    trials = [trial(1, 0.9), trial(2, 0.4), trial(3, 1.5, "pruned"), trial(4, None, "pruned")]
    (tmp_path / "search" / "adam-teacher.json").write_text(json.dumps({**found, "trials": trials}))
    (tmp_path / "search" / "begun.json").write_text(json.dumps({**found, "trials": [trial(4, None, "running")]}))
    ((block,),) = blocks(RunDirectory(tmp_path))
    assert block["title"] == "Search adam-teacher: the teacher, passt"
    assert [row[0] for row in block["table"]["rows"]] == ["0.4000", "0.9000"]
    assert block["table"]["columns"] == ["log loss", "learning_rate", "beta1", "beta2", "epsilon"]
    assert [panel["encoding"]["x"]["field"] for panel in block["chart"]["hconcat"]] == [
        *("learning_rate", "beta1", "beta2", "epsilon")
    ]
    assert len(block["chart"]["data"]["values"]) == 3
