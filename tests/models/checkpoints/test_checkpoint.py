"""Checkpoints: what is saved comes back; what is damaged, foreign or hostile is refused in one sentence."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from edgepress.models.checkpoints.checkpoint import (
    export_state_dict,
    load_checkpoint,
    read_metrics,
    read_quantization,
    read_spec,
    save_checkpoint,
)
from edgepress.models.checkpoints.plan import apply_plan
from edgepress.models.checkpoints.registry import build
from edgepress.models.checkpoints.spec import ModelSpec
from edgepress.models.errors import UsageError
from tests.models.zoo.golden_weights import fill

ARGUMENTS = {"base_channels": 4, "n_blocks": [1, 1, 1], "n_classes": 3}
SPEC = ModelSpec(
    "cp_resnet",
    ARGUMENTS,
    ((1, 64, 44),),
    classes=("a", "b", "c"),
    front_end={"n_mels": 64},
    task="synthetic:1",
    notes={"command": "compress train"},
)


def network() -> nn.Module:
    return fill(build("cp_resnet", **ARGUMENTS))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return save_checkpoint(tmp_path / "dense", network(), SPEC, {"accuracy": 0.5}, quantization={"scheme": "w8a8"})


def edit(path: Path, file_name: str = "model.json", **changes: Any) -> None:
    content = json.loads((path / file_name).read_text())
    for key, value in changes.items():
        target = content
        *parents, last = key.split("__")
        for parent in parents:
            target = target[parent]
        target[last] = value
    (path / file_name).write_text(json.dumps(content))


def one_sentence(caught: pytest.ExceptionInfo[UsageError]) -> bool:
    return "Traceback" not in str(caught.value) and len(str(caught.value)) < 700


def test_round_trip(checkpoint: Path) -> None:
    model, spec = load_checkpoint(checkpoint)
    assert spec == read_spec(checkpoint) == SPEC
    assert not model.training
    x = spec.example_inputs(2)
    with torch.no_grad():
        assert torch.equal(model(*x), network()(*x))
    assert read_metrics(checkpoint) == {"accuracy": 0.5}
    assert read_quantization(checkpoint) == {"scheme": "w8a8"}
    assert sorted(os.listdir(checkpoint)) == ["metrics.json", "model.json", "quantization.json", "weights.safetensors"]


def test_a_float_checkpoint_has_no_quantization(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path / "c", network(), SPEC)
    assert read_quantization(path) is None
    assert read_metrics(path) == {}


def test_loading_and_saving_leave_the_random_state_alone(checkpoint: Path, tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    model, spec = load_checkpoint(checkpoint)
    save_checkpoint(tmp_path / "again", model, spec)
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_specification_is_read_without_torch(checkpoint: Path) -> None:
    code = (
        "import sys; from edgepress.models.checkpoints.checkpoint import read_spec, read_metrics; "
        f"print(read_spec({str(checkpoint)!r}).factory, read_metrics({str(checkpoint)!r}), 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3]
    )
    assert done.stdout.strip() == "cp_resnet {'accuracy': 0.5} False"


def test_tied_weights_and_buffers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("ep_tied")

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
            self.b.weight = self.a.weight
            self.register_buffer("steps", torch.tensor(7))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(self.a(x))

    module.Tied = Tied  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ep_tied", module)
    model = Tied()
    path = save_checkpoint(tmp_path / "tied", model, ModelSpec("ep_tied:Tied", {}, ((3,),)))
    again, _ = load_checkpoint(path, trust=True)
    assert torch.equal(again(torch.ones(1, 3)), model(torch.ones(1, 3)))
    assert again.b.weight is again.a.weight


def test_code_outside_the_zoo_needs_trust(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ep_stranger.py").write_text(
        "import pathlib, torch\npathlib.Path('ran').touch()\ndef make(n): return torch.nn.Linear(n, n)\n"
        "def number(n): return n\ndef fails(n): raise RuntimeError('no')\n"
    )
    monkeypatch.chdir(tmp_path)
    path = save_checkpoint(tmp_path / "c", nn.Linear(2, 2), ModelSpec("ep_stranger:make", {"n": 2}, ((2,),)))
    with pytest.raises(UsageError, match="needs code outside edgepress, ep_stranger:make: read that code"):
        load_checkpoint(path)
    assert not (tmp_path / "ran").exists()
    assert load_checkpoint(path, trust=True)[0].weight.shape == (2, 2)
    edit(path, spec__factory="ep_stranger:number")
    with pytest.raises(UsageError, match=r"returned a int; it must return a torch.nn.Module"):
        load_checkpoint(path, trust=True)
    edit(path, spec__factory="ep_stranger:fails")
    with pytest.raises(UsageError, match=r"ep_stranger:fails failed with {'n': 2}: RuntimeError: no"):
        load_checkpoint(path, trust=True)
    edit(path, spec__factory="ep_stranger:make", spec__arguments={"n": 3})
    with pytest.raises(UsageError, match=r"weight has shape \(3, 3\) by model.json and \(2, 2\) in the weights"):
        load_checkpoint(path, trust=True)


def test_a_pruned_network_comes_back(tmp_path: Path) -> None:
    """Unit 1 of the code is removed by hand: where it is made, normalized and read."""
    arguments = {"n_inputs": 6, "hidden": 4, "latent": 3, "n_layers": 1}
    kept = [0, 2]
    norm = {f"encoder.4.{name}": {"0": kept} for name in ("weight", "bias", "running_mean", "running_var")}
    plan = {
        "schema": 1,
        "kind": "modules",
        "tensors": {"encoder.3.weight": {"0": kept}, "decoder.0.weight": {"1": kept}, **norm},
        "attributes": {
            "encoder.3": {"out_features": 2},
            "encoder.4": {"num_features": 2},
            "decoder.0": {"in_features": 2},
        },
    }
    dense = fill(build("autoencoder", **arguments))
    small = apply_plan(dense, plan).eval()
    path = save_checkpoint(tmp_path / "small", small, ModelSpec("autoencoder", arguments, ((6,),), plan=plan))
    again, spec = load_checkpoint(path)
    x = spec.example_inputs(4)
    with torch.no_grad():
        assert torch.equal(again(*x), small(*x))
        assert again.forward_features(*x).shape == (4, 2)
    assert spec.plan == plan
    with pytest.raises(UsageError, match=r"spec does not describe this model .*encoder.3.weight has shape \(2, 4\)"):
        save_checkpoint(tmp_path / "dense", dense, spec)
    edit(path, spec__plan={**plan, "tensors": {"encoder.3.weight": {"0": [0, 99]}}})
    with pytest.raises(UsageError, match=r"model.json does not describe a network that can be built: "):
        load_checkpoint(path)


class TestSaving:
    """Whole or not at all."""

    def test_nothing_is_overwritten_unasked(self, checkpoint: Path) -> None:
        before = (checkpoint / "model.json").read_bytes()
        with pytest.raises(UsageError, match="dense exists already"):
            save_checkpoint(checkpoint, network(), SPEC)
        assert (checkpoint / "model.json").read_bytes() == before
        save_checkpoint(checkpoint, network(), SPEC, overwrite=True)
        assert read_metrics(checkpoint) == {}
        assert read_quantization(checkpoint) is None

    @pytest.mark.parametrize(
        ("keywords", "message"),
        [
            ({"metrics": {"loss": float("nan")}}, "metrics cannot be saved as JSON"),
            ({"metrics": {"loss": torch.ones(1)}}, "metrics cannot be saved as JSON"),
            ({"quantization": {"x": object()}}, "quantization cannot be saved as JSON"),
        ],
    )
    def test_values_that_are_no_json(self, tmp_path: Path, keywords: dict, message: str) -> None:
        with pytest.raises(UsageError, match=message):
            save_checkpoint(tmp_path / "c", network(), SPEC, **keywords)
        assert list(tmp_path.iterdir()) == []

    def test_a_specification_of_another_network(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"spec does not describe this model .*in_c.0.weight has shape"):
            save_checkpoint(tmp_path / "c", fill(build("cp_resnet", **{**ARGUMENTS, "base_channels": 8})), SPEC)
        assert list(tmp_path.iterdir()) == []

    def test_a_folder_that_cannot_be_written(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(UsageError, match="cannot write"):
            save_checkpoint(tmp_path / "file" / "c", network(), SPEC)

    def test_a_full_disk_leaves_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(path: Path, data: bytes) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("edgepress.models.checkpoints.checkpoint.write_bytes", full)
        with pytest.raises(UsageError, match="No space left on device"):
            save_checkpoint(tmp_path / "c", network(), SPEC)
        assert list(tmp_path.iterdir()) == []

    def test_readable_by_others(self, checkpoint: Path) -> None:
        modes = {file.stat().st_mode & 0o777 for file in checkpoint.iterdir()}
        umask = os.umask(0)
        os.umask(umask)
        assert modes == {0o666 & ~umask}


class TestDamage:
    """Every way in which a directory is no good checkpoint."""

    def refused(self, path: Path, message: str) -> None:
        with pytest.raises(UsageError, match=message) as caught:
            load_checkpoint(path)
        assert one_sentence(caught)

    def test_no_directory(self, tmp_path: Path) -> None:
        self.refused(tmp_path / "none", "none does not exist; a checkpoint is a directory with model.json")
        (tmp_path / "file").write_text("")
        self.refused(tmp_path / "file", "file is a file; a checkpoint is a directory")
        self.refused(tmp_path, "is no checkpoint: it has no model.json")
        for read in (read_metrics, read_quantization, read_spec):
            with pytest.raises(UsageError, match="does not exist"):
                read(tmp_path / "none")

    @pytest.mark.parametrize("length", [0, 1, 7, 100, -1])
    def test_truncated_weights(self, checkpoint: Path, length: int) -> None:
        data = (checkpoint / "weights.safetensors").read_bytes()
        (checkpoint / "weights.safetensors").write_bytes(data[:length])
        self.refused(checkpoint, r"weights.safetensors is damaged \([\d,]+ bytes instead of \d+\): its sha256")

    def test_altered_weights(self, checkpoint: Path) -> None:
        data = bytearray((checkpoint / "weights.safetensors").read_bytes())
        data[-1] ^= 1
        (checkpoint / "weights.safetensors").write_bytes(data)
        self.refused(checkpoint, r"weights.safetensors is damaged \(altered\)")

    def test_missing_weights(self, checkpoint: Path) -> None:
        (checkpoint / "weights.safetensors").unlink()
        self.refused(checkpoint, "is incomplete: it has no weights.safetensors")

    def test_a_pickle_in_place_of_the_weights(self, checkpoint: Path) -> None:
        import hashlib

        torch.save(nn.Linear(2, 2), checkpoint / "weights.safetensors")
        data = (checkpoint / "weights.safetensors").read_bytes()
        edit(checkpoint, weights__sha256=hashlib.sha256(data).hexdigest())
        self.refused(checkpoint, "weights.safetensors is damaged: ")

    @pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 1', "\x00\xff", "NaN", '{"a": NaN}', "[" * 100_000])
    def test_a_model_json_that_is_none(self, checkpoint: Path, text: str) -> None:
        (checkpoint / "model.json").write_bytes(text.encode("latin-1"))
        self.refused(checkpoint, "model.json is damaged|model.json is no checkpoint of edgepress")

    @pytest.mark.parametrize("length", range(1, 400, 37))
    def test_a_truncated_model_json(self, checkpoint: Path, length: int) -> None:
        text = (checkpoint / "model.json").read_text()
        (checkpoint / "model.json").write_text(text[:length])
        self.refused(checkpoint, "model.json is damaged: it is no JSON")

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"kind": "something"}, "is no checkpoint of edgepress: its kind is 'something'"),
            ({"schema": 2}, "has schema 2, this edgepress reads 1; update edgepress"),
            ({"schema": "one"}, "has schema 'one', this edgepress reads 1; save the checkpoint again"),
            ({"weights": None}, "does not give the sha256"),
            ({"weights__sha256": 3}, "does not give the sha256"),
            ({"spec": 3}, "model.json is damaged: the model description must be a JSON object"),
            ({"spec__input_shapes": "1"}, "model.json is damaged: .*input_shapes"),
            ({"spec__surplus": 1}, "model.json is damaged: .*'surplus' is unknown"),
            ({"spec__factory": "cp_resnt"}, "network 'cp_resnt' is unknown .*did you mean 'cp_resnet'"),
            ({"spec__factory": "os:system"}, "needs code outside edgepress, os:system"),
            (
                {"spec__arguments": {"base_channels": "x"}},
                "does not describe a network that can be built: base_channels",
            ),
            ({"spec__arguments": {"colour": 3}}, "cp_resnet has no argument 'colour'"),
            ({"spec__arguments": {}}, "does not fit model.json: in_c.0.weight has shape"),
            (
                {"spec__factory": "passt", "spec__arguments": {"embed_dim": 8192, "depth": 128, "num_heads": 2}},
                "it asks for [0-9,]+ parameters; at most 1,000,000,000",
            ),
        ],
    )
    def test_foreign_or_hostile_descriptions(self, checkpoint: Path, changes: dict, message: str) -> None:
        edit(checkpoint, **changes)
        self.refused(checkpoint, message)

    def test_a_huge_description(self, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("edgepress.models.checkpoints.checkpoint.MAX_JSON_BYTES", 100)
        self.refused(checkpoint, "has more than 100 bytes")

    def test_damaged_metrics(self, checkpoint: Path) -> None:
        (checkpoint / "metrics.json").write_text('{"schema": 1, "metrics": 3}')
        with pytest.raises(UsageError, match="'metrics' is not a JSON object"):
            read_metrics(checkpoint)

    def test_tensors_of_another_shape(self, checkpoint: Path, tmp_path: Path) -> None:
        """Whoever writes both files consistently still cannot load a network that the description does not give."""
        other = save_checkpoint(
            tmp_path / "other",
            build("cp_resnet", **{**ARGUMENTS, "base_channels": 8}),
            ModelSpec("cp_resnet", {**ARGUMENTS, "base_channels": 8}, ((1, 64, 44),)),
        )
        edit(other, spec__arguments=ARGUMENTS)
        self.refused(other, r"does not fit model.json: in_c.0.weight has shape \(4, 1, 5, 5\) by model.json and")


class TestExport:
    """Weights for plain PyTorch."""

    @pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
    def test_equal_tensors(self, checkpoint: Path, tmp_path: Path, name: str) -> None:
        out = export_state_dict(checkpoint, tmp_path / name)
        state = load_file(out) if out.suffix == ".safetensors" else torch.load(out, weights_only=True)
        wanted = network().state_dict()
        assert state.keys() == wanted.keys()
        assert all(torch.equal(state[key], wanted[key]) for key in wanted)

    def test_refusals(self, checkpoint: Path, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"must end in .safetensors or .pt"):
            export_state_dict(checkpoint, tmp_path / "w.bin")
        (tmp_path / "w.pt").write_text("mine")
        with pytest.raises(UsageError, match=r"w.pt exists already"):
            export_state_dict(checkpoint, tmp_path / "w.pt")
        assert (tmp_path / "w.pt").read_text() == "mine"
        (checkpoint / "weights.safetensors").write_bytes(b"")
        with pytest.raises(UsageError, match="is damaged"):
            export_state_dict(checkpoint, tmp_path / "new.pt")
        assert not (tmp_path / "new.pt").exists()
