# SPDX-License-Identifier: Apache-2.0
"""Augmentation in torch, on batches, on any device: of waveforms (DIR, roll) and of log-mel features.

Everything random is drawn from a `torch.Generator` (None: torch's own, which the training loop seeds for every epoch),
so that a resumed training sees the same batches. A draw is made on the device of the data. Inputs are never changed in
place.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from edgepress.compress.recipes.sections import Augment
from edgepress.compress.training.image_augment import Generator, beta, cutmix, flip, moved_crop, recolour
from edgepress.models.errors import UsageError
from edgepress.models.files.reading import open_regular
from edgepress.models.tasks import Task
from edgepress.models.tasks.front_ends.images import Images
from edgepress.models.tasks.front_ends.log_mel import LogMel
from edgepress.models.tasks.kinds.table import kind_of

_LONGEST_RESPONSE_S = 1.0
_AUDIO_SUFFIXES = {".wav", ".flac"}


def freq_mixstyle(x: Tensor, alpha: float = 0.3, probability: float = 0.4, *, generator: Generator = None) -> Tensor:
    """Freq-MixStyle: exchange the statistics of frequency bands between the clips of a batch.

    With mu, sigma the mean and standard deviation of a clip over channels and frames, for every band (sigma^2 is the
    unbiased variance plus 1e-6), and lambda ~ Beta(alpha, alpha) for every clip:
    x' = (x - mu) / sigma * (lambda sigma + (1 - lambda) sigma') + lambda mu + (1 - lambda) mu', where the primed ones
    are those of another clip of the batch. Labels stay. It makes a network blind to the colour of a microphone.

    Schmid et al., "Knowledge distillation from transformers for low-complexity acoustic scene classification", DCASE
    2022; Kim et al., "Domain generalization with relaxed instance frequency-wise normalization", Interspeech 2022.

    Args:
        x: [B, C, bands, frames] normalised log-mel features.
        alpha: of the Beta distribution.
        probability: that the batch is changed at all.
        generator: of the draws.
    """
    if len(x) < 2 or not _happens(probability, x.device, generator):
        return x
    mean = x.mean((1, 3), keepdim=True)
    deviation = (x.var((1, 3), keepdim=True) + 1e-6).sqrt()
    share = beta(alpha, len(x), x.device, generator).to(x.dtype)[:, None, None, None]
    partner = torch.randperm(len(x), generator=generator, device=x.device)
    mixed_deviation = share * deviation + (1 - share) * deviation[partner]
    mixed_mean = share * mean + (1 - share) * mean[partner]
    return (x - mean) / deviation * mixed_deviation + mixed_mean


def mixup(x: Tensor, alpha: float = 0.3, *, generator: Generator = None) -> tuple[Tensor, Tensor, Tensor]:
    """Mixup of two clips: x' = s x + (1 - s) x[partner], s = max(b, 1 - b), b ~ Beta(alpha, alpha) for every clip.

    Zhang et al., "mixup: beyond empirical risk minimization", ICLR 2018; s >= 1/2 as in Schmid et al., DCASE 2022, so
    that a clip stays the larger part of itself.

    Returns:
        The mixed batch, partner int64 [B], share float32 [B]; the loss is s * loss(label) + (1 - s) * loss(label of
        the partner).
    """
    drawn = beta(alpha, len(x), x.device, generator)
    share = torch.maximum(drawn, 1 - drawn)
    partner = torch.randperm(len(x), generator=generator, device=x.device)
    weight = share.to(x.dtype).reshape(-1, *(1,) * (x.dim() - 1))
    return weight * x + (1 - weight) * x[partner], partner, share


def roll(x: Tensor, limit: int, *, generator: Generator = None) -> Tensor:
    """Circular shift along the last dimension by an integer from [-limit, limit], another one for every clip.

    For waveforms [B, samples] and for features [B, C, bands, frames].
    """
    length = x.shape[-1]
    shift = torch.randint(-limit, limit + 1, (len(x),), generator=generator, device=x.device)
    source = (torch.arange(length, device=x.device)[None, :] - shift[:, None]) % length
    return x.gather(-1, source.reshape(len(x), *(1,) * (x.dim() - 2), length).expand(x.shape))


def mask(x: Tensor, width: int, dimension: int, *, fill: float = 0.9, generator: Generator = None) -> Tensor:
    """Set one stretch of bands or frames to a constant: SpecAugment without warping.

    For every clip, the width is a whole number drawn evenly from 0 to `width`, its begin evenly from where it fits.
    Park et al., "SpecAugment", Interspeech 2019. `fill` is what a logarithm of 0 becomes by the front end's
    normalisation, shift / scale = 0.9, as in the published CP-ResNet and CP-Mobile.

    Args:
        x: [B, C, bands, frames].
        width: largest width.
        dimension: 2 for bands (frequency masking), 3 for frames (time masking).
        fill: the constant.
        generator: of the draws.

    Raises:
        UsageError: `width` is larger than the dimension.
    """
    size = x.shape[dimension]
    if not 0 <= width <= size:
        raise UsageError(
            f"mask width = {width} must lie between 0 and {size}, the number of "
            f"{'bands' if dimension == 2 else 'frames'}"
        )
    draws = torch.rand((2, len(x)), generator=generator, device=x.device)
    widths = (draws[0] * (width + 1)).floor().clamp(max=width)
    begins = (draws[1] * (size - widths + 1)).floor()
    position = torch.arange(size, device=x.device)[None, :]
    hidden = (position >= begins[:, None]) & (position < (begins + widths)[:, None])
    shape = [len(x), 1, 1, 1]
    shape[dimension] = size
    return x.masked_fill(hidden.reshape(shape), fill)


def impulse_responses(folder: str | Path, sample_rate_hz: int, exclude: Sequence[str] = ()) -> Tensor:
    """Every impulse response in a folder, for `device_impulse_response`.

    Resampling keeps the frequency response: the samples are multiplied by old rate / new rate, because a sum over
    fewer samples stands for the same integral. Their differences in level stay, as in the published method.

    Args:
        folder: .wav or .flac files, mono or with several channels (the first counts), of at most 1 s (the rest is
            cut off).
        sample_rate_hz: of the waveforms that are to be convolved.
        exclude: file names to leave out, such as the microphones that simulate unseen recording devices.

    Returns:
        float32 [K, taps], in the order of the file names, padded with zeros at the end.

    Raises:
        UsageError: no folder, no such excluded file, an unreadable or silent file, or nothing left.
    """
    import soundfile
    import soxr

    folder = Path(folder)
    if not folder.is_dir():
        raise UsageError(f"impulse responses: {folder} is no folder; name one with .wav files")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in _AUDIO_SUFFIXES)
    unknown = sorted(set(exclude) - {path.name for path in paths})
    if unknown:
        raise UsageError(f"impulse responses: {unknown[0]!r} is to be excluded, but {folder} has no such file")
    responses = []
    for path in paths:
        if path.name in exclude:
            continue
        try:
            open_regular(path).close()  # a pipe would wait for a writer
            samples, rate = soundfile.read(
                str(path),
                dtype="float32",
                always_2d=True,
                frames=int(_LONGEST_RESPONSE_S * soundfile.info(str(path)).samplerate),
            )
        except (soundfile.LibsndfileError, RuntimeError, OSError, UsageError) as error:
            raise UsageError(f"impulse responses: {path} is no audio file that can be read") from error
        response = samples[:, 0]
        if not np.isfinite(response).all() or not response.any():
            raise UsageError(f"impulse responses: {path} is silent or not finite; remove or exclude it")
        if rate != sample_rate_hz:
            response = soxr.resample(response, rate, sample_rate_hz, quality="HQ") * (rate / sample_rate_hz)
        responses.append(torch.from_numpy(np.ascontiguousarray(response, np.float32)))
    if not responses:
        raise UsageError(
            f"impulse responses: {folder} holds no .wav or .flac file" + (" that is not excluded" if exclude else "")
        )
    return nn.utils.rnn.pad_sequence(responses, batch_first=True)


def device_impulse_response(
    waveforms: Tensor,
    responses: Tensor,
    probability: float = 0.6,
    *,
    eligible: Tensor | None = None,
    generator: Generator = None,
) -> Tensor:
    """DIR augmentation: let another microphone hear a clip, x' = (x * h) cut to the length of x.

    Each eligible clip is convolved, with the given probability, with an impulse response drawn evenly. The level is
    not restored. Morocutti et al., "Device-robust acoustic scene classification via impulse response augmentation",
    EUSIPCO 2023 (there only clips of device a are eligible).

    Args:
        waveforms: [B, samples], floating.
        responses: [K, taps] at the same rate.
        probability: of every eligible clip.
        eligible: bool [B]; None takes all.
        generator: of the draws.
    """
    draws = torch.rand(len(waveforms), generator=generator, device=waveforms.device) < probability
    chosen = torch.randint(len(responses), (len(waveforms),), generator=generator, device=waveforms.device)
    if eligible is not None:
        draws = draws & eligible.to(waveforms.device)
    rows = draws.nonzero()[:, 0]
    if not len(rows):
        return waveforms
    samples, taps = waveforms.shape[1], responses.shape[1]
    length = 1 << (samples + taps - 2).bit_length()  # a power of two of at least samples + taps - 1
    spectrum = torch.fft.rfft(waveforms[rows], length) * torch.fft.rfft(responses, length)[chosen[rows]]
    return waveforms.index_copy(0, rows, torch.fft.irfft(spectrum, length)[:, :samples].to(waveforms.dtype))


def _happens(probability: float, device: torch.device, generator: Generator) -> bool:
    if probability >= 1:
        return True
    return probability > 0 and bool(torch.rand((), generator=generator, device=device) < probability)


class Augmentation(nn.Module):
    """What a recipe asks for, in the order of the published ones: DIR, roll, log-mel, masks, Freq-MixStyle or mixup.

    Called with (inputs, labels), or with (inputs, labels, indices) so that DIR changes only clips of the reference
    device; returns (inputs, partner [B] or None, share [B] or None) as the training loop wants them. Made by
    `make_augmentation`.
    """

    reference: Tensor
    responses: Tensor
    pixels: Tensor | None

    def __init__(
        self,
        settings: Augment,
        front_end: nn.Module | None,
        responses: Tensor | None,
        reference: Tensor | None,
        fill: float,
        generator: Generator = None,
        pixels: Tensor | None = None,
    ):
        super().__init__()
        self.settings: Augment = settings
        self.front_end: nn.Module | None = front_end
        self.fill: float = fill
        self.generator: Generator = generator
        self.register_buffer("responses", responses, persistent=False)
        self.register_buffer("reference", reference, persistent=False)
        #: [2, channels or 1] mean and deviation of pixels, where images are changed.
        self.register_buffer("pixels", pixels, persistent=False)
        self._device = torch.device("cpu")

    @torch.no_grad()
    def forward(
        self, inputs: Tensor, labels: Tensor, indices: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Waveforms [B, samples] or features [B, C, bands, frames] to augmented features."""
        if self._device != inputs.device:
            self.to(inputs.device)
            self._device = inputs.device
        settings, generator = self.settings, self.generator
        x = inputs
        if self.front_end is not None and inputs.dim() == 2:
            x = inputs.float() / 32768.0 if inputs.dtype == torch.int16 else inputs.float()
            if settings.impulse_probability:
                eligible = self.reference[indices] if indices is not None and self.reference is not None else None
                x = device_impulse_response(
                    x, self.responses, settings.impulse_probability, eligible=eligible, generator=generator
                )
            if settings.roll_samples:
                x = roll(x, settings.roll_samples, generator=generator)
            x = self.front_end(x, **self._upper_edge(x.device))
        if settings.roll_frames:
            x = roll(x, settings.roll_frames, generator=generator)
        if settings.frequency_mask:
            x = mask(x, settings.frequency_mask, 2, fill=self.fill, generator=generator)
        if settings.time_mask:
            x = mask(x, settings.time_mask, 3, fill=self.fill, generator=generator)
        if self.pixels is not None:
            x = self._of_images(x)
        if settings.cutmix_alpha:
            return cutmix(x, settings.cutmix_alpha, generator=generator)
        if settings.mixup_alpha:
            return mixup(x, settings.mixup_alpha, generator=generator)
        if settings.mixstyle_probability:
            x = freq_mixstyle(x, settings.mixstyle_alpha, settings.mixstyle_probability, generator=generator)
        return x, None, None

    def _upper_edge(self, device: torch.device) -> dict[str, float]:
        """The upper edge of the mel bands for one batch: fmax + R / 2 - n hertz, n drawn evenly from 0 to R - 1.

        As in the published PaSST and CP-Mobile; never beyond half the sample rate.
        """
        if not self.settings.fmax_jitter_hz or self.front_end is None:
            return {}
        width, config = self.settings.fmax_jitter_hz, cast(LogMel, self.front_end.config)
        moved = width // 2 - int(torch.randint(width, (), generator=self.generator, device=device))
        return {"fmax_hz": min(config.fmax_hz + moved, config.sample_rate_hz / 2)}

    def _of_images(self, x: Tensor) -> Tensor:
        settings, generator = self.settings, self.generator
        assert self.pixels is not None
        if settings.colour:
            x = recolour(x, settings.colour, self.pixels[0], self.pixels[1], generator=generator)
        if settings.flip_probability:
            x = flip(x, settings.flip_probability, generator=generator)
        if settings.crop_pixels:
            x = moved_crop(x, settings.crop_pixels, generator=generator)
        return x


