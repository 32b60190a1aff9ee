# SPDX-License-Identifier: Apache-2.0
"""The command `deploy`: export, verify, shrink, operators, run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from edgepress.models.command_line import application, examples, run_command
from edgepress.models.errors import UsageError
from edgepress.models.run_directory import DEFAULT_RUN, RunDirectory
from edgepress.models.terminal.words import say

app: typer.Typer = application("deploy", "A checkpoint goes in, a proven file for a device comes out.")

_Run = Annotated[Path, typer.Option("--run", help="run directory that collects what is made")]
_Format = Annotated[str, typer.Option("--format", help="text or json (one object on stdout)")]
_Overwrite = Annotated[bool, typer.Option("--overwrite", help="replace an existing output")]
_Trust = Annotated[bool, typer.Option("--trust", help="allow a checkpoint or task to run its own code")]
_Threads = Annotated[int, typer.Option("--threads", help="threads of each runtime")]
_File = Annotated[Path | None, typer.Argument(help="a model file; default: the newest .tflite or .onnx of the run")]


@app.command(
    epilog=examples(
        "deploy export",
        "deploy export runs/default/checkpoints/20M-admm --format onnx -o model.onnx",
        "deploy export program.pt2 --format tflite",
        "deploy export --format c-inference -o firmware",
        "deploy export --format c-inference --project esp-idf model.tflite -o firmware",
    )
)
def export(
    checkpoint: Annotated[
        Path | None,
        typer.Argument(help="checkpoint, .pt2 of torch.export, or for c-inference .tflite; default: the newest"),
    ] = None,
    format: Annotated[
        str, typer.Option("--format", help="tflite, onnx, ort, openvino, executorch, c or c-inference (folder of C99)")
    ] = "tflite",
    float_: Annotated[bool, typer.Option("--float", help="fp32 instead of int8")] = False,
    scheme: Annotated[str, typer.Option("--scheme", help="scheme of a float checkpoint's calibration")] = "w8a8",
    data: Annotated[
        str | None, typer.Option("--data", help="calibration, verification and test vectors; default: its task")
    ] = None,
    run: _Run = DEFAULT_RUN,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="file; default: in the run directory")] = None,
    overwrite: _Overwrite = False,
    shrink: Annotated[bool, typer.Option("--shrink/--no-shrink", help="lossless shrinking of TFLite files")] = True,
    verify: Annotated[bool, typer.Option("--verify/--no-verify", help="compare with torch before it counts")] = True,
    float_io: Annotated[bool, typer.Option("--float-io", help="TFLite: float32 inputs and outputs")] = False,
    onnx_integers: Annotated[
        str, typer.Option("--onnx-integers", help="ONNX: u8u8, right on every CPU; u8s8, faster with VNNI; or s8s8")
    ] = "u8u8",
    max_lsb: Annotated[
        float, typer.Option("--max-lsb", min=0, help="largest difference that it allows, in 8-bit steps")
    ] = 16.0,
    mean_lsb: Annotated[
        float, typer.Option("--mean-lsb", min=0, help="mean difference that it allows, in 8-bit steps")
    ] = 0.5,
    device: Annotated[
        str | None,
        typer.Option("--device", help="device class whose runtime must run the file, else it is not written"),
    ] = None,
    project: Annotated[
        str | None,
        typer.Option("--project", help="c-inference as a project of arduino, platformio, esp-idf, zephyr or cmake"),
    ] = None,
    trust: _Trust = False,
) -> None:
    """Export a checkpoint as int8 TFLite (default) or another format; a float one is calibrated first."""
    from edgepress.deploy.export.from_checkpoint import export_checkpoint
    from edgepress.deploy.export.in_run import ExportOptions, find_checkpoint
    from edgepress.models.units import format_quantity

    runs = RunDirectory(run)
    if project is not None and format != "c-inference":
        raise UsageError(f"--project {project} belongs to --format c-inference")
    if format == "c-inference" and float_:
        raise UsageError("C for firmware is made from int8: leave --float out")
    if checkpoint is not None and checkpoint.suffix == ".pt2" and checkpoint.is_file():
        from edgepress.deploy.program_export import export_program

        export_program(
            checkpoint,
            format,
            output=output,
            data=data,
            overwrite=overwrite,
            float_io=float_io,
            onnx_integers=onnx_integers,
        )
        return
    if format == "c-inference" and checkpoint is not None and checkpoint.is_file():
        _write_firmware(checkpoint, output or checkpoint.with_suffix(".c-inference"), overwrite, data, trust, project)
        return
    source = find_checkpoint(checkpoint, runs, float_)
    options = ExportOptions(
        format="tflite" if format == "c-inference" else format,
        scheme="float32" if float_ else scheme,
        data=data,
        shrink=shrink,
        verify=verify,
        float_io=float_io,
        onnx_integers=onnx_integers,
        max_lsb=max_lsb,
        mean_lsb=mean_lsb,
        device=_device_class(device),
        trust=trust,
    )
    say(f"checkpoint {source.path}" + ("" if checkpoint else " (the newest of the run)"))
    if format == "c-inference":
        with runs.lock():
            artifact, _ = export_checkpoint(source, options, runs, say=say)
        _write_firmware(
            artifact.path, output or artifact.path.with_suffix(".c-inference"), overwrite, data, trust, project
        )
        return
    if output is None:
        with runs.lock():
            artifact, made = export_checkpoint(source, options, runs, say=say)
    else:
        artifact, made = export_checkpoint(source, options, runs, output=output, overwrite=overwrite, say=say)
    what = "wrote" if made else "already there, unchanged:"
    print(f"{what} {artifact.path} ({format_quantity(artifact.file_bytes, 'bytes')})")


@app.command(epilog=examples("deploy verify", "deploy verify model.tflite --layers"))
def verify(
    file: _File = None,
    data: Annotated[
        str | None, typer.Option("--data", help=".npz, .npy or task; default: the task of the network")
    ] = None,
    also: Annotated[
        list[Path] | None, typer.Option("--with", help="another file of the same network, such as its ONNX")
    ] = None,
    runtime: Annotated[str | None, typer.Option("--runtime", help="only these, separated by commas")] = None,
    samples: Annotated[int, typer.Option("--samples", min=1, help="real inputs")] = 200,
    random_samples: Annotated[int, typer.Option("--random-samples", min=0, help="random inputs")] = 32,
    layers: Annotated[bool, typer.Option("--layers", help="name the first layer that departs (TFLite)")] = False,
    figure: Annotated[Path | None, typer.Option("--figure", help="SVG of the layers' differences (replaced)")] = None,
    max_lsb: Annotated[float | None, typer.Option("--max-lsb", help="limit for every pair, 8-bit steps")] = None,
    mean_lsb: Annotated[float | None, typer.Option("--mean-lsb", help="limit for every pair, 8-bit steps")] = None,
    agreement: Annotated[float | None, typer.Option("--agreement", help="least label agreement, 0 to 1")] = None,
    threads: _Threads = 1,
    streams: Annotated[
        bool,
        typer.Option("--streams", help="samples of a recording are one stream, in their order, as in `benchmarks run`"),
    ] = False,
    run: _Run = DEFAULT_RUN,
    format: _Format = "text",
    trust: _Trust = False,
) -> None:
    """Compare every runtime on the same inputs; exit 1 beyond 3 LSB, mean 0.5, 99 %; 2 or 3 if nothing was judged."""
    from edgepress.deploy.verify.parity import Thresholds
    from edgepress.deploy.verify.parity import verify as compare_runtimes

    _check_format(format)
    path = _file_or_newest(file, run, ("tflite", "onnx"))
    given = (max_lsb, mean_lsb, agreement)
    thresholds = Thresholds(*given, relative=None) if any(value is not None for value in given) else None
    report = compare_runtimes(
        path,
        data=data,
        also=also or (),
        runtimes=_names(runtime),
        samples=samples,
        random_samples=random_samples,
        threads=threads,
        thresholds=thresholds,
        trust=trust,
        streams=streams,
    )
    if layers or figure is not None:
        from edgepress.deploy.verify.layers import layer_report

        report["layers"] = layer_report(path, data, trust=trust)
    if figure is not None:
        from edgepress.deploy.verify.layers import layers_figure
        from edgepress.models.atomic import write_text

        write_text(figure, layers_figure(report["layers"], path.name))
    if format == "json":
        print(json.dumps(report))
    else:
        from edgepress.deploy.tables import verify_text

        print(verify_text(report))
    if not report["judged"]:
        # No verdict against the model: a runtime failed, or there is only one.
        raise typer.Exit(3 if any(not entry["ran"] for entry in report["runtimes"].values()) else 2)
    if not report["passed"]:
        raise typer.Exit(1)


@app.command(epilog=examples("deploy shrink model.tflite -o smaller.tflite"))
def shrink(
    file: _File = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="default: FILE with .small before its suffix")
    ] = None,
    plan: Annotated[bool, typer.Option("--plan/--no-plan", help="search an arena plan for TFLite Micro")] = True,
    run: _Run = DEFAULT_RUN,
    overwrite: _Overwrite = False,
    format: _Format = "text",
) -> None:
    """Make a .tflite file and its arena smaller; every step proves equal outputs or is not applied."""
    from edgepress.deploy.tables import shrink_text
    from edgepress.deploy.verify.shrink import shrink_file

    _check_format(format)
    path = _file_or_newest(file, run, ("tflite",))
    target = output or path.with_name(f"{path.stem}.small{path.suffix}")
    report = shrink_file(path, target, overwrite=overwrite, plan=plan)
    _tell_written(report, shrink_text, target, format)


@app.command(epilog=examples("deploy ort model.onnx", "deploy ort model.onnx -o small.ort --format json"))
def ort(
    file: Annotated[Path | None, typer.Argument(help=".onnx; default: the newest of the run")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="default: FILE with .ort at its end")] = None,
    run: _Run = DEFAULT_RUN,
    overwrite: _Overwrite = False,
    format: _Format = "text",
) -> None:
    """Write an ONNX file in ONNX Runtime's own format, for its builds for phones; proven to give the same outputs."""
    from edgepress.deploy.tables import conversion_text
    from edgepress.deploy.verify.ort import ort_file

    _check_format(format)
    path = _file_or_newest(file, run, ("onnx",))
    target = output or path.with_suffix(".ort")
    _tell_written(ort_file(path, target, overwrite=overwrite), conversion_text, target, format)


