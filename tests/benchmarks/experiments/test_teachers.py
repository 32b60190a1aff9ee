"""The experiments on teachers: their plan, what is summed up of them, the page, and a run that is killed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgepress.benchmarks.experiments.teachers import trainings as module
from edgepress.benchmarks.experiments.teachers.page import page_of
from edgepress.benchmarks.experiments.teachers.plan import Plan, jobs_of
from edgepress.benchmarks.experiments.teachers.results import measure, read, save, summarise
from edgepress.benchmarks.experiments.teachers.trainings import estimate_s, schedule
from edgepress.benchmarks.report.teacher_tables import as_text, read_results, results_of_run, tables_of
from edgepress.models.errors import RuntimeFailure, UsageError
from edgepress.models.run_directory import RunDirectory
from tests.benchmarks.experiments.small_task import SmallTask

ROOT = Path(__file__).resolve().parents[3]
PLAN = Plan("scenes", "impulses", (0, 1))


def leave(run: Path, arm: str, seed: int, right: list[int], probe: list[int] | None = None) -> None:
    """A finished job of that arm."""
    job = next(job for job in jobs_of(PLAN) if (job.arm, job.seed) == (arm, seed))
    arrays = {"right": np.array(right, bool), "losses": 1.0 - np.array(right) / 2}
    if probe is not None:
        arrays["probe"] = np.array(probe, bool)
    figures = {"shares": [0.25, 0.75], "effective_models": 1.6, "macs": 5_000_000}
    save(job.place(run, PLAN), {**arrays, "figures": figures}, {"arm": arm, "seed": seed, "name": job.name})


def test_every_job_comes_behind_what_it_needs_and_has_its_own_key():
    jobs = jobs_of(PLAN)
    known: set[str] = set()
    for job in jobs:
        assert set(job.needs) <= known
        known.add(job.name)
    assert len({job.key(PLAN) for job in jobs}) == len(jobs) == len(known) == 2 * 13 + 8
    assert jobs[0].key(PLAN) != jobs[0].key(Plan("scenes", "impulses", (0, 1), epochs=3))
    assert jobs[0].key(PLAN) == jobs[0].key(Plan("elsewhere/scenes", "impulses", (0,)))
    assert estimate_s(PLAN, jobs, 1700, 2) == pytest.approx(estimate_s(PLAN, jobs, 1700, 1) / 2)


def test_differences_are_paired_by_seed_and_recording(tmp_path):
    for seed in (0, 1):
        leave(tmp_path, "none", seed, [1, 0, 1, 0, 1, 0, 1, 0], [1] * 8)
        leave(tmp_path, "augmented", seed, [1, 1, 1, seed, 1, 1, 1, 1])
        leave(tmp_path, "contrastive", seed, [1, 0, 1, 0, 1, 0, 1, 0], [0] * 8)
    results = summarise(PLAN, tmp_path, SmallTask())
    assert (results["finished"], results["planned"]) == (6, 34)
    found = {one["title"]: one for one in results["comparisons"]}
    augmented = found["DIR and Freq-MixStyle"]
    assert augmented["seeds"] == [0, 1]
    # Clips of s4: none of 4 right; then all 4 with seed 1, three with seed 0: 3.5 / 4.
    assert augmented["accuracy"]["unseen"]["difference"] == pytest.approx(3.5 / 4)
    assert augmented["accuracy"]["seen"]["difference"] == 0
    assert augmented["accuracy"]["all"]["clusters"] == 4
    assert "device_probe" not in augmented
    assert found["contrastive term, plain"]["device_probe"]["all"]["difference"] == -1
    assert results["arms"]["augmented"]["by_recording_device"]["s4"]["accuracy"] == {
        "mean": 0.875,
        "min": 0.75,
        "max": 1.0,
        "seeds": 2,
    }


def test_the_page_has_the_tables_and_says_what_was_reached(tmp_path):
    for arm in ("none", "contrastive", "ensemble"):
        leave(tmp_path, arm, 0, [1, 0] * 4, [int(arm == "none")] * 8)
    results = json.loads(json.dumps(summarise(PLAN, tmp_path, SmallTask())))
    text = as_text(tables_of(results))
    assert "s4 (unseen)" in text
    assert "0.7500" in text
    page = page_of(results)
    assert "| 1 | 0.2500 |" in page
    assert "the device probe falls (-100.0 [-100.0, -100.0] points), accuracy is kept" in page


def test_the_page_in_the_project_agrees_with_its_results():
    folder = ROOT / "benchmarks" / "results"
    page = page_of(read_results(folder / "teachers.json"), json.loads((folder / "device_models.json").read_text()))
    assert (ROOT / "docs" / "teachers.md").read_text() == page


def test_damaged_files_are_named(tmp_path):
    for name in ("x.npz", "x.json"):
        (tmp_path / name).write_bytes(b"PK")
    with pytest.raises(UsageError, match=r"x\.npz is damaged"):
        read(tmp_path / "x.npz")
    with pytest.raises(UsageError, match=r"x\.json is no results file"):
        read_results(tmp_path / "x.json")


def test_finished_jobs_are_skipped_and_a_failure_stops_the_rest(tmp_path, monkeypatch):
    started = []

    class Process:
        def __init__(self, job):
            self.returncode = int(job.name == "ensemble-seed1")
            started.append(job.name)
            if not self.returncode:
                save(
                    job.place(tmp_path, PLAN),
                    {"right": np.ones(1), "losses": np.ones(1), "figures": {}},
                    {"arm": job.arm, "seed": job.seed, "name": job.name},
                )

        def poll(self):
            return self.returncode

        def send_signal(self, number):
            raise AssertionError("nothing was left running")

    monkeypatch.setattr(module, "_start", lambda plan, job, run, threads: Process(job))
    monkeypatch.setattr(module.time, "sleep", lambda seconds: None)
    with pytest.raises(RuntimeFailure, match="ensemble-seed1 failed"):
        schedule(PLAN, tmp_path, 2, 1, lambda: None)
    first = list(started)
    started.clear()
    with pytest.raises(RuntimeFailure):
        schedule(PLAN, tmp_path, 1, 1, lambda: None)
    assert "none-seed0" in first
    assert not set(first) & set(started) - {"ensemble-seed1"}


def test_a_run_without_teachers_has_no_tables(tmp_path):
    assert tables_of(results_of_run(RunDirectory(tmp_path))) == []


@pytest.mark.slow
def test_one_training_from_the_command_to_its_figures(tmp_path, monkeypatch):
    from tests.compress.train_cases import write_scenes

    monkeypatch.setenv("EDGEPRESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    plan = Plan(str(write_scenes(tmp_path, 9)), str(tmp_path), (0,), 2, 1, 1, 8, False, "mel16k")
    for name in ("none-seed0", "none-seed0"):
        module.run_job(plan, name, tmp_path / "run")
    (found,) = read(next((tmp_path / "run" / "measured").iterdir()))
    assert found.right.shape == found.losses.shape == found.probe.shape == (18,)
    (entry,) = RunDirectory(tmp_path / "run").entries("teacher")
    again = measure(entry["path"], module.open_data(plan))
    assert np.array_equal(again["right"], found.right.astype(bool))
    with pytest.raises(UsageError, match="needs augmented-seed0, which is not finished"):
        module.run_job(plan, "5M-alone-seed0", tmp_path / "run")
