# SPDX-License-Identifier: Apache-2.0
"""Counting rules: what one operator costs under each of them. Pure Python; a number without its rule is no number.

A multiply-accumulate (MAC) is one product added to a sum. The rules agree on the products of convolutions and dense
layers and differ in everything else, so figures of different rules are never compared.

==============  ======================================================================================================
core            products of convolutions, dense layers, recurrent gates (times steps), and both products of attention
dcase           core, plus every bias once per output position, after batch normalisation has been folded; what cannot
                be folded counts once per parameter. The official figures of DCASE submissions of 2022 and 2023
torchinfo       what the tool torchinfo counts on the network as it stands, unfolded: leaf modules only, batch
                normalisation once per parameter, dense layers once per parameter whatever the number of positions.
                NeSsi does this for torch (alias ``nessi-torch``); the official figures of 2024 and 2025
nessi-tflite    core of CONV_2D and DEPTHWISE_CONV_2D, of FULLY_CONNECTED the outputs times the last dimension of the
                input as it comes, flattened or not, plus pooling (outputs x window), MEAN (inputs) and
                ADD (outputs); no bias. What NeSsi (tflite-tools) does for .tflite
vela            core, plus pooling, plus two per element of a softmax. What Arm's Vela 5.2 calls nn_macs
st              core, plus one per bias parameter, pooling, ADD, and 15 per element of a softmax. ST Edge AI's MACC
==============  ======================================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

from edgepress.models.errors import UsageError

RULES = ("core", "dcase", "torchinfo", "nessi-tflite", "vela", "st")
#: Other names of a rule, accepted wherever a rule is named.
ALIASES = {"nessi-torch": "torchinfo"}
#: Bytes of one weight, one bias and one activation under each scheme. TFLite keeps int64 biases for int16 activations.
SCHEMES = {"w8a8": (1, 4, 1), "w8a16": (1, 8, 2), "fp16": (2, 2, 2), "fp32": (4, 4, 4)}

KINDS = (
    "conv",
    "depthwise",
    "transposed_conv",
    "dense",
    "attention",
    "recurrent",
    "pool",
    "mean",
    "add",
    "mul",
    "softmax",
    "batch_norm",
    "norm",
    "activation",
    "move",
    "other",
)
#: Kinds which hold products of weights with activations; `products` of the others is zero, except for attention.
WEIGHTED_KINDS = frozenset({"conv", "depthwise", "transposed_conv", "dense", "recurrent"})


@dataclass(frozen=True)
class Op:
    """One operator, as the numbers that the rules need.

    Attributes:
        kind: one of `KINDS`; "move" does no arithmetic (reshape, transpose, concatenation).
        weights: weights that take part in products; for a batch normalisation its scales.
        positions: how often each weight is used: output positions of a convolution (input positions of a transposed
            one), rows of a dense layer, steps of a recurrent one, each times the batch.
        bias: bias parameters (for a batch normalisation its shifts).
        bias_positions: how often each bias is added.
        products: products of two activations (attention, matrix products).
        input_elements: elements of the first input.
        input_width: last dimension of the input of a dense layer of a .tflite, by which NeSsi multiplies its outputs
            whether or not the input is flattened; zero where it is not known.
        output_elements: elements of the output.
        window: elements that one output of a pooling reads.
        softmax_elements: elements of a softmax inside the operator (fused attention).
        seen_parameters: parameters which torchinfo sees in the leaf module that made this operator; None where the
            unfolded network is not known.
        seen_positions: what torchinfo multiplies them by.
    """

    kind: str
    weights: int = 0
    positions: int = 0
    bias: int = 0
    bias_positions: int = 0
    products: int = 0
    input_elements: int = 0
    input_width: int = 0
    output_elements: int = 0
    window: int = 0
    softmax_elements: int = 0
    seen_parameters: int | None = None
    seen_positions: int = 1


def check_rule(rule: str) -> str:
    """The rule's own name.

    Raises:
        UsageError: no such rule.
    """
    name = ALIASES.get(rule, rule)
    if name not in RULES:
        raise UsageError(f"rule = {rule!r} is no counting rule; known are {', '.join((*RULES, *ALIASES))}")
    return name


def check_scheme(scheme: str) -> tuple[int, int, int]:
    """Bytes of one weight, one bias, one activation.

    Raises:
        UsageError: no such scheme.
    """
    if scheme not in SCHEMES:
        raise UsageError(f"scheme = {scheme!r} is no number format; known are {', '.join(SCHEMES)}")
    return SCHEMES[scheme]


def window_products(op: Op) -> int:
    """Weights x positions: convolutions, dense layers (rows), recurrent layers (steps)."""
    return op.weights * op.positions


def attention_products(op: Op) -> int:
    """Products of two activations, e.g. queries with keys and probabilities with values."""
    return op.products


def pool_reads(op: Op) -> int:
    """Outputs x window."""
    return op.output_elements * op.window


def mean_reads(op: Op) -> int:
    """Each input once."""
    return op.input_elements


def add_writes(op: Op) -> int:
    """Each output once."""
    return op.output_elements


def bias_adds(op: Op) -> int:
    """Each bias once per output position."""
    return op.bias * op.bias_positions


def _nessi_dense(op: Op) -> int:
    return op.output_elements * op.input_width if op.input_width else window_products(op)


def _dcase_weighted(op: Op) -> int:
    return window_products(op) + bias_adds(op)


def _dcase_transposed(op: Op) -> int:
    # torchinfo multiplies by the positions of the output; never less than the products that are really made.
    return max(window_products(op), op.weights * op.bias_positions) + bias_adds(op)


def _parameters_once(op: Op) -> int:
    return op.weights + op.bias


def _torchinfo(op: Op) -> int:
    return (op.seen_parameters or 0) * op.seen_positions


def _st_weighted(op: Op) -> int:
    return window_products(op) + op.bias


def _vela_softmax(op: Op) -> int:
    return 2 * op.output_elements


def _vela_attention(op: Op) -> int:
    return op.products + 2 * op.softmax_elements


def _st_softmax(op: Op) -> int:
    return 15 * op.output_elements


def _st_attention(op: Op) -> int:
    return op.products + 15 * op.softmax_elements


_CORE: dict[str, Callable[[Op], int]] = {
    **dict.fromkeys(WEIGHTED_KINDS, window_products),
    "attention": attention_products,
}
_RULE_TABLE: dict[str, dict[str, Callable[[Op], int]]] = {
    "core": _CORE,
    "dcase": {
        **_CORE,
        **dict.fromkeys(WEIGHTED_KINDS, _dcase_weighted),
        "transposed_conv": _dcase_transposed,
        "batch_norm": _parameters_once,
        "norm": _parameters_once,
    },
    "torchinfo": dict.fromkeys(KINDS, _torchinfo),
    # The tool looks at these operators and no others.
    "nessi-tflite": {
        "conv": window_products,
        "depthwise": window_products,
        "dense": _nessi_dense,
        "pool": pool_reads,
        "mean": mean_reads,
        "add": add_writes,
    },
    "vela": {**_CORE, "pool": pool_reads, "mean": mean_reads, "softmax": _vela_softmax, "attention": _vela_attention},
    "st": {
        **_CORE,
        **dict.fromkeys(WEIGHTED_KINDS, _st_weighted),
        "pool": pool_reads,
        "mean": mean_reads,
        "add": add_writes,
        "softmax": _st_softmax,
        "attention": _st_attention,
    },
}


def macs(op: Op, rule: str) -> int:
    """Multiply-accumulates of one operator under one rule; zero where the rule does not count its kind.

    Raises:
        UsageError: no such rule.
    """
    count = _RULE_TABLE[check_rule(rule)].get(op.kind)
    return count(op) if count else 0


def does_arithmetic(op: Op) -> bool:
    """Whether a person would expect the operator to cost something: everything but moving data."""
    return op.kind != "move"


def why_not(rule: str, kind_of_file: str) -> str | None:
    """Why a rule has no figure for a "tflite", "onnx" (without batch normalisation) or "torch" model; None: it has.

    Raises:
        UsageError: no such rule.
    """
    if check_rule(rule) == "torchinfo" and kind_of_file != "torch":
        return (
            "torchinfo counts the network before batch normalisation is folded, and a file without batch "
            "normalisation does not say what was folded: see dcase, the same count after folding"
        )
    return None


def convolution(weight_shape: tuple[int, ...], output_shape: tuple[int, ...], *, groups: int, bias: bool) -> Op:
    """A convolution in torch's layout.

    Args:
        weight_shape: (Cout, Cin / groups, *kernel).
        output_shape: (N, Cout, *spatial) or, without a batch, (Cout, *spatial).
    """
    spatial = len(weight_shape) - 2
    positions = prod(output_shape[len(output_shape) - spatial :]) * prod(
        output_shape[: len(output_shape) - spatial - 1]
    )
    depthwise = groups > 1 and weight_shape[1] == 1
    return Op(
        "depthwise" if depthwise else "conv",
        weights=prod(weight_shape),
        positions=positions,
        bias=weight_shape[0] if bias else 0,
        bias_positions=positions,
        output_elements=prod(output_shape),
    )


def transposed_convolution(
    weight_shape: tuple[int, ...],
    input_shape: tuple[int, ...],
    output_shape: tuple[int, ...],
    *,
    groups: int,
    bias: bool,
) -> Op:
    """A transposed convolution in torch's layout: each input position meets every weight of its channel.

    Args:
        weight_shape: (Cin, Cout / groups, *kernel).
        input_shape, output_shape: (N, C, *spatial) or, without a batch, (C, *spatial).
    """
    spatial = len(weight_shape) - 2
    batch = prod(output_shape[: len(output_shape) - spatial - 1])
    return Op(
        "transposed_conv",
        weights=prod(weight_shape),
        positions=batch * prod(input_shape[-spatial:]),
        bias=weight_shape[1] * groups if bias else 0,
        bias_positions=batch * prod(output_shape[-spatial:]),
        input_elements=prod(input_shape),
        output_elements=prod(output_shape),
    )


def dense(in_features: int, out_features: int, rows: int, *, bias: bool) -> Op:
    """A dense layer applied to `rows` vectors."""
    return Op(
        "dense",
        weights=in_features * out_features,
        positions=rows,
        bias=out_features if bias else 0,
        bias_positions=rows,
        output_elements=rows * out_features,
    )


def einsum_products(equation: str, shapes: Sequence[tuple[int, ...]]) -> tuple[int, bool]:
    """Products of an einsum, two operands at a time from left to right, and whether anything is summed at all.

    Args:
        equation: as numpy.einsum takes it, "..." included.
        shapes: of the operands.
    """
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if "..." in equation:
        hidden = [
            len(shape) - len(term.replace("...", "")) if "..." in term else 0
            for term, shape in zip(terms, shapes, strict=True)
        ]
        letters = [chr(0x100 + index) for index in range(max(hidden))]  # letters which no equation uses
        terms = [
            term.replace("...", "".join(letters[len(letters) - count :]))
            for term, count in zip(terms, hidden, strict=True)
        ]
        right = right.replace("...", "".join(letters)) if arrow else "".join(letters)
    if not arrow:
        named = "".join(terms)
        right += "".join(sorted(letter for letter in set(named) if named.count(letter) == 1 and letter not in right))
    # A size of one broadcasts, so the largest size of a letter is its own.
    sizes: dict[str, int] = {}
    for term, shape in zip(terms, shapes, strict=True):
        for letter, size in zip(term, shape, strict=True):
            sizes[letter] = size if sizes.get(letter, 1) == 1 else sizes[letter]
    products, summed, current = 0, False, set(terms[0])
    for index, term in enumerate(terms[1:], start=1):
        later = set(right).union(*terms[index + 1 :])
        joint = current | set(term)
        products += prod(sizes[letter] for letter in joint)
        summed |= bool(joint - later)
        current = joint & later
    return products, summed