def make_augmentation(settings: Augment, task: Task, generator: Generator = None) -> Augmentation:
    """The augmentation of a recipe's `[train.augment]` for a task.

    Args:
        settings: what is asked for.
        task: gives the front end, and the recording devices for DIR.
        generator: None takes torch's own, seeded by the training loop.

    Raises:
        UsageError: augmentation on waveforms for a task without audio, a bad folder of impulse responses, or sizes
            that do not fit the features.
    """
    waves = settings.on_waveforms
    spectral = {
        "roll_frames": settings.roll_frames,
        "frequency_mask": settings.frequency_mask,
        "time_mask": settings.time_mask,
        "mixstyle_probability": settings.mixstyle_probability,
    }
    used = [name for name, value in spectral.items() if value]
    if used and len(task.input_shape) != 3:
        raise UsageError(
            f"augment: {used[0]} needs features of [channels, bands, frames]; task {task.name} has inputs "
            f"of shape {tuple(task.input_shape)}"
        )
    for name, size in (("frequency_mask", -2), ("time_mask", -1)):
        if spectral[name] and spectral[name] > task.input_shape[size]:
            raise UsageError(
                f"augment: {name} = {spectral[name]} is larger than the features, which have {task.input_shape[size]}"
            )
    fill = task.front_end.shift / task.front_end.scale if isinstance(task.front_end, LogMel) else 0.0
    pixels = _image_statistics(settings, task)
    if not waves:
        return Augmentation(settings, None, None, None, fill, generator, pixels)
    if not isinstance(task.front_end, LogMel) or task.read_waveforms is None:
        raise UsageError(
            f"augment: roll_samples, impulse_probability and fmax_jitter_hz need audio, which task {task.name} does "
            "not hold; set them to 0"
        )
    from edgepress.models.tasks.front_ends.log_mel_torch import log_mel_torch

    responses = reference = None
    if not settings.fmax_jitter_hz < 2 * (task.front_end.fmax_hz - task.front_end.fmin_hz):
        raise UsageError(
            f"augment: fmax_jitter_hz = {settings.fmax_jitter_hz} would move the front end's upper edge of "
            f"{task.front_end.fmax_hz:g} Hz below its lower one; choose a smaller range"
        )
    if settings.impulse_probability and settings.impulse_folder is not None:
        responses = impulse_responses(settings.impulse_folder, task.front_end.sample_rate_hz, settings.impulse_exclude)
        reference = reference_clips(task.split("train").devices)
    return Augmentation(settings, log_mel_torch(task.front_end), responses, reference, fill, generator)


