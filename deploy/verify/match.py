# SPDX-License-Identifier: Apache-2.0
"""Which tensor of a converted file is which value of the network: found by running both on the same inputs.

Converters rename, reorder and melt operators; their numbers stay the same. Matching by value needs no knowledge of a
converter's names and is checked by itself: what matches nothing is reported, never guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    import torch
    from torch import fx

#: How a file tells its tensors apart: by number (TFLite) or by name (ONNX).
Identity = TypeVar("Identity", int, str)

#: Position in the graph, name, forms, largest magnitude.
_Value = tuple[int, str, list[np.ndarray], float]

#: Of so many numbers two tensors are compared before they are compared as a whole.
_GLANCE = 24
#: Largest difference between a converted float value and ours, relative to the largest magnitude in the tensor.
TOLERANCE = 1e-3
#: The same of two converted forms of one value. What is farther from a tensor than another value by more than this, is
#: not its value: adding a small constant leaves a sum within the tolerance of what it was added to.
_NOISE = 1e-5
#: From here on a value is given to the file as it is in the network: every operator makes of a difference a larger one
#: in a network that amplifies, until nothing is within the tolerance any more.
_DRIFT = 1e-4
#: Axis orders in which a converter may keep a tensor of so many dimensions, and those of four in which it seldom does:
#: a transpose that it moved behind the operator that read it.
_ORDERS = {3: [(0, 1, 2), (0, 2, 1)], 4: [(0, 1, 2, 3), (0, 2, 3, 1), (0, 3, 1, 2)]}
_SELDOM = {4: [(0, 1, 3, 2), (0, 2, 1, 3), (0, 3, 2, 1)]}


def probe_around(example_inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """The example with noise of its own size: distinct values everywhere, whatever the example is; tensors."""
    import torch

    generator = torch.Generator().manual_seed(0)
    return tuple(
        x.cpu() + torch.randn(x.shape, generator=generator) * (0.5 * x.float().std(correction=0).cpu() + 1e-3)
        if x.is_floating_point()
        else x.cpu()
        for x in example_inputs
    )


def record_values(module: fx.GraphModule, inputs: tuple[torch.Tensor, ...]) -> dict[str, np.ndarray]:
    """Run an FX graph and return every float tensor by the name of its node.

    Args:
        module: the graph.
        inputs: of it.
    """
    import torch
    from torch import fx

    values: dict[str, np.ndarray] = {}

    class Recorder(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            value = super().run_node(n)
            if n.op not in ("get_attr", "output") and isinstance(value, torch.Tensor) and value.is_floating_point():
                values[n.name] = value.detach().cpu().numpy()
            return value

    with torch.no_grad():
        Recorder(module).run(*inputs)
    return values


def layouts(value: np.ndarray, shape: tuple[int, ...]) -> list[np.ndarray]:
    """The forms of a converter's value, as integers or floats, which have a shape of ours."""
    forms = [value.transpose(order) for order in _orders(value.ndim)]
    fitting = [form for form in forms if form.shape == shape]
    return fitting or ([value.reshape(shape)] if value.size == np.prod(shape) else [])


def _orders(rank: int) -> list[tuple[int, ...]]:
    return [*_ORDERS.get(rank, [tuple(range(rank))]), *_SELDOM.get(rank, [])]


def _forms(value: np.ndarray, orders: Iterable[tuple[int, ...]]) -> list[np.ndarray]:
    """A value in some orders of its axes, each different form once, as rows."""
    flat = [np.ascontiguousarray(value.transpose(order)).ravel() for order in orders]
    return [form for i, form in enumerate(flat) if not any(np.array_equal(form, other) for other in flat[:i])]


def match_file(
    ours: Mapping[str, np.ndarray], run: Callable[[dict[Identity, np.ndarray]], list[tuple[Identity, np.ndarray]]]
) -> tuple[dict[Identity, list[str]], dict[Identity, np.ndarray]]:
    """Find our values in a file, however far its roundings grow.

    Args:
        ours: see `match_values`.
        run: runs the file and returns what it makes in its order; what it is given (identity -> value in the file's
            layout) is read in place of that.

    Returns:
        What `match_values` does, and the values of the file by their identity.
    """
    given: dict[Identity, np.ndarray] = {}

    def values_of_file() -> list[tuple[Identity, np.ndarray]]:
        return [(identity, given.get(identity, value)) for identity, value in run(given)]

    values = values_of_file()
    found = match_values(ours, values)
    while len(found) < len(values):
        drifted = _drifted(ours, values, found)
        if not drifted:
            break
        given |= drifted
        values = values_of_file()
        more = {key: names for key, names in match_values(ours, values).items() if key not in found}
        if not more:
            break
        found |= more
    return found, dict(values)


