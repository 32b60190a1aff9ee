# SPDX-License-Identifier: Apache-2.0
"""Ray on this machine or on a cluster: what tasks get of it, and how it is entered and left."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from edgepress.models.errors import RuntimeFailure, UsageError
from edgepress.models.interruption import restore_handlers

_LOOPBACK = "127.0.0.1"
#: Ray's sockets lie below TMPDIR, and the name of a socket has at most 107 bytes.
_LONGEST_TMPDIR = 38


@dataclass(frozen=True)
class Resources:
    """What each task gets, and how often it is started again.

    Attributes:
        address: of a Ray cluster ("auto", "host:6379", "ray://..."), None for this machine.
        cpus: cores and threads of a task; None shares the cores evenly, at least one each.
        gpus: of a task; None: one where the cluster has any.
        memory_bytes: of a task.
        retries: how many times a killed or failed task is started again.
    """

    address: str | None = None
    cpus: int | None = None
    gpus: float | None = None
    memory_bytes: int = 2 * 10**9
    retries: int = 3


def task_options(there: dict[str, float], resources: Resources, tasks: int) -> dict[str, Any]:
    """Ray's options of a task.

    Raises:
        UsageError: no machine of the cluster is large enough; Ray would wait for one for ever.
    """
    cores = int(there.get("CPU", 1))
    cpus = resources.cpus or max(1, cores // max(1, tasks))
    gpus = resources.gpus if resources.gpus is not None else min(1.0, there.get("GPU", 0.0))
    for name, wanted, found in (
        ("cpus", cpus, cores),
        ("gpus", gpus, there.get("GPU", 0.0)),
        ("memory", resources.memory_bytes, there.get("memory", 0.0)),
    ):
        if wanted > found:
            raise UsageError(f"--{name} = {wanted:g} for each task is more than all machines have, {found:g}")
    return {
        "num_cpus": cpus,
        "num_gpus": gpus,
        "memory": resources.memory_bytes,
        "max_retries": resources.retries,
        "retry_exceptions": True,
    }


@contextmanager
def connected(address: str | None) -> Iterator[Any]:
    """Ray on this machine or on the cluster at `address`; left again at the end.

    On this machine it listens on the loopback interface only, and answers to a token that this process made: whoever
    reaches a Ray port may run code. A cluster is its owner's to keep (docs/scale.md).
    """
    # The tasks are the work, so that they keep the priority of this command (Ray would lower it by 15); a warning of
    # Ray's about GPUs that a task did not ask for.
    settings = dict.fromkeys(("RAY_worker_niceness", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"), "0")
    options: dict[str, Any] = {"logging_level": "ERROR"}
    if address is None:
        # Read when ray is imported. The first is Ray's own switch for machines that are no cluster, which Windows and
        # macOS have by default; the others are ignored by a Ray that has no tokens.
        settings |= {
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
        }
        options |= {"include_dashboard": False, "_node_ip_address": _LOOPBACK}
        if len(tempfile.gettempdir()) > _LONGEST_TMPDIR:
            settings["RAY_TMPDIR"] = "/tmp"
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    import ray

    own = not ray.is_initialized()
    if own:
        try:
            ray.init(address=address, log_to_driver=False, **options)
        except Exception as error:  # of its own and of any kind: a time-out of its processes is a bare Exception
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise RuntimeFailure(
                f"no Ray cluster at {address}: {reason}"
                if address
                else f"Ray did not start on this machine: {reason}; on a busy machine try again, or with fewer --cpus"
            ) from error
        finally:
            restore_handlers()
    try:
        yield ray
    finally:
        if own:
            ray.shutdown()
