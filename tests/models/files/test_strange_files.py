"""Files of weights, lists and clips that nobody would write by mistake: one sentence, soon and without the memory."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from edgepress.models.errors import UsageError
from edgepress.models.files.arrays import load_torch
from edgepress.models.files.reading import file_sha256

torch = pytest.importorskip("torch")
ROOT = Path(__file__).resolve().parents[3]


def packed(path: Path, value: object) -> Path:
    """What torch.save wrote, with every part deflated, which torch never does and reads all the same."""
    torch.save(value, path.with_suffix(".plain"))
    with (
        zipfile.ZipFile(path.with_suffix(".plain")) as plain,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for entry in plain.infolist():
            archive.writestr(entry.filename, plain.read(entry))
    path.with_suffix(".plain").unlink()
    return path


def test_weights_that_unpack_to_much_more_than_they_are(tmp_path):
    from edgepress import build
    from edgepress.models.checkpoints.weights import load_weights
    from edgepress.models.zoo.published import load_published

    path = packed(tmp_path / "w.pt", {"w": torch.zeros(100_000_000, dtype=torch.uint8)})
    assert path.stat().st_size < 200_000
    model = build("ds_cnn", channels=4, n_blocks=1)
    for read in (load_torch, lambda path: load_weights(model, path), lambda path: load_published(model, path)):
        with pytest.raises(UsageError, match="times its size"):
            read(path)
    small = packed(tmp_path / "s.pt", {"w": torch.arange(5)})
    assert load_torch(small)["w"].tolist() == [0, 1, 2, 3, 4]


def test_a_training_state_has_room_for_the_copies_of_an_optimiser(tmp_path):
    torch.save({"w": torch.zeros(10)}, tmp_path / "w.pt")
    with pytest.raises(UsageError, match=r"at most 0\.0 GB"):
        load_torch(tmp_path / "w.pt", largest_bytes=100)


def test_weights_that_are_no_numbers_are_refused_wherever_they_come_from(tmp_path):
    from safetensors.torch import save_file

    from edgepress import build
    from edgepress.models.checkpoints.weights import load_weights
    from edgepress.models.zoo.published import load_published

    model = build("ds_cnn", channels=4, n_blocks=1)
    state = model.state_dict()
    name = next(iter(state))
    for value in (float("nan"), float("inf")):
        state[name] = torch.full_like(state[name], value)
        torch.save(state, tmp_path / "w.pt")
        save_file(state, tmp_path / "w.safetensors")
        for file in ("w.pt", "w.safetensors"):
            for read in (load_weights, load_published):
                with pytest.raises(UsageError, match=f"{name} holds NaN or infinite"):
                    read(model, tmp_path / file)


def test_a_tensor_that_claims_a_trillion_values_is_only_of_another_shape(tmp_path):
    from edgepress import build
    from edgepress.models.checkpoints.weights import load_weights

    model = build("ds_cnn", channels=4, n_blocks=1)
    state = {name: torch.zeros(1).expand(10**6, 10**6) for name in model.state_dict()}
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(UsageError, match="does not fit the network"):
        load_weights(model, tmp_path / "w.pt")


@pytest.mark.skipif(sys.platform == "win32", reason="pipes of POSIX")
def test_a_pipe_in_place_of_any_file_does_not_wait(tmp_path):
    from edgepress.benchmarks.measure.accuracy import model_sha256
    from edgepress.benchmarks.measure.profiling import profile
    from edgepress.compress.training.augment import impulse_responses
    from edgepress.models.checkpoints.digests import identity
    from edgepress.models.tasks.sources.listing import read_table

    for name in ("m.tflite", "a.wav", "meta.csv", "model.json", "w.pt"):
        os.mkfifo(tmp_path / name)
    began = time.monotonic()
    for read in (
        lambda: file_sha256(tmp_path / "m.tflite"),
        lambda: model_sha256(tmp_path / "m.tflite"),
        lambda: profile(tmp_path / "m.tflite"),
        lambda: identity(tmp_path),
        lambda: load_torch(tmp_path / "w.pt"),
        lambda: read_table(tmp_path / "meta.csv", "meta.csv", ("filename",)),
        lambda: impulse_responses(tmp_path, 8000),
    ):
        with pytest.raises(UsageError):
            read()
    assert time.monotonic() - began < 5


def test_a_clip_of_headerless_audio_is_no_audio_file(tmp_path):
    """soundfile takes .raw by its name for samples without a header and wants to be told their rate."""
    import soundfile

    from edgepress.models.tasks.sources.audio import check_clips, decode

    for name in ("a.wav", "b.wav"):
        soundfile.write(tmp_path / name, np.zeros(800, np.float32), 8000)
    clip, errors = check_clips([tmp_path / "a.wav", tmp_path / "b.wav"], ["a", "b"])
    assert clip is not None
    assert errors == []
    shutil.copy(tmp_path / "a.wav", tmp_path / "c.raw")
    _, errors = check_clips([tmp_path / "a.wav", tmp_path / "b.wav", tmp_path / "c.raw"], ["a", "b", "c"])
    assert errors == ["c is no audio file that can be read (WAV or FLAC expected)"]
    with pytest.raises(UsageError, match="cannot be decoded"):
        decode(tmp_path / "c.raw", clip, 8000)


def test_a_list_of_clips_without_end(tmp_path):
    from edgepress.models.tasks.sources.listing import read_table

    (tmp_path / "meta.csv").symlink_to("/dev/zero")
    with pytest.raises(UsageError, match="cannot be read"):
        read_table(tmp_path / "meta.csv", "meta.csv", ("filename",))


@pytest.mark.skipif(sys.platform != "linux", reason="limits of Linux")
def test_a_cache_on_a_full_disk_says_so(tmp_path):
    """Blocks of a mapped file that are missing only when they are written to would end the process by SIGBUS."""
    code = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from edgepress.models.tasks.cache import cached_array\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
        "try: cached_array(Path(sys.argv[1]), 'k', 'a', (1 << 21,), 'uint8', lambda a: a.fill(1))\n"
        "except Exception as error: sys.exit(f'{type(error).__name__}: {error}')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 1, done
    assert done.stderr.startswith("UsageError: cannot write")
    assert not list(tmp_path.glob("k/*.partial"))
    assert not (tmp_path / "k" / "a").exists()
