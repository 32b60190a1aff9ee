# SPDX-License-Identifier: Apache-2.0
"""docs/safety.md, made from the results of the experiment.

`python -m edgepress.benchmarks.experiments.hostile.page` writes it anew from benchmarks/results/hostile.json.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgepress.models.atomic import write_text
from edgepress.models.files.reading import read_json

RESULTS = Path(__file__).parents[2] / "results" / "hostile.json"
PAGE = Path(__file__).parents[3] / "docs" / "safety.md"
_TEXT = """# Safe on other people's machines

## What holds
- Nothing phones home: the telemetry of ONNX Runtime, Ray and Hugging Face is off in every process.
  `tests/test_quiet.py` traces a whole `compress run` and finds no connection, and no file outside the run
  directory, the cache and `TMPDIR`.
- Nothing listens beyond the loopback interface; Ray, which `compress sweep` starts, asks for a token
  ([scale.md](scale.md)).
- SIGTERM and Ctrl-C end a command with its children and its scratch, with one sentence, exit 143 or 130. What is
  killed outright leaves its scratch to the next command, which removes it.
- Nothing pickled is read. Files are regular ones of bounded size; what they claim is compared with what they hold
  before memory is asked for; text is UTF-8, JSON and TOML have bounds of depth and of numbers, and follow a schema.
- What native code opens, it opens in a process of its own, with bounds of CPU and wall-clock time.
- Results are appended whole or not at all; everything else is written beside its place and renamed. Cached arrays
  and training states carry checksums.
- What a board answers is believed within bounds: number, types and bytes of its outputs.

## Measured
"""


def page(found: dict[str, Any]) -> str:
    """The page, as Markdown."""
    rows = ["| kind | cases | exit 0 or 1 | a sentence (2 or 3) | faults | largest CPU, s | largest memory, MB |"]
    rows.append("|---|--:|--:|--:|--:|--:|--:|")
    for name, one in found["kinds"].items():
        codes = one["codes"]
        good, said = (sum(codes.get(code, 0) for code in pair) for pair in (("0", "1"), ("2", "3")))
        faults = ", ".join(f"{count} {kind}" for kind, count in one["faults"].items()) or "0"
        figures = f"{one['largest_cpu_s']:.1f} | {one['largest_peak_mb']:.0f}"
        rows.append(f"| {name} | {one['cases']} | {good} | {said} | {faults} | {figures} |")
    total = sum(one["cases"] for one in found["kinds"].values())
    return (
        f"{_TEXT}`{found['command']}`, {found['date'][:10]}: {total} files, each damaged by flipped bits, cut, filled\n"
        "or doubled blocks, extreme numbers, and in texts by values that no reader expects. A fault is a traceback,\n"
        "an internal error, a crash, more than 10 s of CPU time, more than 1 GB of memory, or another exit code.\n\n"
        + "\n".join(rows)
        + "\n"
    )


if __name__ == "__main__":
    write_text(PAGE, page(read_json(RESULTS)))