def _image_statistics(settings: Augment, task: Task) -> Tensor | None:
    """[2, channels or 1] mean and deviation of the pixels; None where no image is changed.

    Raises:
        UsageError: inputs that are no images.
    """
    used = [name for name in ("flip_probability", "crop_pixels", "colour") if getattr(settings, name)]
    boxes = ["cutmix_alpha"] if settings.cutmix_alpha else []
    if (used or boxes) and len(task.input_shape) != 3:
        raise UsageError(
            f"augment: {[*used, *boxes][0]} needs images [channels, height, width]; task {task.name} has inputs of "
            f"shape {tuple(task.input_shape)}: set it to 0"
        )
    moved = [name for name in ("flip_probability", "crop_pixels", "cutmix_alpha") if getattr(settings, name)]
    if moved and task.kind in ("segmentation", "detection"):
        raise UsageError(
            f"augment: {moved[0]} moves images, and what the {task.kind} task {task.name} says of their places would "
            "stay: set it to 0"
        )
    if not used:
        return None
    moving = [name for name in (*used, *boxes) if name != "colour"]
    if kind_of(task.kind).spatial and moving:
        raise UsageError(f"augment: {moving[0]} would move pixels and not the masks of task {task.name}: set it to 0")
    if isinstance(task.front_end, Images):
        return torch.tensor([task.front_end.mean, task.front_end.std])
    if settings.colour:
        raise UsageError(f"augment: colour needs a front end of images, which task {task.name} has not: set it to 0")
    return torch.tensor([[0.0], [1.0]])


def reference_clips(devices: Sequence[str] | None) -> Tensor | None:
    """bool [N]: which clips the reference device recorded, "a" or else the most frequent one; None without devices."""
    if not devices:
        return None
    reference = "a" if "a" in devices else max(sorted(set(devices)), key=list(devices).count)
    return torch.tensor([device == reference for device in devices])
