"""`compress sweep`: the plan, and twelve right results though a worker and a node are killed."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from edgepress.compress.commands.sweep import run_tasks, table
from edgepress.compress.sweep.cluster import Resources
from edgepress.compress.sweep.estimate import task_seconds
from edgepress.compress.sweep.sweep import SweepTask, make_grid, plan, read_grid
from edgepress.compress.sweep.task import finished, read_json
from edgepress.models.errors import ConfigError
from tests.compress.train_cases import write_task

TINY = """
name = "tiny"
device = "dcase2023"
[network]
name = "ds_cnn"
arguments = { channels = 16, n_blocks = 2 }
[train]
epochs = 2
batch_size = 32
precision = "32-true"
[prune]
method = "one-shot"
[prune.train]
epochs = 2
batch_size = 32
precision = "32-true"
[quantize]
clips = 32
[measure]
formats = []
runtimes = []
"""


@pytest.fixture
def grid(tmp_path):
    (tmp_path / "tiny.toml").write_text(TINY)
    return make_grid(
        {
            "recipes": [str(tmp_path / "tiny.toml")],
            "budgets": ["60%", "50%", "40%"],
            "seeds": [0, 1],
            "devices": ["dcase2023", "cortex-m4"],
            "data": str(write_task(tmp_path)),
        },
        "the test",
    )


def test_the_plan_is_the_whole_grid_with_one_dense_training_per_seed(grid, tmp_path):
    tasks, recipes = plan(grid)
    assert [task.name for task in tasks[:2]] == ["tiny-seed0", "tiny-seed1"]
    assert [task.kind for task in tasks] == ["dense"] * 2 + ["run"] * 12
    assert len({task.name for task in tasks}) == 14
    assert {task.dense for task in tasks[2:]} == {"tiny-seed0", "tiny-seed1"}
    last = tasks[-1]
    assert (last.name, recipes[last.name].prune.targets, recipes[last.name].device) == (
        "tiny-40pct-cortex-m4-seed1",
        ("40%",),
        "cortex-m4",
    )
    words = last.arguments(Path("x"))
    assert words[0] == "run"
    assert words[words.index("--target") + 1] == "40%"


def test_a_lone_task_trains_its_own_dense_network(tmp_path):
    (tmp_path / "tiny.toml").write_text(TINY)
    tasks, _ = plan(make_grid({"recipes": [str(tmp_path / "tiny.toml")], "data": "synthetic"}, "the test"))
    assert [(task.name, task.dense) for task in tasks] == [("tiny-seed0", None)]


def test_keys_of_the_recipe_are_changed_in_every_task_and_are_part_of_its_result(tmp_path):
    (tmp_path / "tiny.toml").write_text(TINY)
    grid = make_grid({"recipes": [str(tmp_path / "tiny.toml")], "budgets": ["50%", "40%"], "data": "synthetic"}, "test")
    changes = ("train.epochs=3", "prune.floor=0.1")
    tasks, recipes = plan(grid, overrides=changes)
    assert [task.kind for task in tasks] == ["dense", "run", "run"]
    for task in tasks:
        words = task.arguments(Path("x"))
        assert [words[i + 1] for i, word in enumerate(words) if word == "--set"] == list(changes)
    recipe = recipes[tasks[-1].name]
    assert (recipe.train.epochs, recipe.prune.floor) == (3, 0.1)
    (tmp_path / "result.json").write_text(json.dumps({**tasks[1].to_json(), "state": "done"}))
    assert finished(tmp_path, tasks[1]) is not None
    assert finished(tmp_path, plan(grid)[0][1]) is None
    with pytest.raises(ConfigError, match=r"train\.epoch is unknown: did you mean 'epochs'"):
        plan(grid, overrides=("train.epoch=3",))


def test_a_sweep_that_may_run_code_tells_its_tasks(tmp_path):
    (tmp_path / "tiny.toml").write_text(TINY)
    grid = make_grid({"recipes": [str(tmp_path / "tiny.toml")], "data": "synthetic"}, "test")
    changes = ("train.loss=own:loss",)
    assert "--trust" in plan(grid, trust=True, overrides=changes)[0][0].arguments(Path("x"))
    assert "--trust" not in plan(grid, trust=True)[0][0].arguments(Path("x"))
    with pytest.raises(ConfigError, match="--trust"):
        plan(grid, overrides=changes)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("recipes = []", "recipes is missing"),
        ("recipe = ['a']", "recipe is unknown"),
        ("recipes = 'a'", "must be a list"),
        ("recipes = ['a', 'a']", "twice"),
        ("recipes = ['a']\nseeds = ['1']", "whole numbers"),
        ("recipes =", "not valid TOML"),
        ("recipes = ['a']\ndata = 3", "data = 3 must be text"),
    ],
)
def test_a_wrong_grid_is_explained(tmp_path, text, problem):
    path = tmp_path / "grid.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=problem):
        read_grid(path)


def test_everything_wrong_with_the_recipes_is_said_before_anything_runs(tmp_path):
    (tmp_path / "tiny.toml").write_text(TINY)
    grid = make_grid(
        {
            "recipes": [str(tmp_path / "tiny.toml"), "nothing"],
            "budgets": ["many"],
            "devices": ["toaster"],
            "data": "synthetic",
        },
        "the test",
    )
    with pytest.raises(ConfigError) as found:
        plan(grid)
    for text in ("many", "toaster", "nothing"):
        assert text in str(found.value)


def test_a_result_counts_for_the_task_that_made_it_only(tmp_path):
    task = SweepTask("a", "default", "20M", 0, None, "synthetic")
    (tmp_path / "result.json").write_text(json.dumps({**task.to_json(), "state": "done"}))
    assert finished(tmp_path, task) is not None
    assert finished(tmp_path, SweepTask("a", "default", "20M", 1, None, "synthetic")) is None
    (tmp_path / "result.json").write_text("{")
    assert finished(tmp_path, task) is None


def test_time_is_estimated_from_epochs_and_clips():
    from edgepress.compress.recipes.recipe import parse_recipe

    recipe = parse_recipe(
        {
            "name": "a",
            "network": {"name": "ds_cnn"},
            "train": {"epochs": 3},
            "prune": {"targets": ["50%"], "distill": None, "train": {"epochs": 2}},
        },
        deep=False,
    )
    whole = task_seconds(recipe, 100, 0.5, dense=False, dense_given=False)
    assert whole - task_seconds(recipe, 100, 0.5, dense=False, dense_given=True) == pytest.approx(150)
    assert whole - task_seconds(recipe, 0, 0.5, dense=False, dense_given=False) == pytest.approx(250)


def by_hand(task: SweepTask, folder: Path) -> dict[str, str]:
    """The weights that the same command makes in this process: checkpoint name -> SHA-256."""
    from edgepress.compress.pipeline.run import run_recipe
    from edgepress.compress.training.machine import Machine

    run_recipe(
        task.recipe,
        data=task.data,
        run=folder,
        seed=task.seed,
        trust=False,
        machine=Machine("cpu", "1"),
        targets=(task.budget,),
        device=task.device,
        report=False,
    )
    return {
        path.parent.name: json.loads(path.read_text())["weights"]["sha256"]
        for path in folder.glob("checkpoints/*/model.json")
    }


def with_node(nodes):
    """Another node of one core. Ray waits 30 s for one to start, in which a busy machine may not get that far."""
    for _ in range(2):
        with suppress(Exception):
            return nodes.add_node(num_cpus=1)
    return nodes.add_node(num_cpus=1)


@pytest.mark.slow
def test_twelve_right_results_though_a_worker_and_a_node_are_killed(grid, tmp_path, monkeypatch):
    import torch

    for name in ("RAY_USAGE_STATS_ENABLED", "RAY_worker_niceness", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"):
        monkeypatch.setenv(name, "0")
    from ray.cluster_utils import Cluster

    tasks, sweep = plan(grid)[0], tmp_path / "sweep"
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    lost = [with_node(nodes) for _ in range(2)][1]
    killed: list[int] = []

    def running() -> list[dict]:
        return [state for state in map(read_json, sweep.glob("tasks/*/task.json")) if state.get("state") == "running"]

    def disturb() -> None:
        while not running():
            time.sleep(0.1)
        killed.append(running()[0]["pid"])
        os.kill(killed[0], signal.SIGKILL)
        while len(list(sweep.glob("tasks/*/result.json"))) < 4:
            time.sleep(0.1)
        nodes.remove_node(lost, allow_graceful=False)
        killed.append(0)

    trouble = threading.Thread(target=disturb, daemon=True)
    trouble.start()
    try:
        results = run_tasks(tasks, sweep, Resources(address=nodes.address, memory_bytes=10**9))
    finally:
        nodes.shutdown()
    trouble.join(timeout=60)
    assert len(killed) == 2
    runs = [task for task in tasks if task.kind == "run"]
    assert [results[task.name]["state"] for task in runs] == ["done"] * 12
    assert max(results[task.name]["attempts"] for task in runs) >= 2
    assert len(json.loads((sweep / "results.json").read_text())["tasks"]) == 14
    assert table(tasks, sweep, results).row_count == 14
    torch.set_num_threads(1)
    expected = {}
    for task in runs:
        again = (task.seed, task.budget)  # the device class binds in none of them
        expected[again] = expected.get(again) or by_hand(task, tmp_path / f"by-hand-{len(expected)}")
        found = {network["name"]: network["weights_sha256"] for network in results[task.name]["networks"]}
        assert found == expected[again]
