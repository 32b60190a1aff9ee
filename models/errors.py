# SPDX-License-Identifier: Apache-2.0
"""What can go wrong, as types that carry their exit code (0 done, 1 verdict, 2 usage, 3 a runtime failed)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


class EdgepressError(Exception):
    """An error that a person can act upon; its message is one clear sentence."""

    exit_code = 2


class UsageError(EdgepressError):
    """Wrong usage, configuration, or a bad or missing file."""


class ConfigError(UsageError):
    """Everything that is wrong with a configuration, together.

    Attributes:
        errors: one sentence per problem.
    """

    def __init__(self, errors: Sequence[str], subject: str = "the configuration"):
        self.errors: tuple[str, ...] = tuple(errors)
        count = "1 problem" if len(self.errors) == 1 else f"{len(self.errors)} problems"
        super().__init__(f"{subject} has {count}:\n" + "\n".join(f"  - {error}" for error in self.errors))


class InfeasibleBudget(UsageError):
    """No pruning reaches the budget; the message says what can be reached and which layers bind."""


class VerdictError(EdgepressError):
    """A verdict against the model: a gate, a proof or a parity check failed."""

    exit_code = 1


class ProofError(VerdictError):
    """The removed network differs from its reference; the message names the channel group.

    Attributes:
        layers: names of the layers whose channels break the proof, empty where none stand out.
        reason: what is wrong, in short.
    """

    def __init__(self, message: str, layers: Iterable[str] = (), reason: str = ""):
        self.layers: tuple[str, ...] = tuple(layers)
        self.reason: str = reason
        super().__init__(message)


class ParityError(VerdictError):
    """An exported file departs from the network that it came from."""


class RuntimeFailure(EdgepressError):
    """A runtime failed: TFLite Micro aborted, a connection broke, a tool is missing."""

    exit_code = 3


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """ " (did you mean 'macs'?)" for a name that is near a known one, else nothing: the end of a message's clause."""
    from difflib import get_close_matches

    near = get_close_matches(str(name), list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""
