"""A bounded part of what the hostile experiment does with commands: stopped, killed, and out of disk."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from edgepress.benchmarks.experiments.hostile.endings import disk, kills, signals
from edgepress.benchmarks.experiments.hostile.endings.kills import Series
from edgepress.benchmarks.experiments.hostile.endings.processes import processes_of, said_in, start
from edgepress.benchmarks.experiments.hostile.endings.project import TRAINED, command, write_task
from edgepress.models.errors import UsageError
from tests.compress.train_cases import RECIPE

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="processes and disks of Linux"),
]
_PHASES = (("train:", 5), ("prune", 5), ("quantize:", 5))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A file and a run directory with its results, made without training."""
    pytest.importorskip("litert_torch")
    from edgepress.benchmarks.experiments.hostile import seeds

    folder = tmp_path_factory.mktemp("files")
    seeds.write_tflite(folder)
    (folder / "m.tflite.manifest.json").unlink(missing_ok=True)  # of what training left; the texts hold their own
    seeds.write_checkpoint(folder)
    seeds.write_texts(folder)
    write_task(folder / "task.npz")
    return folder


@pytest.fixture
def work(files, tmp_path) -> Path:
    """A folder whose project is there already."""
    shutil.copytree(files, tmp_path / "project")
    (tmp_path / "complete").touch()
    return tmp_path


def test_signals_end_commands_that_run_native_code(work):
    chosen = (
        command("deploy verify m.tflite --data task.npz", "run"),
        command("benchmarks latency m.tflite --runs 100000 --runtime litert", "run"),
        command("benchmarks devices"),
    )
    found = signals.measure(work, print, chosen)
    assert found["bad"] == []
    assert found["cases"] == 12
    assert found["ended"] >= 6


def test_killed_while_it_measures_a_command_loses_nothing(work):
    series = Series(command("benchmarks run m.tflite --data task.npz --runtime litert", "run"), (("", 3),))
    found = kills.measure(60, work, print, (series,))
    assert found["bad"] == []
    assert found["kills"] >= 1
    # The same command goes on with what it has measured: nothing is started again.
    lines = (work / "kills.jsonl").read_text()
    assert kills.measure(60, work, print, (series,)) == found
    assert (work / "kills.jsonl").read_text() == lines


def test_no_rank_survives_a_training_that_is_killed(tmp_path):
    """torch's own way is a SIGINT, which a rank does not notice while it waits for the other one."""
    (tmp_path / "project").mkdir()
    write_task(tmp_path / "project" / "task.npz")
    (tmp_path / "project" / "own.toml").write_text(RECIPE.format(task="task.npz"))
    (tmp_path / "complete").touch()
    train = command("compress train own.toml --devices 2", "new", *TRAINED)
    found = kills.measure(60, tmp_path, print, (Series(train, (("train:", 2),)),))
    assert found["bad"] == []
    assert found["kills"] >= 1


def test_a_rank_that_waits_for_another_one_dies_with_its_training(tmp_path):
    """Whoever waits for the others to join does so in native code; the last one is stopped here before it can join."""
    place = tmp_path / "place"
    place.mkdir()
    write_task(place / "task.npz")
    (place / "own.toml").write_text(RECIPE.format(task="task.npz"))
    started = start(command("compress train own.toml --devices 2", "new", *TRAINED).words, place, tmp_path)
    try:
        first, last = _ranks(place, started)
        os.kill(last, signal.SIGSTOP)
        _wait_until_idle(first)
        started.kill()
        started.wait()
        assert _gone(first, place), said_in(place)
        os.kill(last, signal.SIGCONT)
        assert _gone(last, place), said_in(place)
    finally:
        for process in processes_of(place):
            os.kill(process, signal.SIGKILL)
        started.wait()


def _ranks(place: Path, started: subprocess.Popen[bytes]) -> tuple[int, int]:
    """The two spawned processes, the first one first."""
    while started.poll() is None:
        found = []
        for process in processes_of(place):
            with suppress(OSError):
                if b"spawn_main" in Path(f"/proc/{process}/cmdline").read_bytes():
                    found.append(process)
        if len(found) == 2:
            return min(found), max(found)
        time.sleep(0.01)
    pytest.fail(f"no ranks: {said_in(place)}")


def _wait_until_idle(process: int) -> None:
    """It has imported what it needs and waits: of two seconds it computes a tenth at most, since gloo looks around."""
    before, seconds = 0.0, 0.0
    while seconds < 1.0 or seconds - before > 0.2:
        before = seconds
        time.sleep(2.0)
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        seconds = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _gone(process: int, place: Path) -> bool:
    """Within a minute."""
    until = time.monotonic() + 60
    while (alive := process in processes_of(place)) and time.monotonic() < until:
        time.sleep(0.05)
    return not alive


def test_on_a_full_disk_results_and_report_are_whole_or_not_there(work):
    chosen = (
        (command("benchmarks run m.tflite --data task.npz --runtime litert", "run"), 4),
        (command("benchmarks report --output r.html --overwrite", "run"), 2),
    )
    try:
        found = disk.measure(20, work, print, chosen)
    except UsageError as error:
        pytest.skip(str(error))
    assert found["bad"] == []
    assert found["offsets"] == 6
    assert found["commands"]["benchmarks run"]["sentence"] >= 1


def test_killed_in_every_phase_a_recipe_ends_with_the_same_bits(tmp_path):
    (tmp_path / "project").mkdir()
    write_task(tmp_path / "project" / "task.npz")
    (tmp_path / "project" / "own.toml").write_text(RECIPE.format(task="task.npz"))
    (tmp_path / "complete").touch()
    found = kills.measure(60, tmp_path, print, (Series(command("compress run own.toml", "new", *TRAINED), _PHASES),))
    assert found["bad"] == []
    assert found["kills"] >= 12
    assert set(found["series"]["compress run"]) == {"train:", "prune", "quantize:"}
    alone = json.loads((tmp_path / "kills.jsonl").read_text().splitlines()[0])
    assert len([name for name in alone["made"] if name.startswith("checkpoint")]) == 4
