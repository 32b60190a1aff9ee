# SPDX-License-Identifier: Apache-2.0
"""Recipes: what `compress run` does, as TOML, checked as a whole before anything runs.

    name = "default"
    task = "synthetic"
    device = "dcase2023"          # its limits bind beside every target
    [network]
    name = "cp_resnet"
    arguments = { rho = 8, n_blocks = [2, 1, 1] }
    [train]
    epochs = 20
    [prune]
    targets = ["30M", "20M"]

Every section and key has a default except `name` and `network`; an unknown key is an error. A recipe without a `task`
needs `--data`.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_serializer, model_validator

from edgepress.models.errors import ConfigError, EdgepressError, UsageError
from edgepress.models.files.reading import read_toml

SHIPPED = Path(__file__).parent
FORMATS = ("tflite", "onnx", "c")
RUNTIMES = ("tflm", "litert", "litert-reference", "onnxruntime")


S = TypeVar("S", bound=BaseModel)


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Augment(_Section):
    """Augmentation of log-mel features and of waveforms (notes in compress/augment.py); 0 switches a kind off."""

    mixstyle_probability: float = Field(default=0.0, ge=0, le=1)
    mixstyle_alpha: float = Field(default=0.3, gt=0)
    mixup_alpha: float = Field(default=0.0, ge=0)
    frequency_mask: int = Field(default=0, ge=0)
    time_mask: int = Field(default=0, ge=0)
    roll_frames: int = Field(default=0, ge=0)
    roll_samples: int = Field(default=0, ge=0)
    impulse_probability: float = Field(default=0.0, ge=0, le=1)
    impulse_folder: str | None = None
    impulse_exclude: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _complete(self) -> Augment:
        if self.impulse_probability and not self.impulse_folder:
            raise ValueError("impulse_probability needs impulse_folder, a folder of impulse responses (.wav)")
        if self.mixstyle_probability and self.mixup_alpha:
            raise ValueError("mixstyle_probability and mixup_alpha exclude each other: set one of them to 0")
        return self

    @property
    def on_waveforms(self) -> bool:
        return bool(self.roll_samples or self.impulse_probability)


class Distill(_Section):
    """How a student follows its teacher.

    form "2022": CE + weight * mean over batch and classes of KL(teacher || student) at temperature T, no T^2 factor;
    form "2023": (1 - weight) * CE + weight * T^2 * the same mean. Both as published (Schmid et al., DCASE 2022, 2023).
    logits "online": the teacher sees the augmented input; "cached": it is run once over the clips.
    """

    form: Literal["2022", "2023"] = "2023"
    temperature: float = Field(default=2.0, gt=0)
    weight: float = Field(default=0.9, ge=0)
    logits: Literal["online", "cached"] = "online"

    @model_validator(mode="after")
    def _share(self) -> Distill:
        if self.form == "2023" and self.weight > 1:
            raise ValueError(f"weight = {self.weight} is a share in form 2023: at most 1")
        return self


class Contrastive(_Section):
    """The inverse contrastive loss of compress/teach/contrastive.py beside the task's: CE + weight * ICL.

    `balance` is of the device-stratified batches: 0 keeps each device's share of the clips, 1 gives all the same share.
    """

    alpha: float = Field(default=0.2, ge=-1e3, le=1e3)
    weight: float = Field(default=0.5, ge=0, le=1e3)
    beta: float = Field(default=1.0, gt=0, le=1e3)
    mode: Literal["plain", "balanced"] = "plain"
    distance: Literal["normalized", "rms", "euclidean"] = "normalized"
    balance: float = Field(default=0.0, ge=0, le=1)


#: Settings that came later: left out of what is written where they say nothing, so that the key of an older stage, and
#: with it its finished result, stays valid.
_LATER = {"contrastive": None, "betas": (0.9, 0.999), "epsilon": 1e-8}


class TrainSettings(_Section):
    """One training: Adam, a rate that ramps up, stays and falls linearly (shares of all steps).

    `average`: decay per step of the moving average of the weights, which is validated and kept; 0: the weights alone.
    """

    epochs: int = Field(default=20, ge=0)
    batch_size: int = Field(default=64, ge=2)
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=1e-3, ge=0)
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    epsilon: float = Field(default=1e-8, gt=0)
    ramp_up: float = Field(default=0.13, ge=0, le=1)
    decay_from: float = Field(default=0.33, ge=0, le=1)
    decay_to: float = Field(default=0.87, ge=0, le=1)
    last_rate: float = Field(default=0.005, ge=0, le=1)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    select: Literal["accuracy", "log_loss", "last"] = "accuracy"
    average: float = Field(default=0.0, ge=0, lt=1)
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = "auto"
    augment: Augment = Augment()
    contrastive: Contrastive | None = None

    @model_serializer(mode="wrap")
    def _without_unused(self, write: Any) -> dict[str, Any]:
        return {
            name: value
            for name, value in write(self).items()
            if name not in _LATER or getattr(self, name) != _LATER[name]
        }

    @model_validator(mode="after")
    def _one_device_a_clip(self) -> TrainSettings:
        if self.contrastive is not None and self.augment.mixup_alpha:
            raise ValueError("contrastive and augment.mixup_alpha exclude each other: a mixed clip is of two devices")
        return self

    @model_validator(mode="after")
    def _ordered(self) -> TrainSettings:
        if not self.ramp_up <= self.decay_from <= self.decay_to:
            raise ValueError(
                f"ramp_up <= decay_from <= decay_to must hold, not {self.ramp_up}, {self.decay_from}, {self.decay_to}"
            )
        return self


class PruneSettings(_Section):
    """Targets and how they are reached; `train` is the whole training budget, equal for every method.

    `protect` names modules whose outputs keep their width, `freeze` modules and parameters that keep their shapes.
    `floor` and `updates` of None are those of the projection and of the method.
    """

    targets: tuple[str, ...] = ()
    method: Literal["gradual", "admm", "one-shot", "from-scratch"] = "gradual"
    projection: Literal["threshold", "knapsack", "algorithm-1"] = "threshold"
    importance: Literal[
        "l2", "l1", "bn", "fisher", "taylor", "lamp", "fpgm", "distance", "fisher-distance", "random"
    ] = "l2"
    divisor: int = Field(default=1, ge=1)
    min_channels: int = Field(default=1, ge=0)
    floor: float | None = Field(default=None, ge=0, le=1)
    protect: tuple[str, ...] = ()
    freeze: tuple[str, ...] = ()
    shaping_share: float = Field(default=0.4, ge=0, le=1)
    w_step: Literal["proximal", "gradient"] = "proximal"
    rho_start: float = Field(default=0.03, gt=0)
    rho_end: float = Field(default=0.3, gt=0)
    updates: int | None = Field(default=None, ge=1)
    tolerance: float = Field(default=0.01, ge=0)
    distill: Distill | None = Distill()
    train: TrainSettings = TrainSettings()


class QuantizeSettings(_Section):
    """Post-training quantization, and quantization-aware training where `epochs` is not 0.

    `exceptions` maps a layer or module to "float", "a16w8" or "w8a8". In training, ranges are "learned" (or follow the
    batches, "averaged") for `freeze_from` of all steps and stand still for the rest. The loss is the distance from the
    float network alone: labels would make another network of it, trained on without its augmentation. The epoch with
    the least log loss on the validation split is kept, since rounding moves few labels.
    """

    scheme: Literal["w8a8", "a16w8"] = "w8a8"
    method: Literal["mse", "minmax", "percentile", "entropy"] = "mse"
    clips: int = Field(default=256, ge=1)
    equalize: bool = False
    bias_correction: bool = True
    per_tensor_dense: bool = False
    exceptions: dict[str, Literal["w8a8", "a16w8", "float"]] = {}
    ranges: Literal["learned", "averaged", "frozen"] = "learned"
    freeze_from: float = Field(default=0.6, ge=0, le=1)
    distill: Distill | None = Distill(weight=1.0)
    train: TrainSettings = TrainSettings(
        epochs=0,
        learning_rate=5e-5,
        weight_decay=1e-4,
        ramp_up=0,
        decay_from=0.05,
        decay_to=0.85,
        last_rate=0.1,
        precision="32-true",
        select="log_loss",
    )


class NetworkSettings(_Section):
    name: str
    arguments: dict[str, Any] = {}
    input_shapes: tuple[tuple[int, ...], ...] = ()


class TeacherSettings(_Section):
    """Teachers of other seeds, and how they become one.

    `network` and `front_end` are the student's where they are left out; `weights` is a file of published weights to
    start from. More than one teacher is joined by the generalised mean (compress/teach/ensemble.py).
    """

    count: int = Field(default=1, ge=1, le=100)
    network: NetworkSettings | None = None
    front_end: dict[str, Any] | str | None = None
    weights: str | None = None
    mode: Literal["stable", "paper"] = "stable"
    train: TrainSettings = TrainSettings()


class MeasureSettings(_Section):
    """Formats, the runtimes that they are measured on, device classes, and whether a submission folder is made."""

    formats: tuple[Literal["tflite", "onnx", "c"], ...] = ("tflite", "onnx")
    runtimes: tuple[Literal["tflm", "litert", "litert-reference", "onnxruntime"], ...] = ("litert", "onnxruntime")
    devices: tuple[str, ...] = ()
    submission: bool = False


class Recipe(_Section):
    """All of `compress run`; `Recipe.model_validate` checks types and ranges, `parse_recipe` also what exists.

    With `teacher`, everything that distils follows it: the dense network where `distill` is given, pruning and
    quantization-aware training by their own sections. Without, they follow the dense network.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    summary: str = ""
    task: str | None = None
    device: str | None = "dcase2023"
    seed: int = Field(default=0, ge=0, lt=2**31)
    front_end: dict[str, Any] | str | None = None
    network: NetworkSettings
    teacher: TeacherSettings | None = None
    train: TrainSettings = TrainSettings()
    distill: Distill | None = None
    prune: PruneSettings = PruneSettings()
    quantize: QuantizeSettings = QuantizeSettings()
    measure: MeasureSettings = MeasureSettings()


