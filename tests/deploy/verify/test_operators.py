from __future__ import annotations

from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from edgepress.deploy.runtimes.engine import EngineOptions
from edgepress.deploy.runtimes.isolated import IsolatedEngine
from edgepress.deploy.tflite.reader import read_tflite
from edgepress.deploy.verify import operator_table as table
from edgepress.deploy.verify.operators import documentation, probe, report, resolver_method, resolver_methods, support
from edgepress.models.errors import EdgepressError, UsageError
from tests.deploy.small_models import chain, unary

KWS = "data/reference_models/kws_ref_model.tflite"


def test_docs_are_generated() -> None:
    docs = Path(__file__).parents[3] / "docs/operators.md"
    assert docs.read_text(encoding="utf-8") == documentation(), (
        "regenerate: python -m edgepress.deploy operators --format markdown > docs/operators.md"
    )


@pytest.mark.parametrize(
    ("operator", "method"),
    [
        ("CONV_2D", "AddConv2D"),
        ("DEPTHWISE_CONV_2D", "AddDepthwiseConv2D"),
        ("BATCH_TO_SPACE_ND", "AddBatchToSpaceNd"),
        ("CUMSUM", "AddCumSum"),
        ("SELECT_V2", "AddSelectV2"),
        ("UNIDIRECTIONAL_SEQUENCE_LSTM", "AddUnidirectionalSequenceLSTM"),
        ("L2_POOL_2D", "AddL2Pool2D"),
        ("CUSTOM ethos-u", "AddEthosU"),
        ("GELU", None),
        ("CUSTOM mine", None),
    ],
)
def test_resolver_methods_are_those_of_the_header(operator: str, method: str | None) -> None:
    assert resolver_method(operator) == method


def test_keyword_model_needs_six_kernels(shared: Path) -> None:
    model = read_tflite(shared / KWS)
    assert resolver_methods(model) == (
        "AddAveragePool2D",
        "AddConv2D",
        "AddDepthwiseConv2D",
        "AddFullyConnected",
        "AddReshape",
        "AddSoftmax",
    )
    counts = {row.operator: row.count for row in support(model, "tflm")}
    assert counts == {
        "AVERAGE_POOL_2D": 1,
        "CONV_2D": 5,
        "DEPTHWISE_CONV_2D": 4,
        "FULLY_CONNECTED": 1,
        "RESHAPE": 1,
        "SOFTMAX": 1,
    }
    assert all(row.supported for runtime in ("tflm", "litert", "litert-reference") for row in support(model, runtime))


@pytest.mark.parametrize(
    ("operator", "element", "runtime"),
    [
        ("GELU", "INT8", "tflm"),
        ("SQRT", "INT8", "tflm"),
        ("SQRT", "FLOAT32", "tflm"),
        ("RSQRT", "INT8", "tflm"),
        ("ABS", "INT8", "tflm"),
        ("HARD_SWISH", "INT16", "tflm"),
        ("NEG", "INT8", "tflm"),
        ("ELU", "INT8", "tflm"),
        ("SQRT", "INT8", "litert"),
        ("SQUARE", "INT8", "litert"),
        ("ELU", "INT8", "litert"),
        ("ELU", "INT8", "litert-reference"),
        ("CEIL", "FLOAT32", "litert-reference"),
        ("GELU", "INT8", "litert-reference"),
    ],
)
def test_table_says_what_the_runtime_does(operator: str, element: str, runtime: str) -> None:
    pytest.importorskip("tflite_micro")
    model = unary(operator, element)
    says = all(row.supported for row in support(read_tflite(model), runtime))
    try:
        with closing(IsolatedEngine(runtime, model, EngineOptions(arena_bytes=1 << 20))) as engine:
            engine.run([np.ones((1, 4, 4, 8), {"INT8": np.int8, "INT16": np.int16, "FLOAT32": np.float32}[element])])
        does = True
    except EdgepressError:
        does = False
    assert says == does


def test_places_are_named_from_the_manifest_where_the_file_has_lost_its_names() -> None:
    sqrt = [SimpleNamespace(code="SQRT", inputs=(), outputs=(i,)) for i in (0, 1, 2)]
    tensors = [SimpleNamespace(name=name) for name in ("", "a;a.norm", "")]
    model = SimpleNamespace(subgraphs=[SimpleNamespace(operators=sqrt, tensors=tensors)])
    assert support(model, "tflm", ["block;block.act"])[0].modules == ("block.act", "a.norm")
    assert support(model, "tflm")[0].modules == ("a.norm",)


def test_refusal_names_the_reason(tmp_path: Path) -> None:
    row = support(read_tflite(unary("SQRT")), "tflm")[0]
    assert row.modules == ("y",)
    assert (row.supported, row.element_type) == (False, "int8")
    assert "does not take this element type" in row.reason
    with pytest.raises(UsageError, match="TFLite Micro has no GELU"):
        resolver_methods(read_tflite(unary("GELU")))
    path = tmp_path / "sqrt.tflite"
    path.write_bytes(unary("SQRT"))
    answers = probe(path)
    assert answers["litert"] is None
    assert answers["tflm"] is not None
    assert "INT8 != FLOAT32" in answers["tflm"]


def test_table_is_consistent() -> None:
    assert len(table.TFLM_REGISTERED) == len(set(table.TFLM_REGISTERED)) == 100
    assert set(table.TFLM_REFUSES) <= set(table.TFLM_REGISTERED)
    assert all(row.supported for row in support(read_tflite(chain([64, 32, 96, 96])), "tflm"))


def test_one_runtime_that_refuses_does_not_take_the_table_away(shared: Path) -> None:
    found = report(shared / "data/outside_files/tflm_person.tflite")
    assert len(found["operators"]["tflm"]) == 5
    assert found["runs"]["tflm"] is None
    assert "quantized_dimension" in found["runs"]["litert"]


def test_a_command_stream_of_vela_needs_its_npu_and_signal_operators_run(shared: Path) -> None:
    vela = support(read_tflite(shared / "data/outside_files/tflm_person_vela.tflite"), "tflm")
    assert [(row.operator, row.supported) for row in vela] == [("CUSTOM ethos-u", False)]
    signal = support(read_tflite(shared / "data/outside_files/tflm_audio_pre_int8.tflite"), "tflm")
    assert all(row.supported for row in signal), "TFLite Micro's own package runs this file"
