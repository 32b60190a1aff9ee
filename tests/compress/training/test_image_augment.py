"""Augmentation of images: what may change, by how much, and what must not."""

import pytest
import torch

from edgepress.compress.recipes.sections import Augment
from edgepress.compress.training.augment import make_augmentation
from edgepress.compress.training.image_augment import cutmix, flip, moved_crop, recolour
from edgepress.models.errors import ConfigError, UsageError


def images(count=64, size=(6, 5), channels=3):
    return torch.rand((count, channels, *size), generator=torch.Generator().manual_seed(1))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_flip_mirrors_about_so_many():
    x = images(400)
    made = flip(x, 0.25, generator=generator())
    mirrored = torch.tensor([torch.equal(a, b.flip(-1)) for a, b in zip(made, x, strict=True)])
    same = torch.tensor([torch.equal(a, b) for a, b in zip(made, x, strict=True)])
    assert bool((mirrored | same).all())
    assert 70 <= int(mirrored.sum()) <= 130
    assert torch.equal(flip(x, 1.0), x.flip(-1))


def test_a_moved_crop_is_a_window_of_the_padded_image():
    x = images(50)
    made = moved_crop(x, 2, fill=-9.0, generator=generator())
    seen = set()
    for one, before in zip(made, x, strict=True):
        padded = torch.nn.functional.pad(before, (2, 2, 2, 2), value=-9.0)
        found = [
            (top, left)
            for top in range(5)
            for left in range(5)
            if torch.equal(padded[:, top : top + 6, left : left + 5], one)
        ]
        assert len(found) == 1
        seen |= set(found)
    assert len(seen) > 12
    assert {top for top, _ in seen} == {left for _, left in seen} == set(range(5))


def test_recolour_by_hand_and_within_full_scale():
    mean, std = torch.tensor([0.5]), torch.tensor([0.25])
    x = (images(32) - 0.5) / 0.25
    assert torch.allclose(recolour(x, 0.0, mean, std), x, atol=1e-5)
    made = recolour(x, 0.8, mean, std, generator=generator())
    assert float(made.min()) >= -2 - 1e-5
    assert float(made.max()) <= 2 + 1e-5
    # A grey image of one value stays one of one value: only brightness can change it.
    flat = recolour(torch.zeros(8, 3, 4, 4), 0.5, mean, std, generator=generator(3))
    assert torch.allclose(flat, flat[:, :1, :1, :1].expand_as(flat), atol=1e-5)
    factors = flat[:, 0, 0, 0] * 0.25 / 0.5 + 1
    assert 0.5 <= float(factors.min()) < float(factors.max()) <= 1.5


def test_cutmix_keeps_the_share_that_it_says():
    x = images(16, (9, 7))
    for seed in range(20):
        made, partner, share = cutmix(x, 1.0, generator=generator(seed))
        own = (made == x).all(1).float().mean((1, 2))
        other = (made == x[partner]).all(1).float().mean((1, 2))
        moved = partner != torch.arange(16)
        assert torch.allclose(own[moved], share[moved], atol=1e-6)
        assert torch.allclose(other[moved], 1 - share[moved], atol=1e-6)


def test_what_does_not_fit_is_named():
    class Flat:
        name, input_shape, front_end, read_waveforms = "numbers", (8,), None, None

    with pytest.raises(UsageError, match="crop_pixels needs images"):
        make_augmentation(Augment(crop_pixels=2), Flat())  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="cutmix_alpha needs images"):
        make_augmentation(Augment(cutmix_alpha=1.0), Flat())  # type: ignore[arg-type]

    class Masks(Flat):
        input_shape, kind = (3, 8, 8), "segmentation"

    for settings in ({"flip_probability": 0.5}, {"crop_pixels": 2}, {"cutmix_alpha": 1.0}):
        with pytest.raises(UsageError, match="moves images, and what the segmentation task numbers says"):
            make_augmentation(Augment(**settings), Masks())  # type: ignore[arg-type]
    with pytest.raises((ConfigError, ValueError), match="mixup_alpha and cutmix_alpha exclude each other"):
        Augment(mixup_alpha=0.3, cutmix_alpha=1.0)


def test_an_unused_new_key_is_not_written():
    assert "cutmix_alpha" not in Augment().model_dump()
    assert Augment(flip_probability=0.5).model_dump()["flip_probability"] == 0.5
