# SPDX-License-Identifier: Apache-2.0
"""What every command has: one style, `--version`, the exit codes, and children that find this very project."""

from __future__ import annotations

import inspect
import os
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

import edgepress
from edgepress.models.errors import EdgepressError, RuntimeFailure, UsageError
from edgepress.models.interruption import Interrupted, Terminated, ended_by_signals, follow_parent, is_child
from edgepress.models.scratch import scratch_folder
from edgepress.models.terminal.installation import EXTRAS, how_to_install
from edgepress.models.terminal.words import set_verbosity, wrapped

Command = TypeVar("Command", bound=Callable[..., Any])
#: Of what does not read as the command was written; typer has no public name for it.
_WrongUsage: type[Exception] = typer.BadParameter.__bases__[0].__bases__[0]


def application(name: str, says: str, epilog: str | None = None) -> typer.Typer:
    """An empty command in the project's style: `-h`, `--version`, completion, and help where nothing is asked for."""
    app = _Application(
        name=name,
        cls=_Group,
        help=says,
        epilog=epilog,
        no_args_is_help=True,
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


def examples(*lines: str) -> str:
    """The end of a help page: commands to copy, each on a line of its own."""
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])


class _Application(typer.Typer):
    """Every command of it has `--quiet` and `--verbose`."""

    def command(
        self, name: str | None = None, *, cls: type[TyperCommand] | None = None, **more: Any
    ) -> Callable[[Command], Command]:
        def added(function: Command) -> Command:
            super(_Application, self).command(name, cls=cls or _Command, **more)(_with_verbosity(function))
            return function

        return added


def _with_verbosity(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function with two options more, which it does not see."""

    @wraps(function)
    def called(*, quiet: bool = False, verbose: bool = False, **given: Any) -> Any:
        if quiet and verbose:
            raise UsageError("--quiet and --verbose are opposites: give one of them")
        if quiet or verbose:
            set_verbosity("quiet" if quiet else "verbose")
        return function(**given)

    signature = inspect.signature(function, eval_str=True)
    keyword = inspect.Parameter.KEYWORD_ONLY
    more = [
        inspect.Parameter("quiet", keyword, default=False, annotation=_Quiet),
        inspect.Parameter("verbose", keyword, default=False, annotation=_Verbose),
    ]
    own = [parameter.replace(kind=keyword) for parameter in signature.parameters.values()]
    called.__signature__ = signature.replace(parameters=[*own, *more])  # type: ignore[attr-defined]
    called.__annotations__ = {parameter.name: parameter.annotation for parameter in (*own, *more)}
    return called


_Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Results, verdicts and errors alone.")]
_Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Also what the packages below print.")]


class _Command(TyperCommand):
    """In a list of commands it is shown by its first sentence, whole."""

    def get_short_help_str(self, limit: int = 45) -> str:
        text = " ".join((self.help or "").split("\n\n")[0].split())
        return re.split(r"(?<=[.;]) ", text, maxsplit=1)[0].rstrip(".;") + "."


class _Group(TyperGroup):
    """Errors of usage as one sentence like all others, Ctrl-C, too; help calls `edgepress compress` that."""

    def main(self, *args: Any, prog_name: str | None = None, standalone_mode: bool = True, **more: Any) -> Any:
        called = Path(sys.argv[0]).name
        prog_name = prog_name or (called if called.startswith("edgepress ") else None)
        try:
            code = super().main(*args, prog_name=prog_name, standalone_mode=False, **more)
        except _WrongUsage as error:
            _leave(*_usage(error))
        if code == Interrupted.exit_code:
            # typer turns a Ctrl-C that comes while it reads the command line into this code and says nothing.
            raise Interrupted
        if not standalone_mode:
            return code
        sys.exit(code if isinstance(code, int) else 0)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Interrupted from None


def _usage(error: Any) -> tuple[str, int]:
    """What was wrong with a command line and where to look, and the exit code; help where nothing was asked for."""
    context = getattr(error, "ctx", None)
    said = error.format_message().rstrip(".")
    if not said or type(error).__name__ == "NoArgsIsHelpError":
        return (context.get_help() if context is not None else said), UsageError.exit_code
    said = re.sub(r"\. Did you mean (.*?)\?$", r" (did you mean \1?)", said.replace(": -", " -"))
    said = said[:1].lower() + said[1:]
    where = f"; `{context.command_path} --help` shows what there is" if context is not None else ""
    return f"error: {said}{where}", UsageError.exit_code


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


def child_environment(**more: str) -> dict[str, str]:
    """This process's own variables and `more`, for another interpreter that is to find this very edgepress."""
    inherited = (import_path(), os.environ.get("PYTHONPATH"))
    return {**os.environ, **more, "PYTHONPATH": os.pathsep.join(filter(None, inherited))}


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
        if package not in EXTRAS:
            _defect(error)
        _leave(
            f"error: this needs the package {package}, which is not installed: {how_to_install(package)}",
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
        print(wrapped(message, sys.stderr), file=sys.stderr)
    # An interrupt inside `exec`, with which dataclasses are made, is remembered although it was caught: the interpreter
    # would end by SIGINT instead of with this code. Another `exec` has it forget.
    exec("")
    sys.exit(exit_code)
