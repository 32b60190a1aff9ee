"""Reading .tflite: what is in it, and that no file breaks the reader."""

from __future__ import annotations

import random
import subprocess
import sys
import time
import zipfile

import flatbuffers
import numpy as np
import pytest

from edgepress.deploy.tflite.flatbuffer import Flatbuffer
from edgepress.deploy.tflite.reader import LARGEST_FILE_BYTES, read_tflite
from edgepress.models.errors import UsageError

MODELS = ("kws_ref_model", "pretrainedResnet_quant")


def reference(shared, name):
    return shared / "data" / "reference_models" / f"{name}.tflite"


def small_model(
    *,
    weights=b"\x01\x02\x03\x04\x05\x06",
    offset=0,
    shape=(2, 3),
    dtype=9,
    opcode=9,
    signature=True,
    identifier=b"TFL3",
    tensor=1,
):
    """One FULLY_CONNECTED of [1, 3] with a [2, 3] int8 weight, written field by field."""
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
    model = schema.ModelT()
    model.version, model.description = 3, "by hand"
    code = schema.OperatorCodeT()
    code.deprecatedBuiltinCode, code.builtinCode = min(opcode, 127), opcode
    code.version = 1
    model.operatorCodes = [code]
    empty, full = schema.BufferT(), schema.BufferT()
    if offset:
        full.offset, full.size = offset, 6
    else:
        full.data = np.frombuffer(weights, np.uint8)
    model.buffers = [empty, full]
    graph = schema.SubGraphT()
    graph.name = "main"
    graph.tensors = []
    for index, sizes in enumerate(((1, 3), shape, (1, 2))):
        entry = schema.TensorT()
        entry.name, entry.shape, entry.type, entry.buffer = f"t{index}", np.array(sizes, np.int32), dtype, 0
        graph.tensors.append(entry)
    graph.tensors[1].buffer = 1
    quantization = schema.QuantizationParametersT()
    quantization.scale, quantization.zeroPoint = np.array([0.5, 0.25], np.float32), np.array([0, 0], np.int64)
    graph.tensors[1].quantization = quantization
    operator = schema.OperatorT()
    operator.opcodeIndex, operator.inputs = 0, np.array([0, tensor, -1], np.int32)
    operator.outputs = np.array([2], np.int32)
    options = schema.FullyConnectedOptionsT()
    options.fusedActivationFunction, options.keepNumDims = 1, True
    operator.builtinOptionsType, operator.builtinOptions = schema.BuiltinOptions.FullyConnectedOptions, options
    graph.operators = [operator]
    graph.inputs, graph.outputs = np.array([0], np.int32), np.array([2], np.int32)
    model.subgraphs = [graph]
    if signature:
        entry = schema.SignatureDefT()
        entry.signatureKey, entry.subgraphIndex = "serving_default", 0
        entry.inputs, entry.outputs = [schema.TensorMapT()], [schema.TensorMapT()]
        entry.inputs[0].name, entry.inputs[0].tensorIndex = "audio", 0
        entry.outputs[0].name, entry.outputs[0].tensorIndex = "logits", 2
        model.signatureDefs = [entry]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), identifier)
    return bytes(builder.Output())


def test_everything_of_a_small_model():
    model = read_tflite(small_model())
    assert (model.version, model.description, model.name) == (3, "by hand", "the model")
    assert [(t.name, t.shape, t.dtype, t.constant, t.size_bytes) for t in model.tensors] == [
        ("t0", (1, 3), "int8", False, 3),
        ("t1", (2, 3), "int8", True, 6),
        ("t2", (1, 2), "int8", False, 2),
    ]
    assert model.tensors[1].array().tolist() == [[1, 2, 3], [4, 5, 6]]
    assert model.tensors[1].quantization.scale.tolist() == [0.5, 0.25]
    assert model.tensors[1].quantization.axis == 0
    (operator,) = model.operators
    assert (operator.code, operator.inputs, operator.outputs) == ("FULLY_CONNECTED", (0, 1, -1), (2,))
    assert operator.options == {
        "fused_activation": "RELU",
        "weights_format": 0,
        "keep_num_dims": True,
        "asymmetric_quantize_inputs": False,
        "quantized_bias_type": 0,
    }
    assert model.signatures[0].key == "serving_default"
    assert (dict(model.signatures[0].inputs), dict(model.signatures[0].outputs)) == ({"audio": 0}, {"logits": 2})
    assert [tensor.name for tensor in (*model.inputs, *model.outputs)] == ["t0", "t2"]


def test_data_behind_the_flatbuffer():
    size = len(small_model(offset=1 << 20))
    data = small_model(offset=size)
    assert len(data) == size
    assert read_tflite(data + bytes(range(6))).tensors[1].array().tolist() == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(UsageError, match="buffer 1 lies outside the file: 6 bytes"):
        read_tflite(data + bytes(5))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"identifier": b"TFL2"}, "identifier TFL3 is missing"),
        ({"shape": (3, 3)}, r"tensor 1 't1' has 6 bytes where \[3, 3\] of int8 take 9"),
        ({"shape": (-1, 3)}, "impossible shape"),
        ({"shape": (1 << 30, 1 << 30)}, "impossible shape"),
        ({"shape": (1,) * 20}, "impossible shape"),
        ({"dtype": 77}, "unknown element type 77"),
        ({"tensor": 17}, r"operator 0 \(FULLY_CONNECTED\) refers to number 17 of 3 tensors"),
        ({"tensor": -2}, "refers to number -2"),
    ],
)
def test_what_is_damaged_is_named(change, message):
    with pytest.raises(UsageError, match=message):
        read_tflite(small_model(**change))


