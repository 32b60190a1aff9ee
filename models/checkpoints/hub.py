# SPDX-License-Identifier: Apache-2.0
"""Checkpoints on the Hugging Face Hub: a model card made of what was measured; back by name, as from a folder.

Only these functions talk to the Hub, and only when they are called. A folder stands for a repository as well: a
path, or a name that begins with "." or "/".
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgepress.models.atomic import new_directory
from edgepress.models.checkpoints.checkpoint import (
    FOLDED,
    METRICS,
    MODEL,
    QUANTIZATION,
    WEIGHTS,
    load_checkpoint,
    read_metrics,
    read_spec,
)
from edgepress.models.checkpoints.spec import ModelSpec
from edgepress.models.errors import RuntimeFailure, UsageError
from edgepress.models.files.reading import read_json
from edgepress.models.terminal.installation import how_to_install
from edgepress.models.units import format_quantity

if TYPE_CHECKING:
    from torch import nn

CARD = "README.md"
_FILES = (MODEL, WEIGHTS, METRICS, QUANTIZATION, FOLDED)
_NAME = re.compile(r"[\w.-]+/[\w.-]+")
#: The folders above a file, of this machine: what is published keeps the last name alone.
_ABOVE = re.compile(r"(?<![\w./])/(?!/)(?:[^/\s'\":,]+/)+(?=[^/\s'\":,])")


def push_to_hub(
    checkpoint: str | Path,
    repository: str | Path,
    *,
    files: Sequence[str | Path] = (),
    licence: str | None = None,
    private: bool = False,
    token: str | None = None,
    message: str = "A checkpoint of edgepress",
) -> str:
    """Publish a checkpoint with a model card.

    Args:
        checkpoint: a directory of `save_checkpoint` or of a run.
        repository: "user/name", which is made where it does not exist; or a folder, which must not exist.
        files: exported files that go with it, each with its manifest where it has one; the card shows their parity.
        licence: of the weights, as the Hub names it ("apache-2.0"); None leaves it open.
        private: of a new repository.
        token: None takes the one of `hf auth login`.
        message: of the commit.

    Returns:
        The address of the commit, or the folder.

    Raises:
        UsageError: no checkpoint, no such file, no name of a repository, or the folder exists.
        RuntimeFailure: huggingface_hub is not installed, or the Hub refuses.
    """
    read_spec(checkpoint)
    missing = [str(file) for file in files if not Path(file).is_file()]
    if missing:
        raise UsageError(f"files = {missing[0]!r} does not exist: name an exported file")
    local = _folder(repository)
    if local is not None:
        with new_directory(local) as made:
            _fill(Path(checkpoint), made, files, licence, local.name)
        return str(local)
    name = _checked(str(repository))
    api = _hub().HfApi(token=token)
    with tempfile.TemporaryDirectory() as scratch:
        _fill(Path(checkpoint), Path(scratch), files, licence, name.partition("/")[2])
        try:
            api.create_repo(name, private=private, exist_ok=True)
            done = api.upload_folder(repo_id=name, folder_path=scratch, commit_message=message)
        except Exception as error:
            raise RuntimeFailure(f"the Hub refuses {name}: {_first_line(error)}") from error
    return str(getattr(done, "commit_url", done))


def load_from_hub(
    repository: str | Path, *, revision: str | None = None, trust: bool = False, token: str | None = None
) -> tuple[nn.Module, ModelSpec]:
    """Load a published checkpoint, as `load_checkpoint` does from a folder.

    Args:
        repository: "user/name", or a folder of `push_to_hub`.
        revision: branch, tag or commit; name a commit where it must stay the same.
        trust: allow it to name code outside edgepress, which must be installed here; none comes from the repository.
        token: for a private repository; None takes the one of `hf auth login`.

    Returns:
        (network, spec).

    Raises:
        UsageError: no name of a repository, or no checkpoint in it.
        RuntimeFailure: huggingface_hub is not installed, or the Hub does not give it.
    """
    local = _folder(repository)
    if local is not None:
        return load_checkpoint(local, trust=trust)
    name = _checked(str(repository))
    try:
        path = _hub().snapshot_download(name, revision=revision, token=token, allow_patterns=list(_FILES))
    except RuntimeFailure:
        raise
    except Exception as error:
        raise RuntimeFailure(f"the Hub does not give {name}: {_first_line(error)}") from error
    return load_checkpoint(path, trust=trust)


def model_card(
    spec: ModelSpec, metrics: Mapping[str, Any], manifests: Mapping[str, Any], title: str, licence: str | None = None
) -> str:
    """Markdown with the metadata that the Hub reads: what it is, its cost by rule, accuracy with intervals, parity."""
    return "\n".join([*_metadata(metrics, title, licence), *_body(spec, metrics, manifests, title)]) + "\n"


def _metadata(metrics: Mapping[str, Any], title: str, licence: str | None) -> Iterator[str]:
    yield "---"
    yield "library_name: edgepress"
    yield "tags: [edgepress, pruning, quantization, tinyml]"
    if licence:
        yield f"license: {licence}"
    found = _figures(metrics)
    if found:
        task = metrics.get("data", {}).get("task", "unknown")
        yield from ("model-index:", f"  - name: {json.dumps(title)}", "    results:")
        for split, name, value, _ in found:
            kind = json.dumps(metrics[split].get("task_kind", "classification"))
            yield f"      - task: {{ type: other, name: {kind} }}"
            yield f"        dataset: {{ type: other, name: {json.dumps(task)}, split: {split} }}"
            yield f"        metrics: [{{ type: {name}, value: {value:.6g} }}]"
    yield "---"
    yield ""


def _body(spec: ModelSpec, metrics: Mapping[str, Any], manifests: Mapping[str, Any], title: str) -> Iterator[str]:
    shapes = ", ".join(" x ".join(map(str, shape)) for shape in spec.input_shapes)
    yield f"# {title}\n"
    classes = f", {len(spec.classes)} classes" if spec.classes else ""
    yield f"`{spec.factory}` on inputs of {shapes}{classes}, made by [edgepress](https://github.com/edgepress/edgepress).\n"
    yield '```python\nfrom edgepress import load_from_hub\n\nmodel, spec = load_from_hub("user/name")\n```\n'
    cost = metrics.get("cost", {})
    if cost:
        headings = (f"MACs ({cost.get('rule', 'rule unknown')})", "parameters", "weights", "activations at once")
        weights = f"{format_quantity(cost['weight_bytes'], 'bytes')} ({metrics.get('scheme') or 'as planned'})"
        peak = format_quantity(cost["peak_activation_bytes"], "bytes")
        yield _table(headings, [(format_quantity(cost["macs"], "macs"), f"{cost['params']:,}", weights, peak)])
        if cost.get("uncounted"):
            yield f"Not counted: {', '.join(cost['uncounted'])}.\n"
    rows = [
        (split, name, f"{value:.4f}", "-" if interval is None else f"{interval[0]:.4f} to {interval[1]:.4f}")
        for split, name, value, interval in _figures(metrics)
    ]
    if rows:
        yield _table(("split", "figure", "value", "95 % interval"), rows)
        data = metrics.get("data", {})
        yield f"Data: {data.get('task', 'unknown')}, fingerprint `{data.get('fingerprint', 'unknown')}`.\n"
    for name, manifest in manifests.items():
        size = f"{manifest.get('file_bytes', 0):,} bytes"
        yield f"`{name}`: {size}, {manifest.get('scheme')}, sha256 `{manifest.get('sha256')}`.\n"
        pairs = (manifest.get("parity") or {}).get("pairs", [])
        if pairs:
            agreements = [pair.get("label_agreement") for pair in pairs]
            same = ["-" if share is None else f"{share:.2%}" for share in agreements]
            yield _table(
                ("compared", "inputs", "largest difference, LSB", "same label"),
                [
                    (f"{pair['a']} and {pair['b']}", pair["samples"], pair.get("max_lsb", "-"), label)
                    for pair, label in zip(pairs, same, strict=True)
                ],
            )
    if metrics.get("command"):
        yield f"Made by `{metrics['command']}` on {metrics.get('date', 'an unknown day')}, seed {metrics.get('seed')}."


def _table(headings: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines) + "\n"


def _figures(metrics: Mapping[str, Any]) -> list[tuple[str, str, float, Sequence[float] | None]]:
    """(split, metric, value, interval) of what was measured."""
    found = []
    for split in ("validation", "test"):
        measured = metrics.get(split)
        if isinstance(measured, Mapping):
            intervals = measured.get("intervals", {})
            for name, value in (measured.get("metrics") or {"accuracy": measured.get("accuracy")}).items():
                if isinstance(value, (int, float)):
                    found.append((split, name, float(value), intervals.get(name)))
    return found


def _fill(checkpoint: Path, folder: Path, files: Sequence[str | Path], licence: str | None, title: str) -> None:
    """The checkpoint, the files and the card, without the folders of this machine."""
    for name in _FILES:
        source = checkpoint / name
        if name == WEIGHTS:
            shutil.copyfile(source, folder / name)
        elif source.is_file():
            (folder / name).write_text(_ABOVE.sub("", source.read_text(encoding="utf-8")), encoding="utf-8")
    manifests = {}
    for file in map(Path, files):
        shutil.copyfile(file, folder / file.name)
        beside = file.with_name(f"{file.name}.manifest.json")
        if beside.is_file():
            manifests[file.name] = read_json(beside)
            text = _ABOVE.sub("", beside.read_text(encoding="utf-8"))
            (folder / beside.name).write_text(text, encoding="utf-8")
    card = model_card(read_spec(folder), read_metrics(folder), manifests, title, licence)
    (folder / CARD).write_text(card, encoding="utf-8")


def _folder(repository: str | Path) -> Path | None:
    local = isinstance(repository, Path) or str(repository).startswith((".", "/", "~"))
    return Path(repository).expanduser() if local else None


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise UsageError(f'repository = {name!r} is no name on the Hub: "user/name" is, and a folder such as "./name"')
    return name


def _hub() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise RuntimeFailure(f"the Hub needs huggingface_hub ({error}): {how_to_install('huggingface_hub')}") from error
    return huggingface_hub


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
