# SPDX-License-Identifier: Apache-2.0
"""Operator support before flashing: each rule is a predicate whose docstring is the reason and a line of the docs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgepress.deploy.verify import operator_table as table
from edgepress.models.errors import EdgepressError, UsageError

RUNTIMES = ("tflm", "litert", "litert-reference")
#: What Vela leaves of a network that it compiled for Arm's NPU.
NPU_OPERATOR = "CUSTOM ethos-u"
#: So many places of one kind of operator are named.
_MOST_MODULES = 10


@dataclass(frozen=True)
class OperatorSupport:
    """One kind of operator of a file on one runtime.

    Attributes:
        operator: the schema's name, custom ones as "CUSTOM name".
        element_type: of its first input.
        count: how often the file has it.
        supported: whether the runtime has it for this type.
        reason: why not, or what to know; empty where there is nothing to say.
        modules: the parts of the network they come from, as the file (or its manifest, where names were stripped)
            names what they write; at most ten.
    """

    operator: str
    element_type: str
    count: int
    supported: bool
    reason: str
    modules: tuple[str, ...] = ()


# Rules: (operator, element type of its first input, whether its filter or weights are integers) -> refused?


def not_registered(operator: str, element_type: str, hybrid: bool) -> bool:
    """TFLite Micro has no kernel of this name."""
    return not operator.startswith("CUSTOM ") and operator not in table.TFLM_REGISTERED


def custom_not_registered(operator: str, element_type: str, hybrid: bool) -> bool:
    """TFLite Micro knows only its own custom operators; firmware must register another one with AddCustom."""
    return operator.startswith("CUSTOM ") and operator.removeprefix("CUSTOM ") not in table.TFLM_CUSTOM


def needs_npu(operator: str, element_type: str, hybrid: bool) -> bool:
    """Vela compiled this for Arm's Ethos-U: only firmware built with AddEthosU, on a chip with that NPU, runs it."""
    return operator == NPU_OPERATOR


def micro_type(operator: str, element_type: str, hybrid: bool) -> bool:
    """TFLite Micro's kernel does not take this element type (it refuses when it prepares or runs)."""
    return element_type in table.TFLM_REFUSES.get(operator, ())


def hybrid_weights(operator: str, element_type: str, hybrid: bool) -> bool:
    """TFLite Micro does not run integer weights on float activations (hybrid, dynamic-range quantization)."""
    return hybrid


def interpreter_lacks(operator: str, element_type: str, hybrid: bool) -> bool:
    """LiteRT has no kernel of this name."""
    return operator in table.LITERT_LACKS or (
        operator.startswith("STABLEHLO_") and operator not in table.LITERT_STABLEHLO
    )


def custom_in_litert(operator: str, element_type: str, hybrid: bool) -> bool:
    """LiteRT runs custom operators only where the application registers them."""
    return operator.startswith("CUSTOM ") and operator != "CUSTOM TFLite_Detection_PostProcess"


def litert_type(operator: str, element_type: str, hybrid: bool) -> bool:
    """LiteRT's kernel does not take this element type."""
    return element_type in table.LITERT_REFUSES.get(operator, ())


def reference_lacks(operator: str, element_type: str, hybrid: bool) -> bool:
    """LiteRT's reference resolver leaves this operator out; its ordinary kernels have it."""
    return operator in table.REFERENCE_LACKS


Rule = Callable[[str, str, bool], bool]
RULES: dict[str, tuple[Rule, ...]] = {
    "tflm": (not_registered, custom_not_registered, needs_npu, micro_type, hybrid_weights),
    "litert": (interpreter_lacks, custom_in_litert, litert_type),
    "litert-reference": (interpreter_lacks, custom_in_litert, litert_type, reference_lacks),
}


