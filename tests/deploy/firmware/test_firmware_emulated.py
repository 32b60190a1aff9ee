"""Generated firmware on emulated cores: equal bits, memories as verdicts, exact counts; skipped without the tools."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest

from edgepress.deploy.firmware import arm64, boards, emulated
from edgepress.deploy.firmware.boards import missing_tools
from edgepress.deploy.firmware.emulated import DoesNotFit, EmulatedCore
from edgepress.deploy.firmware.sources import firmware
from edgepress.deploy.runtimes.registry import available_runtimes
from edgepress.deploy.runtimes.sessions import open_session
from edgepress.models.errors import RuntimeFailure
from tests.deploy.integer_networks import Builder, random_network

needs_tools = pytest.mark.skipif(missing_tools("cortex-m4") is not None, reason=str(missing_tools("cortex-m4")))
needs_arm64 = pytest.mark.skipif(arm64.missing_tools() is not None, reason=str(arm64.missing_tools()))
needs_tflm = pytest.mark.skipif(find_spec("tflite_micro") is None, reason="needs TFLite Micro (Linux on x86-64)")


@pytest.fixture
def keyword_model(shared):
    return shared / "data" / "reference_models" / "kws_ref_model.tflite"


@needs_tools
@needs_tflm
def test_keyword_model_on_m4(keyword_model, shared):
    with np.load(shared / "data" / "kws01.npz", allow_pickle=False) as data:
        x = data["x"][:10].reshape(-1, 49, 10, 1)
    with open_session(keyword_model, "tflm") as session:
        expected, arena = session.run_integer(x), session.arena_bytes()
    made = firmware(keyword_model)
    with EmulatedCore(made, "cortex-m4") as core:
        done = core.run([x.reshape(-1, 1, 49, 10, 1)], count=True)
        sizes = core.sizes
    np.testing.assert_array_equal(done.outputs[0].reshape(np.shape(expected)), expected)
    assert done.instructions is not None
    assert done.instructions.total <= 5.0 * made.network.macs
    parts = sum(layer.instructions for layer in done.instructions.layers)
    assert 0 <= done.instructions.total - parts < 200  # the calls of the layers
    assert sizes.ram <= arena["total"]
    assert sizes.flash <= made.network.weight_bytes + 16_000
    assert 0 < done.stack_bytes < emulated.STACK_BYTES


@needs_tools
@needs_tflm
@pytest.mark.slow
@pytest.mark.parametrize("runtime", boards.BOARDS)
def test_every_core_with_either_kernels(runtime, tmp_path):
    path = tmp_path / "m.tflite"
    for seed in (3, 4):
        path.write_bytes(random_network(seed))
        with open_session(path, "tflm") as session:
            x = np.random.default_rng(0).integers(-128, 128, (4, *session.input.shape[1:]), dtype=np.int8)
            expected = np.asarray(session.run_integer(x))
        made = firmware(path)
        for kernels in ("plain", boards.BOARDS[runtime].kernels):
            with EmulatedCore(made, runtime, kernels=kernels) as core:
                given = core.run([x.reshape(4, *made.network.values[made.network.inputs[0]].shape)]).outputs[0]
            np.testing.assert_array_equal(given.reshape(expected.shape), expected)


def _sums_and_products(seed: int) -> bytes:
    """ADD, SUB and MUL of rows of 1 to 21 int8: of any order of scales, of equal ones, and with one value for a row."""
    b = Builder(seed)
    outputs = []
    for length in (1, 3, 4, 5, 8, 21):
        x = b.input((1, 3, length))
        constant = b.rng.integers(-128, 128, (1, 3, length)).astype(np.int8)
        scale = b.quantization[x][0] * float(np.exp(b.rng.uniform(-2, 2)))
        others = [b.tensor((1, 3, length), scale, -7, data=constant), b.like((1, 3, length), x), b.broadcast_operand(x)]
        b.operator("RELU", [x], [others[1]])
        for name in ("ADD", "SUB", "MUL"):
            outputs += [b.binary(name, x, other) for other in others] + [b.binary(name, others[0], x)]
    return b.finished(outputs)


@needs_tools
@needs_tflm
@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["cortex-m0plus", "cortex-m4", "cortex-m55"])
def test_sums_and_products_of_rows_of_any_length(runtime, tmp_path):
    path = tmp_path / "m.tflite"
    path.write_bytes(_sums_and_products(0))
    made, rng = firmware(path), np.random.default_rng(0)
    x = [rng.integers(-128, 128, (4, *made.network.values[i].shape), dtype=np.int8) for i in made.network.inputs]
    for values in x:
        values[0], values[1] = -128, 127
    with open_session(path, "tflm") as session:
        expected = [session.run_integer(*(values[i] for values in x)) for i in range(4)]
    with EmulatedCore(made, runtime) as core:
        given = core.run(x).outputs
    for i, outputs in enumerate(expected):
        for ours, theirs in zip(given, outputs, strict=True):
            np.testing.assert_array_equal(ours[i].reshape(theirs.shape), theirs)


@needs_tools
def test_counts_repeat(tmp_path):
    made = firmware(random_network(3))
    x = [np.zeros((2, *made.network.values[made.network.inputs[0]].shape), np.int8)]
    totals = set()
    for _ in range(2):
        with EmulatedCore(made, "cortex-m4") as core:
            counts = core.run(x, count=True).instructions
        assert counts is not None
        totals |= {counts.total, counts.smallest, counts.largest}
    assert len(totals) == 1


@needs_tools
def test_too_large_is_a_verdict(keyword_model):
    made = firmware(keyword_model)
    with EmulatedCore(made, "cortex-m4") as core:
        ram, flash = core.sizes.ram, core.sizes.flash
    with pytest.raises(DoesNotFit, match=r"RAM by [\d,]+ bytes") as small_ram:
        EmulatedCore(made, "cortex-m4", ram_bytes=ram)  # no room for the stack
    assert small_ram.value.exit_code == 1
    assert small_ram.value.ram_over_bytes > 0
    with pytest.raises(DoesNotFit, match=r"flash by [\d,]+ bytes") as small_flash:
        EmulatedCore(made, "cortex-m4", flash_bytes=flash - 1000)
    assert small_flash.value.flash_over_bytes >= 1000


@needs_tools
def test_figures_of_a_session(keyword_model):
    with open_session(keyword_model, "cortex-m4") as session:
        figures = session.firmware_figures()
    assert figures["kernels"] == "dsp"
    assert len(figures["layers"]) == 12
    assert figures["flash_bytes"] > figures["arena_bytes"] > 0


def test_missing_tools_name_their_packages(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeFailure, match=r"apt-get install .*gcc-arm-none-eabi") as failure:
        EmulatedCore(firmware(random_network(3)), "cortex-m7")
    assert failure.value.exit_code == 3
    assert "qemu-user-static" in str(arm64.missing_tools())
    monkeypatch.setattr(arm64.shutil, "which", lambda name: "/there")
    monkeypatch.setenv("EDGEPRESS_ARM64", str(tmp_path))
    assert "python -m edgepress.deploy.firmware.arm64" in str(arm64.missing_tools())


def test_emulated_runtimes_are_listed_only_on_request():
    assert "cortex-m4" not in available_runtimes("tflite")
    assert {"host-c", "cortex-m3", "cortex-m55", "arm64"} <= set(available_runtimes("tflite", emulated=True))


def test_self_test_finds_garbage():
    class Garbage:
        def run(self, arrays):
            return [np.zeros((8, 16), np.int8)]

        def close(self):
            return

    with pytest.raises(RuntimeFailure, match="self-test"):
        arm64._self_test(lambda model: Garbage())


@needs_arm64
@pytest.mark.slow
def test_arm64_gives_the_integers_of_this_machine(keyword_model):
    x = np.random.default_rng(0).integers(-128, 128, (5, 49, 10, 1), dtype=np.int8)
    with open_session(keyword_model, "arm64") as arm, open_session(keyword_model, "litert") as here:
        np.testing.assert_array_equal(arm.run_integer(x), here.run_integer(x))
