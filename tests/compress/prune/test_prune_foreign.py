"""Networks as people bring them: regions, heads of training, random layers, sizes written in, nested outputs."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree
from torch.utils.checkpoint import checkpoint

from edgepress.compress.prune.model import Pruned, prune_model
from edgepress.models.checkpoints.plan import apply_plan
from edgepress.models.cost.cost import cost_of
from edgepress.models.errors import UsageError

X = torch.randn(1, 3, 12, 12, generator=torch.Generator().manual_seed(0))
CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str]] = {}


class Net(nn.Module):
    """A forward and its parts."""

    def __init__(self, run: Callable[..., Any], **parts: Any):
        super().__init__()
        self.run = run
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *inputs: torch.Tensor) -> Any:
        return self.run(self, *inputs)


def case(name: str, shape: tuple[int, ...] = (3, 12, 12), kind: str = "modules") -> Any:
    def add(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        CASES[name] = (build, shape, kind)
        return build

    return add


def conv(inputs: int, outputs: int, kernel: int = 3) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)


class DropPath(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return x
        return x * x.new_empty((x.shape[0], *[1] * (x.ndim - 1))).bernoulli_(0.5).div_(0.5)


@case("stochastic depth beside a size written in", kind="graph")
def _() -> nn.Module:
    def run(s: Any, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(s.a(x))
        x = x + s.drop(s.b(x))
        return s.out(x.view(x.shape[0], 16, -1).mean(2))

    return Net(run, a=conv(3, 16), b=conv(16, 16), drop=DropPath(), out=nn.Linear(16, 4))


@case("attention with dropout", (3, 32), "graph")
def _() -> nn.Module:
    def run(s: Any, x: torch.Tensor) -> torch.Tensor:
        x = s.a(x).transpose(1, 2)
        return s.out((x + s.m(x, x, x, need_weights=False)[0]).mean(1))

    attention = nn.MultiheadAttention(16, 2, dropout=0.5, batch_first=True)
    return Net(run, a=nn.Conv1d(3, 16, 3, padding=1), m=attention, out=nn.Linear(16, 4))


@case("recurrent with dropout behind a size written in", (3, 24), "graph")
def _() -> nn.Module:
    def run(s: Any, x: torch.Tensor) -> torch.Tensor:
        return s.out(s.r(s.a(x).transpose(1, 2).reshape(x.shape[0], -1, 16))[0].mean(1))

    rnn = nn.GRU(16, 12, 2, batch_first=True, dropout=0.5, bidirectional=True)
    return Net(run, a=nn.Conv1d(3, 16, 3, padding=1), r=rnn, out=nn.Linear(24, 4))


@case("channels folded into the batch", kind="graph")
def _() -> nn.Module:
    def run(s: Any, x: torch.Tensor) -> torch.Tensor:
        x = s.a(x)
        n, c, h, w = x.shape
        x = F.avg_pool2d(x.reshape(n * c, 1, h, w), 2).reshape(n, c, h // 2, w // 2)
        return s.c(s.b(x).reshape(n, 12, h // 2, w // 2))

    return Net(run, a=conv(3, 16), b=conv(16, 12, 1), c=conv(12, 8, 1))


class Masked(nn.Module):
    """A constant made in the forward of a submodule."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, h, w, _ = x.shape
        mask = x.new_zeros((h, w))
        mask[: h // 2, :] = 3
        scale = torch.tensor([1.0, 2.0, 3.0])[:w].repeat(w // 3)
        return self.fc(x.view(n, h * w, 16).view(n, h, w, 16)) * (1 + mask[None, :, :, None]) * scale[:, None]


@case("constants of a submodule", kind="graph")
def _() -> nn.Module:
    def run(s: Any, x: torch.Tensor) -> torch.Tensor:
        return s.b(s.block(s.a(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2))

    return Net(run, a=conv(3, 16), block=Masked(), b=conv(16, 8, 1))


class Numbers(nn.Module):
    """Sizes that the forward reads from attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.head_dim, self.parts = 2, 8, (4, 12)
        self.a, self.b, self.out, self.drop = conv(3, 16), conv(16, 16), nn.Linear(16, 4), nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left, right = torch.split(torch.relu(self.a(x)), self.parts, 1)
        x = self.b(torch.cat([right, left], 1)).view(x.shape[0], self.heads, self.head_dim, -1)
        return self.out(self.drop(x.mean(3).reshape(x.shape[0], self.heads * self.head_dim)))


case("sizes in attributes")(Numbers)


@case("regions")
def _() -> nn.Module:
    def run(s: Any, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            x = torch.relu(s.a(x))
        with torch.enable_grad(), torch.autocast("cpu", torch.bfloat16):
            x = s.b(x)
        with torch.autocast(x.device.type, enabled=False):
            x = torch.relu(s.c(x.float()))
        return s.out(checkpoint(s.d, x, use_reentrant=False).mean((2, 3)))

    return Net(run, a=conv(3, 16), b=conv(16, 24), c=conv(24, 16), d=conv(16, 16), out=nn.Linear(16, 4))


class Head(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.conv, self.norm, self.drop = conv(channels, 8, 1), nn.BatchNorm2d(8), nn.Dropout(0.5)
        self.fc = nn.Linear(8 * 4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.conv(F.adaptive_avg_pool2d(x, 2))))
        return self.fc(self.drop(x.flatten(1)))


@case("heads that only training uses")
def _() -> nn.Module:
    def run(s: Any, x: torch.Tensor) -> Any:
        x = torch.relu(s.a(x))
        y = torch.cat([torch.relu(s.b(x)), torch.relu(s.c(x))], 1)
        out = s.out(y.mean((2, 3)))
        return {"out": out, "aux": (s.aux(x), s.aux2(y))} if s.training else {"out": out}

    return Net(run, a=conv(3, 16), b=conv(16, 16), c=conv(16, 8), aux=Head(16), aux2=Head(24), out=nn.Linear(24, 5))


@case("a head of training that couples two streams")
def _() -> nn.Module:
    def run(s: Any, x: torch.Tensor) -> Any:
        x, y = torch.relu(s.a(x)), torch.relu(s.b(x))
        out = s.out(torch.cat([x, y], 1).mean((2, 3)))
        return (out, s.aux((x + y).mean((2, 3)))) if s.training else out

    return Net(run, a=conv(3, 16), b=conv(3, 16), aux=nn.Linear(16, 5), out=nn.Linear(32, 5))


@case("windows of a map")
def _() -> nn.Module:
    def run(s: Any, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(s.a(x))
        n, c, h, w = x.shape
        y = F.unfold(x, 3, padding=1).view(n, c, 9, h, w).mean(2)
        z = F.fold(F.unfold(s.b(y), 2, stride=2), (h, w), 2, stride=2)
        return s.out(z.unfold(2, 4, 4).unfold(3, 4, 4).mean((2, 3, 4, 5)))

    return Net(run, a=conv(3, 16), b=conv(16, 16), out=nn.Linear(16, 4))


def half(model: nn.Module, *inputs: torch.Tensor) -> Pruned:
    return prune_model(model, inputs, macs="50%")


@case("channels assigned by a slice", kind="graph")
def _() -> nn.Module:
    def run(s: Any, x: torch.Tensor) -> torch.Tensor:
        return s.out(torch.slice_scatter(torch.relu(s.a(x)), s.b(x), 1, 4, 10).mean((2, 3)))

    return Net(run, a=conv(3, 16), b=conv(3, 6), out=nn.Linear(16, 4))


@pytest.mark.parametrize("name", CASES)
def test_it_is_halved_and_trains_as_before(name: str) -> None:
    torch.manual_seed(0)
    build, shape, kind = CASES[name]
    model, x = build(), torch.randn(1, *shape)
    pruned = half(model, x)
    assert pruned.proof.kind == kind
    assert pruned.proof.max_abs_diff <= 1e-4
    assert pruned.frozen == ()
    assert 0.4 * pruned.before.macs < pruned.after.macs <= 0.5 * pruned.before.macs
    anew, after = cost_of(pruned.model, x), pruned.after
    assert (anew.macs, anew.params, anew.weight_bytes) == (after.macs, after.params, after.weight_bytes)
    assert (anew.peak_activation_bytes, len(anew.layers)) == (after.peak_activation_bytes, len(after.layers))
    assert not pruned.before.uncounted or all("dropout" not in text for text in pruned.before.uncounted)

    batch = torch.randn(4, *shape)

    def noise(network: nn.Module) -> float:
        trial = copy.deepcopy(network).train()
        first, second = (pytree.tree_leaves(trial(batch))[-1] for _ in range(2))
        return float((first - second).detach().abs().max())

    dense, smaller = copy.deepcopy(model).train()(batch), copy.deepcopy(pruned.model).train()(batch)
    assert pytree.tree_structure(dense) == pytree.tree_structure(smaller)
    assert [value.shape for value in pytree.tree_leaves(dense)] == [v.shape for v in pytree.tree_leaves(smaller)]
    assert (noise(model) > 0) == (noise(pruned.model) > 0)
    sum(value.square().mean() for value in pytree.tree_leaves(pruned.model.train()(batch))).backward()
    trained = {name for name, parameter in pruned.model.named_parameters() if parameter.grad is not None}
    sum(value.square().mean() for value in pytree.tree_leaves(model.train()(batch))).backward()
    assert trained == {name for name, parameter in model.named_parameters() if parameter.grad is not None}

    again = apply_plan(build(), json.loads(json.dumps(pruned.plan)))
    again.load_state_dict(pruned.model.state_dict())
    with torch.no_grad():
        for left, right in zip(
            pytree.tree_leaves(again.eval()(batch)), pytree.tree_leaves(pruned.model.eval()(batch)), strict=True
        ):
            torch.testing.assert_close(left, right)


def test_products_inside_regions_are_counted() -> None:
    """24 x 16 x 9 products at 144 positions are in the bfloat16 region, 16 x 24 x 9 in the other."""
    build = CASES["regions"][0]
    macs = cost_of(build(), X, "core").macs
    assert macs == 144 * 9 * (3 * 16 + 16 * 24 + 24 * 16 + 16 * 16) + 16 * 4


def test_two_inputs_and_nested_outputs_by_name() -> None:
    class Fusion(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.z = conv(3, 32), conv(32, 32), nn.Linear(6, 32)
            self.out, self.side = nn.Linear(32, 4), nn.Linear(32, 3)

        def forward(self, *inputs: torch.Tensor) -> dict[str, Any]:
            image, scalars = inputs
            z = torch.sigmoid(self.z(scalars))
            x = torch.relu(self.b(torch.relu(self.a(image)))) * z[:, :, None, None]
            x = x.reshape(image.shape[0], 32, -1).mean(2)
            return {"out": self.out(x), "more": (self.side(z), None, {"size": image.shape[2]})}

    pruned = half(Fusion(), X, torch.randn(1, 6))
    assert pruned.proof.kind == "graph"
    found = pruned.model.eval()(torch.randn(3, 3, 12, 12), torch.randn(3, 6))
    assert found["out"].shape == (3, 4)
    assert found["more"][0].shape == (3, 3)
    assert found["more"][1:] == (None, {"size": 12})


def test_a_training_forward_that_cannot_be_traced_is_said() -> None:
    class Targets(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.norm, self.drop, self.out = conv(3, 32), nn.BatchNorm2d(32), nn.Dropout(0.5), nn.Linear(32, 4)

        def forward(self, x: torch.Tensor, targets: torch.Tensor | None = None) -> torch.Tensor:
            if self.training and targets is None:
                raise ValueError("targets are needed in training")
            return self.out(self.drop(self.norm(self.a(x))).reshape(x.shape[0], 32, -1).mean(2))

    pruned = half(Targets(), X)
    (note,) = (note for note in pruned.notes if "rebuilt" in note)
    assert "stochastic depth" in note
    assert "targets are needed" in note
    batch = torch.randn(4, 3, 12, 12)
    trial = pruned.model.train()
    assert not torch.equal(trial(batch), trial(batch))


def test_a_failing_trace_is_a_sentence() -> None:
    class Data(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if float(x.sum()) > 0 else -x

    with pytest.raises(UsageError, match="cannot trace Data"):
        half(Data(), X)


class Branches(nn.Module):
    """A RepVGG block: 3 x 3, 1 x 1 and identity, each normalised, merge into one convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.wide, self.narrow = conv(channels, channels), conv(channels, channels, 1)
        self.norms = nn.ModuleList([nn.BatchNorm2d(channels) for _ in range(3)])
        self.merged: nn.Conv2d | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.merged is not None:
            return torch.relu(self.merged(x))
        branches = (self.wide(x), self.narrow(x), x)
        return torch.relu(sum(norm(y) for norm, y in zip(self.norms, branches, strict=True)))

    def reparameterize(self) -> None:
        channels = self.wide.out_channels
        identity = torch.zeros(channels, channels, 3, 3)
        identity[torch.arange(channels), torch.arange(channels), 1, 1] = 1
        kernels = (self.wide.weight, F.pad(self.narrow.weight, [1, 1, 1, 1]), identity)
        biases = (self.wide.bias, self.narrow.bias, torch.zeros(channels))
        scales = [norm.weight / (norm.running_var + norm.eps).sqrt() for norm in self.norms]
        self.merged = conv(channels, channels)
        self.merged.weight.data = sum(k * s[:, None, None, None] for k, s in zip(kernels, scales, strict=True))
        self.merged.bias.data = sum(
            norm.bias + (bias - norm.running_mean) * scale
            for norm, bias, scale in zip(self.norms, biases, scales, strict=True)
        )
        del self.wide, self.narrow, self.norms


def test_parallel_branches_are_merged_first() -> None:
    def build() -> nn.Module:
        return nn.Sequential(conv(3, 16), Branches(16), Branches(16), nn.Conv2d(16, 4, 1))

    torch.manual_seed(0)
    model = build()
    model(torch.randn(8, 3, 12, 12))  # statistics that are not 0 and 1
    pruned = half(model, X)
    merged = 144 * ((27 + 1) * 16 + 2 * (144 + 1) * 16 + (16 + 1) * 4)
    assert pruned.before.macs == merged
    assert any("merged first" in note for note in pruned.notes)
    assert hasattr(model[1], "wide")  # the given one is untouched
    assert all(parameter.requires_grad for parameter in pruned.model.parameters())
    again = apply_plan(build(), json.loads(json.dumps(pruned.plan)))
    again.load_state_dict(pruned.model.state_dict())
    torch.testing.assert_close(again.eval()(X), pruned.model.eval()(X))


def test_branches_whose_merging_is_wrong_stay() -> None:
    class Wrong(Branches):
        def reparameterize(self) -> None:
            super().reparameterize()
            self.merged.bias.data += 1

    pruned = half(nn.Sequential(conv(3, 16), Wrong(16), nn.Conv2d(16, 4, 1)), X)
    assert any("changes outputs" in note for note in pruned.notes)
    assert hasattr(pruned.model[1], "wide")


def test_narrower_heads_keep_their_scores() -> None:
    """sqrt(4 / 8) on the rows of the queries alone, in the plan: fresh weights are treated alike."""

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.heads, self.width, self.qkv, self.out = 2, 8, nn.Linear(6, 48), nn.Linear(16, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            shape = (x.shape[0], x.shape[1], 3, self.heads, self.width)
            q, k, v = self.qkv(x).reshape(shape).permute(2, 0, 3, 1, 4).unbind(0)
            y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
            return self.out(y.reshape(x.shape[0], x.shape[1], self.heads * self.width))

    model, x = Attention(), torch.randn(1, 5, 6)
    pruned = prune_model(model, x, params="52%", projection="threshold", importance="l2")
    assert pruned.proof.kind == "modules"
    width = pruned.model.width
    assert width < 8
    entries = {entry["tensor"]: entry for entry in pruned.plan["factors"]}
    kept = pruned.plan["tensors"]["qkv.weight"]["0"]
    assert [kept[row] for row in entries["qkv.weight"]["rows"]] == [row for row in kept if row < 16]
    assert entries["qkv.bias"]["factor"] == pytest.approx((width / 8) ** 0.5)
    with torch.no_grad():
        torch.testing.assert_close(apply_plan(model, pruned.plan).eval()(x), pruned.model.eval()(x))


def test_weights_in_an_operator_that_cannot_be_counted_are_an_error() -> None:
    @torch.library.custom_op("edgepress_test::mix", mutates_args=())
    def mix(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return x @ weight

    @mix.register_fake
    def _(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return x.new_empty((*x.shape[:-1], weight.shape[1]))

    class Custom(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.weight, self.b = nn.Linear(6, 32), nn.Parameter(torch.randn(32, 32)), nn.Linear(32, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(torch.relu(self.a(x) + mix(self.a(x), self.weight)))

    model = nn.Sequential(Custom())
    with pytest.raises(UsageError, match=r"mix.* of module '0' holds 0.weight.*params or weight_bytes"):
        prune_model(model, torch.randn(1, 6), macs="50%")


def test_a_single_channel_left_is_said() -> None:
    model = nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 8), nn.ReLU(), conv(8, 4))
    with torch.no_grad():
        model[0].weight[1:] *= 1e-3
    notes = prune_model(model, X, macs="30%", projection="threshold", floor=0).notes
    assert any("one channel is left of 0" in note for note in notes)
