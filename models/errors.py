"""What can go wrong, as types that carry their exit code (0 done, 1 verdict, 2 usage, 3 a runtime failed)."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn


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
        self.errors = tuple(errors)
        count = "1 problem" if len(self.errors) == 1 else f"{len(self.errors)} problems"
        super().__init__(f"{subject} has {count}:\n" + "\n".join(f"  - {error}" for error in self.errors))


class InfeasibleBudget(UsageError):
    """No pruning reaches the budget; the message says what can be reached and which layers bind."""


class VerdictError(EdgepressError):
    """A verdict against the model: a gate, a proof or a parity check failed."""

    exit_code = 1


class ProofError(VerdictError):
    """The removed network differs from its reference; the message names the channel group."""


class ParityError(VerdictError):
    """An exported file departs from the network that it came from."""


class RuntimeFailure(EdgepressError):
    """A runtime failed: TFLite Micro aborted, a connection broke, a tool is missing."""

    exit_code = 3


#: Package -> the extra that installs it.
_EXTRAS = {
    "torch": "train", "lightning": "train", "safetensors": "train", "tensorboard": "train", "litert_torch": "export",
    "ai_edge_quantizer": "export", "onnxscript": "export", "tflite_micro": "tflm", "ethosu": "npu", "jinja2": "report",
    "vl_convert": "report", "optuna": "sweep", "ray": "sweep",
}


def run_command(app: Callable[..., Any], arguments: Sequence[str] | None = None) -> None:
    """Run a typer application and leave the process with the project's exit codes.

    Expected errors become one sentence on stderr. Anything else is our own defect: it is named in one line,
    and `EDGEPRESS_DEBUG=1` shows the traceback.
    """
    try:
        app(args=list(arguments) if arguments is not None else None)
    except EdgepressError as error:
        _leave(f"error: {error}", error.exit_code)
    except KeyboardInterrupt:
        _leave("interrupted; what was finished is kept, the same command goes on from there", 130)
    except BrokenPipeError:
        # The reader of our output went away (`| head`): no error, but nothing more can be flushed either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package not in _EXTRAS:
            _defect(error)
        _leave(f"error: this needs the package {package}, which is not installed: "
               f"pip install 'edgepress[{_EXTRAS[package]}]'", RuntimeFailure.exit_code)
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        _leave(f"error: {error.strerror or error}{where}", 2)
    except Exception as error:
        _defect(error)


def _defect(error: Exception) -> NoReturn:
    if os.environ.get("EDGEPRESS_DEBUG"):
        raise error
    _leave(f"internal error: {type(error).__name__}: {error}\nThis is a defect of edgepress; "
           "EDGEPRESS_DEBUG=1 shows the traceback for a report.", 3)


def _leave(message: str, exit_code: int) -> NoReturn:
    print(message, file=sys.stderr)
    sys.exit(exit_code)
