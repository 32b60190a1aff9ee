# SPDX-License-Identifier: Apache-2.0
"""Ensembles of teachers by a generalized mean of their likelihoods, equation 3 of the report.

With l_ij = log q_i(j | x), the log-probability that model i gives to class j of one clip,

    L_j = (1 / p_j) [ logsumexp_i (p_j l_ij + log w_i) - log N ],

the weighted power mean of the likelihoods with an exponent per class: p = 1 is the mean of probabilities, p -> 0 the
geometric mean (the mean of logits), p -> infinity the largest, p -> -infinity the smallest. L is no distribution unless
p = 1 and the weights sum to N, so it is always normalized over the classes afterwards.

Two parametrizations. `stable` (default): w = N softmax(a), exponents of either sign (a series near 0), a bias per class
and a temperature. `paper`: w and p > 0, no bias; then (log sum w - log N) / p_j is a bias in disguise, which
diverges as p_j -> 0. The weights printed in the report sum to 0.6903, so they were free; that way alone, a fit on few
clips runs to p = 0.001 and weights of 1e9, so that both modes keep near their start by a ridge (log w = 0, p = 1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from edgepress.models.errors import RuntimeFailure, UsageError

SCHEMA = 1
Mode = Literal["stable", "paper"]
MODES: tuple[Mode, ...] = get_args(Mode)
#: Below this |p|, in float64, the series in p is more exact than the quotient.
_SMALL_EXPONENT = 1e-4
#: Smallest exponent of the paper's mode, whose bias term grows as 1 / p.
_PAPER_FLOOR = 1e-3


@dataclass(frozen=True)
class GeneralizedMean:
    """A fitted ensemble of N models over K classes; call it with logits.

    Attributes:
        weights: w_i > 0, one per model; they sum to N in the stable mode.
        exponents: p_j, one per class.
        biases: added to L_j, one per class; all 0 in the paper's mode.
        temperature: L is divided by it before it is normalized; 1 in the paper's mode.
        mode: "stable" or "paper".

    Raises:
        UsageError: lengths that differ, numbers that are not finite, weights or a temperature of 0 or less.
    """

    weights: tuple[float, ...]
    exponents: tuple[float, ...]
    biases: tuple[float, ...]
    temperature: float = 1.0
    mode: Mode = "stable"

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise UsageError(f"mode = {self.mode!r} is unknown: allowed are {', '.join(MODES)}")
        for name in ("weights", "exponents", "biases"):
            values = getattr(self, name)
            if not isinstance(values, (list, tuple)) or not values or not all(map(_is_number, values)):
                raise UsageError(f"{name} = {values!r:.200} must be a list of finite numbers")
            object.__setattr__(self, name, tuple(map(float, values)))
        if len(self.exponents) != len(self.biases):
            raise UsageError(
                f"{len(self.exponents)} exponents and {len(self.biases)} biases: there must be one of each per class"
            )
        if min(self.weights) <= 0:
            raise UsageError(f"weights = {self.weights!r:.200} must be positive")
        if not _is_number(self.temperature) or self.temperature <= 0:
            raise UsageError(f"temperature = {self.temperature!r} must be a positive number")

    @classmethod
    def of_equals(cls, models: int, classes: int, exponent: float = 1.0) -> GeneralizedMean:
        """Equal weights and one exponent: 1 is the mean of probabilities, 0 the mean of logits."""
        return cls((1.0,) * models, (exponent,) * classes, (0.0,) * classes)

    @property
    def shares(self) -> tuple[float, ...]:
        """Weights that sum to 1, as the report's Figure 3 could have had them."""
        return tuple(weight / math.fsum(self.weights) for weight in self.weights)

    @property
    def effective_models(self) -> float:
        """1 / sum of squared shares: how many equally weighted models would spread the weight as much."""
        return 1 / math.fsum(share * share for share in self.shares)

    def __call__(self, logits: Tensor) -> Tensor:
        """Log-probabilities [B, K] of the ensemble, in the precision of `logits` [N, B, K].

        Raises:
            UsageError: another number of models or classes.
        """
        _check_logits(logits, len(self.weights), len(self.exponents))
        double = {"dtype": torch.float64, "device": logits.device}
        mean = generalized_mean(
            functional.log_softmax(logits.double(), 2),
            torch.tensor(self.weights, **double).log(),
            torch.tensor(self.exponents, **double),
        )
        biased = mean + torch.tensor(self.biases, **double)
        return functional.log_softmax(biased / self.temperature, 1).to(logits.dtype)

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dict; `from_json` turns it back."""
        return {
            "schema": SCHEMA,
            "kind": "generalized mean",
            "mode": self.mode,
            "weights": list(self.weights),
            "exponents": list(self.exponents),
            "biases": list(self.biases),
            "temperature": self.temperature,
        }

    @classmethod
    def from_json(cls, value: Any) -> GeneralizedMean:
        """The ensemble in a JSON object.

        Raises:
            UsageError: no such object, another schema, or values that make no ensemble.
        """
        if not isinstance(value, Mapping) or value.get("kind") != "generalized mean":
            raise UsageError("the ensemble must be a JSON object of kind 'generalized mean'")
        if value.get("schema") != SCHEMA:
            raise UsageError(f"the ensemble has schema {value.get('schema')!r:.40}; this edgepress reads {SCHEMA}")
        wanted = {"schema", "kind", "mode", "weights", "exponents", "biases", "temperature"}
        if set(value) != wanted:
            raise UsageError(f"the ensemble must have exactly the keys {', '.join(sorted(wanted))}")
        return cls(value["weights"], value["exponents"], value["biases"], value["temperature"], value["mode"])


@dataclass(frozen=True)
class Fit:
    """A fitted ensemble and what fitting gained on the same clips.

    Attributes:
        ensemble: the parameters.
        log_loss_before: mean cross-entropy of the start, in nats.
        log_loss_after: that of the fit; never above the start's.
    """

    ensemble: GeneralizedMean
    log_loss_before: float
    log_loss_after: float


def generalized_mean(log_probs: Tensor, log_weights: Tensor, exponents: Tensor) -> Tensor:
    """Equation 3: log-likelihoods [B, K], not normalized.

    Near p = 0 the quotient is replaced by its series, mean + p / 2 * variance under the weights w / N; that needs
    weights of sum N, where the value at 0 exists.

    Args:
        log_probs: [N, B, K] log q_i(j | x).
        log_weights: [N] log w_i.
        exponents: [K] p_j.
    """
    log_weights = (log_weights - math.log(len(log_weights)))[:, None, None]
    small = exponents.abs() < _SMALL_EXPONENT
    # Both branches of `where` are differentiated: the one that is not taken must be finite as well.
    safe = torch.where(small, torch.ones_like(exponents), exponents)
    quotient = torch.logsumexp(safe * log_probs + log_weights, 0) / safe
    weights = log_weights.exp()
    mean = (weights * log_probs).sum(0)
    variance = (weights * (log_probs - mean).square()).sum(0)
    return torch.where(small, mean + exponents / 2 * variance, quotient)


def logit_mean(logits: Tensor) -> Tensor:
    """The control: log-probabilities [B, K] of the plain mean of logits [N, B, K]."""
    return functional.log_softmax(logits.mean(0), 1)


def probability_mean(logits: Tensor) -> Tensor:
    """The control: log-probabilities [B, K] of the plain mean of probabilities, from logits [N, B, K]."""
    return torch.logsumexp(functional.log_softmax(logits, 2), 0) - math.log(len(logits))


def fit_ensemble(
    logits: Tensor,
    labels: Tensor,
    mode: Mode = "stable",
    *,
    shared_exponent: bool = False,
    ridge: float = 1e-3,
    max_steps: int = 200,
) -> Fit:
    """Learn weights and exponents on held-out clips, the models fixed, by LBFGS on the cross-entropy.

    The clips must be ones that no model was trained on, and not the test's.

    Args:
        logits: [N, B, K] of N models.
        labels: [B] class indices.
        mode: "stable" or "paper".
        shared_exponent: one exponent for all classes.
        ridge: penalty on the squares of everything learnt, exponents counted from 1: a few hundred clips do not
            determine thirty numbers. Of the paper's mode: log w and the logarithm-like score of p.
        max_steps: LBFGS iterations.

    Raises:
        UsageError: shapes or labels that do not belong together, logits that are not finite, or an unknown mode.
        RuntimeFailure: the optimization diverged from the start.
    """
    if mode not in MODES:
        raise UsageError(f"mode = {mode!r} is unknown: allowed are {', '.join(MODES)}")
    if not _is_number(ridge) or ridge < 0:
        raise UsageError(f"ridge = {ridge!r} must be a number of 0 or more")
    _check_logits(logits)
    models, _, classes = logits.shape
    whole = labels.shape == logits.shape[1:2] and not labels.is_floating_point()
    if not whole or not 0 <= labels.min() <= labels.max() < classes:
        raise UsageError(f"labels must be {logits.shape[1]} whole numbers from 0 to {classes - 1}")
    log_probs = functional.log_softmax(logits.detach().double(), 2)
    labels = labels.to(log_probs.device).long()
    start = _start(mode, models, 1 if shared_exponent else classes, classes, log_probs.device)
    unpack = _unpack_stable if mode == "stable" else _unpack_paper

    def log_loss(parameters: Sequence[Tensor]) -> Tensor:
        log_weights, exponents, biases, temperature = unpack(parameters, classes)
        mean = generalized_mean(log_probs, log_weights, exponents)
        return functional.cross_entropy((mean + biases) / temperature, labels)

    def objective(parameters: Sequence[Tensor]) -> Tensor:
        # Every parameter is kept so that 0 is its start.
        return log_loss(parameters) + ridge * sum((p.square().sum() for p in parameters), log_probs.new_zeros(()))

    best = _minimise(objective, start, max_steps)
    with torch.no_grad():
        before, after = float(log_loss(start)), float(log_loss(best))
        if not math.isfinite(before):
            raise RuntimeFailure(
                "the ensemble's log loss is not finite at its start: a model gives a true class a probability of zero"
            )
        if not after <= before:
            best, after = start, before
        log_weights, exponents, biases, temperature = unpack(best, classes)
    ensemble = GeneralizedMean(
        tuple(log_weights.exp().tolist()), tuple(exponents.tolist()), tuple(biases.tolist()), float(temperature), mode
    )
    return Fit(ensemble, before, after)


def _start(mode: str, models: int, exponents: int, classes: int, device: torch.device) -> list[Tensor]:
    sizes = (models, exponents, classes, 1) if mode == "stable" else (models, exponents)
    return [torch.zeros(size, dtype=torch.float64, device=device) for size in sizes]


def _unpack_stable(parameters: Sequence[Tensor], classes: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    scores, shifts, biases, log_temperature = parameters
    log_weights = functional.log_softmax(scores, 0) + math.log(len(scores))
    return log_weights, (1 + shifts).expand(classes), biases, log_temperature.exp().squeeze()


def _unpack_paper(parameters: Sequence[Tensor], classes: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    log_weights, scores = parameters
    # softplus, shifted so that a score of 0 gives p = 1.
    exponents = functional.softplus(scores + math.log(math.e - 1)) * (1 - _PAPER_FLOOR) + _PAPER_FLOOR
    zeros = torch.zeros_like(exponents)
    return log_weights, exponents.expand(classes), zeros.expand(classes), torch.ones_like(scores[0])


def _minimise(objective: Callable[[Sequence[Tensor]], Tensor], start: Sequence[Tensor], max_steps: int) -> list[Tensor]:
    parameters = [p.clone().requires_grad_() for p in start]
    optimizer = torch.optim.LBFGS(
        parameters, max_iter=max_steps, tolerance_grad=1e-9, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = objective(parameters)
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return [p.detach() for p in parameters]


def _check_logits(logits: Tensor, models: int | None = None, classes: int | None = None) -> None:
    if logits.ndim != 3 or not logits.is_floating_point() or 0 in logits.shape:
        raise UsageError(f"logits {tuple(logits.shape)} must be floating numbers [models, clips, classes]")
    if models not in (None, len(logits)) or classes not in (None, logits.shape[2]):
        raise UsageError(
            f"the ensemble has {models} models and {classes} classes, the logits {len(logits)} and {logits.shape[2]}"
        )
    if not bool(torch.isfinite(logits).all()):
        raise UsageError("logits hold numbers that are not finite")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
