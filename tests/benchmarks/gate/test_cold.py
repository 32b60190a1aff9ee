"""The gate starts cold on every runner: what it imports is counted, since seconds differ from machine to machine."""

from __future__ import annotations

import json
import subprocess
import sys

HEAVY = (
    "torch",
    "onnx",
    "onnxruntime",
    "ai_edge_litert",
    "tflite_micro",
    "scipy",
    "matplotlib",
    "jinja2",
    "vl_convert",
)
#: 469 where this was written: numpy, pydantic, typer and rich.
MOST_MODULES = 600
CODE = """
import contextlib, io, json, sys
from edgepress.benchmarks.cli import app
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    app(args=["gate", sys.argv[1], "--limit", "macs=30M", "--limit", "file=128kB", "--device", "dcase2023"])
print(json.dumps(sorted(sys.modules)))
"""


def test_a_verdict_on_a_100_kb_file_imports_nothing_heavy(shared):
    model = shared / "data" / "reference_models" / "pretrainedResnet_quant.tflite"
    done = subprocess.run([sys.executable, "-c", CODE, str(model)], capture_output=True, text=True, check=True)
    modules = json.loads(done.stdout)
    assert [name for name in HEAVY if name in modules] == []
    assert len(modules) <= MOST_MODULES
