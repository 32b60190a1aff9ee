# SPDX-License-Identifier: Apache-2.0
"""A set of sounds that go wrong, built from ESC-10: steady classes are normal, foreign sounds are mixed in.

    python -m edgepress.benchmarks.experiments.tasks.machines ESC10 OUT

ESC-10 is 400 recordings of 5 s in ten folders, `NNN - Class name/FOLD-ID-TAKE.ogg` (CC BY, K. J. Piczak 2015). One
of a class that goes on steadily stands for a machine, the class for its type: as in MIMII and ToyADMOS, the machines
that are heard in the test are those whose normal sound was heard before. Written are seconds, in the layout of DCASE
Task 2, which `sounds:OUT` reads:

    OUT/rain/train/normal_1-17367-A_0.wav            seconds 0 to 2 of each recording, at one level
    OUT/rain/test/normal_1-17367-A_3.wav             seconds 3 and 4 of it
    OUT/rain/test/anomaly_1-17367-A_3_rooster.wav    the same seconds with a foreign sound in each

Recordings come from many microphones: each is brought to one level, by its own seconds 0 to 2. A foreign sound is the
loudest second of a recording of another class, with its ends faded. It is as loud as the second that it is mixed into
(`--snr-db 0`: root mean squares); a hash of the names chooses which one.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from edgepress.models.command_line import run_command
from edgepress.models.errors import UsageError

RATE_HZ = 16000
SECONDS = 5
#: Seconds of a recording that are trained on; the others are the test.
TRAIN_SECONDS = 3
MACHINES = ("rain", "sea_waves", "helicopter")
FOREIGN = ("dog_bark", "baby_cry", "person_sneeze", "rooster", "chainsaw")
#: Root mean square of the seconds that are trained on, of full scale.
LEVEL = 0.05
#: A second below this root mean square is a recording that ended: the files are filled up to 5 s.
_SILENT = 1e-4


def recordings(folder: Path) -> dict[str, list[Path]]:
    """Class name -> its files, sorted.

    Raises:
        UsageError: a class that is needed has no recordings.
    """
    found = {
        place.name.partition(" - ")[2].lower().replace(" ", "_"): sorted(place.glob("*.ogg"))
        for place in sorted(folder.glob("* - *"))
    }
    missing = [name for name in (*MACHINES, *FOREIGN) if not found.get(name)]
    if missing:
        raise UsageError(
            f"ESC10 = '{folder}' has no recordings of {missing[0]}: expected are folders such as '001 - Dog bark' "
            "with .ogg files"
        )
    return found


def read(path: Path) -> np.ndarray:
    """float32 [80000], 5 s at 16 kHz; shorter ones are filled up with silence."""
    import soundfile
    import soxr

    signal, rate = soundfile.read(str(path), dtype="float32", always_2d=True)
    signal = soxr.resample(signal[: SECONDS * rate, 0], rate, RATE_HZ, quality="HQ")[: SECONDS * RATE_HZ]
    return np.pad(signal, (0, SECONDS * RATE_HZ - len(signal))).astype(np.float32)


def loudest_second(signal: np.ndarray) -> np.ndarray:
    """float32 [16000] of the second with the most energy (in steps of 50 ms), its ends faded over 10 ms."""
    step, fade = RATE_HZ // 20, RATE_HZ // 100
    energy = np.add.reduceat(signal.astype(np.float64) ** 2, np.arange(0, len(signal), step))
    begin = int(np.convolve(energy, np.ones(20), "valid").argmax()) * step
    part = signal[begin : begin + RATE_HZ].copy()
    ramp = np.linspace(0, 1, fade, dtype=np.float32)
    part[:fade] *= ramp
    part[-fade:] *= ramp[::-1]
    return part


def level(signal: np.ndarray) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(np.square(signal, dtype=np.float64))))


def mixed(normal: np.ndarray, foreign: np.ndarray, snr_db: float) -> np.ndarray:
    """A second with a foreign sound in it.

    Args:
        normal, foreign: float32 [16000], neither of them silent.
        snr_db: level of the foreign sound above the normal one.
    """
    return normal + np.float32(level(normal) * 10 ** (snr_db / 20) / level(foreign)) * foreign


def chosen(*names: str, below: int) -> int:
    """A whole number from 0 to below - 1 that follows from names alone."""
    return int.from_bytes(hashlib.blake2b("/".join(names).encode(), digest_size=8).digest(), "big") % below


def write(source: Path, out: Path, snr_db: float) -> dict[str, int]:
    """Write the set; the number of files of each kind.

    Raises:
        UsageError: `out` exists, or `source` is no ESC-10.
    """
    import soundfile

    from edgepress.models.atomic import new_directory

    if out.exists():
        raise UsageError(f"OUT = '{out}' exists already: choose another folder, or delete it")
    by_class = recordings(source)
    counts = {"train normal": 0, "test normal": 0, "test anomalous": 0}
    strangers = [(name, path) for name in FOREIGN for path in by_class[name]]
    with new_directory(out) as folder:
        for machine in MACHINES:
            for part in ("train", "test"):
                (folder / machine / part).mkdir(parents=True)
            for path in by_class[machine]:
                seconds = read(path).reshape(SECONDS, RATE_HZ)
                gain = LEVEL / max(_SILENT, level(seconds[:TRAIN_SECONDS]))
                for second, signal in enumerate(np.float32(gain) * seconds):
                    if level(signal) < _SILENT:
                        continue
                    part, clip = ("train" if second < TRAIN_SECONDS else "test"), f"{path.stem}_{second}"
                    files = {f"normal_{clip}": signal}
                    if part == "test":
                        name, other = strangers[chosen(machine, clip, below=len(strangers))]
                        files[f"anomaly_{clip}_{name}"] = mixed(signal, loudest_second(read(other)), snr_db)
                    for file, samples in files.items():
                        # One factor for the few mixtures that would be clipped; the others stay as they are.
                        samples = samples / max(1.0, float(np.abs(samples).max()))
                        soundfile.write(str(folder / machine / part / f"{file}.wav"), samples, RATE_HZ, "PCM_16")
                        counts[f"{part} {'normal' if file.startswith('normal') else 'anomalous'}"] += 1
    return counts


def main(
    source: Annotated[Path, typer.Argument(metavar="ESC10", help="Folder of ESC-10.", exists=True, file_okay=False)],
    out: Annotated[Path, typer.Argument(help="Folder to write; it must not exist.")],
    snr_db: Annotated[float, typer.Option(help="Level of a foreign sound above the normal one, dB.")] = 0.0,
) -> None:
    """Build a set of sounds that go wrong from ESC-10, in the layout of DCASE Task 2."""
    counts = write(source, out, snr_db)
    print(f"{out}: " + ", ".join(f"{count} {name}" for name, count in counts.items()))


if __name__ == "__main__":
    app: typer.Typer = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    run_command(app)
