# SPDX-License-Identifier: Apache-2.0
"""Programs of torch.export decomposed where something changes: the same as torch's own, with less traced."""

import pytest
import torch
from torch import nn
from torch.export import ExportedProgram

from edgepress.compress.quantize.graph import decompose
from edgepress.compress.quantize.graph.decompose import decomposed, decomposing_in_place
from edgepress.compress.quantize.graph.trace import quiet

aten = torch.ops.aten
_TORCHS = ExportedProgram.run_decompositions


@pytest.fixture(autouse=True)
def _without_the_warnings_of_torch_about_itself():
    with quiet():
        yield


class Net(nn.Module):
    def __init__(self, forward, **parts):
        super().__init__()
        self.written = forward
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.written(self, x)


def conv(inputs=3, outputs=8):
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def residual(s, x):
    y = torch.relu_(s.norm(s.a(x)))
    z = s.b(y)
    z += y
    return s.out(torch.flatten(torch.nn.functional.adaptive_avg_pool2d(nn.functional.hardswish(z, inplace=True), 1), 1))


def view_then_in_place(s, x):
    y = s.a(x)
    seen = y.view(y.shape[0], -1)
    y.add_(1)
    return seen * 2 + y.flatten(1)


def whole_slice(s, x):
    y = torch.cat([s.a(x), s.a(x)], 1)[:, :]
    y += 1
    return s.b(y[:, :8])


def halves(s, x):
    y, z = s.a(x).chunk(2, 1)
    return torch.cat([torch.relu(y), z], 1)


def input_changed(s, x):
    x = x.relu_()
    return s.a(x)


NETWORKS = {
    "residual": lambda: Net(residual, a=conv(), norm=nn.BatchNorm2d(8), b=conv(8), out=nn.Linear(8, 4)),
    "whole_slice": lambda: Net(whole_slice, a=conv(), b=conv(8)),
    "halves": lambda: Net(halves, a=conv()),
    "view_then_in_place": lambda: Net(view_then_in_place, a=conv()),
}


def exported(name, **options):
    torch.manual_seed(0)
    network = NETWORKS[name]().eval()
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        return torch.export.export(network, (x,), **options), x, network(x)


def operators(program):
    return [str(node.target) for node in program.graph.nodes if node.op == "call_function"]


def values_of(program, x):
    with torch.no_grad():
        return program.module()(x.clone())


@pytest.mark.parametrize("name", list(NETWORKS))
@pytest.mark.parametrize("table", ["none", "core"])
def test_the_values_are_those_of_the_network_and_the_graph_that_of_torch(name, table):
    program, x, wanted = exported(name)
    chosen = {} if table == "none" else dict(torch.export.default_decompositions().materialize())
    made = decomposed(program, chosen)
    assert torch.allclose(values_of(made, x), wanted, atol=1e-5)
    assert not any(node.op == "call_function" and node.target in (aten.relu_.default,) for node in made.graph.nodes)
    if name != "whole_slice":  # torch writes a scatter over all of it, which is no more than the sum
        assert operators(made) == operators(_TORCHS(program, dict(chosen)))


def test_what_stays_is_not_traced_again(monkeypatch):
    program, _, _ = exported("residual")
    traced = []
    real = decompose._spliced

    def spy(graph, roots, inner, results, names):
        traced.extend(str(node.target) for node in results)
        return real(graph, roots, inner, results, names)

    monkeypatch.setattr(decompose, "_spliced", spy)
    before = operators(program)
    made = decomposed(program, {})
    assert "aten.conv2d.default" in before
    assert "aten.conv2d.default" not in traced
    assert traced == [t for t in before if "batch_norm" in t or "_." in t or "flatten" in t]
    assert operators(program) == before  # untouched
    assert "aten.add_.Tensor" not in operators(made)


def test_a_value_seen_from_elsewhere_is_left_to_torch(monkeypatch):
    asked = []
    monkeypatch.setattr(decompose, "_whole", lambda program, table: asked.append(table) or _TORCHS(program, table))
    program, x, wanted = exported("view_then_in_place")
    assert torch.allclose(values_of(decomposed(program, {}), x), wanted, atol=1e-6)
    assert len(asked) == 1
    decomposed(exported("residual")[0], {})
    assert len(asked) == 1


def test_an_input_that_is_changed_is_left_to_torch(monkeypatch):
    asked = []
    monkeypatch.setattr(decompose, "_whole", lambda program, table: asked.append(table) or _TORCHS(program, table))
    with torch.no_grad():
        program = torch.export.export(Net(input_changed, a=conv()).eval(), (torch.randn(2, 3, 8, 8),))
    decomposed(program, {})
    assert len(asked) == 1


