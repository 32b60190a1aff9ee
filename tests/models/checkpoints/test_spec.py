"""The model description: round trip, and everything a stranger's JSON can get wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgepress.models.checkpoints.spec import ModelSpec
from edgepress.models.errors import ConfigError, UsageError

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
json_values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4)
)


@given(
    arguments=st.dictionaries(st.text(), json_values, max_size=4),
    shapes=st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=4), min_size=1, max_size=3),
    plan=st.none() | st.dictionaries(st.text(), json_values, max_size=3),
    classes=st.lists(st.text(), max_size=4),
)
def test_round_trip_through_text(arguments: dict, shapes: list, plan: dict | None, classes: list) -> None:
    spec = ModelSpec("cp_resnet", arguments, shapes, plan=plan, classes=classes, task="synthetic:3")
    again = ModelSpec.from_json(json.loads(json.dumps(spec.to_json())))
    assert again == spec
    assert again.input_shapes == tuple(map(tuple, shapes))


def test_tuples_are_stored_as_lists_and_nothing_is_shared() -> None:
    arguments: dict[str, Any] = {"n_blocks": (2, 1, 1), "strides": {"b2": (2, 2)}}
    spec = ModelSpec("cp_mobile", arguments, ((1, 256, 64),))
    assert spec.arguments == {"n_blocks": [2, 1, 1], "strides": {"b2": [2, 2]}}
    arguments["strides"]["b2"] = None
    spec.to_json()["arguments"]["strides"]["b2"] = None
    assert spec.arguments["strides"]["b2"] == [2, 2]


def test_example_inputs() -> None:
    spec = ModelSpec("cp_resnet", {}, ((1, 256, 44), (3,)))
    first, second = spec.example_inputs(batch=5)
    assert first.shape == (5, 1, 256, 44)
    assert second.shape == (5, 3)
    assert first.dtype == torch.float32
    assert torch.equal(first, spec.example_inputs(batch=5)[0])
    assert not torch.equal(first, spec.example_inputs(batch=5, seed=1)[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"factory": "../../etc/passwd"}, "factory = '../../etc/passwd' must be a name of the zoo"),
        ({"factory": 3}, "factory = 3 must be"),
        ({"factory": "a:b:c"}, "factory = 'a:b:c' must be"),
        ({"input_shapes": []}, "input_shapes = .* must be a list of shapes"),
        ({"input_shapes": [[1, -2]]}, r"input_shapes\[0\] = .* positive sizes"),
        ({"input_shapes": [[1, True]]}, r"input_shapes\[0\] = "),
        ({"input_shapes": [[1.5]]}, r"input_shapes\[0\] = "),
        ({"input_shapes": [[10**6, 10**6]]}, r"input_shapes\[0\] = .* holds more than"),
        ({"input_shapes": [[1] * 7]}, "1 to 6 positive sizes"),
        ({"classes": "abc"}, "classes = 'abc' must be a list of names"),
        ({"classes": [1]}, "must be a list of names"),
        ({"arguments": [1]}, "arguments must be a mapping, not list"),
        ({"arguments": {"a": float("inf")}}, "arguments holds inf of type float"),
        ({"arguments": {"a": object}}, "arguments holds <class 'object'> of type type"),
        ({"plan": 3}, "plan must be a mapping, not int"),
        ({"notes": {1: 2}}, "notes has the key 1; keys must be text"),
        ({"task": 3}, "task = 3 must be text or null"),
    ],
)
def test_wrong_fields(change: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ModelSpec.from_json({"factory": "cp_resnet", "arguments": {}, "input_shapes": [[1, 2]], **change})


def test_all_errors_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        ModelSpec(3, None, ())  # type: ignore[arg-type]
    assert len(caught.value.errors) == 3


def test_bottomless_nesting() -> None:
    deep: Any = []
    for _ in range(100):
        deep = [deep]
    with pytest.raises(UsageError, match="arguments is nested deeper than 32 levels"):
        ModelSpec("cp_resnet", {"a": deep}, ((1,),))


def test_unknown_and_missing_keys() -> None:
    with pytest.raises(ConfigError) as caught:
        ModelSpec.from_json({"factory": "cp_resnet", "argumnts": {}})
    assert len(caught.value.errors) == 3
    with pytest.raises(UsageError, match="must be a JSON object, not list"):
        ModelSpec.from_json([])
