# SPDX-License-Identifier: Apache-2.0
"""What a task is: named splits of labelled clips, and the arrays that belong to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from edgepress.models.errors import UsageError
from edgepress.models.tasks.front_ends.front_end import FrontEnd
from edgepress.models.tasks.kinds.evaluation import Evaluation, OwnMetric
from edgepress.models.tasks.kinds.kind import Samples
from edgepress.models.tasks.kinds.table import kind_of

SPLITS = ("train", "validation", "test", "calibration")


@dataclass(frozen=True, eq=False)
class Split:
    """The clips of one split, in the order of its arrays.

    Attributes:
        names: one name per clip, for scenes the path within the folder.
        labels: [N, ...] as the task's kind has them: integers [N] below the number of classes (classification; anomaly,
            0 is normal), 0 and 1 [N, K] (multi-label), numbers [N] or [N, K] (regression), masks of integers [N, H, W]
            (segmentation), numbers of any shape (detection).
        devices: the recording device of every clip, or None where unknown.
        identifiers: what clips of one recording location share, or None; the unit of cutting and of bootstrapping.
        groups: what figures are broken down by, such as the machine, or None.
        attributes: [N] float64, a number of every clip that a network is not to tell, such as a gain or the distance to
            the microphone (nan where it is unknown), or None.
    """

    names: tuple[str, ...]
    labels: np.ndarray
    devices: tuple[str, ...] | None = None
    identifiers: tuple[str, ...] | None = None
    groups: tuple[str, ...] | None = None
    attributes: np.ndarray | None = None

    def __post_init__(self) -> None:
        labels = np.asarray(self.labels)
        if labels.ndim < 1 or labels.dtype.kind not in "iufb":
            raise UsageError(f"labels must be an array of numbers [N, ...], not {labels.dtype} of shape {labels.shape}")
        # Labels of classes are kept as one type, so that a digest of them is the same for all.
        whole = labels.ndim == 1 and labels.dtype.kind in "iu"
        object.__setattr__(self, "labels", labels.astype(np.int64) if whole else labels)
        for name in ("names", "devices", "identifiers", "groups"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, tuple(map(str, value)))
                if len(value) != len(labels):
                    raise UsageError(f"a split has {len(labels)} labels but {len(value)} {name}")
        if self.attributes is not None:
            numbers = np.asarray(self.attributes)
            if numbers.dtype.kind not in "iuf" or numbers.shape != (len(labels),):
                raise UsageError(
                    f"attributes must be {len(labels)} numbers, one for each label, not {numbers.dtype} of shape "
                    f"{numbers.shape}"
                )
            object.__setattr__(self, "attributes", numbers.astype(np.float64))

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: Sequence[int] | np.ndarray) -> Split:
        """The clips at these positions, in their order."""

        def pick(values: tuple[str, ...] | None) -> tuple[str, ...] | None:
            return None if values is None else tuple(values[index] for index in indices)

        rows = np.asarray(indices, np.int64)
        return Split(
            pick(self.names) or (),
            self.labels[rows],
            pick(self.devices),
            pick(self.identifiers),
            pick(self.groups),
            None if self.attributes is None else self.attributes[rows],
        )


@dataclass(frozen=True)
class StoredInputs:
    """How a task's own arrays are stored, where the file holds network inputs as they are.

    Attributes:
        dtype: the NumPy type, such as "int8".
        shape: of one clip, as stored.
        layout: "NHWC" (channels last, as TFLite has it) or "NCHW" for three-dimensional clips, otherwise "flat".
        quantized: True where the integers are a quantized network's input and are to be fed as they are.
        scale: real value = scale * (integer - zero_point); 1 where the file does not say.
        zero_point: see `scale`; 0 where the file does not say.
    """

    dtype: str
    shape: tuple[int, ...]
    layout: str
    quantized: bool
    scale: float = 1.0
    zero_point: int = 0


@dataclass(frozen=True, eq=False)
class Task:
    """Labelled clips in splits, with the arrays that a network takes. A user's factory returns one of these.

    Attributes:
        name: short, for reports.
        classes: class names, by label.
        input_shape: of one clip for the network, in torch's layout, without the batch: (1, mel bands, frames).
        front_end: what made the network inputs (models/tasks/front_ends), or None where they are the user's own.
        fingerprint: hexadecimal digest of the clips and labels (not of the front end): equal on every machine, so that
            figures measured on different data are never compared.
        splits: by name; train, validation and test are what the sources make, calibration is part of train.
        read_features: split name -> float32 [N, *input_shape].
        read_waveforms: split name -> [N, samples] at `front_end.sample_rate_hz`, or None.
        stored: how the file's own inputs are stored, or None where features are computed.
        read_stored: split name -> the stored array [N, *stored.shape], or None.
        notes: what a report should say about the data.
        kind: of the task, a key of `edgepress.models.tasks.kinds.table.KINDS`.
        metrics: further metrics of the user's own, by name: (outputs [N, ...], labels [N, ...]) -> a number.
        loss: the user's own, in torch: (outputs, labels) -> [B] or a scalar; None takes the kind's.
    """

    name: str
    classes: tuple[str, ...]
    input_shape: tuple[int, ...]
    fingerprint: str
    splits: Mapping[str, Split]
    read_features: Callable[[str], np.ndarray]
    front_end: FrontEnd | None = None
    read_waveforms: Callable[[str], np.ndarray] | None = None
    stored: StoredInputs | None = None
    read_stored: Callable[[str], np.ndarray] | None = None
    notes: tuple[str, ...] = field(default=())
    kind: str = "classification"
    metrics: Mapping[str, OwnMetric] = field(default_factory=dict)
    loss: Callable[..., Any] | None = None

    def __post_init__(self) -> None:
        kind = kind_of(self.kind)
        if len(self.classes) < kind.classes_needed or len(set(self.classes)) != len(self.classes):
            raise UsageError(
                f"task {self.name}: {self.kind} needs {kind.classes_needed} or more different classes, not "
                f"{list(self.classes)}"
            )
        unknown = sorted(set(self.splits) - set(SPLITS))
        if unknown:
            raise UsageError(f"task {self.name}: unknown splits {unknown}; known are {', '.join(SPLITS)}")
        fitting = {}
        for name, split in self.splits.items():
            labels = kind.check(split.labels, self.classes, f"task {self.name}, split {name}")
            fitting[name] = split if labels is split.labels else replace(split, labels=labels)
        object.__setattr__(self, "splits", fitting)

    @property
    def output_shape(self) -> tuple[int, ...] | None:
        """Of one sample's output; None where the kind takes any."""
        split = next(split for split in self.splits.values() if len(split))
        return kind_of(self.kind).output_shape(self.classes, split.labels.shape[1:], tuple(self.input_shape))

    def evaluation(self, split: Split) -> Evaluation:
        """What collects a network's outputs of these samples."""
        samples = Samples(self.classes, split.identifiers, split.devices, split.groups, self.unseen_devices)
        return Evaluation(kind_of(self.kind), samples, self.metrics)

    def has(self, split_name: str) -> bool:
        """Whether the split exists and holds a clip."""
        return len(self.splits.get(split_name, ())) > 0

    def split(self, split_name: str) -> Split:
        """The clips of a split.

        Raises:
            UsageError: no such split, or it is empty.
        """
        if split_name not in SPLITS:
            raise UsageError(f"split = {split_name!r} is unknown: allowed are {', '.join(SPLITS)}")
        if not self.has(split_name):
            present = ", ".join(f"{name} ({len(self.splits[name])})" for name in SPLITS if self.has(name)) or "none"
            hint = ""
            if split_name == "validation" and self.has("train"):
                hint = " (it is cut from train by identifier: a class needs clips of two or more identifiers)"
            elif self.stored:
                hint = " (an .npz needs an array `split` with train and test for training)"
            raise UsageError(f"task {self.name} has no {split_name} clips; it has {present}{hint}")
        return self.splits[split_name]

    def features(self, split_name: str) -> np.ndarray:
        """float32 [N, *input_shape], memory-mapped from the cache where they are computed.

        Raises:
            UsageError: no such split, or damaged audio.
        """
        self.split(split_name)
        return self.read_features(split_name)

    def waveforms(self, split_name: str) -> np.ndarray:
        """[N, samples] at `front_end.sample_rate_hz`, memory-mapped; int16 (1.0 = 32768) or float32.

        `log_mel` and `log_mel_torch` take both types.

        Raises:
            UsageError: no such split, or the task holds no audio.
        """
        self.split(split_name)
        if self.read_waveforms is None:
            raise UsageError(
                f"task {self.name} holds no audio; augmentation on waveforms (DIR, waveform roll) needs "
                "a folder of clips, so leave it out"
            )
        return self.read_waveforms(split_name)

    def stored_inputs(self, split_name: str) -> np.ndarray:
        """The arrays of the file as they are, [N, *stored.shape] of type `stored.dtype`.

        Raises:
            UsageError: no such split, or the task computes its features.
        """
        self.split(split_name)
        if self.read_stored is None:
            raise UsageError(f"task {self.name} stores no network inputs; use its features")
        return self.read_stored(split_name)

    @property
    def recording_devices(self) -> tuple[str, ...]:
        """Every recording device of train, validation and test, sorted."""
        return tuple(sorted(self._devices("train", "validation", "test")))

    @property
    def unseen_devices(self) -> tuple[str, ...]:
        """The recording devices that are in test but neither in train nor in validation, sorted."""
        known = self._devices("train", "validation")
        return tuple(sorted(self._devices("test") - known)) if known else ()

    def _devices(self, *names: str) -> set[str]:
        found: set[str] = set()
        for name in names:
            if name in self.splits:
                found.update(self.splits[name].devices or ())
        return found
