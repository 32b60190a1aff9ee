# SPDX-License-Identifier: Apache-2.0
"""The command `edgepress`: `edgepress compress`, `deploy` and `benchmarks` are the three commands."""

from __future__ import annotations

import atexit
import os
import signal
import sys
from importlib import import_module
from typing import NoReturn

#: Command -> what it does, as its own help says it.
COMMANDS = {
    "compress": "A checkpoint goes in, a smaller one comes out.",
    "deploy": "A checkpoint goes in, a proven file for a device comes out.",
    "benchmarks": "Files, devices and limits go in, verdicts come out.",
}


def main() -> None:
    """Hand the rest of the command line to one of the three commands; exit codes are theirs."""
    arguments = sys.argv[1:]
    if arguments and arguments[0] in COMMANDS:
        sys.argv = [f"edgepress {arguments[0]}", *arguments[1:]]
        _run(arguments[0])
        return
    if "_EDGEPRESS_COMPLETE" in os.environ or arguments in (["--install-completion"], ["--show-completion"]):
        _complete()
        return
    if arguments == ["--version"]:
        from edgepress import __version__

        print(f"edgepress {__version__}")
        return
    if arguments and arguments[0] not in ("-h", "--help"):
        print(
            f"error: {arguments[0]!r} is no command of edgepress; it has {', '.join(COMMANDS)}, "
            "each with --help; --version, --install-completion",
            file=sys.stderr,
        )
        sys.exit(2)
    width = max(map(len, COMMANDS))
    print("Usage: edgepress [--version] [--install-completion] COMMAND ...\n\nCommands:")
    for name, says in COMMANDS.items():
        print(f"  {name:<{width}}  {says}")
    print("\nedgepress COMMAND --help says more; compress, deploy and benchmarks are the same commands.")


def _complete() -> None:
    """What a shell asks for while a person types, and how it learns to ask; all three commands are needed only here."""
    import typer

    whole = typer.Typer(rich_markup_mode=None)
    for command, says in COMMANDS.items():
        whole.add_typer(import_module(f"edgepress.{command}.cli").app, name=command, help=says)
    whole(prog_name="edgepress")


def compress() -> None:
    """The command `compress`."""
    _run("compress")


def deploy() -> None:
    """The command `deploy`."""
    _run("deploy")


def benchmarks() -> None:
    """The command `benchmarks`."""
    _run("benchmarks")


def _run(command: str) -> None:
    """Hand over to a command; a signal that comes while it is still imported ends it like one that comes later."""
    signal.signal(signal.SIGTERM, lambda number, frame: _stop("ended by SIGTERM", 143))
    try:
        begin = import_module(f"edgepress.{command}.cli").main
    except KeyboardInterrupt:
        _stop("interrupted", 130)
    # The first to be registered is the last to be called: a command that is done ends with its own exit code, where a
    # signal would kill the interpreter while it cleans up.
    atexit.register(_ignore_signals)
    begin()


def _ignore_signals() -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def _stop(how: str, code: int) -> NoReturn:
    print(f"error: {how} before it began", file=sys.stderr)
    exec("")  # as `_leave` in models/command_line.py does
    sys.exit(code)


if __name__ == "__main__":
    main()