@app.command(epilog=examples("deploy openvino model.onnx", "deploy openvino model.onnx -o net.xml --format json"))
def openvino(
    file: Annotated[Path | None, typer.Argument(help=".onnx; default: the newest of the run")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="default: FILE with .xml at its end")] = None,
    run: _Run = DEFAULT_RUN,
    overwrite: _Overwrite = False,
    format: _Format = "text",
) -> None:
    """Write an ONNX file in OpenVINO's own format (.xml and .bin); proven to give what OpenVINO gives for the file."""
    from edgepress.deploy.openvino_ir.convert import openvino_files
    from edgepress.deploy.tables import conversion_text

    _check_format(format)
    path = _file_or_newest(file, run, ("onnx",))
    target = output or path.with_suffix(".xml")
    report = openvino_files(path, target, overwrite=overwrite)
    _tell_written(report, conversion_text, target, format, f" and {target.with_suffix('.bin').name}")


def _tell_written(
    report: dict[str, Any], text: Callable[[dict[str, Any]], str], target: Path, format: str, more: str = ""
) -> None:
    if format == "json":
        print(json.dumps({"schema": 1, "file": str(target), **report}))
        return
    print(text(report))
    print(f"wrote {target}{more}")


@app.command(epilog=examples("deploy operators", "deploy operators model.tflite --format json"))
def operators(
    file: _File = None,
    ask: Annotated[bool, typer.Option("--ask/--no-ask", help="also run the file on the installed runtimes")] = True,
    run: _Run = DEFAULT_RUN,
    format: Annotated[
        str, typer.Option("--format", help="text, json, or markdown: the whole table, as docs/operators.md")
    ] = "text",
) -> None:
    """Show which runtime has the operators of a file, with the reason where one lacks them."""
    from edgepress.deploy.verify.operators import documentation, report

    if format == "markdown":
        print(documentation(), end="")
        return
    _check_format(format, "text", "json", "markdown")
    found = report(_file_or_newest(file, run, ("tflite", "onnx")), ask)
    if format == "json":
        print(json.dumps(found))
        return
    from edgepress.deploy.tables import operators_text

    print(operators_text(found))


