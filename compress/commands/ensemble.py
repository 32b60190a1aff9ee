"""`compress ensemble`: teachers joined by the generalised mean."""

from __future__ import annotations

from pathlib import Path

from edgepress.compress.pipeline.data import front_end_of, open_task, task_source
from edgepress.models.errors import UsageError
from edgepress.models.run_directory import RunDirectory


def run_ensemble(
    teachers: tuple[Path, ...],
    *,
    mode: str,
    shared_exponent: bool,
    data: str | None,
    run: Path,
    name: str,
    trust: bool,
    machine: tuple[str, str, str, int],
) -> None:
    """Fit weights and exponents on the validation split; prints weights, figures and the path.

    Raises:
        UsageError: fewer than two teachers, another mode, or teachers of other classes.
    """
    from edgepress.compress.pipeline.teaching import ensemble_stage, ensemble_text
    from edgepress.compress.teach.teachers import read_ensemble
    from edgepress.compress.training.machine import Machine

    directory = RunDirectory(run)
    with directory.lock():
        members = list(teachers) or [Path(entry["path"]) for entry in directory.entries("teacher")]
        if len(members) < 2:
            raise UsageError(
                f"{run} holds {len(members)} teachers: an ensemble needs two or more; run `compress teach "
                "--count N` first, or name their paths"
            )
        source = data or task_source(members[0])
        if source is None:
            raise UsageError(f"{members[0]} names no task to fit the ensemble on: give --data")
        task = open_task(source, front_end_of(members[0]), trust=trust or data is not None)
        entry = ensemble_stage(
            directory,
            members,
            task,
            source,
            mode=mode,
            shared_exponent=shared_exponent,
            machine=Machine(*machine),
            trust=trust,
            name=name,
        )
    metrics = read_ensemble(Path(entry["path"]))["metrics"]
    print(ensemble_text(metrics, "test" if "test" in metrics["figures"] else "validation"))
    print(entry["path"])
