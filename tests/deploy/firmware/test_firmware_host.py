"""Generated C against TFLite Micro on this machine: every operator, random networks, planted faults, refusals."""

from __future__ import annotations

import shutil
import subprocess
from importlib.util import find_spec

import numpy as np
import pytest

from edgepress.deploy.firmware.host import HostProgram
from edgepress.deploy.firmware.layout import lay_out, lifetimes
from edgepress.deploy.firmware.lowering.steps import PORTABLE_KERNELS
from edgepress.deploy.firmware.operators.lower import lower
from edgepress.deploy.firmware.operators.refusals import last_words
from edgepress.deploy.firmware.projects.project import write_project
from edgepress.deploy.firmware.sources import firmware, identifier, template
from edgepress.deploy.runtimes.sessions import open_session
from edgepress.models.errors import UsageError
from tests.deploy.integer_networks import LAST, OPERATORS, Builder, one_operator, random_network
from tests.deploy.small_models import unary

pytestmark = [
    pytest.mark.skipif(find_spec("tflite_micro") is None, reason="needs TFLite Micro (Linux on x86-64)"),
    pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler"),
]
_EVERY = {**OPERATORS, **LAST}


def _agree(data: bytes, folder, *, inputs: int = 8, **how) -> bool:
    """Whether C and TFLite Micro give the same bits, and the arena is not the larger one."""
    path = folder / "m.tflite"
    path.write_bytes(data)
    made = firmware(data)
    with open_session(path, "tflm") as session:
        shape = session.input.shape[1:]
        x = np.random.default_rng(1).integers(-128, 128, (inputs, *shape), dtype=np.int8)
        expected, head = np.asarray(session.run_integer(x)), session.arena_bytes()["head"]
    assert made.layouts["plain"].arena_bytes <= head
    with HostProgram(made, **how) as program:
        given = program.run([x.reshape(inputs, *made.network.values[made.network.inputs[0]].shape)])[0]
    return bool((given.reshape(expected.shape) == expected).all())


@pytest.mark.parametrize("name", ["CONV_2D", "DEPTHWISE_CONV_2D", "SOFTMAX", "MEAN"])
@pytest.mark.parametrize("kernels", ["tiled", "dsp"])
def test_operator(name, kernels, tmp_path):
    assert _agree(one_operator(name, 0), tmp_path, kernels=kernels)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(_EVERY))
def test_operator_with_either_kernels(name, tmp_path):
    for seed in range(1, 4):
        for kernels in PORTABLE_KERNELS:
            assert _agree(one_operator(name, seed), tmp_path, kernels=kernels, sanitize=True), (seed, kernels)


@pytest.mark.parametrize("seed", [1000, 1001])
def test_random_network(seed, tmp_path):
    for kernels in ("tiled", "dsp"):
        assert _agree(random_network(seed), tmp_path, kernels=kernels), kernels


@pytest.mark.parametrize("kind", ["conv", "depthwise"])
def test_a_padding_before_convolutions_is_theirs(kind, tmp_path):
    b = Builder(4)
    x = b.input((1, 5, 6, 5))
    padded = b.like((1, 8, 8, 5), x)
    b.operator("PAD", [x, b.integers([[0, 0], [1, 2], [2, 0], [0, 0]])], [padded], "PadOptions")
    data = b.finished([getattr(b, kind)(padded)])
    assert [step.code for step in lower(data).steps] == ["CONV_2D" if kind == "conv" else "DEPTHWISE_CONV_2D"]
    for kernels in PORTABLE_KERNELS:
        assert _agree(data, tmp_path, kernels=kernels), kernels


def test_a_padding_that_something_else_reads_is_made(tmp_path):
    b = Builder(4)
    x = b.input((1, 5, 6, 5))
    padded = b.like((1, 6, 6, 5), x)
    b.operator("PAD", [x, b.integers([[0, 0], [1, 0], [0, 0], [0, 0]])], [padded], "PadOptions")
    data = b.finished([b.conv(padded, kernel=1), b.unary("RELU", padded)])
    assert [step.kernel for step in lower(data).steps[:2]] == ["ep_fill", "ep_copy"]


