"""Operators without kernels of their own, in files: nothing float, and what runtimes compute is fake quantization."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgepress.compress.quantize import quantize_model
from edgepress.compress.quantize.scheme import Integers
from edgepress.deploy.export.export import export_model
from edgepress.deploy.runtimes.sessions import open_session
from edgepress.deploy.tflite.carried import table_of
from tests.compress.quantize.operator_networks import together

pytest.importorskip("litert_torch")

#: Fixed ranges and means of the specification's own operators are rounded once more in the file.
MOST_STEPS, MEAN_STEPS = 3, 0.5
#: Norms are chains of a dozen roundings, and a group norm of noise measures 0.53 on LiteRT.
MEAN_STEPS_OF_NORMS = 0.6


def test_a_table_by_hand():
    """x = q / 128, squared, in steps of 1/255 from -128: 1 is 127, 0 is -128, 1/4 is 63.75 steps, 127/128 251.03."""
    given, own = Integers(np.float32(1 / 128), 0), Integers(np.float32(1 / 255), -128)
    table = table_of(np.square, given, own)
    assert (table.dtype, table.shape) == (np.int8, (256,))
    assert [int(table[q + 128]) for q in (-128, 0, 64, -64, 127)] == [127, -128, 64 - 128, 64 - 128, 251 - 128]


def test_what_is_infinite_or_no_number_saturates():
    given, own = Integers(np.float32(1 / 128), 0), Integers(np.float32(1 / 32), 5)
    with np.errstate(all="ignore"):
        inverses, logarithms = table_of(np.reciprocal, given, own), table_of(np.log, given, own)
    assert [int(inverses[q + 128]) for q in (-1, 0, 1)] == [-128, 127, 127]
    assert [int(logarithms[q + 128]) for q in (-1, 0)] == [5, -128]


@pytest.mark.parametrize(
    ("group", "names"),
    [
        ("activations", ("gelu", "elu", "prelu_per_channel", "hardsigmoid", "hardtanh")),
        pytest.param("products", ("bmm", "multihead"), marks=pytest.mark.slow),
        pytest.param("functions", ("divided", "where", "slice_in_place", "squeeze_excite"), marks=pytest.mark.slow),
        *(pytest.param(group, (), marks=pytest.mark.slow) for group in ("activations", "shapes", "norms", "signals")),
    ],
)
def test_files_hold_integers_and_runtimes_agree(group: str, names: tuple[str, ...], tmp_path: Path):
    torch.manual_seed(0)
    network, shape = together(group, *names)
    quantized = quantize_model(network, torch.randn(shape), [torch.randn(8, *shape[1:]) for _ in range(4)])
    inputs = torch.randn(16, *shape[1:])
    with torch.no_grad():
        expected = quantized.model(inputs)
    steps = _steps(quantized, list(expected))
    for suffix, runtimes in (("tflite", ("litert", "litert-reference", "tflm")), ("onnx", ("onnxruntime",))):
        path = tmp_path / f"net.{suffix}"
        made = export_model(quantized, torch.randn(shape), path, format=suffix, verify=False)
        assert made.manifest["float_islands"] == []
        for runtime in runtimes:
            with open_session(path, runtime, isolate=True) as session:
                given = session.run(inputs.numpy())
            given = given if isinstance(given, tuple) else (given,)
            for (name, value), got in zip(expected.items(), given, strict=True):
                off = np.abs(got.reshape(value.shape) - value.numpy()) / steps[name]
                # Where a convolution is rounded twice, one value in 500 is a step away, which a steep function spreads.
                assert off.mean() <= (MEAN_STEPS_OF_NORMS if group == "norms" else MEAN_STEPS), (
                    runtime,
                    name,
                    off.mean(),
                )
                assert np.quantile(off, 0.99) <= MOST_STEPS, (runtime, name, off.max())


def _steps(quantized: Any, names: list[str]) -> dict[str, float]:
    """Size of an 8-bit step of each output."""
    nodes = quantized.model.graph.output_node().args[0]
    scales = {}
    for name in names:
        node = nodes[name]
        module = quantized.model.get_submodule(str(node.target)) if node.op == "call_module" else None
        integers = module.integers(8) if module is not None else quantized.integers()[node.name]
        scales[name] = float(integers.scale)
    return scales
