# SPDX-License-Identifier: Apache-2.0
"""Decompositions of a program of torch.export where something is to be decomposed, and nowhere else.

`ExportedProgram.run_decompositions` traces the whole network anew, three times over, to take a few operators apart;
converters call it several times in a row, and it is most of what they cost. Here the operators that it would change are
traced, once, and put in their places; all others are kept as they are. Where that could be seen in the result (values
changed in place that something else sees, too; subgraphs), the whole is left to torch.
"""

# torch.fx types what a node is called with as a union of all that could be: its members say nothing here.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false
from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten
_whole = ExportedProgram.run_decompositions
#: On numbers and tuples.
_BUILTINS = {value for name, value in vars(operator).items() if not name.startswith("_")}
#: On sizes that follow the batch, and what is demanded of them: nothing in it is computed.
_OF_SIZES = {value for name, value in vars(torch).items() if name.startswith("sym_")} | {aten._assert_scalar.default}
#: Written in terms of others by torch, and all the same never a view of what they read.
_FRESH = {aten.conv1d.default, aten.conv2d.default, aten.conv3d.default, aten.linear.default, aten.batch_norm.default}
_NOTHING: Mapping[Any, str] = {}
_OF = "decomposed_from"
#: State of torch's registry of operators -> the composite ones.
_LISTED: dict[Any, set[Any]] = {}


class _Whole(Exception):
    """Torch has to do it."""


@contextmanager
def decomposing_in_place(kept: Mapping[Any, str] = _NOTHING) -> Iterator[None]:
    """Let everything in here, converters above all, decompose programs by `decomposed`, with these `kept`.

    Not for several threads at once: torch has one method for all.
    """

    def run(self: ExportedProgram, decomp_table: Any = None, decompose_custom_triton_ops: bool = False) -> Any:
        return decomposed(self, decomp_table, kept)

    ExportedProgram.run_decompositions = run  # type: ignore[method-assign]
    try:
        with _listed_once():
            yield
    finally:
        ExportedProgram.run_decompositions = _whole  # type: ignore[method-assign]


@contextmanager
def _listed_once() -> Iterator[None]:
    """Let torch look for its composite operators once for each state of its registry, not for every table and program:
    it takes a sixth of a second each time.
    """
    from torch.export import decomp_utils, exported_program

    look = exported_program._collect_all_valid_cia_ops

    def operators() -> set[Any]:
        registered = torch._C._dispatch_get_registrations_for_dispatch_key("CompositeImplicitAutograd")
        state = (tuple(registered), tuple(torch.ops._dir))
        if state not in _LISTED:
            _LISTED.clear()
            _LISTED[state] = look()
        return set(_LISTED[state])

    for place in (decomp_utils, exported_program):
        place._collect_all_valid_cia_ops = operators
    try:
        yield
    finally:
        for place in (decomp_utils, exported_program):
            place._collect_all_valid_cia_ops = look


def decomposed(
    program: ExportedProgram, table: Mapping[Any, Callable[..., Any]] | None, kept: Mapping[Any, str] = _NOTHING
) -> ExportedProgram:
    """The same as `program.run_decompositions(table)`; `program` is untouched.

    Args:
        program: of torch.export.
        table: operator -> what it is written as; {} decomposes only what no program of inference may hold.
        kept: operators that the reader of the program knows, although torch would write them as others -> the name of
            what they are written as, which their results have all the same.
    """
    if table is not None:
        try:
            return _decomposed(program, dict(table), kept)
        except Exception:  # whatever torch's internals of another version do, or a decomposition refuses
            pass
    return _whole(program, None if table is None else dict(table))


