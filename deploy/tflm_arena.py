"""How much arena TFLite Micro takes for a file, measured in a child process: it may crash on a malformed model.

`python -m deploy.tflm_arena FILE` is that child; it prints one line of JSON.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from models.errors import RuntimeFailure, UsageError

#: The tool prints its allocations in lines such as "Arena allocation total 24272 bytes".
_LINE = re.compile(r"Arena allocation (total|head|tail) (\d+)")
_SMALLEST_ARENA_BYTES = 1 << 20
#: Some sizes that are a little too small crash instead of failing, so there is ample room and the use is read.
_ARENA_PER_LIVE_BYTE = 4
_LARGEST_ARENA_BYTES = 512 << 20


@dataclass(frozen=True)
class Arena:
    """Bytes that TFLite Micro took on this machine.

    Attributes:
        total: head and tail.
        head: the activations as its planner laid them out; the same on a device.
        tail: structures and quantization data; with 64-bit pointers here, so an over-estimate for 32-bit devices.
    """

    total: int
    head: int
    tail: int


def measure_arena(path: str | Path, timeout_s: float = 60) -> Arena:
    """Load a .tflite in TFLite Micro and read what it allocated.

    Raises:
        UsageError: no such file.
        RuntimeFailure: the package is missing, the model does not run in it, or it crashed or took too long.
    """
    if not Path(path).is_file():
        raise UsageError(f"cannot read {path}: no such file")
    root = str(Path(__file__).resolve().parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))}
    try:
        # -P: a file of the working directory is never imported.
        child = subprocess.run([sys.executable, "-P", "-m", "deploy.tflm_arena", str(Path(path).resolve())],
                               capture_output=True, timeout=timeout_s, env=environment, check=False)
    except subprocess.TimeoutExpired as error:
        raise RuntimeFailure(f"TFLite Micro did not finish with {path} within {timeout_s:g} s") from error
    if child.returncode < 0:
        raise RuntimeFailure(f"TFLite Micro crashed on {path} (signal {-child.returncode})")
    try:
        answer = json.loads(child.stdout.decode().strip().splitlines()[-1])
    except (ValueError, IndexError):
        tail = child.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise RuntimeFailure(f"TFLite Micro failed on {path}: {tail[0] if tail else 'no reason given'}") from None
    if "error" in answer:
        raise RuntimeFailure(answer["error"])
    return Arena(answer["total"], answer["head"], answer["tail"])


def _measure(path: str) -> dict[str, object]:
    """Runs in the child."""
    try:
        from tflite_micro.python.tflite_micro import runtime
    except ImportError as error:
        return {"error": f"TFLite Micro is not installed here ({error}); its package exists for 64-bit x86 Linux: "
                         "pip install 'edgepress[tflm]'"}
    import numpy as np

    from deploy.tflite_file import read_tflite

    model = read_tflite(path)
    live = sum(tensor.size_bytes for tensor in model.tensors if not tensor.constant)
    # Tensor and quantization structures grow with the number of tensors and channels.
    wanted = _SMALLEST_ARENA_BYTES + _ARENA_PER_LIVE_BYTE * live + 4096 * len(model.tensors)
    arena = min(_LARGEST_ARENA_BYTES, wanted) // 16 * 16
    with tempfile.TemporaryFile() as log:
        kept = os.dup(2)
        os.dup2(log.fileno(), 2)  # the report is written by C++
        problem = None
        try:
            interpreter = runtime.Interpreter.from_file(path, arena_size=arena)
            for index, tensor in enumerate(model.inputs):
                interpreter.set_input(np.zeros(tensor.shape, tensor.dtype), index)
            interpreter.invoke()
            interpreter.print_allocations()
        except Exception as error:  # the binding raises RuntimeError and ValueError, and struct.error on odd files
            problem = error
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
        log.seek(0)
        text = log.read().decode(errors="replace")
    if problem is not None:
        reasons = [line for line in text.splitlines() if line.strip()]
        return {"error": f"TFLite Micro cannot run {path}: {reasons[0] if reasons else problem}"}
    found = {name: int(count) for name, count in _LINE.findall(text)}
    if set(found) != {"total", "head", "tail"}:
        return {"error": f"TFLite Micro ran {path} but did not report its arena"}
    return dict(found)


if __name__ == "__main__":
    try:
        result = _measure(sys.argv[1])
    except UsageError as problem:
        result = {"error": str(problem)}
    print(json.dumps(result))
