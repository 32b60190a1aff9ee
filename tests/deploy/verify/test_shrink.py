from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgepress.deploy.runtimes.sessions import open_session
from edgepress.deploy.tflite.memory_plan import encode
from edgepress.deploy.tflite.reader import read_tflite
from edgepress.deploy.tflite.writer import pack, unpack
from edgepress.deploy.verify import shrink
from edgepress.deploy.verify.shrink import shrink_file, shrink_model
from edgepress.models.errors import UsageError
from edgepress.models.footprint.placement import ALIGNMENT_BYTES, Block, lower_bound_bytes, search
from tests.deploy.small_models import chain, unary

KWS = "data/reference_models/kws_ref_model.tflite"


def test_keyword_model_loses_a_third_and_answers_the_same(shared: Path, tmp_path: Path) -> None:
    target = tmp_path / "small.tflite"
    report = shrink_file(shared / KWS, target)
    assert report["before"] == {"file_bytes": 53936, "arena_bytes": 24272}
    assert report["after"]["file_bytes"] == target.stat().st_size == 33104  # stripping alone reaches 43,040
    assert report["proof"]["runtimes"] == ["tflm", "litert-reference", "litert"]
    assert sum(step["file_bytes_saved"] for step in report["steps"]) == 53936 - 33104
    with np.load(shared / "data/kws01.npz", allow_pickle=False) as data:
        x = data["x"][:100]
    for runtime in ("tflm", "litert-reference", "litert"):
        with open_session(shared / KWS, runtime) as old, open_session(target, runtime) as new:
            np.testing.assert_array_equal(old.run_integer(x), new.run_integer(x))
    with pytest.raises(UsageError, match="exists already"):
        shrink_file(shared / KWS, target)


def test_arena_plan_reaches_the_bytes_alive_at_once() -> None:
    # Values of 4320, 2880, 2880, 5760, 2880 bytes: at most 8,640 are alive at once, TFLite Micro's own plan takes more.
    shrunk = shrink_model(chain([4320, 2880, 2880, 5760, 2880, 100]))
    step = shrunk.report["steps"][-1]
    assert (step["step"], step["applied"]) == ("arena plan", True)
    assert shrunk.report["before"]["arena_bytes"] - shrunk.report["after"]["arena_bytes"] == 2880
    assert "8,640 bytes: the bytes alive at once" in step["note"]
    assert shrunk.report["tensor_names"][0] == "value 0"
    again = shrink_model(shrunk.model)
    assert again.model == shrunk.model  # nothing is left to save


def test_step_that_changes_an_output_is_not_applied(monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(model: Any) -> str:
        for tensor in model.subgraphs[0].tensors:
            tensor.name = None
        model.buffers[1].data = np.frombuffer(np.array([0, 1], np.int32).tobytes(), np.uint8)  # another slice
        return "spoilt"

    model = chain([64, 32])
    monkeypatch.setattr(shrink, "strip_names", spoil)
    shrunk = shrink_model(model)
    step = next(s for s in shrunk.report["steps"] if s["step"] == "tensor names")
    assert (step["applied"], step["file_bytes_saved"]) == (False, 0)
    assert step["note"].startswith("not applied: ")
    x = np.arange(64, dtype=np.int8)[None]
    assert _outputs(shrunk.model, x).tolist() == _outputs(model, x).tolist() == [list(range(32))]


def test_file_that_a_runtime_lacks_is_proven_on_the_others() -> None:
    proof = shrink_model(unary("GELU")).report
    assert proof["proof"]["runtimes"] == ["litert-reference", "litert"]
    assert "GELU" in proof["proof"]["not_run"]["tflm"]
    assert proof["before"]["arena_bytes"] is None


def test_names_ranges_and_description_are_gone() -> None:
    shrunk = shrink_model(chain([64, 32, 96]))
    small = read_tflite(shrunk.model)
    # Empty, and not absent: NeSsi decodes the name of every tensor. One text serves all.
    assert {tensor.name for tensor in unpack(shrunk.model).subgraphs[0].tensors} == {b""}
    assert small.description == ""
    assert all(not tensor.quantization.minimum.size for tensor in small.subgraphs[0].tensors if tensor.quantization)


def test_constants_are_aligned_and_equal_vectors_written_once() -> None:
    model = chain([64, 32, 32])
    unpacked = unpack(model)
    packed = pack(unpacked)
    for index, buffer in enumerate(unpacked.buffers):
        if buffer.data is not None:
            content = bytes(buffer.data)
            assert any(packed[at : at + len(content)] == content for at in range(0, len(packed), 16)), index
    assert len(packed) <= len(model)


def test_file_is_damaged_or_constants_outside() -> None:
    with pytest.raises(UsageError):
        shrink_model(b"hello")
    unpacked = unpack(chain([64, 32]))
    unpacked.buffers[1].offset, unpacked.buffers[1].data = 400, None
    with pytest.raises(UsageError):
        shrink_model(pack(unpacked))


_blocks = st.lists(st.tuples(st.integers(1, 40), st.integers(0, 12), st.integers(0, 5)), min_size=1, max_size=14).map(
    lambda rows: [Block(i, size * ALIGNMENT_BYTES, first, first + life) for i, (size, first, life) in enumerate(rows)]
)


@settings(max_examples=60, deadline=None)
@given(_blocks)
def test_no_plan_lets_living_tensors_overlap(blocks: list[Block]) -> None:
    plan = search(blocks, tries=50)
    assert plan.lower_bound_bytes == lower_bound_bytes(blocks) <= plan.arena_bytes <= sum(b.size_bytes for b in blocks)
    for i, one in enumerate(blocks):
        assert plan.offsets[one.tensor] % ALIGNMENT_BYTES == 0
        for other in blocks[:i]:
            a, b = plan.offsets[one.tensor], plan.offsets[other.tensor]
            assert not one.overlaps(other) or a + one.size_bytes <= b or b + other.size_bytes <= a


def test_plan_by_hand() -> None:
    # 432 - 288 - 288 - 576: greedy by size puts both 288 above 432 and takes 1,008; 864 are alive at once.
    blocks = [Block(0, 432, 0, 0), Block(1, 288, 0, 1), Block(2, 288, 1, 2), Block(3, 576, 2, 3)]
    assert search(blocks).arena_bytes == lower_bound_bytes(blocks) == 864
    np.testing.assert_array_equal(encode({1: 64}, 3).view("<i4"), [1, 0, 3, -1, 64, -1])


def _outputs(model: bytes, x: np.ndarray) -> np.ndarray:
    from edgepress.deploy.runtimes.registry import build_engine

    return build_engine("litert-reference", model).run([x])[0]


def test_a_file_that_is_slow_on_a_runtime_is_proven_on_fewer_samples(shared, monkeypatch):
    model = (shared / "data" / "reference_models" / "kws_ref_model.tflite").read_bytes()
    report = shrink_model(model, samples=3, plan=False).report
    assert set(report["proof"]["samples"].values()) == {3}
    monkeypatch.setattr(shrink, "_PROOF_SECONDS", 0.0)
    slow = shrink_model(model, samples=3, plan=False).report
    assert set(slow["proof"]["samples"].values()) == {1}, "one at least"
    assert slow["after"] == report["after"]
