# SPDX-License-Identifier: Apache-2.0
"""Ten kinds of stochastic texture and event, one second each: the scenes of the synthetic task.

Every scene is a function of a random generator and a place. The place (what a recording location is in real data) fixes
the scene's character, such as the pitch of an engine; the generator makes the clip. Ranges of different scenes overlap,
and every clip lies in a background of coloured noise, often with a second, weaker scene in it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

SAMPLE_RATE_HZ = 16000
SAMPLES = 16000
_TIME = np.arange(SAMPLES) / SAMPLE_RATE_HZ
_FREQUENCIES = np.fft.rfftfreq(SAMPLES, 1 / SAMPLE_RATE_HZ)


@dataclass(frozen=True)
class Place:
    """Eight numbers in [0, 1] that characterise a recording location."""

    traits: tuple[float, ...]

    def value(self, rng: np.random.Generator, trait: int, low: float, high: float) -> float:
        """The place's value between `low` and `high` (on a logarithmic scale), a little different in every clip."""
        position = np.clip(self.traits[trait] + 0.08 * rng.standard_normal(), 0.0, 1.0)
        return float(low * (high / low) ** position)


Scene = Callable[[np.random.Generator, Place], np.ndarray]


def coloured_noise(rng: np.random.Generator, slope: float, low_hz: float = 20.0, high_hz: float = 8000.0) -> np.ndarray:
    """Gaussian noise whose power falls as 1 / f^slope between soft edges; unit RMS."""
    f = np.maximum(_FREQUENCIES, 1.0)
    gain = f ** (-slope / 2) / np.sqrt((1 + (low_hz / f) ** 4) * (1 + (f / high_hz) ** 4))
    spectrum = gain * (rng.standard_normal(f.size) + 1j * rng.standard_normal(f.size))
    return normalised(np.fft.irfft(spectrum, SAMPLES))


def normalised(signal: np.ndarray) -> np.ndarray:
    """Scaled to unit RMS; silence stays silence."""
    return signal / max(float(np.sqrt(np.mean(signal**2))), 1e-9)


def _slow(rng: np.random.Generator, rate_hz: float) -> np.ndarray:
    """A smooth random curve of about `rate_hz` changes per second, zero mean, unit variance on average."""
    knots = max(4, int(rate_hz) + 3)
    return np.interp(_TIME, np.linspace(0, 1, knots), rng.standard_normal(knots))


def _events(rng: np.random.Generator, rate_hz: float) -> np.ndarray:
    """Times in seconds of a Poisson process, at least one."""
    return rng.uniform(0, 1, max(1, rng.poisson(rate_hz)))


def _place_bursts(rng: np.random.Generator, times: np.ndarray, burst: Callable[[], np.ndarray]) -> np.ndarray:
    """Sum of bursts that begin at these times, with random (log-normal) levels."""
    signal = np.zeros(SAMPLES)
    for time in times:
        start, sound = int(time * SAMPLE_RATE_HZ), burst()
        sound = sound[: SAMPLES - start]
        signal[start : start + len(sound)] += sound * np.exp(0.5 * rng.standard_normal())
    return signal


def _decay(seconds: float) -> np.ndarray:
    return np.exp(-np.arange(int(5 * seconds * SAMPLE_RATE_HZ) + 1) / (seconds * SAMPLE_RATE_HZ))


def _tone(frequencies_hz: np.ndarray, phase: float = 0.0) -> np.ndarray:
    return np.sin(phase + 2 * np.pi * np.cumsum(frequencies_hz) / SAMPLE_RATE_HZ)


def bells(rng: np.random.Generator, place: Place) -> np.ndarray:
    """Struck metal: inharmonic partials that ring."""
    base, ring = place.value(rng, 0, 300, 1400), place.value(rng, 1, 0.04, 0.3)

    def strike() -> np.ndarray:
        envelope = _decay(ring)
        time = np.arange(envelope.size) / SAMPLE_RATE_HZ
        pitch = base * np.exp(0.25 * rng.standard_normal())
        return sum(
            (
                rng.uniform(0.3, 1) * envelope ** (0.5 + 0.5 * ratio) * np.sin(2 * np.pi * pitch * ratio * time)
                for ratio in (1.0, 2.0, 2.76, 4.07, 5.4)
            ),
            np.zeros(envelope.size),
        )

    return _place_bursts(rng, _events(rng, place.value(rng, 2, 2, 7)), strike)


