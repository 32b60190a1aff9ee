"""PaSST against the published network, patchout, positions, and loading of published weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from edgepress.models.checkpoints.registry import build
from edgepress.models.errors import UsageError
from edgepress.models.zoo.passt import PaSST
from edgepress.models.zoo.published import load_published
from tests.models.zoo.golden_weights import arrays, fill, read_golden, shapes

SMALL = {"embed_dim": 16, "depth": 2, "num_heads": 4}


def test_keys_logits_and_features_are_the_published_ones(shared: Path) -> None:
    _, state = read_golden(shared, "passt")
    model = build("passt")
    assert list(shapes(model).items()) == list(state.items())
    golden = arrays(shared)
    with torch.no_grad():
        logits, features = fill(model).forward_with_latent(golden["melpasst"][:, None])
    assert (logits - golden["passt_logits"]).abs().max() < 1e-4
    assert (features - golden["passt_features"]).abs().max() < 1e-4


def test_forward_gives_logits_of_the_latent() -> None:
    model = fill(build("passt_tiny", **SMALL))
    x = torch.randn(2, 1, 128, 100, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits, latent = model.forward_with_latent(x)
        assert latent.shape == (2, 16)
        assert torch.equal(logits, model(x))
        assert torch.equal(model.head(latent), logits)


def tokens_seen(model: PaSST, columns: int = 100) -> list[int]:
    """Length of the sequence that the first block sees in each of five passes."""
    lengths: list[int] = []
    handle = model.blocks[0].register_forward_hook(lambda block, inputs, output: lengths.append(output.shape[1]))
    for _ in range(5):
        model(torch.zeros(1, 1, 128, columns))
    handle.remove()
    return lengths


@pytest.mark.parametrize(
    ("patchout", "kept"),
    [
        ({}, 2 + 6 * 9),
        ({"s_patchout_f": 0}, 2 + 12 * 9),
        ({"s_patchout_f": 6, "s_patchout_t": 4}, 2 + 6 * 5),
        ({"s_patchout_f": 0, "u_patchout": 100}, 2 + 8),
        ({"s_patchout_f": 11, "s_patchout_t": 8}, 2 + 1),
    ],
)
def test_patchout_in_training_only(patchout: dict, kept: int) -> None:
    model = build("passt_tiny", **SMALL, **patchout)
    assert tokens_seen(model.train()) == [kept] * 5
    assert tokens_seen(model.eval()) == [2 + 12 * 9] * 5


def test_structured_patchout_keeps_whole_rows_in_order() -> None:
    model = build("passt_tiny", **SMALL, s_patchout_f=8, s_patchout_t=0)
    grid = torch.arange(12 * 9, dtype=torch.float32).reshape(1, 1, 12, 9)
    torch.manual_seed(1)
    seen = set()
    for _ in range(50):
        kept = model._structured_patchout(grid)[0, 0]
        rows = (kept[:, 0] / 9).int().tolist()
        assert torch.equal(kept, grid[0, 0, rows])
        assert rows == sorted(set(rows))
        assert len(rows) == 4
        seen.update(rows)
    assert seen == set(range(12))


def test_positions_of_a_short_clip() -> None:
    """Evaluation reads the first positions, training a window that moves."""
    model = build("passt_tiny", **SMALL, time_positions=20)
    with torch.no_grad():
        model.time_new_pos_embed.copy_(torch.arange(20.0).expand(1, 16, 1, 20))
        model.freq_new_pos_embed.zero_()
    patches = torch.zeros(1, 16, 12, 9)
    assert model.eval()._with_positions(patches)[0, 0, 0].tolist() == list(range(9))
    torch.manual_seed(0)
    starts = {int(model.train()._with_positions(patches)[0, 0, 0, 0].detach()) for _ in range(300)}
    assert starts == set(range(12))


def test_the_pretrained_length_and_a_clip_that_is_too_long() -> None:
    model = build("passt_tiny", **SMALL, input_size=(128, 998))
    assert model.time_new_pos_embed.shape[3] == 99
    with pytest.raises(UsageError, match="makes 12 x 9 patches, but the network has positions for 12 x 4"):
        build("passt_tiny", **SMALL, input_size=(128, 46))(torch.zeros(1, 1, 128, 100))


def test_every_trained_parameter_gets_a_gradient() -> None:
    """A parameter without one would stall several GPUs; the published distillation head is never read."""
    model = build("passt_tiny", **SMALL)
    model(torch.randn(2, 1, 128, 100)).square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == ["head_dist.weight", "head_dist.bias"]
    assert not any(p.requires_grad for p in model.head_dist.parameters())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"num_heads": 5}, "num_heads = 5 must divide embed_dim = 16"),
        ({"s_patchout_f": 12}, "s_patchout_f = 12 is out of range: allowed are 0 to 11"),
        ({"u_patchout": 54}, "u_patchout = 54 is out of range: allowed are 0 to 53"),
        ({"input_size": (8, 100)}, r"patch_size = 16 must not be larger than the input \(8 x 100\)"),
        ({"time_positions": 3}, "time_positions = 3 is out of range"),
    ],
)
def test_wrong_arguments(config: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build("passt_tiny", **{**SMALL, **config})


class TestPublishedWeights:
    """Loading from files as they are found."""

    def published(self) -> dict[str, torch.Tensor]:
        """What a network made for 10 s and 527 classes would hold."""
        return fill(build("passt_tiny", **SMALL, input_size=(128, 998), n_classes=527)).state_dict()

    @pytest.mark.parametrize("form", ["safetensors", "pt", "lightning"])
    def test_adapts_time_and_classes(self, tmp_path: Path, form: str) -> None:
        weights = self.published()
        file = tmp_path / ("weights.safetensors" if form == "safetensors" else "weights.pt")
        if form == "safetensors":
            save_file(weights, file)
        elif form == "pt":
            torch.save(weights, file)
        else:
            extra = {"mel.window": torch.ones(3)}
            torch.save({"epoch": 3, "state_dict": {f"net.{k}": v for k, v in weights.items()} | extra}, file)
        model = build("passt_tiny", **SMALL)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        loaded = load_published(model, file)
        after = loaded.model.state_dict()
        assert loaded.adapted == ("time_new_pos_embed",)
        assert loaded.fresh == ("head.1.weight", "head.1.bias", "head_dist.weight", "head_dist.bias")
        assert loaded.unused == (("mel.window",) if form == "lightning" else ())
        for name in after:
            if name in loaded.fresh:
                assert torch.equal(after[name], before[name])
            elif name == "time_new_pos_embed":
                assert torch.equal(after[name], weights[name][..., :10])
            else:
                assert torch.equal(after[name], weights[name])
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    def test_same_classes_load_whole(self, tmp_path: Path) -> None:
        source = fill(build("cp_resnet", base_channels=8))
        torch.save(source.state_dict(), tmp_path / "w.pt")
        loaded = load_published(build("cp_resnet", base_channels=8).eval(), tmp_path / "w.pt")
        x = torch.randn(1, 1, 256, 44)
        with torch.no_grad():
            assert torch.equal(loaded.model(x), source(x))
        assert (loaded.adapted, loaded.fresh, loaded.unused) == ((), (), ())

    def test_missing_file_says_where_they_are(self, tmp_path: Path) -> None:
        with pytest.raises(
            UsageError,
            match=r"nothing.pt does not exist; get published weights of PaSST from "
            r"https://github.com/kkoutini/PaSST/releases",
        ):
            load_published(build("passt_tiny", **SMALL), tmp_path / "nothing.pt")

    def test_a_pickled_module_is_refused(self, tmp_path: Path) -> None:
        torch.save(build("passt_tiny", **SMALL), tmp_path / "module.pt")
        with pytest.raises(UsageError, match="holds more than tensors, which is not read because it can run code"):
            load_published(build("passt_tiny", **SMALL), tmp_path / "module.pt")

    @pytest.mark.parametrize("name", ["garbage.pt", "garbage.safetensors"])
    def test_garbage(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{}      nothing")
        with pytest.raises(UsageError, match="is damaged"):
            load_published(build("passt_tiny", **SMALL), tmp_path / name)

    def test_another_network(self, tmp_path: Path) -> None:
        torch.save(self.published(), tmp_path / "w.pt")
        with pytest.raises(UsageError, match=r"does not fit this CPResNet: in_c.0.weight is missing; .* and \d+ more"):
            load_published(build("cp_resnet"), tmp_path / "w.pt")
        with pytest.raises(UsageError, match=r"cls_token has shape \(1, 1, 16\), the network wants \(1, 1, 32\)"):
            load_published(build("passt_tiny", **{**SMALL, "embed_dim": 32}), tmp_path / "w.pt")