def support(model: Any, runtime: str, names: Sequence[str] = ()) -> tuple[OperatorSupport, ...]:
    """What a runtime says to each kind of operator of a file (a `edgepress.deploy.tflite.reader.TFLiteModel`).

    Args:
        names: of the tensors of the first subgraph by index, where the file has lost them.

    Raises:
        UsageError: `runtime` has no rules here.
    """
    if runtime not in RULES:
        raise UsageError(f"runtime = {runtime!r} has no table of operators: allowed are {', '.join(RULES)}")
    kinds: Counter[tuple[str, str, bool]] = Counter()
    modules: dict[tuple[str, str, bool], list[str]] = {}
    for number, graph in enumerate(model.subgraphs):
        for operator in graph.operators:
            inputs = [graph.tensors[i] for i in operator.inputs if i >= 0]
            element_type = inputs[0].dtype if inputs else "none"
            hybrid = (
                operator.code in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV")
                and element_type == "float32"
                and any(t.dtype in ("int8", "uint8", "int4") for t in inputs[1:])
            )
            kind = (_name(operator), element_type, hybrid)
            kinds[kind] += 1
            modules.setdefault(kind, []).append(_module(graph, operator, names if number == 0 else ()))
    rows = []
    for (name, element_type, hybrid), count in sorted(kinds.items()):
        broken = [rule.__doc__ or "" for rule in RULES[runtime] if rule(name, element_type, hybrid)]
        found = tuple(filter(None, dict.fromkeys(modules[name, element_type, hybrid])))[:_MOST_MODULES]
        rows.append(OperatorSupport(name, element_type, count, not broken, " ".join(broken), found))
    return tuple(rows)


def _module(graph: Any, operator: Any, names: Sequence[str]) -> str:
    """The last name that a converter joined into that of the first output; "" where there is none."""
    if not operator.outputs:
        return ""
    index = operator.outputs[0]
    return (graph.tensors[index].name or (str(names[index]) if index < len(names) else "")).rpartition(";")[2]


def resolver_method(operator: str) -> str | None:
    """TFLite Micro's MicroMutableOpResolver method of an operator, or None where it has none."""
    if operator.startswith("CUSTOM "):
        return table.TFLM_CUSTOM.get(operator.removeprefix("CUSTOM "))
    if operator not in table.TFLM_REGISTERED:
        return None
    words = operator.split("_")
    return table.METHOD_EXCEPTIONS.get(
        operator, "Add" + "".join(word if word in ("2D", "V2") else word.capitalize() for word in words)
    )


def resolver_methods(model: Any) -> tuple[str, ...]:
    """The Add methods that a file needs, each once, in the order of the alphabet.

    Raises:
        UsageError: TFLite Micro lacks one of its operators.
    """
    names = sorted({_name(operator) for graph in model.subgraphs for operator in graph.operators})
    missing = [name for name in names if resolver_method(name) is None]
    if missing:
        raise UsageError(
            f"TFLite Micro has no {', '.join(missing)}: this file cannot run on it; "
            "`deploy operators FILE` shows what each runtime has"
        )
    return tuple(sorted({str(resolver_method(name)) for name in names}))


def probe(path: str | Path) -> dict[str, str | None]:
    """Ask the installed runtimes themselves: runtime -> None where it runs the file, else what it says."""
    from edgepress.deploy.runtimes.registry import KINDS, available_runtimes
    from edgepress.deploy.runtimes.sessions import open_session
    from edgepress.deploy.verify.shrink import random_inputs

    kind = KINDS.get(Path(path).suffix.lower(), "")
    answers: dict[str, str | None] = {}
    refusals: list[EdgepressError] = []
    for runtime, missing in available_runtimes(kind).items():
        if missing:
            answers[runtime] = f"not asked: {missing}"
            continue
        try:
            with open_session(path, runtime, isolate=True) as session:
                try:
                    session.run_integer(*random_inputs(session.inputs, 1, 0))
                    answers[runtime] = None
                except UsageError as error:  # our inputs do not fit, which says nothing about the file
                    answers[runtime] = f"prepares the file, and was not given inputs that fit: {error}"
        except EdgepressError as error:
            # One runtime that calls a file damaged does not end the table: TFLite Micro runs files that LiteRT refuses.
            answers[runtime] = str(error)
            refusals.append(error)
    if refusals and len(refusals) == len(answers) and all(isinstance(error, UsageError) for error in refusals):
        raise refusals[0]
    return answers