def shipped_recipes() -> dict[str, Path]:
    """Name -> file of every recipe that comes with edgepress."""
    return {path.stem: path for path in sorted(SHIPPED.glob("*.toml"))}


def read_recipe(
    source: str | Path,
    changes: Mapping[str, Any] | None = None,
    *,
    sections: Mapping[str, Mapping[str, Any]] | None = None,
    overrides: Sequence[str] = (),
    trust: bool = False,
) -> Recipe:
    """A recipe by its shipped name or by its file, with changes from the command line, fully checked.

    Args:
        source: "default", "esc10-mobile", ..., or a path.
        changes: replace whole top-level keys.
        sections: replace keys within a section.
        overrides: single keys at any depth, "teacher.train.epochs=1"; the value is TOML, or else text.
        trust: the file may name code, package.module:factory; what the command line names is trusted anyway.

    Raises:
        UsageError: no such recipe.
        ConfigError: everything that is wrong with it, together.
    """
    shipped = shipped_recipes()
    path = shipped.get(str(source), Path(source))
    if not path.is_file():
        raise UsageError(
            f"recipe = {str(source)!r} is neither a file nor a shipped recipe; shipped are {', '.join(shipped)}"
        )
    subject = f"recipe {path}"
    try:
        written = read_toml(path)
    except UsageError as error:
        raise ConfigError([str(error)], subject) from error
    typed = {**(changes or {}), **(sections or {})}
    for section, values in (sections or {}).items():
        before = written.get(section)
        written[section] = {**(before if isinstance(before, dict) else {}), **values}
    for text in overrides:
        _override(written, text)
    return parse_recipe({**written, **(changes or {})}, subject, trusted=("network", "task") if trust else tuple(typed))


