from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgepress.deploy.firmware.emulated import BOARDS
from edgepress.deploy.runtimes.engine import EngineOptions
from edgepress.deploy.runtimes.isolated import IsolatedEngine
from edgepress.deploy.runtimes.registry import EMULATED, RUNTIMES, build_engine
from edgepress.deploy.runtimes.sessions import open_session
from edgepress.deploy.runtimes.tensor_details import TensorDetails, from_file_layout, to_file_layout
from edgepress.models.errors import RuntimeFailure, UsageError
from tests.deploy.small_models import chain, qdq_onnx, unary

KWS = "data/reference_models/kws_ref_model.tflite"


@pytest.mark.parametrize(("runtime", "correct"), [("tflm", 901), ("litert-reference", 901), ("litert", 902)])
def test_keyword_accuracy_is_that_of_the_devices(shared: Path, runtime: str, correct: int) -> None:
    with np.load(shared / "data/kws01.npz", allow_pickle=False) as data:
        x, y = data["x"], data["y"]
    with open_session(shared / KWS, runtime) as session:
        raw = session.run_integer(x)
        assert int((raw.argmax(1) == y).sum()) == correct
        # Float in torch's layout is the same as the raw integers in the file's.
        some = session.input.dequantize(x[:50]).transpose(0, 3, 1, 2)
        np.testing.assert_array_equal(session.run(some), session.dequantize(raw[:50])[0])


@pytest.mark.parametrize(
    ("name", "arena"),
    [
        ("kws_ref_model", {"total": 24_272, "head": 16_000, "tail": 8_272}),
        ("pretrainedResnet_quant", {"total": 55_984, "head": 49_152, "tail": 6_832}),
    ],
)
def test_arena_of_the_reference_models_is_read(shared: Path, name: str, arena: dict[str, int]) -> None:
    with open_session(shared / "data/reference_models" / f"{name}.tflite", "tflm") as session:
        assert session.arena_bytes() == arena


def test_rounding_of_the_input_by_hand() -> None:
    details = TensorDetails("x", (1, 7), "int8", scale=0.5, zero_point=3)
    x = np.array([[0.0, 0.25, 0.75, -0.25, 1.25, 1000.0, -1000.0]], np.float32)
    # 0.25 / 0.5 = 0.5 goes to the even 0, 1.5 to 2, -0.5 to 0, 2.5 to 2; then + 3, saturated.
    np.testing.assert_array_equal(details.quantize(x), np.array([[3, 3, 5, 3, 5, 127, -128]], np.int8))
    with pytest.raises(UsageError, match="NaN"):
        details.quantize(np.array([[np.nan] * 7], np.float32))


@given(scale=st.floats(2.0**-20, 2.0**14, width=32), zero_point=st.integers(-128, 127))
def test_every_integer_comes_back_through_float(scale: float, zero_point: int) -> None:
    details = TensorDetails("x", (256,), "int8", scale, zero_point)
    every = np.arange(-128, 128, dtype=np.int8)
    np.testing.assert_array_equal(details.quantize(details.dequantize(every)), every)


