# SPDX-License-Identifier: Apache-2.0
"""The sections of a recipe: every key with its type, range and default."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_serializer, model_validator


class Section(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True)


class GrowingSection(Section):
    """A section that grew: settings that came later are left out of what is written where they say nothing, so that
    the key of an older stage, and with it its finished result, stays valid."""

    later: ClassVar[tuple[str, ...]] = ()

    @model_serializer(mode="wrap")
    def _without_unused(self, write: Any) -> dict[str, Any]:
        fields = type(self).model_fields
        return {
            name: value
            for name, value in write(self).items()
            if name not in self.later or getattr(self, name) != fields[name].get_default()
        }


class Augment(GrowingSection):
    """Augmentation of features, waveforms and images (notes in compress/training/augment.py); 0 switches one off."""

    later = ("flip_probability", "crop_pixels", "colour", "cutmix_alpha", "fmax_jitter_hz")

    mixstyle_probability: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="of Freq-MixStyle, which exchanges the statistics of frequency bands between samples",
    )
    mixstyle_alpha: float = Field(default=0.3, gt=0, description="of its Beta distribution")
    mixup_alpha: float = Field(
        default=0.0, ge=0, description="of mixup, which adds two samples and their losses; for every kind of input"
    )
    frequency_mask: int = Field(default=0, ge=0, description="widest stretch of bands that is hidden")
    time_mask: int = Field(default=0, ge=0, description="widest stretch of frames that is hidden")
    roll_frames: int = Field(default=0, ge=0, description="longest circular shift of features, in frames")
    roll_samples: int = Field(default=0, ge=0, description="longest circular shift of waveforms, in samples")
    fmax_jitter_hz: int = Field(
        default=0, ge=0, description="range in which the upper edge of the mel bands is drawn anew for every batch"
    )
    impulse_probability: float = Field(
        default=0.0, ge=0, le=1, description="that another microphone hears a waveform (DIR)"
    )
    impulse_folder: str | None = Field(default=None, description="folder of its impulse responses, .wav or .flac")
    impulse_exclude: tuple[str, ...] = Field(default=(), description="files in it that are left out")
    flip_probability: float = Field(default=0.0, ge=0, le=1, description="that an image is mirrored left and right")
    crop_pixels: int = Field(
        default=0, ge=0, description="images are moved by at most so many pixels in each direction"
    )
    colour: float = Field(
        default=0.0, ge=0, le=1, description="strength of changed brightness, contrast and saturation of images"
    )
    cutmix_alpha: float = Field(default=0.0, ge=0, description="of cutmix, which puts a box of another image into each")

    @model_validator(mode="after")
    def _complete(self) -> Augment:
        if self.impulse_probability and not self.impulse_folder:
            raise ValueError("impulse_probability needs impulse_folder, a folder of impulse responses (.wav)")
        mixes = [n for n in ("mixstyle_probability", "mixup_alpha", "cutmix_alpha") if getattr(self, n)]
        if len(mixes) > 1:
            raise ValueError(f"{' and '.join(mixes)} exclude each other: set all but one of them to 0")
        return self

    @property
    def on_waveforms(self) -> bool:
        return bool(self.roll_samples or self.impulse_probability or self.fmax_jitter_hz)


class Distill(Section):
    """How a student follows its teacher.

    form "2022": CE + weight * mean over batch and classes of KL(teacher || student) at temperature T, no T^2 factor;
    form "2023": (1 - weight) * CE + weight * T^2 * the same mean. Both as published (Schmid et al., DCASE 2022, 2023).
    logits "online": the teacher sees the augmented input; "cached": it is run once over the clips.
    """

    form: Literal["2022", "2023"] = Field(
        default="2023",
        description='"2022": loss + weight * KL; "2023": (1 - weight) * loss + weight * T^2 * KL, both as published',
    )
    temperature: float = Field(default=2.0, gt=0, description="T, of the softened distributions")
    weight: float = Field(default=0.9, ge=0, description="of the teacher; a share in form 2023")
    logits: Literal["online", "cached"] = Field(
        default="online",
        description='"online": the teacher sees the augmented input; "cached": it is run once over the samples',
    )

    @model_validator(mode="after")
    def _share(self) -> Distill:
        if self.form == "2023" and self.weight > 1:
            raise ValueError(f"weight = {self.weight} is a share in form 2023: at most 1")
        return self


class Contrastive(GrowingSection):
    """The inverse contrastive loss of compress/training/contrastive.py beside the task's: CE + weight * ICL.

    `balance` is of the stratified batches: 0 keeps each device's share of the clips, 1 gives all the same share. With a
    threshold, the term goes by a number of every clip (`Split.attributes`) instead of its recording device.
    """

    later = ("threshold", "projection", "rise")

    alpha: float = Field(default=0.2, ge=-1e3, le=30, description="barrier of the inverse contrastive term")
    weight: float = Field(default=0.5, ge=0, le=1e3, description="of the term in the loss")
    beta: float = Field(default=1.0, gt=0, le=1e3, description="its steepness")
    mode: Literal["plain", "balanced"] = Field(default="plain", description="which pairs it takes")
    distance: Literal["normalized", "rms", "euclidean"] = Field(default="normalized", description="between latents")
    balance: float = Field(
        default=0.0, ge=0, le=1, description="of recording devices in a batch: 0 keeps their shares, 1 makes them equal"
    )
    threshold: float | None = Field(
        default=None,
        ge=0,
        allow_inf_nan=False,
        description="of a numeric attribute of the samples (a gain, a distance): those no further apart are "
        "neighbours; empty: the recording device",
    )
    projection: int = Field(
        default=0, ge=0, le=4096, description="width of a head between latent and term, which is not kept; 0: none"
    )
    rise: float = Field(default=0.0, ge=0, le=1, description="share of all steps in which the weight rises from 0")

    @model_validator(mode="after")
    def _numbers_are_plain(self) -> Contrastive:
        if self.threshold is not None and self.mode != "plain":
            raise ValueError('threshold goes with mode = "plain": of a numeric attribute no other mode is defined')
        return self


class TrainSettings(GrowingSection):
    """One training: Adam, a rate that ramps up, stays and falls linearly (shares of all steps).

    `average`: decay per step of the moving average of the weights, which is validated and kept; 0: the weights alone.
    """

    later = ("contrastive", "betas", "epsilon", "loss")
    epochs: int = Field(default=20, ge=0, description="passes over the training split; 0 trains nothing")
    batch_size: int = Field(default=64, ge=2, description="samples per step")
    optimizer: Literal["adam", "adamw", "sgd"] = Field(
        default="adam", description="adam, adamw, or sgd with Nesterov momentum 0.9"
    )
    learning_rate: float = Field(default=1e-3, gt=0, description="peak of the schedule")
    weight_decay: float = Field(default=1e-3, ge=0, description="of all weights")
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = Field(
        default=(0.9, 0.999), description="of Adam"
    )
    epsilon: float = Field(default=1e-8, gt=0, description="of Adam")
    ramp_up: float = Field(default=0.13, ge=0, le=1, description="share of all steps in which the rate rises")
    decay_from: float = Field(default=0.33, ge=0, le=1, description="share of all steps from which it falls")
    decay_to: float = Field(
        default=0.87, ge=0, le=1, description="share of all steps at which it has fallen to last_rate"
    )
    last_rate: float = Field(default=0.005, ge=0, le=1, description="the rate at the end, as a share of its peak")
    loss: str | None = Field(
        default=None,
        description="of your own, package.module:function of (outputs, labels) in torch; left out: the task's",
    )
    label_smoothing: float = Field(default=0.0, ge=0, lt=1, description="of classes")
    select: Literal["accuracy", "log_loss", "last"] = Field(
        default="accuracy",
        description="the epoch that is kept: best in the task's metric (for every kind), in its loss, or the last",
    )
    average: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="decay per step of the moving average of weights that is validated and kept; 0: none",
    )
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = Field(
        default="auto", description='"auto" takes bf16-mixed where the hardware has it'
    )
    augment: Augment = Field(default=Augment(), description="augmentation of this training")
    contrastive: Contrastive | None = Field(default=None, description="the inverse contrastive term")

    @model_validator(mode="after")
    def _one_device_a_clip(self) -> TrainSettings:
        if self.contrastive is not None and (self.augment.mixup_alpha or self.augment.cutmix_alpha):
            raise ValueError(
                "contrastive excludes augment.mixup_alpha and cutmix_alpha: a mixed clip is of two devices"
            )
        return self

    @model_validator(mode="after")
    def _ordered(self) -> TrainSettings:
        if not self.ramp_up <= self.decay_from <= self.decay_to:
            raise ValueError(
                f"ramp_up <= decay_from <= decay_to must hold, not {self.ramp_up}, {self.decay_from}, {self.decay_to}"
            )
        return self


class PruneSettings(GrowingSection):
    """Targets and how they are reached; `train` is the whole training budget, equal for every method.

    `protect` names modules whose outputs keep their width, `freeze` modules and parameters that keep their shapes.
    `floor` and `updates` of None are those of the projection and of the method, `importance` of None is "fisher" where
    there is a classification task, else "l2".
    """

    later = ("progressive",)

    targets: tuple[str | dict[str, str], ...] = Field(
        default=(), description='MACs, "20M" or "50%" of the dense network; each makes one network'
    )
    progressive: bool = Field(
        default=False,
        description="each target goes on from the network of the one before, trained in between; false: from the dense "
        "network",
    )
    method: Literal["gradual", "admm", "one-shot", "from-scratch"] = Field(
        default="gradual", description="how weights are chosen and trained"
    )
    projection: Literal["threshold", "knapsack", "algorithm-1"] = Field(
        default="threshold", description="how the channels to keep are found under the budget"
    )
    importance: (
        Literal["l2", "l1", "bn", "fisher", "taylor", "lamp", "fpgm", "distance", "fisher-distance", "random"] | None
    ) = Field(default=None, description="what a channel is worth; empty: fisher for a classification task, else l2")
    clips: int = Field(default=512, ge=1, description="samples that importances of data look at")
    divisor: int = Field(default=1, ge=1, description="widths are multiples of it")
    min_channels: int = Field(default=1, ge=0, description="least width of a layer; 0 lets whole branches go")
    floor: float | None = Field(
        default=None, ge=0, le=1, description="least share of a layer that stays; empty: the projection's own"
    )
    protect: tuple[str, ...] = Field(default=(), description="modules whose outputs keep their width")
    freeze: tuple[str, ...] = Field(default=(), description="modules and parameters that keep their shapes")
    shaping_share: float = Field(default=0.4, ge=0, le=1, description="share of the epochs before channels are removed")
    w_step: Literal["proximal", "gradient"] = Field(default="proximal", description="of ADMM")
    rho_start: float = Field(default=0.03, gt=0, description="of ADMM, first penalty")
    rho_end: float = Field(default=0.3, gt=0, description="of ADMM, last penalty")
    updates: int | None = Field(default=None, ge=1, description="of ADMM or gradual masks; empty: the method's own")
    tolerance: float = Field(default=0.01, ge=0, description="of ADMM's residuals")
    distill: Distill | None = Field(
        default=Distill(), description="how it follows its teacher; without [teacher], the dense network"
    )
    train: TrainSettings = Field(default=TrainSettings(), description="the whole training budget of it")


class QuantizeSettings(Section):
    """Post-training quantization, and quantization-aware training where `epochs` is not 0.

    `exceptions` maps a layer or module to "float", "a16w8" or "w8a8". In training, ranges are "learned" (or follow the
    batches, "averaged") for `freeze_from` of all steps and stand still for the rest. The loss is the distance from the
    float network alone: labels would make another network of it, trained on without its augmentation. The epoch with
    the least log loss on the validation split is kept, since rounding moves few labels.
    """

    scheme: Literal["w8a8", "a16w8"] = Field(
        default="w8a8", description="w8a8: int8 weights and activations; a16w8: 16-bit activations"
    )
    method: Literal["mse", "minmax", "percentile", "entropy"] = Field(
        default="mse", description="how ranges of activations are found"
    )
    clips: int = Field(default=256, ge=1, description="samples of the calibration split")
    equalize: bool = Field(default=False, description="cross-layer equalisation first")
    bias_correction: bool = Field(default=True, description="correct the mean error of outputs in the biases")
    per_tensor_dense: bool = Field(default=False, description="one scale for a dense layer's weights")
    exceptions: dict[str, Literal["w8a8", "a16w8", "float"]] = Field(
        default={}, description='layers or modules with another scheme, or "float"'
    )
    ranges: Literal["learned", "averaged", "frozen"] = Field(
        default="learned", description="in training: learned, following the batches, or as they are"
    )
    freeze_from: float = Field(default=0.6, ge=0, le=1, description="share of the steps after which ranges stand still")
    distill: Distill | None = Field(
        default=Distill(weight=1.0), description="how it follows its teacher; without [teacher], the dense network"
    )
    train: TrainSettings = Field(
        default=TrainSettings(
            epochs=0,
            learning_rate=5e-5,
            weight_decay=1e-4,
            ramp_up=0,
            decay_from=0.05,
            decay_to=0.85,
            last_rate=0.1,
            precision="32-true",
            select="log_loss",
        ),
        description="quantization-aware training; epochs = 0: none",
    )


class NetworkSettings(Section):
    name: str = Field(description="a network of `compress list networks`, or package.module:factory")
    arguments: dict[str, Any] = Field(
        default={}, description="of the network; channels and classes follow from the data"
    )
    input_shapes: tuple[tuple[int, ...], ...] = Field(default=(), description="of a network of your own")


class TeacherSettings(Section):
    """Teachers of other seeds, and how they become one.

    `network` and `front_end` are the student's where they are left out; `weights` is a file of published weights to
    start from. More than one teacher is joined by the generalised mean (compress/teach/ensemble.py).
    """

    count: int = Field(default=1, ge=1, le=100, description="teachers, of different seeds")
    network: NetworkSettings | None = Field(default=None, description="the teacher's; left out: the student's")
    front_end: dict[str, Any] | str | None = Field(default=None, description="the teacher's; left out: the student's")
    weights: str | None = Field(default=None, description="file of published weights to start from")
    mode: Literal["stable", "paper"] = Field(
        default="stable", description="how several become one: the generalised mean, stable or as in the paper"
    )
    experiments: bool = Field(
        default=False, description="also the report's Table 1 without the contrastive term, and the sweeps of Figure 2"
    )
    train: TrainSettings = Field(default=TrainSettings(), description="training of each teacher")


class AdaptSettings(Section):
    """Fine-tuning of the general network for single recording devices, each from the general checkpoint (DCASE 2025).

    A device's network is trained and calibrated on its own clips; all other devices keep the general one.
    """

    devices: tuple[str, ...] = Field(
        default=(), description="recording devices; empty: every one of the training clips"
    )
    min_clips: int = Field(default=32, ge=2, description="a device with fewer training clips keeps the general network")
    train: TrainSettings = Field(
        default=TrainSettings(
            epochs=50, learning_rate=5e-4, ramp_up=0.04, decay_from=0.04, decay_to=1.0, last_rate=0.0
        ),
        description="fine-tuning for each device",
    )


#: Runtime -> the formats that it runs.
RUNS: dict[str, tuple[str, ...]] = {
    "tflm": ("tflite",),
    "litert": ("tflite",),
    "litert-reference": ("tflite",),
    "onnxruntime": ("onnx", "ort"),
    "openvino": ("onnx", "openvino"),
    "executorch": ("executorch",),
}


class MeasureSettings(Section):
    """Formats, the runtimes that they are measured on, device classes, and whether a submission folder is made."""

    formats: tuple[Literal["tflite", "onnx", "ort", "openvino", "executorch", "c"], ...] = Field(
        default=("tflite", "onnx"), description="files that are made of every network"
    )
    runtimes: tuple[Literal["tflm", "litert", "litert-reference", "onnxruntime", "openvino", "executorch"], ...] = (
        Field(default=("litert", "onnxruntime"), description="what measures them, each the files that it runs")
    )
    devices: tuple[str, ...] = Field(
        default=(), description="device classes that they are held against; left out: the recipe's"
    )
    metrics: tuple[str, ...] = Field(
        default=(), description="of your own, package.module:function of (outputs, labels) in NumPy"
    )
    submission: bool = Field(default=False, description="make a submission folder as DCASE wants it")
