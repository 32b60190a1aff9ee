# SPDX-License-Identifier: Apache-2.0
"""The command `compress`: train, teach, ensemble, distill, search, prune, quantize, run, fit, sweep, init, ..."""

from __future__ import annotations

from edgepress.compress.commands.fit import fit
from edgepress.compress.commands.init import init
from edgepress.compress.commands.listing import check, list_
from edgepress.compress.commands.prune import prune
from edgepress.compress.commands.quantize import quantize
from edgepress.compress.commands.run import run
from edgepress.compress.commands.sweep import sweep
from edgepress.compress.commands.teachers.distill import distill
from edgepress.compress.commands.teachers.ensemble import ensemble
from edgepress.compress.commands.teachers.search import search
from edgepress.compress.commands.teachers.teach import teach
from edgepress.compress.commands.train import train
from edgepress.models.command_line import application, examples, run_command

app = application(
    "compress",
    "A checkpoint goes in, a smaller one comes out.",
    examples(
        "compress train",
        "compress prune --target-macs 20e6",
        "deploy export --format tflite",
        "benchmarks gate --device dcase2023",
    ),
)

app.command(epilog=examples("compress train esc10-mobile --data ./esc10-mobile --seed 1"))(train)
app.command(
    epilog=examples(
        "compress teach esc10-mobile --data ./esc10-mobile --count 4",
        "compress teach dcase2023 --network passt --front-end melpasst --weights passt-s.pt --data ./tau",
    )
)(teach)
app.command(
    epilog=examples("compress ensemble", "compress ensemble runs/a/teachers/t1 runs/b/teachers/t2 --mode paper")
)(ensemble)
app.command(
    epilog=examples(
        "compress distill esc10-mobile --data ./esc10-mobile",
        "compress distill --student runs/default/checkpoints/5M-admm --teacher runs/default/ensembles/ensemble",
    )
)(distill)
app.command(
    epilog=examples(
        "compress search esc10-mobile --data ./esc10-mobile --trials 20 --epochs 5",
        "compress search dcase2023 --teacher --data ./tau --instances 10",
        "compress search --storage postgresql://host/studies",
    )
)(search)
app.command(
    epilog=examples(
        "compress prune --target-macs 20e6",
        "compress prune --target-macs 50% --method gradual",
        "compress prune --model mynet:build --weights my.safetensors --input 1,3,32,32 --target-macs 50%",
    )
)(prune)
app.command(epilog=examples("compress quantize", "compress quantize --qat --epochs 5"))(quantize)
app.command(epilog=examples("compress run", "compress run esc10-mobile --data ./esc10-mobile --run runs/esc10"))(run)
app.command(epilog=examples("compress fit default --device cortex-m4 --device raspberry-pi-4"))(fit)
app.command(
    epilog=examples(
        "compress sweep grid.toml",
        "compress sweep --recipe default --budget 30M --budget 20M --seed 0 --seed 1 --dry-run",
    )
)(sweep)
app.command(epilog=examples("compress init images:./flowers --device cortex-m4", "compress run flowers.toml"))(init)
app.command("list", epilog=examples("compress list networks", "compress list --format json"))(list_)
app.command(epilog=examples("compress check my-recipe.toml"))(check)


def main() -> None:
    """The entry point."""
    run_command(app)
