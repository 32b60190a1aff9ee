# SPDX-License-Identifier: Apache-2.0
"""The log-mel front end as a torch module, for augmentation on waveforms on any device."""

from __future__ import annotations

import torch

from edgepress.models.tasks.front_ends.log_mel import LogMel, analysis_window, mel_filter_bank


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

    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        """[N, samples], floating in [-1, 1] or int16, to float32 [N, 1, n_mels, frames]."""
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
            mel = torch.matmul(self.bank, power)
            return ((mel + config.log_offset).log() + config.shift).div(config.scale).unsqueeze(1)


def log_mel_torch(config: LogMel) -> TorchLogMel:
    """The same front end as a torch module: [N, samples] -> float32 [N, 1, n_mels, frames], equal to 1e-4.

    It follows its input's device; the constants are those of the NumPy one. For augmentation on waveforms.
    """
    return TorchLogMel(config)
