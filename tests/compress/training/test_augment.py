"""Augmentation: formulas by hand, exact repetition from a generator, and the whole chain of a recipe."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

from edgepress.compress.recipes.sections import Augment
from edgepress.compress.training import augment
from edgepress.models.errors import UsageError
from edgepress.models.tasks.front_ends.log_mel import LogMel, log_mel

FRONT_END = LogMel(sample_rate_hz=8000, n_fft=256, window=256, hop=100, n_mels=16, fmax_hz=4000)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def features(clips: int = 6) -> torch.Tensor:
    scale = torch.linspace(0.5, 2, clips)[:, None, None, None]
    return torch.randn(clips, 1, 8, 20, generator=seeded(9)) * scale + torch.arange(clips)[:, None, None, None]


def test_mixstyle_gives_every_band_mixed_statistics(monkeypatch):
    x = features()
    monkeypatch.setattr(augment, "beta", lambda alpha, count, device, generator: torch.full((count,), 0.25))
    y = augment.freq_mixstyle(x, 0.3, 1.0, generator=seeded())
    partner = torch.randperm(6, generator=seeded())
    mean, deviation = x.mean((1, 3)), (x.var((1, 3)) + 1e-6).sqrt()
    assert torch.allclose(y.mean((1, 3)), 0.25 * mean + 0.75 * mean[partner], atol=1e-5)
    assert torch.allclose(y.std((1, 3)), 0.25 * deviation + 0.75 * deviation[partner], atol=1e-4)
    # The shape within a band stays: it is only stretched and shifted.
    normal = (x[0, 0, 3] - mean[0, 3]) / deviation[0, 3]
    assert torch.allclose((y[0, 0, 3] - y[0, 0, 3].mean()) / y[0, 0, 3].std(), normal, atol=1e-4)


def test_mixstyle_with_itself_changes_nothing_and_probability_is_per_batch(monkeypatch):
    x = features()
    monkeypatch.setattr(augment, "beta", lambda alpha, count, device, generator: torch.ones(count))
    assert torch.allclose(augment.freq_mixstyle(x, 0.3, 1.0, generator=seeded()), x, atol=1e-5)
    monkeypatch.undo()
    assert augment.freq_mixstyle(x, 0.3, 0.0) is x
    generator = seeded(1)
    changed = [augment.freq_mixstyle(x, 0.3, 0.4, generator=generator) is not x for _ in range(400)]
    assert np.mean(changed) == pytest.approx(0.4, abs=0.08)


def test_mixup_keeps_a_clip_the_larger_part():
    x = features()
    y, partner, share = augment.mixup(x, 0.3, generator=seeded())
    assert share.min() >= 0.5
    weight = share[:, None, None, None]
    assert torch.allclose(y, weight * x + (1 - weight) * x[partner])
    two, partner, share = augment.mixup(torch.eye(4), 0.3, generator=seeded(3))
    assert torch.allclose(two.sum(1), torch.ones(4))
    moved = partner != torch.arange(4)
    assert moved.any()
    assert torch.allclose(two.diagonal()[moved], share[moved])


def test_beta_has_the_right_mean_and_variance():
    drawn = augment.beta(0.3, 20000, torch.device("cpu"), seeded())
    assert drawn.mean() == pytest.approx(0.5, abs=0.01)
    assert drawn.var() == pytest.approx(1 / (4 * (2 * 0.3 + 1)), abs=0.005)  # of Beta(a, a): 1 / (4 (2a + 1))


def test_roll_is_circular_and_different_for_every_clip():
    waveforms = torch.arange(50.0).repeat(40, 1)
    y = augment.roll(waveforms, 7, generator=seeded())
    shifts = {int(row[0].neg() % 50) for row in y}
    assert shifts <= {*range(8), *range(43, 50)}
    assert len(shifts) > 8
    for row in y:
        assert torch.equal(row, torch.roll(torch.arange(50.0), int(row[0].neg())))
    x = features()
    rolled = augment.roll(x, 3, generator=seeded())
    assert torch.equal(rolled.sort(-1).values, x.sort(-1).values)
    assert torch.equal(
        (rolled[0, 0] == x[0, 0].roll(int(torch.randint(-3, 4, (6,), generator=seeded())[0]), -1)),
        torch.ones(8, 20, dtype=torch.bool),
    )


@pytest.mark.parametrize("dimension", [2, 3])
def test_masks_are_one_stretch_of_every_width(dimension):
    x = torch.zeros(3000, 1, 8, 20)
    y = augment.mask(x, 5, dimension, fill=0.9, generator=seeded())
    hidden = (y == 0.9).all(5 - dimension)[:, 0]
    assert torch.equal((y == 0.9).any(5 - dimension)[:, 0], hidden)
    counts = torch.bincount(hidden.sum(1), minlength=6)
    assert counts.shape == (6,)
    assert counts.min() > 400
    assert (hidden.int().diff(dim=1).abs().sum(1) <= 2).all()
    assert hidden.any(0).all()
    with pytest.raises(UsageError, match="mask width = 21"):
        augment.mask(x, 21, 3)


def test_impulse_responses_are_convolved_and_cut():
    waveforms = torch.randn(4, 300, generator=seeded())
    responses = torch.zeros(2, 40)
    responses[0, 0], responses[1, 3] = 0.5, 2.0
    y = augment.device_impulse_response(waveforms, responses, 1.0, generator=seeded(2))
    for row, made in zip(waveforms, y, strict=True):
        candidates = [np.convolve(row.numpy(), response.numpy())[:300] for response in responses]
        assert min(np.abs(made.numpy() - candidate).max() for candidate in candidates) < 1e-5
    assert augment.device_impulse_response(waveforms, responses, 0.0, generator=seeded()) is waveforms
    only = augment.device_impulse_response(
        waveforms, responses, 1.0, eligible=torch.tensor([True, False, False, True]), generator=seeded()
    )
    assert torch.equal(only[1:3], waveforms[1:3])
    assert not torch.equal(only[0], waveforms[0])


def write_responses(folder):
    folder.mkdir()
    soundfile.write(folder / "delay.wav", np.eye(1, 50, 4)[0] * 0.9, 8000, subtype="FLOAT")
    soundfile.write(folder / "half.wav", np.eye(1, 20)[0] * 0.5, 8000, subtype="FLOAT")
    (folder / "notes.txt").write_text("no audio")
    return folder


def test_impulse_responses_are_read_from_a_folder(tmp_path):
    folder = write_responses(tmp_path / "irs")
    responses = augment.impulse_responses(folder, 8000)
    assert responses.shape == (2, 50)
    assert responses[0].nonzero().flatten().tolist() == [4]
    assert responses[1, 0] == 0.5
    assert augment.impulse_responses(folder, 8000, ["delay.wav"]).shape == (1, 20)
    # The gain at low frequencies stays at another rate.
    assert augment.impulse_responses(folder, 4000).sum(1).tolist() == pytest.approx([0.9, 0.5], abs=0.05)
    with pytest.raises(UsageError, match="has no such file"):
        augment.impulse_responses(folder, 8000, ["dleay.wav"])
    with pytest.raises(UsageError, match="that is not excluded"):
        augment.impulse_responses(folder, 8000, ["delay.wav", "half.wav"])
    with pytest.raises(UsageError, match="is no folder"):
        augment.impulse_responses(folder / "none", 8000)
    (folder / "text.wav").write_text("hello")
    with pytest.raises(UsageError, match=r"text\.wav is no audio file"):
        augment.impulse_responses(folder, 8000)
    soundfile.write(folder / "text.wav", np.zeros(10), 8000)
    with pytest.raises(UsageError, match=r"text\.wav is silent"):
        augment.impulse_responses(folder, 8000)


def test_real_impulse_responses_without_those_of_the_devices(shared):
    left_out = ["Reslo_VMC2.wav", "IR_STC4033_Ribbon.wav"]
    every, some = (augment.impulse_responses(shared / "data/micirp", 32000, names) for names in ((), left_out))
    assert len(every) - len(some) == 2
    assert torch.isfinite(some).all()


def own_task(read_waveforms=lambda name: np.zeros((4, 4000), np.int16), front_end=FRONT_END):
    return SimpleNamespace(
        name="own",
        input_shape=(1, 16, 40),
        front_end=front_end,
        read_waveforms=read_waveforms,
        split=lambda name: SimpleNamespace(devices=("a", "b", "a", "b")),
    )


def test_the_whole_chain_repeats_from_its_seed(tmp_path):
    asked = Augment(
        mixstyle_probability=0.5,
        frequency_mask=4,
        roll_frames=5,
        roll_samples=300,
        impulse_probability=0.7,
        impulse_folder=str(write_responses(tmp_path / "irs")),
    )
    chain = augment.make_augmentation(asked, own_task())
    waveforms = torch.randint(-9000, 9000, (4, 4000), generator=seeded(), dtype=torch.int16)
    outputs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        x, partner, share = chain(waveforms, torch.zeros(4, dtype=torch.long))
        outputs.append(x)
        assert x.shape == (4, 1, 16, 40)
        assert x.dtype == torch.float32
        assert partner is None
        assert share is None
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])
    assert not chain.state_dict()


def test_without_anything_to_do_waveforms_become_the_features_of_the_task(tmp_path):
    asked = Augment(impulse_probability=1e-9, impulse_folder=str(write_responses(tmp_path / "irs")))
    waveforms = np.random.default_rng(0).integers(-9000, 9000, (4, 4000)).astype(np.int16)
    x, _, _ = augment.make_augmentation(asked, own_task())(torch.from_numpy(waveforms), torch.zeros(4))
    assert np.abs(x.numpy() - log_mel(waveforms, FRONT_END)).max() < 1e-4


def test_only_the_reference_device_hears_other_microphones(tmp_path):
    asked = Augment(impulse_probability=1.0, impulse_folder=str(write_responses(tmp_path / "irs")))
    chain = augment.make_augmentation(asked, own_task())
    waveforms = torch.randn(2, 4000, generator=seeded()) / 10
    x, _, _ = chain(waveforms, torch.zeros(2), torch.tensor([0, 3]))  # clips 0 (device a) and 3 (device b) of train
    plain = log_mel(waveforms.numpy(), FRONT_END)
    assert np.abs(x.numpy() - plain)[1].max() < 1e-4
    assert np.abs(x.numpy() - plain)[0].max() > 1e-2
    assert augment.reference_clips(("s1", "s2", "s2")).tolist() == [False, True, True]
    assert augment.reference_clips(None) is None


def test_mixup_of_a_recipe_returns_partner_and_share():
    x, partner, share = augment.make_augmentation(Augment(mixup_alpha=0.3), own_task())(features(), torch.zeros(6))
    assert x.shape == features().shape
    assert partner.shape == share.shape == (6,)


def test_what_a_task_cannot_do_is_refused():
    with pytest.raises(UsageError, match="need audio, which task own does not hold"):
        augment.make_augmentation(Augment(roll_samples=10), own_task(read_waveforms=None))
    with pytest.raises(UsageError, match="frequency_mask = 17 is larger than the features, which have 16"):
        augment.make_augmentation(Augment(frequency_mask=17), own_task())
    flat = SimpleNamespace(**{**vars(own_task()), "input_shape": (640,)})
    with pytest.raises(UsageError, match="roll_frames needs features of"):
        augment.make_augmentation(Augment(roll_frames=2), flat)


def test_the_upper_edge_of_the_bands_is_drawn_for_every_batch():
    """fmax + R / 2 - n with n from 0 to R - 1; the features are those of a front end with that edge."""
    from dataclasses import replace

    from edgepress.models.tasks.front_ends.log_mel_torch import log_mel_torch

    front_end = replace(FRONT_END, fmax_hz=3500.0)
    chain = augment.Augmentation(
        Augment(fmax_jitter_hz=1000), log_mel_torch(front_end), None, None, 0.0, generator=seeded(4)
    )
    waves = 0.1 * torch.randn(2, 4000, generator=seeded(5))
    drawn = seeded(4)
    edges = [3500 + 500 - int(torch.randint(1000, (), generator=drawn)) for _ in range(3)]
    assert len(set(edges)) == 3
    for edge in edges:
        assert 3001 <= edge <= 4000
        found, _, _ = chain(waves, torch.zeros(2))
        wanted = log_mel(waves.numpy(), replace(front_end, fmax_hz=float(edge)))
        np.testing.assert_allclose(found.numpy(), wanted, atol=1e-3)
    assert Augment(fmax_jitter_hz=10).on_waveforms


def test_an_upper_edge_beyond_half_the_rate_is_cut():
    from edgepress.models.tasks.front_ends.log_mel_torch import log_mel_torch

    chain = augment.Augmentation(
        Augment(fmax_jitter_hz=1000), log_mel_torch(FRONT_END), None, None, 0.0, generator=seeded(0)
    )
    edges = [chain._upper_edge(torch.device("cpu"))["fmax_hz"] for _ in range(50)]
    assert max(edges) == 4000
    assert min(edges) < 3700