@pytest.mark.parametrize(
    ("scales", "packed"),
    [
        ([0.02, 0.01, 0.005, 0.0026], True),  # shifts 0 to 3 below the largest
        ([0.02, 0.01, 0.005, 0.001], False),
        ([0.02, 0.01, 1e-9, 1e-20], True),  # the last two never leave their zero point: any small shift does
    ],
)
def test_shifts_beside_multipliers(scales, packed, tmp_path):
    b = Builder(7)
    x = b.input((1, 7, 7, 4))
    weights = b.tensor((4, 2, 2, 4), scales, 0, data=b.rng.integers(-127, 128, (4, 2, 2, 4)).astype(np.int8), axis=0)
    y = b.tensor((1, 7, 7, 4), b.quantization[x][0] * 4, 3)
    b.operator(
        "CONV_2D", [x, weights, -1], [y], "Conv2DOptions", strideH=1, strideW=1, dilationHFactor=1, dilationWFactor=1
    )
    data = b.finished([y])
    step = lower(data).steps[0]
    assert step.fields["paired"] == (not packed)
    assert step.fast_kernel == "ep_conv_2d_fast"
    for kernels in PORTABLE_KERNELS:
        assert _agree(data, tmp_path, kernels=kernels), kernels


def test_quantize_and_dequantize_floats(tmp_path):
    b = Builder(0)
    x = b.tensor((1, 40), element="FLOAT32")
    q, y = b.tensor((1, 40), 0.05, 3), b.tensor((1, 40), element="FLOAT32")
    b.inputs.append(x)
    b.operator("QUANTIZE", [x], [q])
    b.operator("DEQUANTIZE", [q], [y])
    path = tmp_path / "m.tflite"
    path.write_bytes(b.finished([y]))
    values = np.concatenate(
        [np.random.default_rng(0).uniform(-9, 9, (6, 40)), [[0.025] * 40, [-0.075] * 40, [1e7] * 40, [-1e7] * 40]]
    )
    with open_session(path, "tflm") as tflm, open_session(path, "host-c") as c:
        np.testing.assert_array_equal(
            c.run_integer(values.astype(np.float32)), tflm.run_integer(values.astype(np.float32))
        )


_ROUNDINGS = {
    "the half is missing": ("((int64_t)a * b + (1 << 30)) >> 31", "((int64_t)a * b) >> 31"),
    "ties go up": ("(mask >> 1) + (x < 0 ? 1 : 0)", "(mask >> 1)"),
}


@pytest.mark.parametrize("fault", sorted(_ROUNDINGS))
def test_a_planted_rounding_fault_is_found(fault, tmp_path):
    right, wrong = _ROUNDINGS[fault]
    text = template("ep_arithmetic.h")
    assert right in text
    data = _convolution()
    assert _agree(data, tmp_path, inputs=40, changes={"ep_arithmetic.h": text})
    assert not _agree(data, tmp_path, inputs=40, changes={"ep_arithmetic.h": text.replace(right, wrong)})


def _convolution() -> bytes:
    b = Builder(1)
    b._activation = lambda: 0  # type: ignore[method-assign]  # negative outputs must survive
    return b.finished([b.conv(b.input((1, 12, 12, 8)), kernel=1)])


@pytest.mark.slow
def test_keyword_model(shared):
    path = shared / "data" / "reference_models" / "kws_ref_model.tflite"
    with np.load(shared / "data" / "kws01.npz", allow_pickle=False) as data:
        x, y = data["x"].reshape(-1, 49, 10, 1), data["y"]
    with open_session(path, "host-c") as session:
        given = session.run_integer(x)
        assert session.arena_bytes()["head"] <= 16000
    assert int((given.reshape(len(y), -1).argmax(1) == y).sum()) == 901
    with open_session(path, "tflm") as session:
        np.testing.assert_array_equal(given.reshape(len(y), -1), np.asarray(session.run_integer(x)).reshape(len(y), -1))


