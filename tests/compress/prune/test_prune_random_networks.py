"""Random small networks: whatever the wiring, removal equals the reference and the cost is exact."""

from __future__ import annotations

import json

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from edgepress.compress.prune.coupling.channels import find_groups
from edgepress.compress.prune.removal.proof import remove_with_proof
from edgepress.models.checkpoints.plan import apply_plan
from edgepress.models.cost.cost import cost_of

OPERATIONS = (
    "conv",
    "norm",
    "depthwise",
    "grouped",
    "add",
    "concat",
    "gate",
    "chunk",
    "shuffle",
    "layer_norm",
    "slice",
)


class RandomNetwork(nn.Module):
    """Operators drawn one after another, each on values that exist already; all values have 6x6 pixels."""

    def __init__(self, program: tuple[tuple[str, int, int], ...]):
        super().__init__()
        self.program, self.layers = program, nn.ModuleDict()
        widths = [8]
        self.layers["stem"] = nn.Conv2d(3, 8, 3, padding=1)
        for number, (operation, a, b) in enumerate(program):
            left, right = a % len(widths), b % len(widths)
            name, width = f"n{number}", widths[left]
            if operation == "conv":
                out = (4, 6, 8, 12)[b % 4]
                self.layers[name] = nn.Conv2d(width, out, (1, 3)[b % 2], padding=(0, 1)[b % 2])
                width = out
            elif operation == "norm":
                self.layers[name] = nn.BatchNorm2d(width)
            elif operation == "depthwise":
                times = 1 + b % 2
                self.layers[name] = nn.Conv2d(width, width * times, 3, padding=1, groups=width)
                width *= times
            elif operation == "grouped" and width % 2 == 0:
                self.layers[name] = nn.Conv2d(width, 8, 1, groups=2)
                width = 8
            elif operation == "add":
                self.layers[name] = nn.Conv2d(widths[right], width, 1)
            elif operation == "concat":
                width += widths[right]
            elif operation == "gate":
                self.layers[name] = nn.Linear(width, width)
            elif operation == "chunk" and width % 2 == 0:
                width //= 2
            elif operation == "layer_norm":
                self.layers[name] = nn.GroupNorm(1, width)
            elif operation == "slice":
                width = max(width // 2, 1)
            widths.append(width)
        self.widths = widths
        self.head = nn.Linear(sum(widths), 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values = [torch.relu(self.layers["stem"](x))]
        for number, (operation, a, b) in enumerate(self.program):
            left, right = values[a % len(values)], values[b % len(values)]
            layer = dict(self.layers.items()).get(f"n{number}")
            even = self.widths[a % len(values)] % 2 == 0
            if operation in ("conv", "norm", "depthwise", "grouped", "layer_norm") and layer is not None:
                left = F.silu(layer(left))
            elif operation == "add":
                left = left + layer(right)
            elif operation == "concat":
                left = torch.cat([left, right], 1)
            elif operation == "gate":
                left = left * torch.sigmoid(layer(left.mean((2, 3))))[:, :, None, None]
            elif operation == "chunk" and even:
                p, q = left.chunk(2, 1)
                left = p * q if b % 2 else torch.maximum(p, q)
            elif operation == "shuffle" and even:
                n, c, h, w = left.shape
                left = left.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
            elif operation == "slice":
                left = left[:, : max(self.widths[a % len(values)] // 2, 1)]
            values.append(left)
        return self.head(torch.cat([value.mean((2, 3)) for value in values], 1))


programs = st.lists(
    st.tuples(st.sampled_from(OPERATIONS), st.integers(0, 20), st.integers(0, 20)), min_size=1, max_size=7
).map(tuple)


@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(programs, st.integers(0, 2**16), st.floats(0.1, 0.9))
def test_removal_is_proven_and_counted(program, seed: int, share: float) -> None:
    torch.manual_seed(seed)
    model, x = RandomNetwork(program), torch.randn(2, 3, 6, 6)
    graph = find_groups(model, x)
    generator = np.random.default_rng(seed)
    selection = []
    for group in graph.groups:
        kept = generator.random(group.size) < share
        kept[generator.integers(group.size)] = True
        selection.append(kept)
    smaller, plan, proof = remove_with_proof(model, graph, tuple(selection), x)
    assert proof.max_abs_diff <= 1e-4
    predicted, counted = graph.cost(tuple(selection)), cost_of(smaller, x)
    assert predicted.macs == counted.macs
    assert predicted.params == counted.params
    assert predicted.weight_bytes == counted.weight_bytes
    assert predicted.peak_activation_bytes == counted.peak_activation_bytes
    again = apply_plan(RandomNetwork(program), json.loads(json.dumps(plan)))
    again.load_state_dict(smaller.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(x), smaller.eval()(x))