def _decomposed(
    program: ExportedProgram, table: dict[Any, Callable[..., Any]], kept: Mapping[Any, str]
) -> ExportedProgram:
    from torch.export.exported_program import (
        _override_composite_implicit_decomp,
        _split_decomp_table_to_cia_and_python_decomp,
    )

    graph, signature = program.graph, program.graph_signature
    if signature.buffers_to_mutate or signature.user_inputs_to_mutate or signature.backward_signature is not None:
        raise _Whole
    wanted = set(table)
    with _listed_once():
        implicit, explicit = _split_decomp_table_to_cia_and_python_decomp(table)
    changed = {
        node: how
        for node in graph.nodes
        if node.target not in kept and (how := _instead(node, wanted, implicit)) is not None
    }
    roots = _roots(graph)
    traced, results = fx.Graph(), {}
    if changed:
        with _override_composite_implicit_decomp(implicit):
            traced, results = _traced(graph, changed, roots, explicit)
    return _program_of(program, _spliced(graph, roots, traced, results, kept))


def _instead(node: fx.Node, wanted: set[Any], implicit: Mapping[Any, Any]) -> Callable[..., Any] | None:
    """What to call in place of a node that has to change; None where it stays."""
    target: Any = node.target
    if node.op in ("placeholder", "output"):
        return None
    if node.op != "call_function" or isinstance(target, torch._ops.HigherOrderOperator):
        raise _Whole
    if target in _BUILTINS or target in _OF_SIZES:
        return None
    if not _is_operator(target):
        return target  # a function of Python, put there by a pass
    if target._schema.is_mutable:
        return _functional(target)
    composite = torch._C.DispatchKey.CompositeImplicitAutograd
    written_as_others = target.has_kernel_for_dispatch_key(composite) and target not in implicit
    return target if target in wanted or written_as_others or "val" not in node.meta else None


def _functional(target: Any) -> Any:
    """relu for relu_: the operator that gives what the other one puts into its first argument."""
    space, _, name = target._schema.name.partition("::")
    if not name.endswith("_") or [a.name for a in target._schema.arguments if a.is_write] != [
        target._schema.arguments[0].name
    ]:
        raise _Whole
    found = getattr(getattr(getattr(torch.ops, space), name[:-1]), target._overloadname)
    arguments = [[a.name for a in one._schema.arguments] for one in (target, found)]
    if found._schema.is_mutable or arguments[0] != arguments[1]:
        raise _Whole
    return found


def _roots(graph: fx.Graph) -> dict[fx.Node, fx.Node]:
    """Node that changes its argument in place, or gives it as it is -> the node which made that value.

    Raises:
        _Whole: what is changed is an input, or something else that lies in its memory is read afterwards.
    """
    order = {node: index for index, node in enumerate(graph.nodes)}
    roots: dict[fx.Node, fx.Node] = {}
    memory: dict[fx.Node, set[fx.Node]] = {}
    for node in graph.nodes:
        if node.op == "output" or (node.op == "call_function" and node.target in _BUILTINS - {operator.getitem}):
            continue
        memory[node] = shared = {node}
        if node.op == "placeholder" or _is_fresh(node.target):
            continue
        target: Any = node.target
        in_place = _is_operator(target) and target._schema.is_mutable
        root: Any = None
        if in_place or target is aten.alias.default:
            roots[node] = root = roots.get(node.args[0], node.args[0])
        if in_place:
            others = [one for one in memory[root] if roots.get(one, one) is not root]
            later = any(order[user] > order[node] for one in others for user in one.users)
            if later or any(one.op == "placeholder" for one in memory[root]):
                raise _Whole
        for source in (node.args[0],) if in_place else node.all_input_nodes:
            shared |= memory.get(source, set())
        memory.update(dict.fromkeys(shared, shared))
    return roots


def _is_fresh(target: Any) -> bool:
    """Whether the result of an operator has memory of its own."""
    if not _is_operator(target) or any(r.alias_info is not None for r in target._schema.returns):
        return False
    composite = torch._C.DispatchKey.CompositeImplicitAutograd
    return target in _FRESH or not target.has_kernel_for_dispatch_key(composite)