def test_an_unknown_builtin_is_listed_by_its_number():
    found = [read_tflite(small_model(opcode=number)).operators[0] for number in (101, 150, 5000)]
    assert [operator.code for operator in found] == ["ABS", "GELU", "BUILTIN_5000"]
    assert [operator.options for operator in found] == [{}, {"approximate": True}, {}]


def test_names_that_are_no_text():
    data = small_model().replace(b"t1\x00", b"\xff\xfe\x00")
    assert read_tflite(data).tensors[1].name == "��"


@pytest.mark.parametrize("name", MODELS)
def test_the_reference_models_agree_with_litert(shared, name):
    interpreter_module = pytest.importorskip("ai_edge_litert.interpreter")
    path = reference(shared, name)
    model = read_tflite(path)
    # On a copy of the bytes: the interpreter maps the file and may hold it.
    interpreter = interpreter_module.Interpreter(
        model_content=path.read_bytes(),
        experimental_op_resolver_type=interpreter_module.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    interpreter.allocate_tensors()
    for details in interpreter.get_tensor_details():
        if details["index"] >= len(model.tensors):
            continue  # scratch of a kernel
        tensor = model.tensors[details["index"]]
        assert (tensor.name, tensor.shape) == (details["name"], tuple(details["shape"].tolist()))
        assert np.dtype(tensor.dtype) == details["dtype"]
        scales = details["quantization_parameters"]["scales"]
        if scales.size:
            assert np.array_equal(tensor.quantization.scale, scales)
            assert np.array_equal(tensor.quantization.zero_point, details["quantization_parameters"]["zero_points"])
        if tensor.constant:
            assert np.array_equal(tensor.array(), interpreter.get_tensor(details["index"]))
    assert [tensor.index for tensor in model.inputs] == [d["index"] for d in interpreter.get_input_details()]


def test_files_that_are_no_model(tmp_path):
    cases = {"empty": b"", "short": b"TFL", "text": b"hello, this is no model at all\n" * 10}
    for name, data in cases.items():
        (tmp_path / name).write_bytes(data)
    with zipfile.ZipFile(tmp_path / "zip", "w") as archive:
        archive.writestr("model", "x" * 100)
    expected = {
        "empty": "is empty",
        "short": "has 3 bytes",
        "text": "TFL3 is missing",
        "zip": "zip archive",
        "absent": "No such file",
        "": "Is a directory",
    }
    for name, message in expected.items():
        with pytest.raises(UsageError, match=message) as caught:
            read_tflite(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="null byte"):
        read_tflite("a\0b")


@pytest.mark.parametrize(("size", "message"), [(2 << 30, "files above"), (LARGEST_FILE_BYTES - 1, "TFL3 is missing")])
def test_a_sparse_file_takes_no_memory_and_no_time(tmp_path, size, message):
    path = tmp_path / "sparse.tflite"
    with open(path, "wb") as file:
        file.truncate(size)
    program = (
        "import sys\nfrom edgepress.deploy.tflite.reader import read_tflite\n"
        "from edgepress.models.errors import UsageError\n"
        "try: read_tflite(sys.argv[1])\nexcept UsageError as error: print(error)\n"
        "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
    )
    start = time.monotonic()
    out = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True).stdout
    assert time.monotonic() - start < 10
    assert message in out
    assert int(out.split()[-1]) < 150_000  # kB


def test_a_device_without_an_end_is_refused():
    with pytest.raises(UsageError, match="/dev/zero is no regular file"):
        read_tflite("/dev/zero")


@pytest.mark.parametrize("name", MODELS)
def test_a_thousand_mutations(shared, name):
    data = reference(shared, name).read_bytes()
    generator = random.Random(7)
    refused = []
    for index in range(1000):
        damaged = bytearray(data)
        if index % 4 == 0:
            del damaged[generator.randrange(len(data)) :]
        elif index % 4 == 1:
            for _ in range(generator.choice((1, 3, 30))):
                damaged[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
        elif index % 4 == 2:
            # Structure rather than weights: the tables are near both ends.
            near = generator.randrange(4096)
            damaged[near if index % 8 == 2 else len(data) - 1 - near] = generator.choice((0, 1, 127, 128, 255))
        else:
            at = generator.randrange(len(data) - 4)
            damaged[at : at + 4] = generator.choice((0xFFFFFFFF, 0x7FFFFFFF, 0x80000000, 0)).to_bytes(4, "little")
        start = time.monotonic()
        try:
            read_tflite(bytes(damaged))
        except UsageError as error:
            refused.append(str(error))
        assert time.monotonic() - start < 1
    assert 100 < len(refused) < 1000
    assert not any("\n" in message for message in refused)


def test_overlapping_tables_do_not_multiply_the_work():
    # One vector of 20,000 offsets, all to one table: valid offsets, but far more tables than the file has room for.
    count = 20_000
    root = bytearray(b"\x10\0\0\0TFL3")
    root += b"\x06\0\x08\0\x04\0\0\0"  # list of fields at 8: six bytes, table of 8, field 0 at 4
    root += (8).to_bytes(4, "little") + (4).to_bytes(4, "little")  # table at 16, its vector at 24
    root += count.to_bytes(4, "little")
    for index in range(count):
        root += ((16 - (28 + 4 * index)) & 0xFFFFFFFF).to_bytes(4, "little")
    table = Flatbuffer(memoryview(bytes(root))).root()
    start = time.monotonic()
    with pytest.raises(Exception, match=r"more tables than|points to byte"):
        table.tables(0)
    assert time.monotonic() - start < 1


def test_import_is_light():
    program = (
        "import sys, numpy, time; t = time.perf_counter(); import edgepress.deploy.tflite.reader; "
        "print(time.perf_counter() - t, [m for m in ('torch', 'onnx', 'scipy', 'ai_edge_litert', 'tensorflow') "
        "if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert out.strip().endswith("[]")
