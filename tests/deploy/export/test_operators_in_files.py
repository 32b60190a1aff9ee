"""Operators without kernels of their own, in files: nothing float, and what runtimes compute is fake quantization."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from edgepress.compress.quantize import quantize_model
from edgepress.compress.quantize.scheme import Integers
from edgepress.deploy.export.export import export_model
from edgepress.deploy.runtimes.sessions import open_session
from edgepress.deploy.tflite.carried import slopes_of, table_of
from tests.compress.quantize.operator_networks import GROUPS, Together, together

pytest.importorskip("litert_torch")

#: Fixed ranges and means of the specification's own operators are rounded once more in the file.
MOST_STEPS, MEAN_STEPS = 3, 0.5


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


def test_slopes_between_entries_by_hand():
    """(x + h/2)^2 - (x - h/2)^2 = 2xh: the slope about x is 2x; none where 1/x is beyond the largest result, 4."""
    given, own = Integers(np.float32(1 / 128), 0), Integers(np.float32(4 / 32767), 0, 16)
    assert [float(slopes_of(np.square, given, own)[q + 128]) for q in (-128, 0, 64)] == [-2, 0, 1]
    slopes = slopes_of(np.reciprocal, given, own)
    assert [float(slopes[q + 128]) for q in (-128, -16, 0, 31)] == [pytest.approx(-1, rel=1e-4), 0, 0, 0]


@pytest.mark.parametrize(
    "names",
    [
        ("gelu", "elu", "log_softmax"),
        pytest.param(
            ("mish", "selu", "softplus", "softsign", "sigmoid", "tanh", "hardswish", "silu"), marks=pytest.mark.slow
        ),
    ],
)
def test_functions_of_16_bits(names: tuple[str, ...], tmp_path: Path):
    """Their tables have 256 entries and a slope between them: within a twentieth of an 8-bit step of the function."""
    torch.manual_seed(0)
    cases = {**GROUPS["activations"][0], **GROUPS["reductions"][0]}
    network = Together(torch.nn.Conv2d(3, 8, 3, padding=1), {name: cases[name] for name in names}).eval()
    shape = (1, 3, 12, 12)
    quantized = quantize_model(network, torch.randn(shape), [torch.randn(8, *shape[1:]) for _ in range(4)], "a16w8")
    inputs = torch.randn(16, *shape[1:])
    with torch.no_grad():
        expected = quantized.model(inputs)
    path = tmp_path / "net.tflite"
    assert export_model(quantized, torch.randn(shape), path, verify=False).manifest["float_islands"] == []
    for runtime in ("litert", "litert-reference") if "log_softmax" in names else ("litert", "litert-reference", "tflm"):
        with open_session(path, runtime, isolate=True) as session:
            given = session.run(inputs.numpy())
        for (name, value), got, entry in zip(expected.items(), given, quantized.output_integers(), strict=True):
            assert entry is not None
            assert entry.bits == 16
            off = np.abs(got.reshape(value.shape) - value.numpy()) / float(entry.scale) / 256
            assert off.mean() <= 0.05, (runtime, name, off.mean())
            assert off.max() <= 0.5, (runtime, name, off.max())


@pytest.mark.parametrize(
    ("group", "names"),
    [
        ("activations", ("gelu", "elu", "prelu_per_channel", "hardsigmoid", "hardtanh")),
        ("rows", ("log_softmax_rows", "logsumexp", "class_token", "constant_padding", "attention_of_one")),
        ("shapes", ("upsample_nearest_part", "upsample_nearest_size", "conv_transpose_relu6")),
        ("shapes", ("patches", "neighbours", "unfold_and_fold")),
        ("reductions", ("adaptive_max_pool_3", "adaptive_max_pool_5")),
        ("reductions", ("softmax_columns", "softmin_columns", "norm_l1", "norm_inf", "cosine")),
        ("signals", ("pad_reflect1d", "adaptive_max_pool1d")),
        ("products", ("masked_attention", "one_head")),
        pytest.param("products", ("bmm", "multihead"), marks=pytest.mark.slow),
        pytest.param(
            "functions",
            ("divided", "where", "slice_in_place", "squeeze_excite", "remainder", "fmod"),
            marks=pytest.mark.slow,
        ),
        *(pytest.param(group, (), marks=pytest.mark.slow) for group in ("activations", "shapes", "norms", "signals")),
    ],
)
def test_files_hold_integers_and_runtimes_agree(group: str, names: tuple[str, ...], tmp_path: Path):
    torch.manual_seed(0)
    network, shape = together(group, *names)
    quantized = quantize_model(network, torch.randn(shape), [torch.randn(8, *shape[1:]) for _ in range(4)])
    inputs = torch.randn(16, *shape[1:])
    with torch.no_grad():
        expected, real = quantized.model(inputs), network(inputs)
    integers = zip(expected, quantized.output_integers(), strict=True)
    steps = {name: float(entry.scale) for name, entry in integers if entry is not None and entry.bits == 8}
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
                if suffix == "onnx" and "norm" in name and np.quantile(off, 0.99) > MOST_STEPS:
                    # One operator there, in float: it must be nearer to the network than fake quantization is.
                    errors = [(one - real[name]).square().mean() for one in (torch.tensor(got).view_as(value), value)]
                    assert errors[0] < errors[1], (runtime, name, errors)
                    continue
                # Where a convolution is rounded twice, one value in 500 is a step away, which a steep function spreads.
                assert off.mean() <= MEAN_STEPS, (runtime, name, off.mean())
                assert np.quantile(off, 0.99) <= MOST_STEPS, (runtime, name, off.max())