def report(path: str | Path, ask: bool = True) -> dict[str, Any]:
    """{"schema", "file", "operators": {RUNTIME: [...]}, "runs": {RUNTIME: null or reason}} of a file.

    For other files than .tflite only the runtime itself is asked: ONNX Runtime has every operator of the standard's
    opsets, and what was compiled (.ort, .xml, .pte) names none.
    """
    operators: dict[str, Any] = {}
    path = Path(path)
    if path.suffix.lower() not in (".onnx", ".ort", ".xml", ".pte"):
        from edgepress.deploy.artifact import find_manifest
        from edgepress.deploy.tflite.reader import read_tflite

        model = read_tflite(path)
        names = ((find_manifest(path) or {}).get("shrink") or {}).get("tensor_names") or ()
        operators = {runtime: [asdict(row) for row in support(model, runtime, names)] for runtime in RUNTIMES}
    return {"schema": 1, "file": str(path), "operators": operators, "runs": probe(path) if ask else {}}


def documentation() -> str:
    """docs/operators.md."""
    lines = [
        "# Operators by runtime",
        "",
        "Generated by `deploy operators --format markdown > docs/operators.md`; a test compares. The table was",
        f"probed on {table.PROBED_ON['tflm']} and {table.PROBED_ON['litert']},",
        "one file for each operator and element type. `deploy operators FILE` applies it to a file and asks the",
        "installed runtimes too. ONNX Runtime has every operator of the ONNX opsets; whether it has integer kernels",
        "for one is seen by running the file.",
        "",
        "## Rules",
        "",
    ]
    for runtime, rules in RULES.items():
        lines.append(
            f"- `{runtime}` refuses an operator where: "
            + " ".join(f"({i}) {r.__doc__}" for i, r in enumerate(rules, 1))
        )
    lines += [
        "",
        "## Built-in operators",
        "",
        "| operator | MicroMutableOpResolver | TFLite Micro refuses | LiteRT refuses | reference kernels |",
        "|---|---|---|---|---|",
    ]
    others = {
        *table.LITERT_REFUSES,
        *table.REFERENCE_LACKS,
        *table.LITERT_LACKS,
        "GELU",
        "TILE",
        "POW",
        "TOPK_V2",
        "REDUCE_PROD",
        "REDUCE_ANY",
        "SCATTER_ND",
        "CONV_3D",
        "ONE_HOT",
        "RANGE",
        "WHERE",
        "LSTM",
    }
    for name in sorted({*table.TFLM_REGISTERED, *others}):
        method = resolver_method(name)
        lines.append(
            f"| {name} | {f'`{method}`' if method else 'no kernel'} | {_types(table.TFLM_REFUSES.get(name))} | "
            f"{'no kernel' if name in table.LITERT_LACKS else _types(table.LITERT_REFUSES.get(name))} | "
            f"{'no kernel' if reference_lacks(name, '', False) or name in table.LITERT_LACKS else ''} |"
        )
    lines += [
        "",
        "LiteRT runs these of STABLEHLO: " + ", ".join(table.LITERT_STABLEHLO) + "; TFLite Micro none.",
        "",
        "## Custom operators of TFLite Micro",
        "",
        "| name in the file | MicroMutableOpResolver |",
        "|---|---|",
    ]
    lines += [f"| {name} | `{method}` |" for name, method in sorted(table.TFLM_CUSTOM.items())]
    return "\n".join(lines) + "\n"


def _types(types: tuple[str, ...] | None) -> str:
    return ", ".join(types or ())


def _name(operator: Any) -> str:
    return f"CUSTOM {operator.custom_code}" if operator.code == "CUSTOM" else operator.code