def test_what_follows_another_layout_is_traced_again_with_its_own_axes():
    """A pass puts functions in and changes an axis: the forms that nodes had before mean nothing any more."""
    network = Net(lambda s, x: torch.relu(torch.cat([s.a(x), s.b(x)], 1)), a=conv(3, 8), b=conv(3, 8)).eval()
    x = torch.randn(1, 3, 8, 8)  # as many channels as rows and columns: the form alone tells nothing
    program = torch.export.export(network, (x,))
    convolution = aten.conv2d.default
    for node in program.graph.nodes:
        if node.target is convolution:
            node.target = lambda *args: convolution(*args).permute(0, 2, 3, 1)
            del node.meta["val"]
        elif node.target is aten.cat.default:
            node.args = (node.args[0], 3)
    made = decomposed(program, {})
    result = made.graph.output_node().args[0][0]
    assert tuple(result.meta["val"].shape) == (1, 8, 8, 16)
    assert operators(made).count("aten.permute.default") == 2


def test_kept_operators_stay_and_are_named_as_what_torch_writes():
    network = Net(lambda s, x: s.a(x).reshape(x.shape[0], -1), a=conv()).eval()
    program = torch.export.export(network, (torch.randn(2, 3, 8, 8),))
    assert "aten.view.default" in operators(decomposed(program, {}))
    made = decomposed(program, {}, {aten.reshape.default: "view"})
    kept = next(node for node in made.graph.nodes if node.target is aten.reshape.default)
    assert kept.name == "view"


def test_the_method_of_torch_is_back_afterwards():
    with decomposing_in_place():
        assert ExportedProgram.run_decompositions is not _TORCHS
    assert ExportedProgram.run_decompositions is _TORCHS

    def fails():
        with decomposing_in_place():
            raise ValueError("from inside")

    with pytest.raises(ValueError, match="from inside"):
        fails()
    assert ExportedProgram.run_decompositions is _TORCHS


def test_an_input_may_be_called_as_a_builtin_is(monkeypatch):
    monkeypatch.setattr(decompose, "_whole", lambda program, table: pytest.fail("left to torch"))
    network = nn.Sequential(conv(), nn.BatchNorm2d(8), nn.ReLU(inplace=True)).eval()
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        made = decomposed(torch.export.export(network, (x,)), {})
        assert torch.allclose(made.module()(x), network(x), atol=1e-5)
    assert "input" in [node.name for node in made.graph.nodes]


def test_sizes_at_run_time_are_read_from_the_input_not_from_values_inside():
    """A value inside would have one more reader, and a converter melts only what has one."""
    network = Net(lambda s, x: s.b(torch.relu(s.a(x)).flatten(2)).reshape(x.shape[0], -1), a=conv(), b=nn.Linear(64, 4))
    shapes = {"x": {0: torch.export.Dim.DYNAMIC}}
    program = torch.export.export(network.eval(), (torch.randn(2, 3, 8, 8),), dynamic_shapes=shapes)
    made = decomposed(program, {})
    read = [node.args[0] for node in made.graph.nodes if node.target is aten.sym_size.int]
    assert read
    assert {node.name for node in read} == {"x"}


def test_what_is_demanded_of_sizes_stays(monkeypatch):
    """torch.onnx lets a batch be of any size but 1: an assertion on it stands between operators."""
    demanded, real = [], decompose._decomposed

    def spy(program, *more):
        demanded.extend(node for node in program.graph.nodes if node.target is torch.sym_not)
        return real(program, *more)

    monkeypatch.setattr(decompose, "_whole", lambda program, table: pytest.fail("left to torch"))
    monkeypatch.setattr(decompose, "_decomposed", spy)

    def attention(s, x):
        rows = s.b(x).reshape(x.shape[0], 8, 4).permute(0, 2, 1)
        return s.a(rows, rows, rows, need_weights=False)[0]

    network = Net(attention, a=nn.MultiheadAttention(8, 2, batch_first=True), b=nn.Conv2d(3, 8, 4, 4)).eval()
    with decomposing_in_place(kept={aten.reshape.default: "view"}):
        batch = ({0: torch.export.Dim.DYNAMIC},)
        example = (torch.randn(2, 3, 8, 8),)
        assert torch.onnx.export(network, example, dynamo=True, dynamic_shapes=batch, verbose=False) is not None
    assert demanded


def test_operators_are_listed_again_where_one_was_registered():
    from torch.export import exported_program

    with decomposing_in_place():
        before = exported_program._collect_all_valid_cia_ops()
        assert aten.linear.default in before
        assert before == exported_program._collect_all_valid_cia_ops()
        with torch.library._scoped_library("edgepress_test", "FRAGMENT") as library:
            library.define("twice(Tensor x) -> Tensor")
            library.impl("twice", lambda x: x * 2, "CompositeImplicitAutograd")
            assert torch.ops.edgepress_test.twice.default in exported_program._collect_all_valid_cia_ops()
