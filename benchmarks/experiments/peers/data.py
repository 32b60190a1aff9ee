# SPDX-License-Identifier: Apache-2.0
"""The data and networks of the comparison, each written once as a task file."""

from __future__ import annotations

import gzip
import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from edgepress.compress.recipes.sections import Augment, Distill, PruneSettings, TrainSettings
from edgepress.models.errors import UsageError

#: Where Debian's package dataset-fashion-mnist puts its files.
FASHION = Path("/usr/share/datasets/fashion-mnist")
#: Lengths of training, as multiples of the short one.
LENGTHS = {"short": 1, "long": 3}


@dataclass(frozen=True)
class Experiment:
    """A network, its data and the training that all methods share.

    Attributes:
        name: of the experiment.
        network, arguments: of `models.build`; channels and classes follow from the task.
        dense: training of the dense network.
        prune: training budget of every method, and its distillation.
        shares: budgets, as shares of the dense network's MACs.
        rates: learning rates that every method is tried with.
        seeds: how many.
        front_end: of audio.
    """

    name: str
    network: str
    arguments: dict[str, Any]
    dense: TrainSettings
    prune: PruneSettings
    shares: tuple[float, ...]
    seeds: int
    rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2)
    front_end: str | None = None

    def facts(self) -> dict[str, Any]:
        """JSON-able: what the results of this experiment depend on."""
        return {
            "network": self.network,
            "arguments": self.arguments,
            "front_end": self.front_end,
            "dense": self.dense.model_dump(mode="json"),
            "prune": self.prune.model_dump(mode="json"),
        }


def experiments(epochs: tuple[int, int] | None = None) -> dict[str, Experiment]:
    """All of the comparison; `epochs` replaces (dense, short) everywhere, for tests."""
    image = TrainSettings(
        batch_size=32,
        learning_rate=3e-3,
        weight_decay=1e-4,
        ramp_up=0.1,
        decay_from=0.2,
        decay_to=1.0,
        precision="32-true",
    )
    batches = image.model_copy(update={"batch_size": 128})
    blind = Augment(mixstyle_probability=0.8, mixstyle_alpha=0.3, roll_frames=44)
    sound = image.model_copy(update={"average": 0.99, "precision": "auto", "augment": blind})
    follow = Distill(form="2023", temperature=2.0, weight=0.9)
    strongly = Distill(form="2022", temperature=2.0, weight=50.0)

    def made(
        name: str,
        network: str,
        arguments: dict[str, Any],
        settings: TrainSettings,
        counts: tuple[int, int],
        **rest: Any,
    ) -> Experiment:
        dense, short = epochs or counts
        distill = rest.pop("distill", follow)
        shaped = settings.model_copy(update={"epochs": short, "ramp_up": 0.0, "decay_from": 0.1})
        return Experiment(
            name,
            network,
            arguments,
            settings.model_copy(update={"epochs": dense}),
            PruneSettings(train=shaped, distill=distill, shaping_share=0.3, rho_end=0.1),
            **rest,
        )

    small = {"shares": (0.25, 0.12), "seeds": 10}
    return {
        found.name: found
        for found in (
            # Rates around the best ones: of 1e-3, 3e-3 and 1e-2 five of six methods took the largest.
            made("digits", "resnet8", {"base_channels": 8}, image, (40, 40), rates=(3e-3, 1e-2, 3e-2), **small),
            made("fashion-mnist", "mobilenet", {"width": 0.25}, batches, (12, 12), **small),
            made("cifar-10", "resnet8", {"base_channels": 16}, batches, (24, 12), shares=(0.5, 0.25), seeds=10),
            made(
                "esc10-mobile",
                "cp_resnet",
                {"rho": 8, "n_blocks": [2, 1, 1], "base_channels": 16},
                sound,
                (16, 14),
                shares=(0.25, 0.12),
                seeds=5,
                front_end="mel22",
                distill=strongly,
            ),
        )
    }


