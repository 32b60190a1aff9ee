# SPDX-License-Identifier: Apache-2.0
"""What people hand in as a network: out of its wrappers, or refused in a sentence that says what to give instead."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from edgepress.models.errors import UsageError

if TYPE_CHECKING:
    import torch
    from torch import nn

#: Modules that run another one: class -> the attribute that holds it.
_WRAPPERS = {"OptimizedModule": "_orig_mod", "DataParallel": "module", "DistributedDataParallel": "module"}
#: What the reason of a failed trace says -> what can be done about it.
_WAYS_OUT = (
    (
        r"data.?dependent|unbacked|_local_scalar_dense|Eq\(u\d|nonzero",
        "its forward decides by the values of its tensors (if, while, .item()): write torch.where or a mask, or leave "
        "that part to the program that runs the network",
    ),
    (
        r"should be the same|same dtype|expected scalar type|must have the same dtype|but found (Half|Float|Double)",
        "give example inputs in the type of its parameters{dtypes}, or model.float()",
    ),
    (
        r"channels|cannot be multiplied|[Ss]ize mismatch|must match|[Ee]xpected .* dimension|shape .* invalid|"
        r"broadcast|dimension",
        "look at the shapes of the example inputs: the network takes others",
    ),
    (r"not a known type|pytree", "let its forward return tensors, or tuples and dictionaries of them"),
    (r"positional argument|unexpected keyword|required argument", "give one tensor for each argument of its forward"),
)
_ANY = "write that part with operators of torch that torch.export knows"


def plain_network(model: Any) -> nn.Module:
    """The module that is traced, copied and pruned: inside of torch.compile and of the wrappers for several devices.

    Raises:
        UsageError: it is no nn.Module, or one that has lost its Python code or its float weights.
    """
    import torch
    from torch.nn.parameter import is_lazy

    while (attribute := _WRAPPERS.get(type(model).__name__)) is not None and isinstance(model, torch.nn.Module):
        model = getattr(model, attribute)
    if not isinstance(model, torch.nn.Module):
        raise UsageError(
            f"model = {_said(model)} is no network: it must be an nn.Module (with its weights in it: no state_dict, "
            "no function)"
        )
    if isinstance(model, (torch.jit.ScriptModule, torch.jit.ScriptFunction)):
        raise UsageError(
            f"{type(model).__name__} is a TorchScript, which cannot be traced again: give the nn.Module that it was "
            "made from, before torch.jit.script or torch.jit.trace"
        )
    for path, module in model.named_modules():
        where = f"module {path!r} ({type(module).__name__})" if path else f"{type(module).__name__}"
        own = [*module._parameters.items(), *module._buffers.items()]
        if any(is_lazy(value) for _, value in own):
            raise UsageError(f"{where} has no sizes yet: run the network once on an input before (model(x))")
        if re.match(r"torch\.ao\.nn\.(quantized|intrinsic\.quantized)|torch\.nn\.quantized", type(module).__module__):
            raise UsageError(f"{where} holds integers already: give the float network that it was made from")
        on_meta = [name for name, value in own if value is not None and value.is_meta]
        if on_meta:
            raise UsageError(
                f"{where} has no values for {on_meta[0]}: it is on the device meta; load its weights first"
            )
    return model


def refusal(model: nn.Module, inputs: Sequence[torch.Tensor], error: Exception) -> UsageError:
    """Why a network cannot be traced, in which module, and what can be done.

    Args:
        model: the network that was traced, or what `error`'s frames ran.
        inputs: that it was traced with.
        error: whatever torch.export raised.
    """
    reason = (str(error).strip().splitlines() or ["no reason given"])[0]
    types = sorted({str(value.dtype).removeprefix("torch.") for value in model.parameters()})
    way = next((way for pattern, way in _WAYS_OUT if re.search(pattern, str(error))), _ANY)
    path = _failing_module(model, error)
    return UsageError(
        f"torch.export cannot trace {type(model).__name__} with inputs {[tuple(value.shape) for value in inputs]}"
        + (f", in module {path!r}" if path else "")
        + f": {type(error).__name__}: {reason[:300]}; "
        + way.format(dtypes=f" ({', '.join(types)})" if types else "")
    )


def _failing_module(model: nn.Module, error: BaseException) -> str:
    """Path of the innermost module whose forward an error passed through."""
    paths = {id(module): path for path, module in model.named_modules()}
    found, frame = "", error.__traceback__
    while frame is not None:
        owner = frame.tb_frame.f_locals.get("self")
        if frame.tb_frame.f_code.co_name == "forward" and id(owner) in paths:
            found = paths[id(owner)]
        frame = frame.tb_next
    return found


def _said(value: Any) -> str:
    return f"{type(value).__name__}" if not callable(value) else getattr(value, "__name__", type(value).__name__)