def test_what_has_no_kernel_is_refused_by_name_and_nothing_is_written(tmp_path):
    for data, name in ((unary("NEG"), "NEG"), (unary("RELU", element="INT64"), "int64")):
        (tmp_path / "m.tflite").write_bytes(data)
        with pytest.raises(UsageError, match=name):
            write_project(tmp_path / "m.tflite", tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_every_operator_is_named_once_with_its_reason_in_whole_words():
    b = Builder(0)
    x = b.input((1, 4, 4, 2))
    first, second, third = (b.like((1, 4, 4, 2), x) for _ in range(3))
    scaled = b.tensor((1, 4, 4, 2), 0.3, 0)
    b.graph.tensors[first].name = b"model/stage_1/" + b"block_of_many_layers/" * 9 + b"output;wanted"
    b.operator("NEG", [x], [first])
    b.operator("MAXIMUM", [first, scaled], [second])
    b.operator("NEG", [second], [third])
    b.operator("MINIMUM", [third, third], [scaled])
    with pytest.raises(UsageError) as refusal:
        lower(b.finished([scaled]))
    assert str(refusal.value).split("firmware: ")[1] == (
        "operators 0, 2 (NEG): there is no kernel in C; "
        "operator 1 (MAXIMUM): operands and output have different scales; "
        "operator 3 (MINIMUM): operands and output have different scales"
    )
    assert last_words("a/" + "long/" * 30 + "name") == "..." + "long/" * 8 + "name"


def test_sums_that_may_overflow_are_refused():
    b = Builder(0)
    x = b.input((1, 1, 1, 2))
    weights = b.tensor((1, 2), 0.01, data=np.full((1, 2), 127, np.int8))
    bias = b.tensor((1,), 0.001, element="INT32", data=np.array([2**31 - 1], np.int32))
    y = b.random_tensor((1, 1))
    b.operator("FULLY_CONNECTED", [b.reshape(x, (1, 2)), weights, bias], [y], "FullyConnectedOptions")
    with pytest.raises(UsageError, match="overflows 32 bits"):
        lower(b.finished([y]))


def test_layout_keeps_what_lives_together_apart():
    network = lower(random_network(5))
    for kernels in PORTABLE_KERNELS:
        layout = lay_out(network, kernels)
        spans = lifetimes(network)
        for a, (size_a, first_a, last_a) in spans.items():
            assert layout.offsets[a] % 16 == 0
            assert layout.offsets[a] + size_a <= layout.arena_bytes
            for b, (size_b, first_b, last_b) in spans.items():
                if a < b and first_a <= last_b and first_b <= last_a:
                    assert (
                        layout.offsets[a] + size_a <= layout.offsets[b]
                        or layout.offsets[b] + size_b <= layout.offsets[a]
                    )


def test_the_project_builds_and_its_example_agrees(tmp_path):
    model = tmp_path / "3 net.tflite"
    model.write_bytes(random_network(11))
    folder = tmp_path / "out"
    made = write_project(model, folder)
    assert made.name == "model_3_net"
    subprocess.run(
        ["cc", "-std=c99", "-Wall", "-Werror", "-o", "example", *map(str, folder.glob("*.c")), "-lm"],
        cwd=folder,
        check=True,
    )
    assert subprocess.run([folder / "example"], capture_output=True, check=False).returncode == 0
    assert "TFLite Micro" in (folder / "model_3_net_test_vector.h").read_text()
    with pytest.raises(UsageError, match="exists"):
        write_project(model, folder)


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_a_program_in_cpp_links_it(tmp_path):
    model = tmp_path / "int.tflite"
    model.write_bytes(random_network(11))
    made = write_project(model, tmp_path / "out")
    (tmp_path / "out/main.c").rename(tmp_path / "out/main.cpp")
    sources = " ".join(path.name for path in (tmp_path / "out").glob("*.c"))
    for command in (f"gcc -O1 -c {sources}", "g++ -Wall -Werror -o program main.cpp *.o -lm", "./program"):
        subprocess.run(command, cwd=tmp_path / "out", shell=True, check=True, capture_output=True)
    assert made.name == "model_int"


@pytest.mark.skipif(shutil.which("cmake") is None, reason="needs cmake")
def test_the_project_builds_with_cmake(tmp_path):
    model = tmp_path / "net.tflite"
    model.write_bytes(random_network(11))
    write_project(model, tmp_path / "out")
    for command in (["cmake", "-S", "out", "-B", "build"], ["cmake", "--build", "build"], ["build/net_example"]):
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("cmake") is None, reason="needs cmake")
@pytest.mark.parametrize("name", ["main", "stdint", "features", "test", "m", "while", "ep", "example", "all"])
def test_a_file_of_any_name_builds(name, tmp_path):
    model = tmp_path / f"{name}.tflite"
    model.write_bytes(random_network(11))
    write_project(model, tmp_path / "out")
    commands = (["cmake", "-S", "out", "-B", "b"], ["cmake", "--build", "b"], [f"b/model_{name}_example"])
    for command in commands:
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)


def test_names():
    assert [identifier(text) for text in ("kws-1.2", "3d", "ä", "ep_x")] == [
        "kws_1_2",
        "model_3d",
        "model",
        "model_ep_x",
    ]
    # A file called stdint.h would be found before the library's, and a second main would not link.
    assert [identifier(text) for text in ("main", "stdint", "Switch", "class")] == [
        "model_main",
        "model_stdint",
        "model_switch",
        "model_class",
    ]
    # The C library itself includes features.h; CMake has a target test, and links m.
    assert [identifier(text) for text in ("features", "test", "m", "Arduino", "goto", "namespace", "keywords")] == [
        *("model_features", "model_test", "model_m", "model_arduino", "model_goto", "model_namespace"),
        "keywords",
    ]
    with pytest.raises(UsageError, match="no word of C"):
        firmware(random_network(0), "int")
    with pytest.raises(UsageError, match="cannot name"):
        firmware(random_network(0), "a b")