def sources(run: Path, fashion: Path, cifar: Path | None, esc: Path | None) -> dict[str, Callable[[], str]]:
    """Experiment -> what makes its data and says where they are; those whose files are not there are left out."""
    found: dict[str, Callable[[], str]] = {"digits": lambda: str(write_digits(run / "digits.npz"))}
    if fashion.is_dir():
        found["fashion-mnist"] = lambda: str(write_fashion(fashion, run / "fashion-mnist.npz"))
    if cifar is not None:
        found["cifar-10"] = lambda: str(write_images(cifar, run / "cifar-10.npz"))
    if esc is not None:
        found["esc10-mobile"] = lambda: str(esc)
    return found


def write_digits(path: Path) -> Path:
    """scikit-learn's handwritten digits (UCI, 1,797 images of 8 x 8) as a task: 500 to train, 1,000 to test."""
    if path.exists():
        return path
    from sklearn.datasets import load_digits

    digits = cast("Any", load_digits())  # a Bunch, whose fields are not typed
    order = np.random.default_rng(0).permutation(len(digits.target))
    split = np.array(["train"] * 500 + ["validation"] * 297 + ["test"] * 1000)
    x = (digits.images[order] / 8.0 - 1.0).astype(np.float32)[:, None]
    return _write(path, x, digits.target[order], split)


def write_fashion(folder: Path, path: Path) -> Path:
    """Fashion-MNIST (Xiao et al., 2017; 28 x 28): of its training images 10,000 to train and 5,000 to validate."""
    if path.exists():
        return path
    arrays = [
        _idx(folder / f"{part}-{kind}.gz")
        for part in ("train", "t10k")
        for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")
    ]
    order = np.random.default_rng(0).permutation(len(arrays[0]))[:15_000]
    x = np.concatenate([arrays[0][order], arrays[2]])[:, None]
    y = np.concatenate([arrays[1][order], arrays[3]])
    split = np.array(["train"] * 10_000 + ["validation"] * 5_000 + ["test"] * len(arrays[3]))
    return _write(path, (x / 127.5 - 1.0).astype(np.float32), y, split)


def _idx(path: Path) -> np.ndarray:
    """An array in MNIST's IDX format: two zero bytes, the type (8: uint8), the rank, sizes as 32 bits big-endian."""
    data = gzip.decompress(path.read_bytes())
    if data[:3] != b"\0\0\x08":
        raise UsageError(f"{path} is no IDX file of bytes")
    rank = data[3]
    shape = np.frombuffer(data, ">u4", rank, 4)
    return np.frombuffer(data, np.uint8, int(shape.prod()), 4 + 4 * rank).reshape(shape)


def write_images(archive: Path, path: Path) -> Path:
    """Images in a zip archive as train/CLASS/NAME and test/CLASS/NAME: an eighth of train becomes validation."""
    if path.exists():
        return path
    from PIL import Image

    with zipfile.ZipFile(archive) as opened:
        names = sorted(name for name in opened.namelist() if name.endswith((".jpg", ".png")))
        classes = sorted({name.split("/")[-2] for name in names})
        images = np.stack(
            [np.asarray(Image.open(io.BytesIO(opened.read(name))).convert("RGB"), np.float32) for name in names]
        )
    split = np.array([name.split("/")[-3] for name in names])
    train = np.random.default_rng(0).permutation(np.flatnonzero(split == "train"))
    split = split.astype("<U10")
    split[train[: len(train) // 8]] = "validation"
    y = np.array([classes.index(name.split("/")[-2]) for name in names])
    return _write(path, (images / 127.5 - 1.0).transpose(0, 3, 1, 2), y, split)


def _write(path: Path, x: np.ndarray, y: np.ndarray, split: np.ndarray) -> Path:
    from edgepress.models.atomic import write_bytes

    buffer = io.BytesIO()
    np.savez_compressed(buffer, x=x, y=y.astype(np.int64), split=split)
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_bytes(path, buffer.getvalue())
