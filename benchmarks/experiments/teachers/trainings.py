# SPDX-License-Identifier: Apache-2.0
"""The experiments on teachers, device invariance and distillation, as one command that can be killed and called again.

    python -m edgepress.benchmarks.experiments.teachers.trainings --data ./esc10-mobile --impulses ./micirp \\
        --run runs/teachers \
        --seeds 0,1,2 --output benchmarks/results/teachers.json --page docs/teachers.md

Every training is a process of its own (`--only NAME` runs one), two at a time with one thread each by default. What is
finished is not trained again; the results file and the page are written behind every training, from all that is there.

What is compared, always with everything else equal, on the test recordings:
- a CP-ResNet without augmentation, with and without the inverse contrastive term, plain and balanced;
- DIR and Freq-MixStyle against none, and the term on top of them;
- the generalised mean of four such teachers of different seeds against its members and the plain means;
- the largest network of 20 and of 5 M MACs (the same share of every layer's channels: `prune --method from-scratch`),
  trained alone and under that ensemble online;
- the report's sweeps over alpha and lambda, on the first seed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from edgepress.benchmarks.experiments.teachers.plan import MEMBERS, Job, Plan, jobs_of, seeds_of
from edgepress.benchmarks.experiments.teachers.results import measure, save, write
from edgepress.models.children import bound
from edgepress.models.command_line import run_command
from edgepress.models.errors import RuntimeFailure, UsageError

#: Milliseconds of one step of 32 clips on one of two quiet cores with bf16: of any network, of each million MACs, of
#: DIR with the front end behind it; and of a teacher's forward pass, as a share of a step. Seconds to start a process.
_STEP_MS, _STEP_MS_PER_MMAC, _FRONT_END_MS, _FORWARD, _START_S = 60.0, 2.0, 30.0, 0.35, 12.0


def run_job(plan: Plan, name: str, run: Path) -> None:
    """Do one job in this process, on as many threads as OMP_NUM_THREADS says, and write what it measured.

    Raises:
        UsageError: no such job, or something that it needs is not finished.
    """
    import torch

    from edgepress.compress.pipeline.teaching import ensemble_stage
    from edgepress.compress.training.machine import Machine
    from edgepress.models.run_directory import RunDirectory

    jobs = {job.name: job for job in jobs_of(plan)}
    if name not in jobs:
        raise UsageError(f"--only {name!r} is unknown: jobs are {', '.join(jobs)}")
    job = jobs[name]
    for needed in job.needs:
        if not jobs[needed].place(run, plan).exists():
            raise UsageError(f"{name} needs {needed}, which is not finished")
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    task = open_data(plan)
    directory, machine = RunDirectory(run), Machine(accelerator="cpu", progress=False)
    began = time.monotonic()
    if job.kind == "teacher":
        entry = _train_teacher(directory, plan, job, task, machine)
    elif job.kind == "ensemble":
        members = [_path_of(directory, jobs[needed], plan) for needed in job.needs]
        entry = ensemble_stage(
            directory,
            members,
            task,
            plan.data,
            mode=job.settings["mode"],
            machine=machine,
            name=_directory_name(job, plan),
        )
    else:
        entry = _train_student(directory, plan, job, jobs, task, machine)
    save(
        job.place(run, plan),
        measure(Path(entry["path"]), task),
        {**asdict(job), "path": os.path.relpath(entry["path"], run), "seconds": round(time.monotonic() - began, 1)},
    )


def open_data(plan: Plan) -> Any:
    """The task of a plan."""
    from edgepress.compress.pipeline.data import open_task

    return open_task(plan.data, plan.front_end)


def _network(plan: Plan) -> Any:
    from edgepress.compress.recipes.recipe import NetworkSettings

    return NetworkSettings(
        name="cp_resnet", arguments={"rho": 8, "n_blocks": [2, 1, 1], "base_channels": plan.base_channels}
    )


def _directory_name(job: Job, plan: Plan) -> str:
    return f"{job.name}-{job.key(plan)}"


def _path_of(directory: Any, job: Job, plan: Plan) -> Path:
    kind = {"teacher": "teacher", "ensemble": "ensemble", "student": "checkpoint"}[job.kind]
    return directory.place(kind, _directory_name(job, plan))


def _train_teacher(directory: Any, plan: Plan, job: Job, task: Any, machine: Any) -> dict[str, Any]:
    from edgepress.compress.pipeline.teaching import teacher_stage
    from edgepress.compress.recipes.recipe import TeacherSettings, TrainSettings, validated

    train = validated(TrainSettings, job.settings, f"job {job.name}")
    settings = TeacherSettings(network=_network(plan), front_end=plan.front_end, train=train)
    member = int(job.arm.removeprefix("augmented-")) - 1 if job.arm.removeprefix("augmented-").isdigit() else 0
    return teacher_stage(
        directory,
        settings,
        task,
        plan.data,
        seed=100 * job.seed + member,
        machine=machine,
        name=_directory_name(job, plan),
    )


def _train_student(
    directory: Any, plan: Plan, job: Job, jobs: dict[str, Job], task: Any, machine: Any
) -> dict[str, Any]:
    from edgepress.compress.pipeline.stages import prune_stage
    from edgepress.compress.recipes.recipe import Distill, PruneSettings, TrainSettings, validated
    from edgepress.compress.teach.teachers import open_teacher
    from edgepress.models.limits import Limits
    from edgepress.models.units import parse_quantity

    wanted = dict(job.settings)
    limits = Limits(macs=int(parse_quantity(wanted.pop("budget"), "macs", name="budget")))
    distill = validated(Distill, wanted.pop("distill"), job.name) if "distill" in wanted else None
    settings = PruneSettings(
        method="from-scratch", distill=distill, train=validated(TrainSettings, wanted, f"job {job.name}")
    )
    teacher = open_teacher(_path_of(directory, jobs[job.needs[-1]], plan)) if distill else None
    return prune_stage(
        directory,
        _path_of(directory, jobs[job.needs[0]], plan),
        limits,
        settings,
        task,
        machine=machine,
        seed=job.seed,
        label=_directory_name(job, plan),
        teacher=teacher,
    )


def estimate_s(plan: Plan, jobs: Sequence[Job], clips: int, workers: int) -> float:
    """Seconds that these jobs take on that many quiet cores, roughly: all passes and the front end of DIR."""
    full = 22.0 * (plan.base_channels / 24) ** 2
    total = 0.0
    for job in jobs:
        steps = clips // plan.batch_size * job.settings.get("epochs", 0)
        mmacs = min(full, float(job.settings.get("budget", "1000M").rstrip("M")))
        step_ms = _STEP_MS + _STEP_MS_PER_MMAC * mmacs + _FRONT_END_MS * ("augment" in job.settings)
        if "distill" in job.settings:
            step_ms += MEMBERS * _FORWARD * (_STEP_MS + _STEP_MS_PER_MMAC * full)
        total += steps * step_ms / 1e3 * plan.batch_size / 32 + _START_S
    return total / workers


def schedule(plan: Plan, run: Path, workers: int, threads: int, after_each: Any) -> None:
    """Run the unfinished jobs, each in a process of its own.

    Args:
        plan: what to do.
        run: the run directory, locked by the caller.
        workers: processes at a time.
        threads: of each.
        after_each: called behind every finished job.

    Raises:
        RuntimeFailure: a job failed; the others that run are let finish.
    """
    jobs = jobs_of(plan)
    waiting = [job for job in jobs if not job.place(run, plan).exists()]
    running: dict[str, subprocess.Popen[bytes]] = {}
    failed: list[str] = []
    by_name = {job.name: job for job in jobs}
    try:
        while (waiting and not failed) or running:
            for job in list(waiting):
                ready = all(by_name[needed].place(run, plan).exists() for needed in job.needs)
                if ready and len(running) < workers and not failed:
                    print(f"{len(jobs) - len(waiting) + 1} of {len(jobs)}: {job.name}", file=sys.stderr, flush=True)
                    running[job.name] = _start(plan, job, run, threads)
                    waiting.remove(job)
            time.sleep(0.2)
            for name, process in list(running.items()):
                if process.poll() is not None:
                    del running[name]
                    if process.returncode:
                        failed.append(name)
                    else:
                        after_each()
    finally:
        # A training that outlived its caller would hold the cores and write into a run that nobody watches.
        for process in running.values():
            process.send_signal(signal.SIGTERM)
        for process in running.values():
            process.wait()
    if failed:
        raise RuntimeFailure(f"{', '.join(failed)} failed; the message is above, what is finished is kept")


def _start(plan: Plan, job: Job, run: Path, threads: int) -> subprocess.Popen[bytes]:
    options = [
        f"--{name.replace('_', '-')}={','.join(map(str, value)) if isinstance(value, tuple) else value}"
        for name, value in asdict(plan).items()
        if name != "sweeps"
    ]
    command = [
        sys.executable,
        "-m",
        "edgepress.benchmarks.experiments.teachers.trainings",
        *options,
        "" if plan.sweeps else "--no-sweeps",
        f"--run={run}",
        f"--only={job.name}",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    return subprocess.Popen(bound([part for part in command if part]), env=environment, stdout=sys.stderr)


def main(
    data: Annotated[str, typer.Option(help="Folder in the layout of TAU Urban Acoustic Scenes 2022 Mobile.")],
    impulses: Annotated[str, typer.Option(help="Folder of impulse responses for DIR.")],
    run: Annotated[Path, typer.Option(help="Run directory.")] = Path("runs/teachers"),
    seeds: Annotated[str, typer.Option(help="Repetitions, separated by commas.")] = "0,1,2",
    base_channels: Annotated[int, typer.Option(min=2, help="Width of the teachers.")] = 24,
    epochs: Annotated[int, typer.Option(min=1, help="Of a teacher.")] = 15,
    student_epochs: Annotated[int, typer.Option(min=1, help="Of a student.")] = 16,
    batch_size: Annotated[int, typer.Option(min=2, help="Clips per step.")] = 32,
    sweeps: Annotated[bool, typer.Option(help="Sweep alpha and lambda on the first seed.")] = True,
    front_end: Annotated[str, typer.Option(help="A preset: mel22, mel16k, ...")] = "mel22",
    workers: Annotated[int, typer.Option(min=1, help="Trainings at a time.")] = 2,
    threads: Annotated[int, typer.Option(min=1, help="Of each training.")] = 1,
    only: Annotated[str | None, typer.Option(help="Do this one job.")] = None,
    output: Annotated[Path | None, typer.Option(help="Results file, written behind every training.")] = None,
    page: Annotated[Path | None, typer.Option(help="Markdown page, written with it.")] = None,
) -> None:
    """Train, compare and write results, going on from what is finished."""
    from edgepress.models.run_directory import RunDirectory

    plan = Plan(
        data,
        impulses,
        seeds_of(seeds),
        base_channels,
        epochs,
        student_epochs,
        batch_size,
        sweeps,
        front_end,
    )
    if only is not None:
        run_job(plan, only, run)
        return
    if not Path(impulses).is_dir():
        raise UsageError(f"--impulses = {impulses!r} is no folder of impulse responses")
    task = open_data(plan)
    for split in ("train", "validation", "test"):
        task.features(split)  # once, before two processes want them at the same time
    task.waveforms("train")
    left = [job for job in jobs_of(plan) if not job.place(run, plan).exists()]
    minutes = estimate_s(plan, left, len(task.split("train")), workers) / 60
    print(
        f"{len(left)} of {len(jobs_of(plan))} trainings to do, about {minutes:.0f} minutes on {workers * threads} "
        "quiet cores",
        file=sys.stderr,
        flush=True,
    )
    with RunDirectory(run).lock():
        schedule(plan, run, workers, threads, lambda: write(plan, run, task, output, page))
        write(plan, run, task, output, page)


if __name__ == "__main__":
    app: typer.Typer = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    run_command(app)
