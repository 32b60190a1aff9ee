# SPDX-License-Identifier: Apache-2.0
"""Waveforms go in, what a network hears of them comes out: log-mel features, in NumPy and in torch."""
