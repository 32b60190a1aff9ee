# SPDX-License-Identifier: Apache-2.0
"""Augmentation in torch, on batches, on any device: of waveforms (DIR, roll) and of log-mel features.

Everything random is drawn from a `torch.Generator` (None: torch's own, which the training loop seeds for every epoch),
so that a resumed training sees the same batches. A draw is made on the device of the data. Inputs are never changed in
place.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from edgepress.compress.recipes.recipe import Augment
from edgepress.models.errors import UsageError
from edgepress.models.tasks import Task

Generator = torch.Generator | None
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
            samples, rate = soundfile.read(
                str(path),
                dtype="float32",
                always_2d=True,
                frames=int(_LONGEST_RESPONSE_S * soundfile.info(str(path)).samplerate),
            )
        except (soundfile.LibsndfileError, RuntimeError, OSError) as error:
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


def beta(alpha: float, count: int, device: torch.device, generator: Generator = None) -> Tensor:
    """`count` draws of Beta(alpha, alpha), float32.

    `torch.distributions.Beta` takes no generator; this is the function that it calls.
    """
    both = torch.full((count, 2), float(alpha), device=device)
    return torch._sample_dirichlet(both, generator)[:, 0]  # pyright: ignore[reportPrivateImportUsage]


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

    def __init__(
        self,
        settings: Augment,
        front_end: nn.Module | None,
        responses: Tensor | None,
        reference: Tensor | None,
        fill: float,
        generator: Generator = None,
    ):
        super().__init__()
        self.settings, self.front_end, self.fill, self.generator = settings, front_end, fill, generator
        self.register_buffer("responses", responses, persistent=False)
        self.register_buffer("reference", reference, persistent=False)
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
            x = self.front_end(x)
        if settings.roll_frames:
            x = roll(x, settings.roll_frames, generator=generator)
        if settings.frequency_mask:
            x = mask(x, settings.frequency_mask, 2, fill=self.fill, generator=generator)
        if settings.time_mask:
            x = mask(x, settings.time_mask, 3, fill=self.fill, generator=generator)
        if settings.mixup_alpha:
            return mixup(x, settings.mixup_alpha, generator=generator)
        if settings.mixstyle_probability:
            x = freq_mixstyle(x, settings.mixstyle_alpha, settings.mixstyle_probability, generator=generator)
        return x, None, None


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
    waves = bool(settings.roll_samples or settings.impulse_probability)
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
    fill = task.front_end.shift / task.front_end.scale if task.front_end is not None else 0.0
    if not waves:
        return Augmentation(settings, None, None, None, fill, generator)
    if task.front_end is None or task.read_waveforms is None:
        raise UsageError(
            f"augment: roll_samples and impulse_probability need audio, which task {task.name} does not "
            "hold; set both to 0"
        )
    from edgepress.models.tasks.front_ends.log_mel_torch import log_mel_torch

    responses = reference = None
    if settings.impulse_probability and settings.impulse_folder is not None:
        responses = impulse_responses(settings.impulse_folder, task.front_end.sample_rate_hz, settings.impulse_exclude)
        reference = reference_clips(task.split("train").devices)
    return Augmentation(settings, log_mel_torch(task.front_end), responses, reference, fill, generator)


def reference_clips(devices: Sequence[str] | None) -> Tensor | None:
    """bool [N]: which clips the reference device recorded, "a" or else the most frequent one; None without devices."""
    if not devices:
        return None
    reference = "a" if "a" in devices else max(sorted(set(devices)), key=list(devices).count)
    return torch.tensor([device == reference for device in devices])
