# SPDX-License-Identifier: Apache-2.0
"""FastNAS of NVIDIA's Model-Optimizer (`modelopt.torch.prune`, mode "fastnas"), driven to shares of its own count.

It measures how far a score falls with every width of every layer, then searches one threshold of that fall, for all
layers, by bisection: https://nvidia.github.io/Model-Optimizer/guides/3_pruning.html. It counts with torchprofile,
without batch normalisation, and calls twice the MACs "flops".
"""

from __future__ import annotations

import contextlib
import copy
import io
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgepress.models.errors import RuntimeFailure

if TYPE_CHECKING:
    import torch
    from torch import nn

#: torchprofile is what it counts with; newer ones lack the table of operators that it changes.
INSTALL = "pip install nvidia-modelopt==0.47.0 torchprofile==0.0.4"
#: Widths are multiples of it: the first with which it works. It cannot cut a depthwise layer to one channel.
DIVISORS = (1, 2, 4, 8)
BATCHES, BATCH_SIZE = 2, 4


def macs_over_target(
    model: nn.Module, example_inputs: torch.Tensor, shares: Sequence[float], *, seed: int = 0
) -> tuple[float | None, int, list[float | str]]:
    """MACs over target at every share, of the networks that FastNAS returns.

    Widths may be any of its twenty ratios (its own choice), to single channels or the next of `DIVISORS` where these
    fail (its default of 32 leaves small networks nothing to choose). The score is cheap and finer than an accuracy:
    minus the relative squared error of the outputs on one random batch. Its fall is measured once, for all shares.

    Args:
        model: the dense network; left untouched.
        example_inputs: one input with batch 1.
        shares: targets as shares of the dense network's MACs.
        seed: of the random batches.

    Returns:
        (MACs of the dense network, the divisor, MACs / target by share), all by its own count; text for what failed.

    Raises:
        RuntimeFailure: the package, its counter or something that it imports is missing.
    """
    import torch

    try:
        import modelopt.torch.prune  # noqa: F401  (before its failures are taken for results)
        import torchprofile  # noqa: F401
    except ImportError as error:
        raise RuntimeFailure(f"FastNAS cannot be imported ({error}): {INSTALL}") from error

    generator = torch.Generator().manual_seed(seed)
    batches = [torch.randn(BATCH_SIZE, *example_inputs.shape[1:], generator=generator) for _ in range(BATCHES)]
    result = None
    for divisor in DIVISORS:
        dense, found = _with_divisor(model, example_inputs, shares, batches, divisor, seed)
        result = dense, divisor, found
        if not isinstance(found[0], str):
            break
    assert result is not None
    return result


def _with_divisor(
    model: nn.Module,
    example_inputs: torch.Tensor,
    shares: Sequence[float],
    batches: Sequence[torch.Tensor],
    divisor: int,
    seed: int,
) -> tuple[float | None, list[float | str]]:
    """MACs of the dense network and MACs / target; nothing more is tried once the first share fails."""
    import torch

    found: list[float | str] = []
    dense: float | None = None
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        for share in shares:
            torch.manual_seed(seed)
            try:
                # Its progress goes to both streams.
                with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                    dense = dense or _macs(copy.deepcopy(model), example_inputs)
                    pruned = _prune(
                        copy.deepcopy(model), example_inputs, share, batches, divisor, Path(folder) / "fall.pth"
                    )
                    found.append(_macs(pruned, example_inputs) / (share * dense))
            except Exception as error:  # a peer may fail in any way; that is a result, too
                found.append(f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[-1]}")
                if len(found) == 1:
                    return dense, found * len(shares)
    return dense, found


def _prune(
    model: nn.Module,
    example_inputs: torch.Tensor,
    share: float,
    batches: Sequence[torch.Tensor],
    divisor: int,
    checkpoint: Path,
) -> nn.Module:
    """The model, changed in place, at the share of its "flops"; the checkpoint keeps the fall of the score."""
    import modelopt.torch.prune as mtp
    import torch

    rules = mtp.fastnas.FastNASConfig().model_dump()
    for layer in rules.values():
        for rule in filter(None, layer.values()):
            rule.update({key: divisor for key in ("channel_divisor", "feature_divisor") if key in rule})
    reference: list[torch.Tensor] = []

    @torch.no_grad()
    def score(network: Any) -> float:
        output = network(batches[0])
        if not reference:  # it asks for the dense network first, after its calibration of batch normalisation
            reference.append(output)
        return -float((output - reference[0]).square().sum() / reference[0].square().sum())

    pruned, _ = mtp.prune(
        model.eval(),
        mode=[("fastnas", rules)],
        constraints={"flops": f"{100 * share:g}%"},
        dummy_input=example_inputs,
        config={
            "data_loader": [(batch,) for batch in batches],
            "score_func": score,
            "checkpoint": str(checkpoint),
            "verbose": False,
        },
    )
    return pruned


def _macs(model: nn.Module, example_inputs: torch.Tensor) -> float:
    """MACs by its own count, of which it gives the double."""
    from modelopt.torch.nas.utils import inference_flops

    return float(inference_flops(model.eval(), dummy_input=example_inputs, unit=1.0)) / 2