def test_layout_follows_the_shapes_and_the_manifest() -> None:
    details = TensorDetails("x", (1, 5, 4, 3), "float32")
    x = np.arange(60, dtype=np.float32).reshape(1, 3, 5, 4)
    nhwc = to_file_layout(x, details, None)
    np.testing.assert_array_equal(nhwc, x.transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(
        to_file_layout(nhwc, details, None), nhwc
    )  # already the file's, and nothing else fits
    np.testing.assert_array_equal(from_file_layout(nhwc, "NHWC"), x)
    cube = TensorDetails("x", (1, 4, 4, 4), "float32")
    y = np.arange(64, dtype=np.float32).reshape(1, 4, 4, 4)
    np.testing.assert_array_equal(to_file_layout(y, cube, None), y.transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(to_file_layout(y, cube, "NCHW"), y)
    with pytest.raises(UsageError, match=r"takes \[N, 3, 5, 4\]"):
        to_file_layout(nhwc, details, "NHWC")
    with pytest.raises(UsageError, match="without a batch"):
        to_file_layout(nhwc[0], details, None)


@pytest.mark.parametrize("runtime", ["litert", "litert-reference", "tflm"])
@pytest.mark.parametrize("kind", ["text", "cut", "empty"])
def test_damaged_file_is_a_usage_error(tmp_path: Path, runtime: str, kind: str) -> None:
    whole = chain([64, 32])
    path = tmp_path / "bad.tflite"
    path.write_bytes({"text": b"hello", "cut": whole[: len(whole) // 2], "empty": b""}[kind])
    with pytest.raises(UsageError, match=r"bad\.tflite"):
        open_session(path, runtime)


def test_wrong_runtime_or_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    path.write_bytes(chain([64, 32]))
    with pytest.raises(UsageError, match=r"runtime = 'tpu' is unknown: allowed are litert"):
        open_session(path, "tpu")
    with pytest.raises(UsageError, match="take litert or litert-reference or tflm"):
        open_session(path, "onnxruntime")
    with pytest.raises(UsageError, match="does not exist"):
        open_session(tmp_path / "none.tflite", "litert")
    (tmp_path / "m.txt").write_text("x")
    with pytest.raises(UsageError, match="kind of file is not known"):
        open_session(tmp_path / "m.txt")


def test_missing_package_is_a_runtime_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tflite_micro", None)
    with pytest.raises(RuntimeFailure, match=r"tflite-micro.*pip install.*\[tflm\]|only for Linux on 64-bit x86"):
        build_engine("tflm", chain([64, 32]), EngineOptions(arena_bytes=1 << 16))


def test_too_small_an_arena_is_a_failure_and_not_a_crash(shared: Path) -> None:
    model = (shared / KWS).read_bytes()
    for arena_bytes in (64, 100, 8000, 16000):  # some of these end TFLite Micro's process by SIGSEGV
        with pytest.raises(RuntimeFailure, match="TFLite Micro"):
            IsolatedEngine("tflm", model, EngineOptions(arena_bytes=arena_bytes)).close()


def test_killed_process_is_named_by_its_signal(tmp_path: Path) -> None:
    engine = IsolatedEngine("tflm", chain([64, 32]), EngineOptions(arena_bytes=1 << 16))
    engine._process.kill()
    with pytest.raises(RuntimeFailure, match="SIGKILL"):
        engine.run([np.zeros((1, 64), np.int8)])
    engine.close()


def test_late_answer_is_a_failure(shared: Path) -> None:
    with (
        open_session(shared / KWS, "tflm", timeout_s=0.05) as session,
        pytest.raises(RuntimeFailure, match=r"within 0\.05 s"),
    ):
        session.run_integer(np.zeros((256, 49, 10, 1), np.int8))


def test_unsupported_operator_says_which(tmp_path: Path) -> None:
    path = tmp_path / "gelu.tflite"
    path.write_bytes(unary("GELU"))
    with pytest.raises(RuntimeFailure, match="GELU"):
        open_session(path, "tflm")


@pytest.mark.parametrize("isolate", [True, False])
def test_all_runtimes_agree_on_moved_bytes(tmp_path: Path, isolate: bool) -> None:
    path = tmp_path / "m.tflite"
    path.write_bytes(chain([64, 48, 48, 96, 32]))
    x = np.random.default_rng(0).integers(-128, 128, (300, 64)).astype(np.int8)  # two pieces through the pipe
    expected = np.maximum(x[:, :32], 0)
    for runtime in ("tflm", "litert", "litert-reference"):
        with open_session(path, runtime, isolate=isolate) as session:
            np.testing.assert_array_equal(session.run_integer(x), expected)
            assert session.run_integer(x[:0]).shape == (0, 32)


def test_onnx_integers_are_those_of_the_outer_pairs(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(qdq_onnx(scale_in=0.5, zero_in=3, scale_out=0.25, zero_out=-7))
    q = np.arange(-128, 128, dtype=np.int8).reshape(-1, 4)
    expected = np.clip((q.astype(int) - 3) * 4 - 7, -128, 127)  # 2 * 0.5 / 0.25 = 4 output steps for each input step
    with open_session(path, "onnxruntime") as session:
        assert (session.input.dtype, session.input.scale, session.output.zero_point) == ("int8", 0.5, -7)
        np.testing.assert_array_equal(session.run_integer(q), expected)
        np.testing.assert_array_equal(session.run(np.full((1, 4), 1.0, np.float32)), np.full((1, 4), 2.0))


def test_raw_inputs_must_be_the_files(tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    path.write_bytes(chain([64, 32]))
    session = open_session(path, "litert")
    with pytest.raises(UsageError, match="takes int8"):
        session.run_integer(np.zeros((1, 64), np.float32))
    with pytest.raises(UsageError, match=r"takes \[N"):
        session.run_integer(np.zeros((1, 65), np.int8))
    session.close()
    session.close()
    with pytest.raises(UsageError, match="closed"):
        session.run_integer(np.zeros((1, 64), np.int8))


def test_the_table_of_runtimes_names_what_exists() -> None:
    """Engines are loaded by name, so that no import tells of a wrong one before a session does."""
    for name, runtime in RUNTIMES.items():
        for reference in filter(None, (runtime.engine, runtime.missing_tools)):
            module, _, attribute = reference.partition(":")
            assert callable(getattr(import_module(module), attribute)), name
        assert bool(runtime.package) != bool(runtime.missing_tools), name
    assert ("host-c", *BOARDS, "arm64") == EMULATED