def _drifted(
    ours: Mapping[str, np.ndarray], values: Iterable[tuple[Identity, np.ndarray]], found: Mapping[Identity, list[str]]
) -> dict[Identity, np.ndarray]:
    """Our values in the form of the file's, where those differ by more than noise."""
    drifted = {}
    for identity, value in values:
        if identity not in found:
            continue
        own = ours[found[identity][0]]
        orders = _orders(own.ndim)
        forms = [np.ascontiguousarray(own.transpose(order)).reshape(value.shape) for order in orders]
        form = min(forms, key=lambda form: float(np.abs(form - value).max(initial=0)))
        if np.abs(form - value).max(initial=0) > _DRIFT * np.abs(own).max(initial=0):
            drifted[identity] = form.astype(value.dtype)
    return drifted


def _bound(largest: float) -> float:
    return TOLERANCE * largest + 1e-12


@dataclass(frozen=True)
class _Candidates:
    """Values of one size.

    Attributes:
        entries: the values.
        at: [K] places that are compared first.
        seen: [F, K] what stands there in each form of each value.
        owner: [F] index of the value that a form is of.
        bound: [F] how far it may be off.
    """

    entries: list[_Value]
    at: np.ndarray
    seen: np.ndarray
    owner: np.ndarray
    bound: np.ndarray

    @classmethod
    def of(cls, size: int, entries: list[_Value]) -> _Candidates:
        at = np.unique(np.linspace(0, max(0, size - 1), _GLANCE).astype(int)) if size else np.zeros(0, int)
        owner = [index for index, (_, _, forms, _) in enumerate(entries) for _ in forms]
        seen = [form[at] for _, _, forms, _ in entries for form in forms]
        bound = [_bound(entries[index][3]) for index in owner]
        return cls(entries, at, np.array(seen).reshape(len(owner), len(at)), np.array(owner, int), np.array(bound))

    def equal_to(self, flat: np.ndarray) -> list[tuple[int, str, float]]:
        """Position, name and relative error of each value that a tensor equals."""
        equal = []
        with np.errstate(over="ignore", invalid="ignore"):
            glance = np.abs(self.seen - flat[self.at]).max(axis=1, initial=0) <= self.bound
            for index in dict.fromkeys(self.owner[glance].tolist()):
                position, name, forms, largest = self.entries[index]
                error = min(float(np.abs(flat - form).max(initial=0)) for form in forms)
                # What overflowed is equal to nothing: an infinity would be as near to any other.
                if np.isfinite(error) and error <= _bound(largest):
                    equal.append((position, name, error / (largest + 1e-12)))
        return equal


def match_values(
    ours: Mapping[str, np.ndarray], theirs: Iterable[tuple[Identity, np.ndarray]]
) -> dict[Identity, list[str]]:
    """Find our value for each tensor of a file.

    Args:
        ours: name -> value, in the order of the graph, in torch's layout.
        theirs: (identity, value) in the order of the file, in any layout.

    Returns:
        Identity -> names of all our values which equal it, the nearest in the order of the graph first. A tensor
        without an equal is left out.
    """
    values: dict[int, list[_Value]] = {}
    for position, (name, value) in enumerate(ours.items()):
        largest = float(np.abs(value).max(initial=0))
        forms = _forms(value, _ORDERS.get(value.ndim, [tuple(range(value.ndim))]))
        values.setdefault(value.size, []).append((position, name, forms, largest))
    usual = {size: _Candidates.of(size, entries) for size, entries in values.items()}
    seldom: dict[int, _Candidates] = {}
    found: dict[Identity, list[str]] = {}
    used: set[str] = set()
    reached = 0

    def equals(flat: np.ndarray, among: _Candidates | None) -> list[tuple[bool, int, int, str, float]]:
        return [
            (name in used, abs(position - reached), position, name, error)
            for position, name, error in (among.equal_to(flat) if among else ())
        ]

    for identity, value in theirs:
        flat = np.asarray(value, np.float32).ravel()
        equal = equals(flat, usual.get(flat.size))
        if not equal and value.ndim in _SELDOM:
            if flat.size not in seldom:
                entries = [(entry, ours[entry[1]]) for entry in values.get(flat.size, [])]
                others = [
                    (position, name, _forms(own, _SELDOM[own.ndim]), largest)
                    for (position, name, _, largest), own in entries
                    if own.ndim in _SELDOM
                ]
                seldom[flat.size] = _Candidates.of(flat.size, others)
            equal = equals(flat, seldom[flat.size])
        if equal:
            nearest = min(error for *_, error in equal)
            equal = [one[:4] for one in equal if one[4] <= nearest + _NOISE]
            # Equal values follow each other (reshapes, a ReLU on what is positive); the file has them in this order.
            equal.sort()
            reached = max(reached, equal[0][2])
            found[identity] = [name for *_, name in equal]
            used.add(found[identity][0])
    return found
