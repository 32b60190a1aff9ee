"""The command `compress`: train, teach, ensemble, distill, search, prune, quantize, run, sweep, list, check."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgepress.models.command_line import application, run_command

app = application(
    "compress",
    "A checkpoint goes in, a smaller one comes out.",
    "In order, without arguments: compress train; compress prune --target-macs 20e6; "
    "deploy export --format tflite; benchmarks gate --device dcase2023.",
)


DEFAULT_RUN = Path("runs/default")
Run = Annotated[Path, typer.Option("--run", help="Run directory that collects what is made.")]
Data = Annotated[
    str | None,
    typer.Option("--data", help="synthetic[:seed], a folder in TAU layout, a file .npz, or package.module:factory."),
]
Seed = Annotated[int | None, typer.Option(min=0, help="Seed of weights, order and augmentation.")]
Epochs = Annotated[int | None, typer.Option(min=0, help="Epochs in all; the recipe's otherwise.")]
Accelerator = Annotated[str, typer.Option(help="Lightning's accelerator: auto, cpu, gpu, ...")]
Devices = Annotated[str, typer.Option(help="Lightning's devices: auto, a count, or a list such as 0,1.")]
Strategy = Annotated[str, typer.Option(help="Lightning's strategy: auto, ddp, ddp_spawn, fsdp, ...")]
Nodes = Annotated[int, typer.Option(min=1, help="Machines that take part.")]
Trust = Annotated[bool, typer.Option("--trust", help="Allow a checkpoint or recipe to name code outside edgepress.")]
Teacher = Annotated[Path | None, typer.Option(help="A checkpoint or an ensemble to follow.")]
Form = Annotated[str | None, typer.Option("--form", help="Of the distillation loss: 2022 or 2023.")]
Temperature = Annotated[float | None, typer.Option(help="Of the softened distributions.")]
Weight = Annotated[float | None, typer.Option(help="Of the teacher in the loss.")]
Logits = Annotated[str | None, typer.Option(help="online (on the student's input), or cached (once per clip).")]
Network = Annotated[str | None, typer.Option(help="Another network, by name or package.module:factory.")]
BatchSize = Annotated[int | None, typer.Option(min=2, help="Clips per step.")]
LearningRate = Annotated[float | None, typer.Option(help="Peak of the schedule.")]
Restart = Annotated[bool, typer.Option("--restart", help="Begin again instead of going on from a killed training.")]


@app.command(epilog="compress train esc10-mobile --data ./esc10-mobile --seed 1")
def train(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe or a file; its network and [train].")] = "default",
    data: Data = None,
    run: Run = DEFAULT_RUN,
    seed: Seed = None,
    epochs: Epochs = None,
    network: Network = None,
    batch_size: BatchSize = None,
    learning_rate: LearningRate = None,
    trust: Trust = False,
    restart: Restart = False,
    accelerator: Accelerator = "auto",
    devices: Devices = "auto",
    strategy: Strategy = "auto",
    nodes: Nodes = 1,
) -> None:
    """Train the dense network of a recipe; killed, the same command goes on from the last epoch."""
    from edgepress.compress.commands.train import run_train

    run_train(
        recipe,
        data=data,
        run=run,
        seed=seed,
        network=network,
        restart=restart,
        trust=trust,
        train={"epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate},
        machine=(accelerator, devices, strategy, nodes),
    )


@app.command(
    epilog="compress teach esc10-mobile --data ./esc10-mobile --count 4    "
    "compress teach dcase2023 --network passt --front-end melpasst --weights passt-s.pt --data ./tau"
)
def teach(
    recipe: Annotated[
        str, typer.Argument(help="A shipped recipe or a file; its [teacher], else its network and [train].")
    ] = "default",
    data: Data = None,
    run: Run = DEFAULT_RUN,
    seed: Seed = None,
    epochs: Epochs = None,
    count: Annotated[int | None, typer.Option(min=1, help="Teachers, of different seeds.")] = None,
    network: Annotated[str | None, typer.Option(help="passt, passt_tiny, cp_resnet or any other.")] = None,
    weights: Annotated[
        Path | None,
        typer.Option(help="Published weights to start from, .safetensors, .pt or .ckpt; tensors only are read."),
    ] = None,
    front_end: Annotated[str | None, typer.Option(help="Of the teacher: mel22, mel23, melpasst, mel16k.")] = None,
    batch_size: BatchSize = None,
    learning_rate: LearningRate = None,
    contrastive: Annotated[
        bool | None,
        typer.Option("--contrastive/--no-contrastive", help="Train with the inverse contrastive term, or without."),
    ] = None,
    alpha: Annotated[float | None, typer.Option(help="Barrier of the contrastive term.")] = None,
    weight: Annotated[float | None, typer.Option("--lambda", help="Weight of the contrastive term.")] = None,
    mode: Annotated[str | None, typer.Option(help="Of its pairs: plain or balanced.")] = None,
    distance: Annotated[str | None, typer.Option(help="normalized, rms or euclidean.")] = None,
    name: Annotated[str, typer.Option(help="Of the teachers.")] = "teacher",
    trust: Trust = False,
    restart: Restart = False,
    accelerator: Accelerator = "auto",
    devices: Devices = "auto",
    strategy: Strategy = "auto",
    nodes: Nodes = 1,
) -> None:
    """Train teachers; their logits and features are computed once per clip and kept."""
    from edgepress.compress.commands.teach import run_teach

    run_teach(
        recipe,
        data=data,
        run=run,
        seed=seed,
        count=count,
        network=network,
        weights=weights,
        front_end=front_end,
        name=name,
        restart=restart,
        trust=trust,
        term=contrastive,
        train={"epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate},
        contrastive={"alpha": alpha, "weight": weight, "mode": mode, "distance": distance},
        machine=(accelerator, devices, strategy, nodes),
    )


@app.command(epilog="compress ensemble    compress ensemble runs/a/teachers/t1 runs/b/teachers/t2 --mode paper")
def ensemble(
    teachers: Annotated[
        list[Path] | None, typer.Argument(help="Checkpoints; otherwise every teacher of the run.")
    ] = None,
    mode: Annotated[str, typer.Option(help="stable, or paper (free weights, no bias).")] = "stable",
    shared_exponent: Annotated[bool, typer.Option("--shared-exponent", help="One exponent for all classes.")] = False,
    name: Annotated[str, typer.Option(help="Of the ensemble.")] = "ensemble",
    data: Data = None,
    run: Run = DEFAULT_RUN,
    trust: Trust = False,
    accelerator: Accelerator = "auto",
) -> None:
    """Join teachers by a generalised mean, fitted on the validation split."""
    from edgepress.compress.commands.ensemble import run_ensemble

    run_ensemble(
        tuple(teachers or ()),
        mode=mode,
        shared_exponent=shared_exponent,
        data=data,
        run=run,
        name=name,
        trust=trust,
        machine=(accelerator, "auto", "auto", 1),
    )


@app.command(
    epilog="compress distill esc10-mobile --data ./esc10-mobile    compress distill --student runs/default/"
    "checkpoints/5M-admm --teacher runs/default/ensembles/ensemble --epochs 10"
)
def distill(
    recipe: Annotated[str | None, typer.Argument(help="A shipped recipe or a file; its network and [train].")] = None,
    teacher: Teacher = None,
    student: Annotated[
        Path | None, typer.Option(help="Go on with this checkpoint, instead of the recipe's network.")
    ] = None,
    form: Form = None,
    temperature: Temperature = None,
    weight: Weight = None,
    logits: Logits = None,
    data: Data = None,
    run: Run = DEFAULT_RUN,
    seed: Seed = None,
    epochs: Epochs = None,
    network: Network = None,
    batch_size: BatchSize = None,
    learning_rate: LearningRate = None,
    trust: Trust = False,
    restart: Restart = False,
    accelerator: Accelerator = "auto",
    devices: Devices = "auto",
    strategy: Strategy = "auto",
    nodes: Nodes = 1,
) -> None:
    """Train a student under a teacher: a given one, else the run's newest ensemble, else its newest teacher."""
    from edgepress.compress.commands.distill import run_distill

    run_distill(
        recipe,
        teacher=teacher,
        student=student,
        data=data,
        run=run,
        seed=seed,
        network=network,
        distill={"form": form, "temperature": temperature, "weight": weight, "logits": logits},
        train={"epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate},
        restart=restart,
        trust=trust,
        machine=(accelerator, devices, strategy, nodes),
    )


@app.command(
    epilog="compress search esc10-mobile --data ./esc10-mobile --trials 20 --epochs 5    "
    "compress search --storage postgresql://host/studies"
)
def search(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe or a file; its network and [train].")] = ("default"),
    trials: Annotated[int, typer.Option(min=1, help="Finished trials in all, those of before included.")] = 20,
    epochs: Annotated[int, typer.Option(min=1, help="Of every trial.")] = 5,
    weight_decay: Annotated[
        bool, typer.Option("--weight-decay", help="Also search the weight decay, in the learning rate's range.")
    ] = False,
    storage: Annotated[
        str | None, typer.Option(help="URL of a database that several machines share; otherwise a file of the run.")
    ] = None,
    name: Annotated[str, typer.Option(help="Of the search; the same name goes on with it.")] = "adam",
    data: Data = None,
    run: Run = DEFAULT_RUN,
    seed: Seed = None,
    trust: Trust = False,
    accelerator: Accelerator = "auto",
) -> None:
    """Search Adam's learning rate, beta1, beta2 and epsilon in the report's ranges; killed, it goes on."""
    from edgepress.compress.commands.search import run_search

    run_search(
        recipe,
        trials=trials,
        epochs=epochs,
        weight_decay=weight_decay,
        storage=storage,
        name=name,
        data=data,
        run=run,
        seed=seed,
        trust=trust,
        machine=(accelerator, "auto", "auto", 1),
    )


@app.command(
    epilog="compress prune --target-macs 20e6    compress prune --target-macs 50% --method gradual    "
    "compress prune --model mynet:build --weights my.safetensors --input 1,3,32,32 --target-macs 50%"
)
def prune(
    checkpoint: Annotated[
        Path | None,
        typer.Argument(help="A checkpoint; otherwise the newest unpruned float one of the run above the target."),
    ] = None,
    target_macs: Annotated[str | None, typer.Option(help="20e6, 20M, or a share such as 50%.")] = None,
    target_params: Annotated[str | None, typer.Option(help="61148, 128k, or a share.")] = None,
    target_bytes: Annotated[str | None, typer.Option(help="Of weights: 128 kB, 64 KiB, or a share.")] = None,
    target_peak: Annotated[str | None, typer.Option(help="Of activations alive at once: 64 KiB, or a share.")] = None,
    device: Annotated[
        str | None, typer.Option(help="Device class whose limits bind too; the recipe's otherwise.")
    ] = None,
    no_device_limits: Annotated[bool, typer.Option("--no-device-limits", help="Only the targets bind.")] = False,
    method: Annotated[str | None, typer.Option(help="admm, gradual, one-shot or from-scratch.")] = None,
    projection: Annotated[str | None, typer.Option(help="knapsack or threshold.")] = None,
    importance: Annotated[str | None, typer.Option(help="l2, l1, bn, taylor, lamp, fpgm or random.")] = None,
    epochs: Epochs = None,
    teacher: Teacher = None,
    divisor: Annotated[int | None, typer.Option(min=1, help="Channels in multiples of this.")] = None,
    min_channels: Annotated[int | None, typer.Option(min=1, help="Channels that every group keeps.")] = None,
    floor: Annotated[float | None, typer.Option(min=0, max=1, help="Share of its width that a group keeps.")] = None,
    protect: Annotated[list[str] | None, typer.Option(help="Module that keeps its width; may be repeated.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Your own network, package.module:factory (its code is run).")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="Its weights, .safetensors or .pt.")] = None,
    inputs: Annotated[
        list[str] | None, typer.Option("--input", help="Shape of an input with the batch, 1,3,32,32; once per input.")
    ] = None,
    state_dict: Annotated[Path | None, typer.Option(help="Also write a state dict, .safetensors or .pt.")] = None,
    program: Annotated[Path | None, typer.Option(help="Also write a torch.export program, .pt2.")] = None,
    data: Data = None,
    run: Run = DEFAULT_RUN,
    seed: Seed = None,
    trust: Trust = False,
    restart: Restart = False,
    accelerator: Accelerator = "auto",
    devices: Devices = "auto",
    strategy: Strategy = "auto",
    nodes: Nodes = 1,
) -> None:
    """Prune a network to hard budgets: train, remove channels, prove the removal, fine-tune."""
    from edgepress.compress.commands.prune import run_prune

    run_prune(
        checkpoint,
        targets={
            "macs": target_macs,
            "params": target_params,
            "weight_bytes": target_bytes,
            "peak_activation_bytes": target_peak,
        },
        device=device,
        device_limits=not no_device_limits,
        settings={
            "method": method,
            "projection": projection,
            "importance": importance,
            "divisor": divisor,
            "min_channels": min_channels,
            "floor": floor,
        },
        epochs=epochs,
        teacher=teacher,
        protect=tuple(protect or ()),
        model=model,
        weights=weights,
        inputs=tuple(inputs or ()),
        state_dict=state_dict,
        program=program,
        data=data,
        run=run,
        seed=seed,
        trust=trust,
        restart=restart,
        machine=(accelerator, devices, strategy, nodes),
    )


