"""Counting rules on single operators, by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgepress.models.cost.op_costs import (
    KINDS,
    RULES,
    Op,
    check_rule,
    check_scheme,
    convolution,
    dense,
    einsum_products,
    macs,
    transposed_convolution,
    why_not,
)
from edgepress.models.errors import UsageError


def test_convolution_by_hand():
    # 8 filters of 3 x 5 x 5 over 10 x 12 outputs; each of the 8 biases is added at 120 positions.
    op = convolution((8, 3, 5, 5), (1, 8, 10, 12), groups=1, bias=True)
    products = 8 * 3 * 25 * 120
    assert {rule: macs(op, rule) for rule in ("core", "dcase", "nessi-tflite", "vela", "st")} == {
        "core": products,
        "dcase": products + 8 * 120,
        "nessi-tflite": products,
        "vela": products,
        "st": products + 8,
    }


def test_grouped_depthwise_and_one_dimensional_convolutions():
    assert macs(convolution((8, 2, 3, 3), (1, 8, 4, 4), groups=4, bias=False), "core") == 8 * 2 * 9 * 16
    depthwise = convolution((8, 1, 3, 3), (1, 8, 4, 4), groups=8, bias=False)
    assert depthwise.kind == "depthwise"
    assert macs(depthwise, "core") == 8 * 9 * 16
    assert macs(convolution((4, 2, 7), (1, 4, 30), groups=1, bias=False), "core") == 4 * 2 * 7 * 30
    assert macs(convolution((4, 2, 7), (4, 30), groups=1, bias=False), "core") == 4 * 2 * 7 * 30  # without a batch
    assert convolution((4, 1, 3, 3), (1, 4, 5, 5), groups=1, bias=False).kind == "conv"  # one input channel


def test_transposed_convolution_uses_input_positions():
    # Each of the 5 inputs meets all 2 x 3 x 4 weights; torchinfo, and so dcase, multiplies by the 11 outputs.
    op = transposed_convolution((2, 3, 4), (1, 2, 5), (1, 3, 11), groups=1, bias=True)
    assert macs(op, "core") == 5 * 24
    assert macs(op, "dcase") == 11 * (24 + 3)
    assert macs(op, "nessi-tflite") == 0


def test_dense_counts_every_row():
    op = dense(6, 4, 7, bias=True)
    assert macs(op, "core") == 7 * 24
    assert macs(op, "dcase") == 7 * (24 + 4)
    assert macs(op, "st") == 7 * 24 + 4


def test_everything_else():
    pool = Op("pool", input_elements=64, output_elements=16, window=4)
    add, mean, softmax = (Op(kind, input_elements=20, output_elements=10) for kind in ("add", "mean", "softmax"))
    found = {rule: tuple(macs(op, rule) for op in (pool, add, mean, softmax)) for rule in RULES if rule != "torchinfo"}
    assert found == {
        "core": (0, 0, 0, 0),
        "dcase": (0, 0, 0, 0),
        "nessi-tflite": (64, 10, 20, 0),
        "vela": (64, 0, 20, 20),
        "st": (64, 10, 20, 150),
    }


@given(
    kind=st.sampled_from(KINDS),
    weights=st.integers(0, 10**6),
    positions=st.integers(0, 10**4),
    bias=st.integers(0, 1000),
    bias_positions=st.integers(0, 10**4),
    products=st.integers(0, 10**9),
)
def test_dcase_is_never_laxer_than_core(kind, weights, positions, bias, bias_positions, products):
    op = Op(kind, weights=weights, positions=positions, bias=bias, bias_positions=bias_positions, products=products)
    assert macs(op, "dcase") >= macs(op, "core") >= 0


def test_rules_and_schemes_have_names():
    assert check_rule("nessi-torch") == "torchinfo"
    with pytest.raises(UsageError, match=r"rule = 'flops' is no counting rule; known are core, dcase"):
        check_rule("flops")
    assert check_scheme("w8a8") == (1, 4, 1)
    with pytest.raises(UsageError, match=r"scheme = 'int3' is no number format; known are w8a8"):
        check_scheme("int3")


def test_why_a_rule_has_no_figure():
    assert why_not("torchinfo", "torch") is None
    assert "folded" in (why_not("torchinfo", "tflite") or "")
    assert [rule for rule in RULES if why_not(rule, "onnx")] == ["torchinfo"]


@pytest.mark.parametrize(
    ("equation", "shapes", "expected"),
    [
        ("ij,jk->ik", [(2, 3), (3, 5)], (30, True)),
        ("ij,jk", [(2, 3), (3, 5)], (30, True)),
        ("bhqd,bhkd->bhqk", [(2, 4, 5, 8), (2, 4, 7, 8)], (2 * 4 * 5 * 7 * 8, True)),
        ("...ij,...jk->...ik", [(6, 2, 3), (6, 3, 5)], (180, True)),
        ("...ij,jk->...ik", [(6, 2, 3), (3, 5)], (180, True)),
        ("bc,bchw->bchw", [(2, 3), (2, 3, 4, 4)], (96, False)),
        ("i,j->ij", [(3,), (4,)], (12, False)),
        ("ij,jk,kl->il", [(2, 3), (3, 4), (4, 5)], (2 * 3 * 4 + 2 * 4 * 5, True)),
        ("bij,bjk->bik", [(1, 2, 3), (5, 3, 4)], (5 * 2 * 3 * 4, True)),
    ],
)
def test_einsum(equation, shapes, expected):
    assert einsum_products(equation, shapes) == expected
