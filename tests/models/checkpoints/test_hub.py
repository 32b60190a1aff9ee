"""Publishing a checkpoint: the card has what was measured, no folder of this machine leaves it, and it comes back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from edgepress import build, load_from_hub, push_to_hub, save_checkpoint
from edgepress.models.checkpoints import hub
from edgepress.models.checkpoints.spec import ModelSpec
from edgepress.models.errors import RuntimeFailure, UsageError
from tests.models.zoo.golden_weights import fill

ARGUMENTS = {"base_channels": 4, "n_blocks": [1, 1, 1], "n_classes": 3}
METRICS = {
    "command": "compress prune --data /home/me/secret/clips --run runs/x",
    "date": "2026-11-27",
    "seed": 3,
    "scheme": "w8a8",
    "cost": {
        "rule": "dcase",
        "macs": 1_234_567,
        "params": 8901,
        "weight_bytes": 9300,
        "peak_activation_bytes": 65_536,
        "uncounted": ["relu (7)"],
    },
    "data": {"task": "clips", "fingerprint": "abc", "source": "/home/me/secret/clips"},
    "test": {
        "task_kind": "classification",
        "metrics": {"accuracy": 0.8125},
        "intervals": {"accuracy": [0.7, 0.9]},
    },
}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    spec = ModelSpec(
        "cp_resnet", ARGUMENTS, ((1, 64, 44),), classes=("a", "b", "c"), task="scenes:/home/me/secret/clips"
    )
    return save_checkpoint(tmp_path / "mine", fill(build("cp_resnet", **ARGUMENTS)), spec, METRICS)


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


def test_a_folder_stands_for_the_hub(checkpoint, tmp_path):
    assert push_to_hub(checkpoint, tmp_path / "published", licence="apache-2.0") == str(tmp_path / "published")
    model, spec = load_from_hub(tmp_path / "published")
    assert same(model, fill(build("cp_resnet", **ARGUMENTS)))
    assert spec.classes == ("a", "b", "c")
    with pytest.raises(UsageError, match="exists already"):
        push_to_hub(checkpoint, tmp_path / "published")


def test_no_folder_of_this_machine_is_published(checkpoint, tmp_path):
    push_to_hub(checkpoint, tmp_path / "published")
    texts = [path.read_text() for path in (tmp_path / "published").iterdir() if path.suffix in (".json", ".md")]
    assert len(texts) == 3
    assert not [text for text in texts if "secret" in text or "/home" in text]
    assert json.loads((tmp_path / "published/metrics.json").read_text())["metrics"]["data"]["source"] == "clips"
    assert (checkpoint / "metrics.json").read_text().count("/home/me/secret/clips") == 2


def test_the_card_says_what_was_measured(checkpoint, tmp_path):
    file = tmp_path / "model.tflite"
    file.write_bytes(b"0123")
    pair = {"a": "torch", "b": "tflm", "max_lsb": 1, "label_agreement": 0.975, "samples": 40}
    manifest = {"file_bytes": 4, "scheme": "w8a8", "sha256": "ff", "parity": {"pairs": [pair]}}
    (tmp_path / "model.tflite.manifest.json").write_text(json.dumps(manifest))
    push_to_hub(checkpoint, tmp_path / "published", files=[file], licence="mit")
    _, front, text = (tmp_path / "published/README.md").read_text().split("---\n", 2)
    metadata = yaml.safe_load(front)
    assert metadata["license"] == "mit"
    (result,) = metadata["model-index"][0]["results"]
    assert result["metrics"] == [{"type": "accuracy", "value": 0.8125}]
    assert result["dataset"]["name"] == "clips"
    assert "| 1.23 M | 8,901 | 9.3 kB (w8a8) | 65.5 kB |" in text
    assert "| test | accuracy | 0.8125 | 0.7000 to 0.9000 |" in text
    assert "| torch and tflm | 40 | 1 | 97.50% |" in text
    assert "Not counted: relu (7)." in text
    assert "# published" in text
    assert (tmp_path / "published/model.tflite").read_bytes() == b"0123"


class Api:
    """The part of huggingface_hub that is called, with a folder for the Hub."""

    def __init__(self, home: Path, token: str | None = None):
        self.home = home

    def create_repo(self, name: str, *, private: bool, exist_ok: bool) -> None:
        assert exist_ok
        (self.home / name).mkdir(parents=True)

    def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> SimpleNamespace:
        shutil.copytree(folder_path, self.home / repo_id, dirs_exist_ok=True)
        return SimpleNamespace(commit_url=f"https://hub.example/{repo_id}/commit/1")


def test_a_name_goes_through_the_hub(checkpoint, tmp_path, monkeypatch):
    home = tmp_path / "hub"

    def snapshot(name: str, *, revision: str | None, token: str | None, allow_patterns: list[str]) -> str:
        tensors = {"weights.safetensors", "folded.safetensors"}
        assert set(allow_patterns) == {"model.json", "metrics.json", "quantization.json"} | tensors
        if revision not in (None, "main"):
            raise ValueError(f"404: no revision {revision}\nmore")
        return str(home / name)

    def api(token: str | None) -> Api:
        return Api(home, token)

    monkeypatch.setattr(hub, "_hub", lambda: SimpleNamespace(HfApi=api, snapshot_download=snapshot))
    assert push_to_hub(checkpoint, "user/tiny") == "https://hub.example/user/tiny/commit/1"
    model, _ = load_from_hub("user/tiny", revision="main")
    assert same(model, fill(build("cp_resnet", **ARGUMENTS)))
    with pytest.raises(RuntimeFailure, match=r"the Hub does not give user/tiny: 404: no revision v9$"):
        load_from_hub("user/tiny", revision="v9")
    with pytest.raises(RuntimeFailure, match="the Hub refuses user/tiny"):
        push_to_hub(checkpoint, "user/tiny")  # this Hub makes no folder twice


@pytest.mark.parametrize("name", ["tiny", "a/b/c", "user/name with space", "https://hub.example/u/n"])
def test_other_names_are_refused_before_anything_is_sent(checkpoint, name, monkeypatch):
    monkeypatch.setattr(hub, "_hub", lambda: pytest.fail("the Hub was asked"))
    with pytest.raises(UsageError, match="no name on the Hub"):
        push_to_hub(checkpoint, name)
    with pytest.raises(UsageError, match="no name on the Hub"):
        load_from_hub(name)


def test_what_is_no_checkpoint_is_not_published(tmp_path):
    with pytest.raises(UsageError):
        push_to_hub(tmp_path, tmp_path / "published")
    assert not (tmp_path / "published").exists()