def _override(written: dict[str, Any], text: str) -> None:
    """Set one key of what a recipe's file says, in place."""
    key, equals, value = text.partition("=")
    names = key.strip().split(".")
    if not equals or not all(names):
        raise UsageError(f"--set {text!r} must be KEY=VALUE, such as teacher.train.epochs=1")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except (tomllib.TOMLDecodeError, ValueError, RecursionError):
        parsed = value.strip()
    for name in names[:-1]:
        inner = written.get(name)
        inner = dict(inner) if isinstance(inner, dict) else {}
        written[name] = inner
        written = inner
    written[names[-1]] = parsed


def parse_recipe(
    written: Mapping[str, Any], subject: str = "the recipe", *, deep: bool = True, trusted: tuple[str, ...] = ()
) -> Recipe:
    """A recipe from a mapping.

    Args:
        written: sections and keys as in the TOML file.
        subject: what to call it in an error.
        deep: also check that network, task, device and limits exist and parse.
        trusted: which of "network" and "task" may name code.

    Raises:
        ConfigError: everything that is wrong with it, together.
    """
    try:
        recipe = Recipe.model_validate(dict(written))
    except ValidationError as error:
        # What can be checked of the rest is checked too, so that nothing comes to light one run later.
        errors = [_sentence(problem) for problem in error.errors()]
        raise ConfigError(errors + (_deep_errors(written, trusted) if deep else []), subject) from None
    errors = _deep_errors(written, trusted) if deep else []
    if errors:
        raise ConfigError(errors, subject)
    return recipe