def _traced(
    graph: fx.Graph, changed: Mapping[fx.Node, Any], roots: Mapping[fx.Node, fx.Node], table: Mapping[Any, Any]
) -> tuple[fx.Graph, dict[fx.Node, Any]]:
    """What changes, and what reads a value of another shape or layout for it, in one graph.

    Returns:
        The graph, each node of it with that which it came from in its metadata, its placeholders with that which they
        stand for; node of `graph` -> its result as nodes of it.
    """
    from torch._dispatch.python import enable_python_dispatcher
    from torch._guards import detect_fake_mode
    from torch.fx import traceback
    from torch.fx.experimental.proxy_tensor import get_proxy_mode, make_fx

    known = [node for node in graph.nodes if isinstance(node.meta.get("val"), (torch.Tensor, torch.SymInt))]
    values = [node.meta["val"] for node in known]
    mode = detect_fake_mode(values)
    if mode is None:
        raise _Whole
    done: list[fx.Node] = []

    def run(*given: Any) -> list[Any]:
        value_of = dict(zip(known, given, strict=True))
        other: set[fx.Node] = set()
        # Whoever changed a layout may have changed the axes of what comes after it, and left its old forms there.
        after: set[fx.Node] = set()
        results = []
        proxies: Any = get_proxy_mode()
        nodes = proxies.tracer.graph.nodes
        for node in graph.nodes:
            read = [roots.get(source, source) for source in node.all_input_nodes]
            behind = not after.isdisjoint(read)
            if behind:
                after.add(node)
            if node.op != "call_function" or not (
                node in changed or not other.isdisjoint(read) or (behind and _has_numbers(node))
            ):
                continue
            args, kwargs = fx.map_arg((node.args, node.kwargs), lambda source: value_of[roots.get(source, source)])
            last = next(reversed(nodes), None)
            with traceback.set_current_meta(node):
                made = changed.get(node, node.target)(*args, **kwargs)
            for inside in reversed(nodes):
                if inside is last:
                    break
                inside.meta[_OF] = node
            done.append(node)
            results.append(made)
            value_of[roots.get(node, node)] = made
            if not _same(node.meta.get("val"), made):
                other.add(roots.get(node, node))
                after.add(roots.get(node, node))
        return results

    with mode, torch.no_grad(), enable_python_dispatcher(), traceback.preserve_node_meta():
        made = make_fx(run, decomposition_table=table)(*values).graph
    for placeholder, source in zip((n for n in made.nodes if n.op == "placeholder"), known, strict=True):
        placeholder.meta[_OF] = source
    return made, dict(zip(done, made.output_node().args[0], strict=True))


def _is_operator(target: Any) -> bool:
    return isinstance(target, torch._ops.OpOverload)


def _has_numbers(node: fx.Node) -> bool:
    """Whether something else than tensors is among the arguments, an axis say."""
    return any(isinstance(value, (int, float)) for value in tree_leaves((node.args, node.kwargs)))


def _same(before: Any, after: Any) -> bool:
    """Whether two values have the same form; sizes are compared as they are written, which decides nothing of them."""
    if isinstance(before, torch.Tensor) and isinstance(after, torch.Tensor):
        forms = [(str(tuple(x.shape)), str(tuple(x.stride())), x.dtype) for x in (before, after)]
        return forms[0] == forms[1]
    if isinstance(before, (tuple, list)) and isinstance(after, (tuple, list)) and len(before) == len(after):
        return all(_same(a, b) for a, b in zip(before, after, strict=True))
    return before is None if after is None else str(before) == str(after)