def birds(rng: np.random.Generator, place: Place) -> np.ndarray:
    """Short whistles that glide up or down."""
    centre, length = place.value(rng, 0, 1800, 5000), place.value(rng, 1, 0.04, 0.16)

    def whistle() -> np.ndarray:
        count = int(length * SAMPLE_RATE_HZ * np.exp(0.3 * rng.standard_normal())) + 16
        glide = np.linspace(-1, 1, count) * rng.uniform(-0.25, 0.25)
        trill = 0.08 * np.sin(2 * np.pi * rng.uniform(10, 45) * np.arange(count) / SAMPLE_RATE_HZ)
        pitch = centre * np.exp(0.2 * rng.standard_normal() + glide + trill)
        return _tone(np.minimum(pitch, 7600)) * np.hanning(count)

    return _place_bursts(rng, _events(rng, place.value(rng, 2, 3, 10)), whistle)


def brook(rng: np.random.Generator, place: Place) -> np.ndarray:
    """Many bubbles, each a short sine that rises, over a murmur."""
    low, high = place.value(rng, 0, 350, 900), place.value(rng, 1, 1600, 3600)

    def bubble() -> np.ndarray:
        envelope = _decay(rng.uniform(0.004, 0.02))
        pitch = rng.uniform(low, high) * (1 + rng.uniform(0, 0.5) * np.linspace(0, 1, envelope.size))
        return _tone(pitch) * envelope

    bubbles = normalised(_place_bursts(rng, _events(rng, place.value(rng, 2, 40, 160)), bubble))
    return bubbles + 0.4 * coloured_noise(rng, 1.0, 200, 5000)


def crickets(rng: np.random.Generator, place: Place) -> np.ndarray:
    """Steady high tones, chopped into fast pulses, in groups."""
    signal = np.zeros(SAMPLES)
    for _ in range(rng.integers(1, 4)):
        pitch = place.value(rng, 0, 2600, 6200) * np.exp(0.05 * rng.standard_normal())
        pulses = place.value(rng, 1, 18, 60)
        chop = np.clip(np.sin(2 * np.pi * pulses * _TIME + rng.uniform(0, 6)), 0, 1) ** 2
        group = 0.5 + 0.5 * np.tanh(4 * np.sin(2 * np.pi * place.value(rng, 2, 0.8, 4) * _TIME + rng.uniform(0, 6)))
        signal += rng.uniform(0.4, 1) * _tone(np.full(SAMPLES, pitch)) * chop * group
    return signal


def crowd(rng: np.random.Generator, place: Place) -> np.ndarray:
    """Several voices at once: gliding pulse trains through vowels that change."""
    signal = np.zeros(SAMPLES)
    for _ in range(round(place.value(rng, 0, 2, 6))):
        pitch = rng.uniform(95, 240) * np.exp(0.12 * _slow(rng, 4))
        turns = np.cumsum(pitch) / SAMPLE_RATE_HZ
        pulses = np.fft.rfft(np.diff(np.floor(turns + rng.random()), prepend=0.0))
        vowels = []
        for _ in range(2):
            first, second = rng.uniform(300, 800), rng.uniform(900, 2300)
            formants = np.exp(-(((_FREQUENCIES - first) / 160) ** 2))
            formants += 0.5 * np.exp(-(((_FREQUENCIES - second) / 260) ** 2)) + 0.04 / (1 + _FREQUENCIES / 2000)
            vowels.append(np.fft.irfft(pulses * formants, SAMPLES))
        mix = 1 / (1 + np.exp(-3 * _slow(rng, 5)))
        syllables = np.clip(np.sin(2 * np.pi * rng.uniform(2, 5.5) * _TIME + rng.uniform(0, 6)) + 0.4, 0, None)
        signal += normalised(mix * vowels[0] + (1 - mix) * vowels[1]) * syllables * rng.uniform(0.3, 1)
    return signal


def engine(rng: np.random.Generator, place: Place) -> np.ndarray:
    """A running motor: many harmonics of a low, slightly unsteady tone, and rumble."""
    pitch = place.value(rng, 0, 28, 110) * (1 + 0.02 * _slow(rng, 5))
    turn = np.exp(2j * np.pi * np.cumsum(pitch) / SAMPLE_RATE_HZ)
    rolloff = place.value(rng, 1, 0.6, 1.6)
    motor, harmonic = np.zeros(SAMPLES), np.ones(SAMPLES, complex)
    for number in range(1, 30):
        harmonic = harmonic * turn
        motor += number**-rolloff * rng.uniform(0.3, 1) * (harmonic * np.exp(1j * rng.uniform(0, 6))).imag
    return normalised(motor) + place.value(rng, 2, 0.3, 1.2) * coloured_noise(rng, 1.6, 40, 2500)