@app.command(epilog="compress quantize    compress quantize --qat --epochs 5")
def quantize(
    checkpoint: Annotated[Path | None, typer.Argument(help="A float checkpoint; otherwise the newest.")] = None,
    scheme: Annotated[str | None, typer.Option(help="w8a8 or a16w8.")] = None,
    method: Annotated[
        str | None, typer.Option(help="How ranges follow from calibration: mse, minmax, percentile or entropy.")
    ] = None,
    clips: Annotated[int | None, typer.Option(min=1, help="Clips to calibrate on.")] = None,
    qat: Annotated[
        bool,
        typer.Option("--qat", help="Train the weights under the rounding (5 epochs unless --epochs says otherwise)."),
    ] = False,
    epochs: Epochs = None,
    ranges: Annotated[str | None, typer.Option(help="In training: learned, averaged or frozen.")] = None,
    in_float: Annotated[
        list[str] | None, typer.Option("--float", help="Leave this layer or module in float; may be repeated.")
    ] = None,
    in_16_bits: Annotated[
        list[str] | None, typer.Option("--a16w8", help="16-bit activations for this layer or module; may be repeated.")
    ] = None,
    equalize: Annotated[bool | None, typer.Option(help="Balance neighbouring layers first.")] = None,
    bias_correction: Annotated[
        bool | None, typer.Option(help="Take the mean error of each layer out of its bias.")
    ] = None,
    per_tensor_dense: Annotated[
        bool | None, typer.Option(help="One weight scale per fully connected layer, for old TFLite Micro.")
    ] = None,
    sensitivity: Annotated[
        bool,
        typer.Option(
            "--sensitivity", help="Also measure what rounding each layer costs: a table, a figure, a JSON file."
        ),
    ] = False,
    teacher: Teacher = None,
    data: Data = None,
    run: Run = DEFAULT_RUN,
    seed: Seed = None,
    trust: Trust = False,
    restart: Restart = False,
    accelerator: Accelerator = "auto",
    devices: Devices = "auto",
    strategy: Strategy = "auto",
    nodes: Nodes = 1,
) -> None:
    """Make an int8 checkpoint: calibrate activation ranges, optionally train under them."""
    from edgepress.compress.commands.quantize import run_quantize

    exceptions = {**dict.fromkeys(in_float or (), "float"), **dict.fromkeys(in_16_bits or (), "a16w8")}
    run_quantize(
        checkpoint,
        settings={
            "scheme": scheme,
            "method": method,
            "clips": clips,
            "ranges": ranges,
            "equalize": equalize,
            "bias_correction": bias_correction,
            "per_tensor_dense": per_tensor_dense,
            "exceptions": exceptions or None,
        },
        qat=qat,
        epochs=epochs,
        sensitivity=sensitivity,
        teacher=teacher,
        data=data,
        run=run,
        seed=seed,
        trust=trust,
        restart=restart,
        machine=(accelerator, devices, strategy, nodes),
    )


