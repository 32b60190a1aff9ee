"""Teachers: the contrastive term in training, ensembles on disk, outputs cached once per clip, students that follow."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from edgepress.compress.pipeline.entries import key_of
from edgepress.compress.pipeline.stages import prune_stage, quantize_stage
from edgepress.compress.pipeline.teaching import ensemble_stage, student_stage, teacher_stage
from edgepress.compress.recipes.sections import (
    Contrastive,
    Distill,
    NetworkSettings,
    PruneSettings,
    TeacherSettings,
    TrainSettings,
)
from edgepress.compress.teach import teachers as module
from edgepress.compress.teach.teachers import cached_outputs, open_teacher
from edgepress.compress.training.contrastive import InverseContrastive, inverse_contrastive
from edgepress.compress.training.machine import Machine
from edgepress.compress.training.train import train
from edgepress.models.checkpoints.checkpoint import load_checkpoint, read_metrics
from edgepress.models.errors import UsageError
from edgepress.models.limits import Limits
from edgepress.models.run_directory import RunDirectory
from edgepress.models.tasks import load_task
from tests.compress.train_cases import latent_net, small_net, write_device_task, write_scenes

FAST = TrainSettings(epochs=2, batch_size=16, learning_rate=5e-3, precision="32-true")
CPU = Machine(accelerator="cpu", progress=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run with two teachers, one of them trained with the contrastive term, and their ensemble."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("teachers")
    patch = pytest.MonkeyPatch()
    patch.setenv("EDGEPRESS_CACHE", str(folder / "cache"))
    source = str(write_device_task(folder))
    task, run = load_task(source), RunDirectory(folder / "run")
    entries = [
        teacher_stage(
            run,
            TeacherSettings(
                network=NetworkSettings(name="tests.compress.train_cases:latent_net"),
                train=FAST.model_copy(update={"contrastive": Contrastive() if seed else None}),
            ),
            task,
            source,
            seed=seed,
            machine=CPU,
        )
        for seed in (0, 1)
    ]
    joined = ensemble_stage(run, [Path(entry["path"]) for entry in entries], task, source, machine=CPU, trust=True)
    yield run, task, source, entries, joined
    patch.undo()


def test_settings_that_say_nothing_leave_older_keys_as_they_are():
    # The digest that a training with default settings had before there was a contrastive term.
    assert set(TrainSettings().model_dump()) & {"contrastive", "betas", "epsilon"} == set()
    later = TrainSettings(betas=(0.8, 0.99), contrastive=Contrastive())
    assert TrainSettings.model_validate(later.model_dump(mode="json")) == later
    assert key_of("train", later.model_dump()) != key_of("train", TrainSettings().model_dump())


def test_both_terms_and_the_mean_distances_are_in_the_history(made):
    _, _, _, entries, _ = made
    plain, contrastive = (read_metrics(entry["path"])["history"] for entry in entries)
    wanted = {"push", "pull", "distance_same", "distance_different"}
    assert not wanted & set(plain[0])
    assert all(wanted <= set(record) and np.isfinite(list(record.values())).all() for record in contrastive)


def test_a_strong_term_brings_devices_together(made):
    _, task, _, _, _ = made
    torch.manual_seed(0)
    network = latent_net()
    settings = FAST.model_copy(update={"epochs": 8, "select": "last"})

    def pull(weight):
        found = train(
            network, task, settings.model_copy(update={"contrastive": Contrastive(weight=weight)}), machine=CPU
        ).model
        x = torch.from_numpy(np.array(task.features("test")))
        codes = torch.from_numpy(np.unique(task.split("test").devices, return_inverse=True)[1])
        with torch.no_grad():
            latents = found.forward_with_latent(x)[1]
        return float(inverse_contrastive(latents, codes, InverseContrastive()).terms["pull"])

    assert pull(20.0) < 0.7 * pull(0.0)


@pytest.mark.parametrize(
    ("network", "devices", "message"),
    [(small_net, True, "SmallNet has no method forward_with_latent"), (latent_net, False, "recording device of every")],
)
def test_what_the_term_needs_is_said(tmp_path, network, devices, message):
    from tests.compress.train_cases import small_task

    task = load_task(write_device_task(tmp_path)) if devices else small_task(tmp_path)
    with pytest.raises(UsageError, match=message):
        train(network(), task, FAST.model_copy(update={"contrastive": Contrastive()}), machine=CPU)


def test_a_teacher_is_run_once_per_clip(made, monkeypatch):
    _, task, _, entries, _ = made
    model, spec = load_checkpoint(entries[0]["path"], trust=True)
    outputs = cached_outputs(model, spec, task, "train")  # trained a moment ago: found
    assert outputs.latents.shape == (len(task.split("train")), 12)
    with torch.no_grad():
        logits, latents = model.forward_with_latent(torch.from_numpy(np.array(task.features("train"))))
    assert np.allclose(outputs.logits, logits, atol=1e-5)
    assert np.allclose(outputs.latents, latents, atol=1e-5)
    monkeypatch.setattr(module, "batches", None)  # computing them again would fail
    cached_outputs(model, spec, task, "train")


def test_a_teacher_knows_what_is_left_of_the_device(made):
    _, _, _, entries, _ = made
    probe = read_metrics(entries[0]["path"])["device_probe"]
    assert (probe["split"], probe["chance"]) == ("test", pytest.approx(1 / 3))


def test_an_ensemble_is_a_teacher_like_any_other(made):
    run, task, source, entries, joined = made
    assert [kind for kind in ("checkpoint", "teacher", "ensemble") if run.entries(kind)] == ["teacher", "ensemble"]
    teacher = open_teacher(joined["path"], trust=True)
    x = torch.from_numpy(np.array(task.features("test")))
    with torch.no_grad():
        online = teacher.network()(x).numpy()
    assert np.allclose(online, teacher.logits(task, source, "test"), atol=1e-5)
    assert np.allclose(np.exp(online).sum(1), 1, atol=1e-5)
    metrics = module.read_ensemble(joined["path"])["metrics"]
    assert sum(metrics["shares"]) == pytest.approx(1)
    figures = metrics["figures"]["validation"]
    assert figures["ensemble"]["log_loss"] <= min(figures[name]["log_loss"] for name in ("probability_mean",)) + 1e-6
    assert len(figures["members"]) == 2
    again = ensemble_stage(run, [Path(entry["path"]) for entry in entries], task, source, machine=CPU, trust=True)
    assert again["path"] == joined["path"]


def test_an_ensemble_of_a_changed_member_is_refused(made, tmp_path):
    run, _, _, entries, joined = made
    copied = tmp_path / "run"
    shutil.copytree(run.path, copied)
    ensemble = copied / Path(joined["path"]).relative_to(run.path)
    member = copied / Path(entries[1]["path"]).relative_to(run.path)
    assert len(open_teacher(ensemble, trust=True).members) == 2  # a run can be moved
    description = json.loads((member / "model.json").read_text())
    (member / "model.json").write_text(json.dumps(description))
    with pytest.raises(UsageError, match=r"has changed since .* was fitted"):
        open_teacher(ensemble)
    (ensemble / "ensemble.json").write_text("{")
    with pytest.raises(UsageError, match="is damaged"):
        open_teacher(ensemble)


@pytest.mark.parametrize("logits", ["online", "cached"])
def test_every_trainer_follows_the_ensemble(made, logits):
    run, task, _, entries, joined = made
    teacher = open_teacher(joined["path"], trust=True)
    distill = Distill(logits=logits, form="2022", weight=50)
    student = Path(entries[0]["path"])
    options = {"machine": CPU, "seed": 3, "trust": True}
    followed = student_stage(run, student, FAST, distill, teacher, task, **options)
    assert read_metrics(followed["path"])["distill"]["members"] == 2
    limits = Limits(macs=int(0.6 * followed["macs"]))
    settings = PruneSettings(method="admm", updates=2, distill=distill, train=FAST)
    alone, taught = (
        prune_stage(run, student, limits, settings, task, teacher=one, **options) for one in (None, teacher)
    )
    assert alone["key"] != taught["key"]
    histories = [read_metrics(entry["path"])["history"] for entry in (alone, taught)]
    assert histories[0][0]["phase"] == histories[1][0]["phase"] == "shape"
    assert histories[0][0]["train_loss"] != histories[1][0]["train_loss"]  # the teacher guides ADMM's first step too
    from edgepress.compress.recipes.sections import QuantizeSettings

    aware = quantize_stage(
        run,
        Path(taught["path"]),
        QuantizeSettings(clips=32, distill=distill, train=FAST),
        task,
        teacher=teacher,
        **options,
    )
    assert read_metrics(aware["path"])["distill"]["teacher"] == "ensemble"


def test_a_teacher_with_another_front_end_only_gives_cached_logits(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEPRESS_CACHE", str(tmp_path / "cache"))
    from edgepress.models.tasks.front_ends.log_mel import LogMel

    source = str(write_scenes(tmp_path, places=3))
    narrow, wide = (
        LogMel(sample_rate_hz=8000, n_fft=256, window=256, hop=400, n_mels=bands, fmax_hz=4000) for bands in (16, 24)
    )
    tasks = [load_task(source, front_end=front_end) for front_end in (narrow, wide)]
    settings = TeacherSettings(
        network=NetworkSettings(
            name="passt_tiny", arguments={"patch_size": 8, "stride": 8, "embed_dim": 8, "depth": 1, "num_heads": 1}
        ),
        train=FAST.model_copy(update={"epochs": 0}),
    )
    entry = teacher_stage(RunDirectory(tmp_path / "run"), settings, tasks[1], source, seed=0, machine=CPU)
    teacher = open_teacher(entry["path"])
    cached = teacher.guide(tasks[0], source, Distill(logits="cached"))
    assert cached.shape == (len(tasks[0].split("train")), 2)
    with pytest.raises(UsageError, match='distil with logits = "cached"'):
        teacher.guide(tasks[0], source, Distill(logits="online"))
