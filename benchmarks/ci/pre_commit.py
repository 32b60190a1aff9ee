"""The pre-commit hook: `benchmarks gate` for every model file that is about to be committed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

_MODELS = (".tflite", ".onnx")


def run(arguments: Sequence[str]) -> int:
    """Gate every file.

    Args:
        arguments: options for `benchmarks gate`, then file names (pre-commit appends them).

    Returns:
        The largest exit code: 0 where every file passed.
    """
    options, files = list(arguments), []
    while options and options[-1].lower().endswith(_MODELS):
        files.insert(0, options.pop())
    command = [sys.executable, "-P", "-m", "edgepress.benchmarks", "gate", *options, "--"]
    return max((subprocess.run([*command, file], check=False).returncode for file in files), default=0)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
