# SPDX-License-Identifier: Apache-2.0
"""Child processes that the operating system ends when the process that started them dies, however it dies (Linux).

What is killed outright can end nobody; a child that computes, waits in native code or loops would then run for ever.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress

_PR_SET_PDEATHSIG = 1
#: Asks for the signal, looks whether the parent was there to the end of that, and becomes the command; the request
#: outlives exec. (A hook between fork and exec would not do: it may deadlock where there are threads.)
_BECOME = f"""
import ctypes, os, sys
ctypes.CDLL(None).prctl({_PR_SET_PDEATHSIG}, {int(signal.SIGKILL)})
if os.getppid() == int(sys.argv[1]):
    try:
        os.execvp(sys.argv[2], sys.argv[2:])
    except OSError as error:
        sys.exit(f"cannot run {{sys.argv[2]}}: {{error.strerror}}")
"""


def bound(command: Sequence[str]) -> list[str]:
    """The command as one that is killed when this process dies.

    The kernel takes the end of the thread that starts a process for the end of its parent. From another thread than
    the main one the command is therefore left as it is.
    """
    if sys.platform != "linux" or threading.current_thread() is not threading.main_thread():
        return list(command)
    return [sys.executable, "-I", "-S", "-c", _BECOME, str(os.getpid()), *command]


def end_with_parent(parent: int | None = None) -> None:
    """Let the operating system kill this process when its parent dies.

    Args:
        parent: process number of the parent; where another one is there already, it died before this call, and this
            process ends now. None where that cannot be told.
    """
    if sys.platform != "linux":
        return
    import ctypes

    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if parent is not None and os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def end_spawned_process_with_parent() -> None:
    """In a spawned process, such as a rank of a training: it is killed when its parent dies, or has died before.

    torch asks for SIGINT instead. Python notices that between two instructions of its own, not while it waits for the
    other ranks in native code (for half an hour), and not at all where a shell without job control has it ignored; and
    a parent that died while the process still imported torch sends nothing. To be called before the process waits for
    the others: one that notices may leave those for good which do not.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        end_with_parent(parent.pid)
