# SPDX-License-Identifier: Apache-2.0
"""Runs a .tflite file on a device: one file, standard library + NumPy + whichever interpreter is there.

It is copied to the device and started there as `python3 agent.py REQUEST.json`; it needs nothing else of this project
and runs on Python 3.7 and NumPy 1. The answer is one line of JSON on stdout, after a marker. Who asked removes the
folder; where the connection is gone, the agent does it itself.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import sys
import time
from typing import Any

MARKER = "EDGEPRESS-RESULT "


def load_interpreter(path: str, runtime: str, threads: int) -> tuple[Any, str, str]:
    """(interpreter, package name, version)."""
    errors = []
    for module, package in (
        ("ai_edge_litert.interpreter", "ai-edge-litert"),
        ("tflite_runtime.interpreter", "tflite-runtime"),
        ("tensorflow.lite.python.interpreter", "tensorflow"),
    ):
        try:
            found = __import__(module, fromlist=["Interpreter"])
        except Exception as error:  # NumPy 2 under tflite-runtime raises AttributeError and worse
            errors.append(f"{package}: {(str(error) or type(error).__name__).splitlines()[0]}")
            continue
        options: dict[str, Any] = {}
        if runtime == "litert-reference":
            options["experimental_op_resolver_type"] = found.OpResolverType.BUILTIN_REF
        return found.Interpreter(model_path=path, num_threads=threads, **options), package, version_of(package)
    reasons = "; ".join(errors)
    raise RuntimeError(
        f"no TFLite interpreter can be imported by Python {platform.python_version()} on {platform.machine()} "
        f"({reasons}); install ai-edge-litert, or tflite-runtime with NumPy 1"
    )


def version_of(package: str) -> str:
    """The installed version, or "unknown"."""
    try:
        from importlib import metadata

        return metadata.version(package)
    except Exception:
        return "unknown"


def percentile(values: list[float], share: float) -> float:
    """Linear between the neighbours; `values` sorted."""
    place = (len(values) - 1) * share
    low = int(place)
    high = min(low + 1, len(values) - 1)
    return values[low] + (values[high] - values[low]) * (place - low)


def describe() -> dict[str, Any]:
    """What the machine says about itself."""
    processor = ""
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                if line.split(":")[0].strip() in ("model name", "Model", "Hardware"):
                    processor = line.split(":", 1)[1].strip()
    except OSError:
        pass
    return {
        "system": platform.system(),
        "release": platform.release(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "processor": processor,
        "cores": os.cpu_count(),
    }


def main(request_path: str) -> dict[str, Any]:
    """Run what the request says, write the outputs beside it, answer on stdout."""
    with open(request_path) as file:
        request = json.load(file)
    folder = os.path.dirname(os.path.abspath(request_path))
    import numpy as np

    interpreter, package, version = load_interpreter(
        os.path.join(folder, "model.tflite"), request["runtime"], request["threads"]
    )
    interpreter.allocate_tensors()
    given, made = interpreter.get_input_details(), interpreter.get_output_details()
    arrays = [np.load(os.path.join(folder, f"input{i}.npy"), allow_pickle=False) for i in range(len(given))]
    kept: list[list[Any]] = [[] for _ in made]
    # As `edgepress.deploy.runtimes.engine.Batches`: inputs that lead with different sizes have no batch in common.
    rows = [max(1, int(details["shape"][0])) if len(details["shape"]) else 1 for details in given]
    count = len(arrays[0])

    def place(run: int) -> None:
        for details, array, size in zip(given, arrays, rows):  # noqa: B905 - Python 3.7
            cut = array[run * size : (run + 1) * size]
            if len(cut) < size:
                cut = np.concatenate([cut, np.zeros((size - len(cut), *cut.shape[1:]), cut.dtype)])
            interpreter.set_tensor(details["index"], np.ascontiguousarray(cut).reshape(details["shape"]))

    for run in range(-(-count // rows[0])):
        place(run)
        interpreter.invoke()
        for parts, details in zip(kept, made):  # noqa: B905
            parts.append(np.array(interpreter.get_tensor(details["index"])))
    place(0)
    for _ in range(min(10, request["repeats"])):
        interpreter.invoke()
    times = []
    for _ in range(request["repeats"]):
        begin = time.perf_counter()
        interpreter.invoke()
        times.append(1000 * (time.perf_counter() - begin))
    for i, parts in enumerate(kept):
        whole = np.concatenate([np.atleast_1d(part) for part in parts])
        per_sample = len(set(rows)) == 1 and len(np.atleast_1d(parts[0])) == rows[0]
        np.save(os.path.join(folder, f"output{i}.npy"), whole[:count] if per_sample else whole)
    times.sort()
    latency: dict[str, Any] = {
        name: percentile(times, share) for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99))
    }
    latency.update(mean=sum(times) / len(times), repeats=len(times), warm_up=min(10, request["repeats"]))
    device = describe()
    device.update(interpreter=package, version=version, numpy=np.__version__)
    return {"outputs": len(kept), "latency_ms": latency, "device": device}


def give_up_after(seconds: float, folder: str) -> None:
    """Nobody waits any longer then: end and take the folder along. The file `pid` is for who cleans up earlier."""
    with open(os.path.join(folder, "pid"), "w") as file:
        file.write(str(os.getpid()))

    def end(*_: object) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(3)

    signal.signal(signal.SIGALRM, end)
    signal.signal(signal.SIGHUP, end)
    signal.alarm(max(1, int(seconds)))


def answer_to(request_path: str) -> int:
    """Print the answer to a request, clean up where nobody waits for it any more, and give the exit code."""
    here = os.path.dirname(os.path.abspath(request_path))
    try:
        with open(request_path) as asked:
            give_up_after(json.load(asked)["timeout_s"], here)
        answer = main(request_path)
    except Exception as problem:
        answer = {"error": f"{type(problem).__name__}: {' '.join(str(problem).split())[:600]}"}
    if os.path.exists(os.path.join(here, "pid")):
        os.remove(os.path.join(here, "pid"))
    try:
        print(MARKER + json.dumps(answer), flush=True)
    except OSError:
        # Nobody listens: the connection broke, and whoever asked cannot clean up here.
        shutil.rmtree(here, ignore_errors=True)
        os._exit(3)
    return 3 if "error" in answer else 0


if __name__ == "__main__":
    sys.exit(answer_to(sys.argv[1]))
