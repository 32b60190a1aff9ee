"""A network and a task that train in milliseconds, for the tests of training, pruning trainers and commands."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from edgepress.models.tasks import Task, load_task

#: Every stage in seconds, without files; for `str.format` with the task.
RECIPE = """
name = "tiny"
task = "{task}"
[network]
name = "ds_cnn"
arguments = {{ channels = 12, n_blocks = 2 }}
[train]
epochs = 3
batch_size = 32
precision = "32-true"
[train.augment]
mixup_alpha = 0.3
[prune]
targets = ["60%"]
updates = 4
[prune.train]
epochs = 5
batch_size = 32
precision = "32-true"
[quantize]
clips = 32
[quantize.train]
epochs = 2
batch_size = 32
precision = "32-true"
[measure]
formats = []
runtimes = []
"""


class SmallNet(nn.Module):
    """Two coupled convolutions with a residual, dropout and a classifier: [B, 1, 12, 8] -> [B, 3]."""

    def __init__(self, width: int = 12):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width))
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(width, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = torch.relu(x + self.body(x))
        return self.head(self.drop(x.mean((2, 3))))


def small_net(width: int = 12) -> SmallNet:
    return SmallNet(width)


def write_task(folder: Path, clips: int = 96) -> Path:
    """An .npz with three classes: noise, noise with an offset, noise with stripes."""
    rng = np.random.default_rng(0)
    y = np.arange(clips + 48) % 3
    x = rng.normal(size=(len(y), 1, 12, 8)).astype(np.float32)
    x[y == 1] += 0.7
    x[y == 2, :, ::2] += 0.7
    x[y == 2, :, 1::2] -= 0.7
    split = np.where(np.arange(len(y)) < clips, "train", np.where(np.arange(len(y)) < clips + 24, "validation", "test"))
    path = folder / "task.npz"
    np.savez(path, x=x, y=y, split=split, layout=np.array("NCHW"))
    return path


class LatentNet(SmallNet):
    """A `SmallNet` that gives its latent before the head, as the networks of the zoo do."""

    def forward_with_latent(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.stem(x)
        latent = torch.relu(x + self.body(x)).mean((2, 3))
        return self.head(self.drop(latent)), latent


def latent_net(width: int = 12) -> LatentNet:
    return LatentNet(width)


def write_device_task(folder: Path, recordings: int = 24) -> Path:
    """The same classes on devices a, b and, in the test only, s4, each of which adds an offset to some of its bands."""
    rng = np.random.default_rng(1)
    rows = [(number, device) for number in range(recordings) for device in ("a", "a", "b")]
    rows += [(number, device) for number in range(recordings, 2 * recordings) for device in ("a", "b", "s4")]
    y = np.array([number % 3 for number, _ in rows])
    x = rng.normal(size=(len(y), 1, 12, 8)).astype(np.float32)
    x[y == 1] += 0.7
    x[y == 2, :, ::2] += 1.4
    device = np.array([name for _, name in rows])
    x[device == "b", :, :6] += 0.8
    x[device == "s4", :, 6:] += 0.8
    split = np.array(
        ["test" if number >= recordings else "validation" if number < 6 else "train" for number, _ in rows]
    )
    path = folder / "devices.npz"
    np.savez(
        path,
        x=x,
        y=y,
        split=split,
        layout=np.array("NCHW"),
        device=device,
        identifiers=np.array([f"place{number}" for number, _ in rows]),
    )
    return path


def write_scenes(folder: Path, places: int = 6) -> Path:
    """Recordings in the layout of TAU Urban Acoustic Scenes 2022 Mobile: a low and a high tone under noise, 8 kHz.

    Of the places, the last third is for the test, on devices a, b and s4; the others are recorded by a and b.
    """
    import soundfile

    root, rng = folder / "scenes", np.random.default_rng(0)
    (root / "audio").mkdir(parents=True)
    (root / "evaluation_setup").mkdir()
    rows: dict[str, list[str]] = {"meta": [], "train": [], "test": []}
    time_s = np.arange(8000) / 8000
    for scene, tone_hz in (("tram", 300), ("park", 1500)):
        for place in range(places):
            test = place >= places - max(1, places // 3)
            for device in ("a", "b", "s4") if test else ("a", "b"):
                name = f"audio/{scene}-paris-{place}-{scene}-0-{device}.wav"
                x = 0.1 * np.sin(2 * np.pi * tone_hz * time_s) + 0.05 * rng.standard_normal(8000)
                soundfile.write(
                    root / name, x if device == "a" else np.convolve(x, [0.6, 0.4])[:8000], 8000, subtype="PCM_16"
                )
                rows["meta"].append(f"{name}\t{scene}\tparis-{scene}{place}\t{device}\n")
                rows["test" if test else "train"].append(f"{name}\t{scene}\n")
    header = "filename\tscene_label"
    (root / "meta.csv").write_text(f"{header}\tidentifier\tsource_label\n" + "".join(rows["meta"]))
    setup = root / "evaluation_setup"
    (setup / "fold1_train.csv").write_text(f"{header}\n" + "".join(rows["train"]))
    (setup / "fold1_evaluate.csv").write_text(f"{header}\n" + "".join(rows["test"]))
    (setup / "fold1_test.csv").write_text("filename\n" + "".join(row.split("\t")[0] + "\n" for row in rows["test"]))
    return root


def small_task(folder: Path) -> Task:
    return load_task(write_task(folder))
