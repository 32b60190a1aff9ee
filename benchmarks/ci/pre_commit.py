# SPDX-License-Identifier: Apache-2.0
"""The pre-commit hook: `benchmarks gate` for every model file that is about to be committed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

from edgepress.models.children import bound

_MODELS = (".tflite", ".onnx")


def run(arguments: Sequence[str]) -> int:
    """Gate all files at once, so that the verdict begins with one table.

    Args:
        arguments: options for `benchmarks gate`, then file names (pre-commit appends them).

    Returns:
        The exit code: 0 where every file passed.
    """
    options, files = list(arguments), []
    while options and options[-1].lower().endswith(_MODELS):
        files.insert(0, options.pop())
    if not files:
        return 0
    # Isolated as this process is: no file of the repository that is committed to is imported.
    flag = "-I" if sys.flags.isolated else "-P"
    command = [sys.executable, flag, "-m", "edgepress.benchmarks", "gate", *options, "--", *files]
    return subprocess.run(bound(command), check=False).returncode


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
