"""Sound goes in, what a network hears of it comes out: resampled waveforms, log-mel features."""
