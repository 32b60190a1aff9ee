# SPDX-License-Identifier: Apache-2.0
"""Why a file is refused: each operator once, those with the same reason together, names of tensors in whole words."""

from __future__ import annotations

import re
from collections.abc import Sequence

from edgepress.deploy.tflite.reader import Operator, Tensor

#: Converters write names of hundreds of letters; of these, as many of the last words as fit into this.
_LONGEST_NAME = 48


class Refusals:
    """The reasons so far, in the order of the operators."""

    def __init__(self, tensors: Sequence[Tensor]):
        self._tensors = tensors
        self._by_reason: dict[tuple[str, str], list[int]] = {}
        self._ends: list[str] = []

    def __bool__(self) -> bool:
        return bool(self._by_reason or self._ends)

    def add(self, operator: Operator, reason: str) -> None:
        """An operator cannot be lowered."""
        for index in (*operator.inputs, *operator.outputs):
            name = self._tensors[index].name if index >= 0 else ""
            if len(name) > _LONGEST_NAME:
                reason = reason.replace(repr(name), repr(last_words(name)))
        code = f"CUSTOM {operator.custom_code}" if operator.code == "CUSTOM" else operator.code
        self._by_reason.setdefault((code, reason), []).append(operator.index)

    def add_end(self, kind: str, tensor: int, reason: str) -> None:
        """An input or output of the network is at fault, and no operator that has it has said so."""
        self._ends.append(f"{kind} {last_words(self._tensors[tensor].name)!r} {reason}" if tensor >= 0 else reason)

    def text(self) -> str:
        """All reasons in one line."""
        found = [f"{_operators(numbers)} ({code}): {why}" for (code, why), numbers in self._by_reason.items()]
        return "; ".join([*found, *dict.fromkeys(self._ends)])


def last_words(name: str) -> str:
    """The end of a name, from the beginning of a word on."""
    if len(name) <= _LONGEST_NAME:
        return name
    starts = [match.end() for match in re.finditer(r"[/;:. ]", name)]
    fitting = [at for at in starts if len(name) - at <= _LONGEST_NAME and at < len(name)]
    return "..." + (name[fitting[0] :] if fitting else name[-_LONGEST_NAME:])


def _operators(numbers: Sequence[int]) -> str:
    if len(numbers) == 1:
        return f"operator {numbers[0]}"
    shown = [str(number) for number in numbers[:5]]
    more = f" and {len(numbers) - 5} more" if len(numbers) > 5 else ""
    return f"operators {', '.join(shown)}{more}"