def fire(rng: np.random.Generator, place: Place) -> np.ndarray:
    """Crackling: clicks of very different strength over a low roar."""
    length = place.value(rng, 0, 0.0008, 0.004)

    def click() -> np.ndarray:
        envelope = _decay(length * np.exp(0.4 * rng.standard_normal()))
        return rng.standard_normal(envelope.size) * envelope * np.exp(0.8 * rng.standard_normal())

    clicks = normalised(_place_bursts(rng, _events(rng, place.value(rng, 1, 12, 60)), click))
    return clicks + place.value(rng, 2, 0.3, 1.0) * coloured_noise(rng, 1.8, 30, 1500)


def rain(rng: np.random.Generator, place: Place) -> np.ndarray:
    """Hiss of many small drops, with a few near ones."""
    hiss = coloured_noise(rng, place.value(rng, 0, 0.15, 1.0), place.value(rng, 1, 300, 1500))

    def drop() -> np.ndarray:
        envelope = _decay(rng.uniform(0.001, 0.006))
        return _tone(np.full(envelope.size, rng.uniform(900, 5000))) * envelope

    drops = normalised(_place_bursts(rng, _events(rng, place.value(rng, 2, 20, 120)), drop))
    return hiss + place.value(rng, 3, 0.2, 0.9) * drops


def steps(rng: np.random.Generator, place: Place) -> np.ndarray:
    """Regular thuds, each with a short scrape."""
    pace, body = place.value(rng, 0, 1.8, 4.5), place.value(rng, 1, 0.012, 0.05)
    times = np.arange(rng.uniform(0, 1 / pace), 1, 1 / pace)
    times = np.clip(times + 0.02 * rng.standard_normal(times.size), 0, 0.999)
    pitch, scrape = place.value(rng, 2, 70, 260), place.value(rng, 3, 0.2, 1.0)

    def thud() -> np.ndarray:
        envelope = _decay(body)
        return envelope * (_tone(np.full(envelope.size, pitch)) + scrape * rng.standard_normal(envelope.size))

    return _place_bursts(rng, times, thud)


def wind(rng: np.random.Generator, place: Place) -> np.ndarray:
    """Low noise in gusts, with a whistling band that wanders."""
    gusts = np.exp(0.9 * _slow(rng, 4))
    low = coloured_noise(rng, place.value(rng, 0, 1.4, 2.4), 30, 2500)
    carrier = place.value(rng, 1, 250, 1100) * np.exp(0.2 * _slow(rng, 3))
    whistle = _tone(carrier) * _slow(rng, 40)
    return gusts * (low + place.value(rng, 2, 0.3, 1.0) * normalised(whistle))


#: The classes in alphabetical order.
SCENES: dict[str, Scene] = {
    scene.__name__: scene for scene in (bells, birds, brook, crickets, crowd, engine, fire, rain, steps, wind)
}
#: Level of the scene over its background noise; of a second scene under the first, and how often there is one.
BACKGROUND_DB = (-4.0, 14.0)
SECOND_SCENE_DB = (-16.0, -4.0)
SECOND_SCENE_SHARE = 0.5
LEVEL_DBFS = (-38.0, -22.0)


def make_clip(scene: str, place: Place, rng: np.random.Generator) -> np.ndarray:
    """One clip as it sounds before any recording device: float64 [16000], at -38 to -22 dB below full scale."""

    def gain(decibels: float) -> float:
        return 10 ** (decibels / 20)

    signal = normalised(SCENES[scene](rng, place))
    if rng.random() < SECOND_SCENE_SHARE:
        other = str(rng.choice([name for name in SCENES if name != scene]))
        stranger = Place(tuple(rng.uniform(0, 1, 8)))
        signal = signal + gain(rng.uniform(*SECOND_SCENE_DB)) * normalised(SCENES[other](rng, stranger))
    background = coloured_noise(rng, 2.2 * place.traits[6] * rng.uniform(0.7, 1.3))
    signal = signal + gain(-rng.uniform(*BACKGROUND_DB)) * background
    return gain(rng.uniform(*LEVEL_DBFS)) * normalised(signal)