@app.command(epilog="compress run    compress run esc10-mobile --data ./esc10-mobile --run runs/esc10")
def run(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe or a file.")] = "default",
    data: Data = None,
    run: Run = DEFAULT_RUN,
    seed: Seed = None,
    target: Annotated[
        list[str] | None, typer.Option(help="MACs, 20M or 50%, instead of the recipe's targets; may be repeated.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="Another device class than the recipe's.")] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="KEY=VALUE of the recipe, such as teacher.count=2; may be repeated."),
    ] = None,
    report: Annotated[bool, typer.Option(help="Write the HTML report.")] = True,
    trust: Trust = False,
    accelerator: Accelerator = "auto",
    devices: Devices = "auto",
    strategy: Strategy = "auto",
    nodes: Nodes = 1,
) -> None:
    """All of a recipe: train, prune, quantize, export, benchmark, gate, report; killed, it goes on where it was."""
    from edgepress.compress.pipeline.run import run_recipe

    run_recipe(
        recipe,
        data=data,
        run=run,
        seed=seed,
        targets=tuple(target or ()),
        device=device,
        report=report,
        overrides=tuple(overrides or ()),
        trust=trust,
        machine=(accelerator, devices, strategy, nodes),
    )


@app.command(
    epilog="compress sweep grid.toml    compress sweep --recipe default --budget 30M --budget 20M --seed 0 "
    "--seed 1 --dry-run"
)
def sweep(
    grid: Annotated[
        Path | None, typer.Argument(help="A TOML file with recipes, budgets, seeds, devices, data.")
    ] = None,
    recipe: Annotated[list[str] | None, typer.Option(help="May be repeated, like the next three.")] = None,
    budget: Annotated[list[str] | None, typer.Option(help="MACs, 20M or 50%.")] = None,
    seed: Annotated[list[int] | None, typer.Option(min=0, help="Of everything random.")] = None,
    device: Annotated[list[str] | None, typer.Option(help="Device class.")] = None,
    data: Data = None,
    run: Annotated[Path, typer.Option("--run", help="Folder that collects all tasks.")] = Path("runs/sweep"),
    address: Annotated[
        str | None,
        typer.Option(help="Ray cluster: auto or host:port; otherwise this machine. --run must be on a shared disk."),
    ] = None,
    cpus: Annotated[int | None, typer.Option(min=1, help="Cores and threads of a task.")] = None,
    gpus: Annotated[float | None, typer.Option(min=0, help="GPUs of a task; one where there are any.")] = None,
    memory: Annotated[str, typer.Option(help="Memory of a task, for how many run at once.")] = "2 GB",
    retries: Annotated[int, typer.Option(min=0, help="How often a killed or failed task starts again.")] = 3,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and an estimate of time.")] = False,
    report: Annotated[bool, typer.Option(help="Write the Pareto report.")] = True,
    trust: Trust = False,
) -> None:
    """A grid of recipes, budgets, seeds and device classes on Ray; killed, the same command goes on where it was."""
    from edgepress.compress.commands.sweep import run_sweep

    run_sweep(
        grid,
        {"recipes": recipe, "budgets": budget, "seeds": seed, "devices": device, "data": data},
        sweep=run,
        trust=trust,
        dry_run=dry_run,
        report=report,
        address=address,
        cpus=cpus,
        gpus=gpus,
        memory=memory,
        retries=retries,
    )


@app.command("list")
def list_(
    what: Annotated[str, typer.Argument(help="recipes, networks, tasks, devices, or all of them.")] = "all",
) -> None:
    """What there is: recipes, networks, tasks, device classes."""
    from edgepress.compress.commands.listing import list_things

    list_things(what)


@app.command()
def check(recipe: Annotated[str, typer.Argument(help="A shipped recipe or a file.")], trust: Trust = False) -> None:
    """Check a recipe as a whole and say everything that is wrong with it."""
    from edgepress.compress.recipes.recipe import read_recipe

    checked = read_recipe(recipe, trust=trust)
    data = checked.task or "the --data you give"
    typer.echo(f"{recipe}: a valid recipe ({checked.network.name} on {data}, {len(checked.prune.targets)} budgets)")


def main() -> None:
    """The entry point."""
    run_command(app)
