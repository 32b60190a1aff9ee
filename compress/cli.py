# SPDX-License-Identifier: Apache-2.0
"""The command `compress`: train, teach, ensemble, distill, search, prune, quantize, run, sweep, list, check."""

from __future__ import annotations

from edgepress.compress.commands.distill import distill
from edgepress.compress.commands.ensemble import ensemble
from edgepress.compress.commands.listing import check, list_
from edgepress.compress.commands.prune import prune
from edgepress.compress.commands.quantize import quantize
from edgepress.compress.commands.run import run
from edgepress.compress.commands.search import search
from edgepress.compress.commands.sweep import sweep
from edgepress.compress.commands.teach import teach
from edgepress.compress.commands.train import train
from edgepress.models.command_line import application, run_command

app = application(
    "compress",
    "A checkpoint goes in, a smaller one comes out.",
    "In order, without arguments: compress train; compress prune --target-macs 20e6; "
    "deploy export --format tflite; benchmarks gate --device dcase2023.",
)

app.command(epilog="compress train esc10-mobile --data ./esc10-mobile --seed 1")(train)
app.command(
    epilog="compress teach esc10-mobile --data ./esc10-mobile --count 4    "
    "compress teach dcase2023 --network passt --front-end melpasst --weights passt-s.pt --data ./tau"
)(teach)
app.command(epilog="compress ensemble    compress ensemble runs/a/teachers/t1 runs/b/teachers/t2 --mode paper")(
    ensemble
)
app.command(
    epilog="compress distill esc10-mobile --data ./esc10-mobile    compress distill --student runs/default/"
    "checkpoints/5M-admm --teacher runs/default/ensembles/ensemble --epochs 10"
)(distill)
app.command(
    epilog="compress search esc10-mobile --data ./esc10-mobile --trials 20 --epochs 5    "
    "compress search --storage postgresql://host/studies"
)(search)
app.command(
    epilog="compress prune --target-macs 20e6    compress prune --target-macs 50% --method gradual    "
    "compress prune --model mynet:build --weights my.safetensors --input 1,3,32,32 --target-macs 50%"
)(prune)
app.command(epilog="compress quantize    compress quantize --qat --epochs 5")(quantize)
app.command(epilog="compress run    compress run esc10-mobile --data ./esc10-mobile --run runs/esc10")(run)
app.command(
    epilog="compress sweep grid.toml    compress sweep --recipe default --budget 30M --budget 20M --seed 0 "
    "--seed 1 --dry-run"
)(sweep)
app.command("list")(list_)
app.command()(check)


def main() -> None:
    """The entry point."""
    run_command(app)