def _spliced(
    graph: fx.Graph,
    roots: Mapping[fx.Node, fx.Node],
    traced: fx.Graph,
    results: Mapping[fx.Node, Any],
    names: Mapping[Any, str],
) -> fx.Graph:
    """A copy of a graph with what was traced in its place."""
    pieces: dict[fx.Node, list[fx.Node]] = {}
    inner = _roots(traced)
    for node in traced.nodes:
        if node.op == "get_attr" or (node in inner and inner[node].meta[_OF] is not node.meta[_OF]):
            raise _Whole
        if node.op == "call_function":
            pieces.setdefault(node.meta[_OF], []).append(node)
    new = fx.Graph()
    value_of: dict[fx.Node, Any] = {}
    inside: dict[fx.Node, Any] = {}
    sizes: dict[tuple[fx.Node, int], fx.Node] = {}

    def known(node: fx.Node) -> Any:
        return value_of[roots.get(node, node)]

    def within(node: fx.Node) -> Any:
        return known(node.meta[_OF]) if node.op == "placeholder" else inside[inner.get(node, node)]

    for node in graph.nodes:
        if node not in results:
            value_of[roots.get(node, node)] = _kept(new, node, known, names)
            continue
        for piece in pieces.get(node, []):
            size = _size_of_input(graph, piece)
            if size is not None:  # not of a value inside, which would have one more reader
                if size not in sizes:
                    sizes[size] = new.call_function(aten.sym_size.int, (value_of[size[0]], size[1]))
                    sizes[size].meta = {key: value for key, value in piece.meta.items() if key != _OF}
                inside[piece] = sizes[size]
                continue
            made = inside[inner.get(piece, piece)] = _copied(new, piece, within, names)
            del made.meta[_OF]
        value_of[roots.get(node, node)] = fx.map_arg(results[node], within)
    new.eliminate_dead_code()
    new.lint()
    return new


def _size_of_input(graph: fx.Graph, node: fx.Node) -> tuple[fx.Node, int] | None:
    """The input and the axis whose size at run time a node gives; None for another number."""
    value = node.meta.get("val")
    if node.target is not aten.sym_size.int or not isinstance(value, torch.SymInt):
        return None
    for source in graph.nodes:
        given = source.meta.get("val") if source.op == "placeholder" else None
        for axis, size in enumerate(given.shape if isinstance(given, torch.Tensor) else ()):
            if str(size) == str(value):
                return source, axis
    return None


def _kept(graph: fx.Graph, node: fx.Node, known: Callable[[fx.Node], Any], names: Mapping[Any, str]) -> Any:
    """A copy of a node that stays; of one result of several, those may be values by themselves now."""
    if node.target is operator.getitem:
        read: Any = fx.map_arg(node.args, known)
        several, index = read
        if isinstance(several, (tuple, list)):
            return several[index]
    return _copied(graph, node, known, names)


def _copied(graph: fx.Graph, node: fx.Node, known: Callable[[fx.Node], Any], names: Mapping[Any, str]) -> fx.Node:
    """A copy of a node, with the name that a new trace would give it."""
    args, kwargs = fx.map_arg((node.args, node.kwargs), known)
    if node.op == "placeholder":
        made = graph.create_node("placeholder", node.target, args, kwargs, type_expr=node.type)
        made.name = node.name  # a graph would not call it "input", as a program does
    elif node.op == "output":
        made = graph.output(args[0])
    else:
        target: Any = node.target
        name = None
        if _is_operator(target):
            target = _functional(target) if target._schema.is_mutable else target
            name = names.get(target) or target.overloadpacket.__name__
        made = graph.create_node(node.op, target, args, kwargs, name=name)
    made.meta = copy.copy(node.meta)
    return made


def _program_of(program: ExportedProgram, graph: fx.Graph) -> ExportedProgram:
    """A program with another graph of the same inputs and outputs."""
    before, after = program.graph.output_node().args[0], graph.output_node().args[0]
    names = {old.name: new.name for old, new in zip(before, after, strict=True) if isinstance(old, fx.Node)}

    def renamed(argument: Any) -> Any:
        name = getattr(argument, "name", None)
        return replace(argument, name=names[name]) if name in names else argument

    calls = []
    for entry in program.module_call_graph:
        called = entry.signature
        if called is not None:
            called = replace(called, outputs=[renamed(argument) for argument in called.outputs])
        calls.append(replace(entry, signature=called))
    outputs = [replace(spec, arg=renamed(spec.arg)) for spec in program.graph_signature.output_specs]
    module = fx.GraphModule(program.graph_module, graph)
    module.meta.update(program.graph_module.meta)
    return ExportedProgram(
        root=module,
        graph=graph,
        graph_signature=replace(program.graph_signature, output_specs=outputs),
        state_dict=program.state_dict,
        range_constraints=program.range_constraints,
        module_call_graph=calls,
        example_inputs=program.example_inputs,
        constants=program.constants,
    )