@app.command(
    name="run",
    epilog=examples(
        "deploy run model.tflite --input clips.npz",
        "deploy run model.tflite --input clips.npz --on ssh://pi@raspberry --device raspberry-pi-4",
    ),
)
def run_file(
    file: Annotated[
        Path | None, typer.Argument(help=".tflite, .onnx or checkpoint; default: the newest artifact")
    ] = None,
    input_: Annotated[
        Path | None, typer.Option("--input", help=".npz with x (and y), or .npy; float NCHW or raw integers")
    ] = None,
    runtime: Annotated[str | None, typer.Option("--runtime", help="default: the first that fits")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help=".npy for the outputs, float32")] = None,
    on: Annotated[
        str | None, typer.Option("--on", help="ssh://user@host[:port]: run there, with its interpreter")
    ] = None,
    identity: Annotated[Path | None, typer.Option("--identity", help="private key for --on")] = None,
    known_hosts: Annotated[Path | None, typer.Option("--known-hosts", help="file with the host's key for --on")] = None,
    python: Annotated[str, typer.Option("--python", help="Python on the device for --on")] = "python3",
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="timed runs of one input for --on")] = 50,
    device: Annotated[
        str | None, typer.Option("--device", help="device class that the machine of --on stands for")
    ] = None,
    threads: _Threads = 1,
    run: _Run = DEFAULT_RUN,
    overwrite: _Overwrite = False,
    format: _Format = "text",
    trust: _Trust = False,
) -> None:
    """Run a file on inputs, here or on a device; needs no torch."""
    _check_format(format)
    path = file if file is not None else _file_or_newest(None, run, ("tflite", "onnx"))
    if input_ is None:
        raise UsageError("give the inputs with --input FILE.npz or FILE.npy")
    if output is not None and output.exists() and not overwrite:
        raise UsageError(f"{output} exists already; choose another name or allow overwriting with --overwrite")
    from edgepress.deploy.boards.run_inputs import run_here, run_there

    if on is None:
        outputs, result = run_here(path, input_, runtime, threads=threads, trust=trust)
    else:
        if runtime not in (None, "litert", "litert-reference"):
            raise UsageError(f"runtime = {runtime!r} does not run on a device: allowed are litert and litert-reference")
        outputs, result = run_there(
            path,
            input_,
            on,
            runtime or "litert",
            threads=threads,
            python=python,
            repeats=repeats,
            identity=identity,
            known_hosts=known_hosts,
            device_class=_device_class(device),
        )
    if output is not None:
        _save(output, outputs)
        result["output"] = str(output)
    if format == "json":
        print(json.dumps(result))
        return
    from edgepress.deploy.tables import run_text

    print(run_text(result))


