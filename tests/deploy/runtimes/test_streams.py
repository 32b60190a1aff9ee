"""Networks that remember: N clips or one stream, on every runtime, however samples are batched."""

import numpy as np
import pytest

from edgepress.deploy.runtimes.registry import available_runtimes
from edgepress.deploy.runtimes.sessions import open_session
from edgepress.deploy.verify.inputs import random_inputs

RUNTIMES = [
    name
    for name, missing in available_runtimes("tflite").items()
    if missing is None and name in ("litert", "litert-reference", "tflm")
]


@pytest.fixture(scope="module")
def dtln(shared):
    return shared / "data" / "outside_files" / "tflm_dtln.tflite"


@pytest.fixture(scope="module")
def sequence(dtln):
    """Ten frames of the noise that `deploy verify` feeds, in the file's own integers."""
    with open_session(dtln, RUNTIMES[0]) as session:
        return [q[:10] for q in session.quantize(*random_inputs(session, 32, 0).arrays)]


def integers(found):
    return [np.asarray(one, np.int64) for one in (found if isinstance(found, tuple) else (found,))]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_clips_do_not_depend_on_what_ran_before_and_streams_do(dtln, sequence, runtime):
    with open_session(dtln, runtime) as session:
        clips = integers(session.run_integer(*sequence))
        one_by_one = [session.run_integer(*[x[i : i + 1] for x in sequence]) for i in (7, 3)]
        for i, found in zip((7, 3), one_by_one, strict=True):
            for a, b in zip(integers(found), clips, strict=True):
                assert np.array_equal(a, b[i : i + 1])
        stream = integers(session.run_integer(*sequence, stream=True))
        assert np.array_equal(stream[0][:1], clips[0][:1])
        assert any(not np.array_equal(a[1:], b[1:]) for a, b in zip(stream, clips, strict=True))
        # In two calls, and again behind a reset: the same stream.
        session.reset()
        halves = [integers(session.run_integer(*[x[part] for x in sequence], stream=True)) for part in PARTS]
        for whole, parts in zip(stream, zip(*halves, strict=True), strict=True):
            assert np.array_equal(whole, np.concatenate(parts))
        # Clips in between end a stream.
        session.run_integer(*sequence)
        again = integers(session.run_integer(*[x[:4] for x in sequence], stream=True))
        assert np.array_equal(again[0], stream[0][:4])


PARTS = (slice(0, 4), slice(4, 10))


def test_runtimes_agree_on_the_same_stream(dtln, sequence):
    """LiteRT's two kernels to the bit; TFLite Micro saturates earlier inside its LSTM (docs/tasks.md)."""
    made = {}
    for runtime in RUNTIMES:
        with open_session(dtln, runtime) as session:
            made[runtime] = integers(session.run_integer(*sequence, stream=True))
    first = made[RUNTIMES[0]]
    for found in made.values():
        for a, b in zip(found, first, strict=True):
            assert np.abs(a - b).max() <= 9


def test_a_network_without_memory_streams_as_it_runs(shared):
    with open_session(shared / "data" / "reference_models" / "kws_ref_model.tflite", "tflm") as session:
        x = np.random.default_rng(0).integers(-128, 128, (3, 49, 10, 1)).astype(np.int8)
        assert np.array_equal(session.run_integer(x, stream=True), session.run_integer(x))


def test_recordings_are_streams_for_the_benchmark(dtln, sequence, tmp_path):
    from edgepress.benchmarks.measure.accuracy import measure_accuracy

    with open_session(dtln, "tflm") as session:
        wanted = np.concatenate(
            [session.dequantize(*_begun_anew(session, [x[part] for x in sequence]))[0] for part in PARTS]
        )
    path = tmp_path / "frames.npz"
    recordings = np.array(["a"] * 4 + ["b"] * 6)
    np.savez(path, x=sequence[0], y=wanted, kind="detection", identifiers=recordings, layout="NCHW")
    streams = measure_accuracy(dtln, path, ["tflm"], streams=True)
    assert streams["results"][0]["metrics"]["mae"] == 0
    assert streams["data"]["streams"] is True
    clips = measure_accuracy(dtln, path, ["tflm"])
    assert clips["results"][0]["metrics"]["mae"] > 0


def _begun_anew(session, arrays):
    session.reset()
    made = session.run_integer(*arrays, stream=True)
    return made if isinstance(made, tuple) else (made,)
