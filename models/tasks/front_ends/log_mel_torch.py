# SPDX-License-Identifier: Apache-2.0
"""The log-mel front end as a torch module, for augmentation on waveforms on any device."""

from __future__ import annotations

from dataclasses import replace

import torch

from edgepress.models.tasks.front_ends.log_mel import LogMel, analysis_window, mel_filter_bank

#: Filter banks of other upper edges that are kept.
_MOST_BANKS = 64


class TorchLogMel(torch.nn.Module):
    """`edgepress.models.tasks.front_ends.log_mel.log_mel` in torch.

    The constants are no part of the state dict: they follow from `config`. Always in float32, also under autocast,
    because half precision loses the quiet bands.
    """

    window: torch.Tensor
    bank: torch.Tensor

    def __init__(self, config: LogMel):
        super().__init__()
        self.config = config
        self.register_buffer("window", torch.from_numpy(analysis_window(config).copy()), persistent=False)
        self.register_buffer("bank", torch.from_numpy(mel_filter_bank(config).copy()), persistent=False)
        self._banks: dict[int, torch.Tensor] = {}

    def forward(self, waveforms: torch.Tensor, fmax_hz: float | None = None) -> torch.Tensor:
        """[N, samples], floating in [-1, 1] or int16, to float32 [N, 1, n_mels, frames].

        `fmax_hz` is another upper edge of the highest band than the definition's, for augmentation.
        """
        config = self.config
        config.frames(waveforms.shape[-1])
        with torch.autocast(waveforms.device.type, enabled=False):
            signal = waveforms.float()
            if waveforms.dtype == torch.int16:
                signal = signal / 32768.0
            signal = signal[:, 1:] - config.pre_emphasis * signal[:, :-1]
            spectrum = torch.stft(
                signal,
                config.n_fft,
                config.hop,
                window=self.window,
                center=True,
                pad_mode="reflect",
                return_complex=True,
            )
            power = spectrum.real.square() + spectrum.imag.square()
            mel = torch.matmul(self.bank if fmax_hz is None else self._bank_to(fmax_hz), power)
            return ((mel + config.log_offset).log() + config.shift).div(config.scale).unsqueeze(1)

    def _bank_to(self, fmax_hz: float) -> torch.Tensor:
        """[n_mels, bins] for another upper edge, in whole hertz; each is computed once and kept."""
        edge = round(fmax_hz)
        if edge not in self._banks:
            bank = mel_filter_bank(replace(self.config, fmax_hz=float(edge)))
            # Bands of every edge a batch may draw: a few thousand of 2 MB would fill a memory.
            if len(self._banks) >= _MOST_BANKS:
                self._banks.pop(next(iter(self._banks)))
            self._banks[edge] = torch.from_numpy(bank.copy())
        found = self._banks[edge]
        return found.to(self.bank.device)


def log_mel_torch(config: LogMel) -> TorchLogMel:
    """The same front end as a torch module: [N, samples] -> float32 [N, 1, n_mels, frames], equal to 1e-4.

    It follows its input's device; the constants are those of the NumPy one. For augmentation on waveforms.
    """
    return TorchLogMel(config)