def _write_firmware(
    file: Path, folder: Path, overwrite: bool, data: str | None, trust: bool, project: str | None = None
) -> None:
    """A folder of C99 from a .tflite file."""
    from edgepress.deploy.firmware.projects.project import write_project

    made = write_project(file, folder, system=project, data=data, trust=trust, overwrite=overwrite)
    network = made.network
    print(
        f"wrote {folder}: {made.name}_invoke() in {made.name}.h; {network.macs:,} MACs, "
        f"{network.constant_bytes:,} bytes of constants, arena {made.layouts['plain'].arena_bytes:,} bytes with plain "
        f"and {made.layouts['dsp'].arena_bytes:,} with DSP instructions"
    )
    if made.front_end:
        print(f"{made.name}_listen() in {made.name}_listen.h takes samples: the log-mel front end of training")
    elif made.deaf:
        say(f"note: the front end is not in it, so that you compute the features: {made.deaf}")


def main() -> None:
    """Entry point of the command."""
    run_command(app)


def _device_class(name: str | None) -> str | None:
    """The name, checked before anything is made or copied for a device."""
    from edgepress.models.devices.classes import device_class

    return None if name is None else device_class(name).name


def _check_format(format: str, *allowed: str) -> None:
    known = allowed or ("text", "json")
    if format not in known:
        raise UsageError(f"--format {format} is unknown: allowed are {', '.join(known[:-1])} and {known[-1]}")


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def _file_or_newest(file: Path | None, run: Path, formats: tuple[str, ...]) -> Path:
    if file is not None:
        return file
    entry = RunDirectory(run).newest(
        "artifact",
        lambda e: e.get("format") in formats,
        wanted=f"artifact ({' or '.join(formats)})",
        first="deploy export",
    )
    say(f"file {entry['path']} (the newest of the run)")
    return entry["path"]


def _save(path: Path, outputs: Any) -> None:
    import io

    import numpy as np

    from edgepress.models.atomic import write_bytes

    buffer = io.BytesIO()
    np.save(buffer, outputs, allow_pickle=False)
    write_bytes(path, buffer.getvalue())


if __name__ == "__main__":
    main()
