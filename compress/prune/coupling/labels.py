# SPDX-License-Identifier: Apache-2.0
"""Channel labels: which positions of which tensors must be removed together.

Every axis of every parameter gets integer labels; a value of the network carries *planes*: integer arrays of the
value's rank whose axes are 1 ("the label does not depend on this axis") or full. An element of the value belongs to
each label that its planes show at its position, and vanishes with any of them. Equal labels vanish together: a
union-find over all labels, vectorised with NumPy. Label 0 means "fixed": such a position can never be removed.

An axis of a removed tensor must stay rectangular, so a plane which depends on two axes at once (heads x width,
groups x channels) has to be made to depend on one: `collapse` does it, at the price of larger units.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

Plane = np.ndarray


@dataclass(frozen=True)
class Labelled:
    """A value of the network: its dense shape and its label planes (each of the value's rank)."""

    shape: tuple[int, ...]
    planes: tuple[Plane, ...] = ()


@dataclass(frozen=True)
class Cause:
    """Why labels were fixed: the operator, its module and a reason in words; `quiet` ones are not worth a report."""

    operator: str
    module: str
    reason: str
    quiet: bool = False


def axes_of(plane: Plane) -> tuple[int, ...]:
    """The axes that the plane depends on."""
    return tuple(axis for axis, size in enumerate(plane.shape) if size > 1)


def lift(plane: Plane, rank: int) -> Plane:
    """Prepend axes of size 1, as broadcasting does."""
    return plane.reshape((1,) * (rank - plane.ndim) + plane.shape)


class LabelSpace:
    """All labels and what is known about their equality."""

    def __init__(self) -> None:
        self._parent = np.zeros(1024, np.int64)
        self.size: int = 1
        self.causes: list[tuple[int, Cause]] = []

    def fresh(self, count: int) -> np.ndarray:
        """New labels [count], all different."""
        while self.size + count > len(self._parent):
            self._parent = np.concatenate([self._parent, np.zeros_like(self._parent)])
        labels = np.arange(self.size, self.size + count)
        self._parent[labels] = labels
        self.size += count
        return labels

    def find(self, labels: np.ndarray) -> np.ndarray:
        """The representative (smallest label) of each label's class; 0 stays 0."""
        root = self._parent[labels]
        while True:
            above = self._parent[root]
            if np.array_equal(above, root):
                break
            root = self._parent[above]
        self._parent[labels] = root
        return root

    def fix(self, labels: np.ndarray, cause: Cause) -> None:
        """Never remove these labels; the cause is remembered for the report."""
        labels = labels[labels > 0]
        if labels.size:
            anchor = self.fresh(1)
            self.causes.append((int(anchor[0]), cause))
            self._join(labels.ravel(), np.broadcast_to(anchor, labels.size))

    def unify(self, left: np.ndarray, right: np.ndarray, cause: Cause) -> None:
        """Positions of both (broadcast) arrays vanish together; what meets label 0 is fixed."""
        left, right = (side.ravel() for side in np.broadcast_arrays(left, right))
        free = (left > 0) & (right > 0)
        self._join(left[free], right[free])
        self.fix(np.concatenate([left[~free], right[~free]]), cause)

    def _join(self, left: np.ndarray, right: np.ndarray) -> None:
        while True:
            a, b = self.find(left), self.find(right)
            differ = a != b
            if not differ.any():
                return
            a, b = a[differ], b[differ]
            np.minimum.at(self._parent, np.maximum(a, b), np.minimum(a, b))

    def snapshot(self) -> tuple[np.ndarray, int, int]:
        """State for `restore`, to try a coupling and take it back."""
        return self._parent.copy(), self.size, len(self.causes)

    def restore(self, state: tuple[np.ndarray, int, int]) -> None:
        parent, self.size, causes = state
        self._parent = parent.copy()
        del self.causes[causes:]

    def compact(self, plane: Plane) -> Plane | None:
        """Shrink axes along which the labels are equal; None where nothing but label 0 is left."""
        plane = self.find(plane)
        for axis in axes_of(plane):
            first = plane.take([0], axis)
            if (plane == first).all():
                plane = first
        return plane if plane.any() else None

    def collapse(self, value: Labelled, axes: Iterable[int], cause: Cause) -> Labelled:
        """Make the planes independent of `axes`; a plane that depends on nothing else is fixed."""
        wanted = {axis % len(value.shape) for axis in axes} if value.shape else set()
        planes = []
        for plane in value.planes:
            hit = [axis for axis in axes_of(plane) if axis in wanted]
            if not hit:
                planes.append(plane)
            elif len(hit) == len(axes_of(plane)):
                self.fix(plane, cause)
            else:
                first = plane
                for axis in hit:
                    first = first.take([0], axis)
                self.unify(plane, first, cause)
                planes.append(first)
        return Labelled(value.shape, self.compacted(planes))

    def compacted(self, planes: Iterable[Plane]) -> tuple[Plane, ...]:
        kept = (self.compact(plane) for plane in planes)
        return tuple(plane for plane in kept if plane is not None and axes_of(plane))

    def different(self, plane: Plane, axes: Sequence[int]) -> int:
        """How many labels there are along these axes; samples that were made one with heads repeat them."""
        for axis in axes_of(plane):
            if axis not in axes:
                plane = plane.take([0], axis)
        return int(np.unique(self.find(plane)).size)

    def fix_value(self, value: Labelled, cause: Cause) -> None:
        for plane in value.planes:
            self.fix(plane, cause)

    def kept(self, value: Labelled, removed: np.ndarray) -> dict[int, np.ndarray]:
        """Axis -> kept positions, for every axis of a value that loses some; `removed`: [labels] bool, by root."""
        kept: dict[int, np.ndarray] = {}
        for plane in value.planes:
            gone = removed[self.find(plane)]
            if gone.any():
                (axis,) = axes_of(plane)
                kept[axis] = np.flatnonzero(~gone.ravel())
        return kept

    def parameter(self, shape: Sequence[int]) -> Labelled:
        """One plane of fresh labels per axis that is longer than 1."""
        planes = []
        for axis, size in enumerate(shape):
            if size > 1:
                view = [1] * len(shape)
                view[axis] = size
                planes.append(self.fresh(size).reshape(view))
        return Labelled(tuple(shape), tuple(planes))

    def merge(self, values: Sequence[Labelled], cause: Cause, shape: Sequence[int] | None = None) -> Labelled:
        """Element-wise combination with broadcasting: equal positions vanish together."""
        rank = max(len(value.shape) for value in values)
        if shape is None:
            shape = np.broadcast_shapes(*(value.shape for value in values))
        result = _lifted(values[0], rank)
        for value in values[1:]:
            result = self._merge_two(result, _lifted(value, rank), cause)
        return Labelled(tuple(shape), self.compacted(result.planes))

    def _merge_two(self, left: Labelled, right: Labelled, cause: Cause) -> Labelled:
        shape = np.broadcast_shapes(left.shape, right.shape)
        pending = [(plane, 0) for plane in left.planes] + [(plane, 1) for plane in right.planes]
        sides = (left, right)
        planes: list[Plane] = []
        while pending:
            component = [pending.pop(0)]
            axes = set(axes_of(component[0][0]))
            grown = True
            while grown:
                grown = False
                for index in range(len(pending) - 1, -1, -1):
                    touched = set(axes_of(pending[index][0]))
                    if axes & touched:
                        component.append(pending.pop(index))
                        axes |= touched
                        grown = True
            if len({side for _, side in component}) == 1:  # several where axes were made one: channels and kernels
                own = tuple(plane for plane, _ in component)
                real = [axis for axis in axes if sides[1 - component[0][1]].shape[axis] > 1]
                planes += self.collapse(Labelled(shape, own), real, cause).planes if real else own
            elif len(component) == 2 and component[0][1] != component[1][1]:
                (a, _), (b, _) = component
                self.unify(a, b, cause)
                planes.append(np.broadcast_to(a, np.broadcast_shapes(a.shape, b.shape)))
            else:
                for plane, _ in component:
                    self.fix(plane, cause)
        return Labelled(shape, tuple(planes))

    def reduce(self, value: Labelled, axes: Iterable[int], cause: Cause, keep: bool = True) -> Labelled:
        """Sum-like reduction: planes over `axes` alone end here; a plane over both kinds keeps the finer kind."""
        wanted = sorted(axis % len(value.shape) for axis in axes)
        planes = []
        for plane in value.planes:
            inside = [axis for axis in axes_of(plane) if axis in wanted]
            outside = [axis for axis in axes_of(plane) if axis not in wanted]
            if inside and outside:
                away = outside if self.different(plane, inside) > self.different(plane, outside) else inside
                planes += [
                    p for p in self.collapse(Labelled(value.shape, (plane,)), away, cause).planes if away is inside
                ]
            elif outside:
                planes.append(plane)
        shape = tuple(1 if axis in wanted else size for axis, size in enumerate(value.shape))
        result = Labelled(shape, self.compacted(planes))
        return result if keep else drop_axes(result, wanted)


def _lifted(value: Labelled, rank: int) -> Labelled:
    shape = (1,) * (rank - len(value.shape)) + value.shape
    return Labelled(shape, tuple(lift(plane, rank) for plane in value.planes))


def at_axis(value: Labelled, rank: int, axis: int) -> Labelled:
    """A vector [C], seen along `axis` of a value of `rank`."""
    size = [1] * rank
    size[axis] = value.shape[0]
    return Labelled(
        tuple(size),
        tuple(plane.reshape([plane.size if a == axis else 1 for a in range(rank)]) for plane in value.planes),
    )


def drop_axes(value: Labelled, axes: Sequence[int]) -> Labelled:
    """Remove axes of size 1."""
    shape = tuple(size for axis, size in enumerate(value.shape) if axis not in axes)
    return Labelled(shape, tuple(plane.squeeze(tuple(axes)) for plane in value.planes))


def reshaped(space: LabelSpace, value: Labelled, shape: Sequence[int]) -> Labelled:
    """What `view` does to labels: only the axes that are really split or merged are expanded."""
    shape = tuple(shape)
    planes = []
    for plane in value.planes:
        index: list[int] = []
        target: list[int] = []
        for old, new in factor_groups(value.shape, shape):
            depends = any(plane.shape[axis] > 1 for axis in old)
            index += [value.shape[axis] if depends else 1 for axis in old]
            target += [shape[axis] if depends else 1 for axis in new]
        planes.append(np.broadcast_to(plane, index).reshape(target))
    return Labelled(shape, space.compacted(planes))


def factor_groups(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """The finest pairs of runs of axes with equal products, in order, covering every axis of both shapes."""
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        left: list[int] = []
        right: list[int] = []
        size_left = size_right = 1
        if i < len(old):
            left, size_left, i = [i], old[i], i + 1
        if j < len(new) and not (left and size_left == 1 and new[j] != 1):
            right, size_right, j = [j], new[j], j + 1
        if right and size_right == 1 and size_left != 1:
            groups.append(([], right))
            right, size_right = [], 1
            if j < len(new):
                right, size_right, j = [j], new[j], j + 1
        while size_left != size_right:
            if size_left < size_right:
                left.append(i)
                size_left, i = size_left * old[i], i + 1
            else:
                right.append(j)
                size_right, j = size_right * new[j], j + 1
        groups.append((left, right))
    return groups
