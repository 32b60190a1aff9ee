# SPDX-License-Identifier: Apache-2.0
"""What every command has: one style, `--version`, the exit codes, and children that find this very project."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

import edgepress
from edgepress.models.errors import EdgepressError, RuntimeFailure
from edgepress.models.interruption import Interrupted, Terminated, ended_by_signals, follow_parent, is_child
from edgepress.models.scratch import scratch_folder

#: Package -> the extra that installs it.
_EXTRAS = {
    "torch": "train",
    "lightning": "train",
    "safetensors": "train",
    "tensorboard": "train",
    "litert_torch": "export",
    "ai_edge_quantizer": "export",
    "onnxscript": "export",
    "tflite_micro": "tflm",
    "ethosu": "npu",
    "jinja2": "report",
    "vl_convert": "report",
    "optuna": "sweep",
    "ray": "sweep",
}


def application(name: str, says: str, epilog: str | None = None) -> typer.Typer:
    """An empty command in the project's style, with `--help` where nothing is asked for and `--version`."""
    app = typer.Typer(
        name=name,
        cls=_Interruptible,
        help=says,
        epilog=epilog,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback()
    def shared(
        version: Annotated[
            bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Show it.")
        ] = False,
    ) -> None: ...

    return app


class _Interruptible(TyperGroup):
    """Ctrl-C as one sentence, where typer leaves with its exit code alone; help calls `edgepress compress` that."""

    def main(self, *args: Any, prog_name: str | None = None, **more: Any) -> Any:
        called = Path(sys.argv[0]).name
        return super().main(*args, prog_name=prog_name or (called if called.startswith("edgepress ") else None), **more)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Interrupted from None


def version_text() -> str:
    """Name and version, as `--version` prints them."""
    return f"edgepress {edgepress.__version__}"


def _show_version(wanted: bool) -> None:
    if wanted:
        print(version_text())
        raise typer.Exit


def import_path() -> str:
    """The folder in which another interpreter finds this very edgepress, for its PYTHONPATH."""
    return str(Path(edgepress.__file__).resolve().parents[1])


def run_command(app: Callable[..., Any], arguments: Sequence[str] | None = None) -> None:
    """Run a typer application and leave the process with the project's exit codes.

    Expected errors become one sentence on stderr. Anything else is our own defect: it is named in one line,
    and `EDGEPRESS_DEBUG=1` shows the traceback. SIGTERM and Ctrl-C end it with 143 and 130, its children and what it
    wrote to throw away with it.
    """
    follow_parent()
    try:
        with scratch_folder() as scratch, ended_by_signals(lambda: _remove(scratch)):
            app(args=list(arguments) if arguments is not None else None)
    except (Interrupted, Terminated) as error:
        _leave("" if is_child() else f"error: {error}", error.exit_code)
    except KeyboardInterrupt:
        _leave("" if is_child() else f"error: {Interrupted()}", Interrupted.exit_code)
    except EdgepressError as error:
        _leave(f"error: {error}", error.exit_code)
    except BrokenPipeError:
        # The reader of our output went away (`| head`): no error, but nothing more can be flushed either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package not in _EXTRAS:
            _defect(error)
        _leave(
            f"error: this needs the package {package}, which is not installed: "
            f"pip install 'edgepress[{_EXTRAS[package]}]'",
            RuntimeFailure.exit_code,
        )
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        _leave(f"error: {error.strerror or error}{where}", 2)
    except Exception as error:
        _defect(error)


def _remove(scratch: Path | None) -> None:
    if scratch is not None:
        shutil.rmtree(scratch, ignore_errors=True)


def _defect(error: Exception) -> NoReturn:
    if os.environ.get("EDGEPRESS_DEBUG"):
        raise error
    _leave(
        f"internal error: {type(error).__name__}: {error}\nThis is a defect of edgepress; "
        "EDGEPRESS_DEBUG=1 shows the traceback for a report.",
        3,
    )


def _leave(message: str, exit_code: int) -> NoReturn:
    if message:
        print(message, file=sys.stderr)
    sys.exit(exit_code)