def validated(kind: type[S], values: Mapping[str, Any], subject: str) -> S:
    """One section from a mapping (the command line, a checkpoint).

    Raises:
        ConfigError: everything that is wrong with it, together.
    """
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        raise ConfigError([_sentence(problem) for problem in error.errors()], subject) from None


def _sentence(problem: Any) -> str:
    """One pydantic error as one sentence that names the key, its value and what is allowed."""
    where = ".".join(str(part) for part in problem["loc"]) or "recipe"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        known = _keys_at(problem["loc"][:-1])
        near = difflib.get_close_matches(str(problem["loc"][-1]), known, 1)
        return f"{where} is unknown" + (f": did you mean {near[0]!r}?" if near else f": known are {', '.join(known)}")
    if problem["type"] == "missing":
        return f"{where} is missing"
    if problem["type"] == "value_error":
        return f"{where}: {message}"
    return f"{where} = {problem['input']!r}: {message[0].lower()}{message[1:]}"


def _keys_at(location: tuple[int | str, ...]) -> list[str]:
    kind: Any = Recipe
    for part in location:
        annotation = kind.model_fields[part].annotation if str(part) in kind.model_fields else None
        options = [annotation, *getattr(annotation, "__args__", ())]
        kind = next((option for option in options if isinstance(option, type) and issubclass(option, BaseModel)), None)
        if kind is None:
            return []
    return list(kind.model_fields)


def _deep_errors(written: Mapping[str, Any], trusted: tuple[str, ...]) -> list[str]:
    """What pydantic cannot know: whether the named things exist and the targets parse."""
    from edgepress.compress.recipes.checks import (
        device_errors,
        front_end_errors,
        network_errors,
        target_errors,
        task_errors,
        teacher_errors,
    )

    checks = [
        lambda: network_errors(written.get("network"), "network" in trusted),
        lambda: task_errors(written.get("task"), "task" in trusted),
        lambda: device_errors([written.get("device", "dcase2023"), *_list(written, "measure", "devices")]),
        lambda: target_errors(_list(written, "prune", "targets")),
        lambda: front_end_errors(written.get("front_end")),
        lambda: teacher_errors(written.get("teacher"), "network" in trusted),
    ]
    errors: list[str] = []
    for check in checks:
        try:
            errors += check()
        except EdgepressError as error:
            errors.append(str(error))
    return errors


def _list(written: Mapping[str, Any], section: str, key: str) -> list[Any]:
    values = written.get(section)
    values = values.get(key) if isinstance(values, Mapping) else None
    return list(values) if isinstance(values, list | tuple) else []
