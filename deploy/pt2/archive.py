# SPDX-License-Identifier: Apache-2.0
"""A .pt2 file of torch.export.save, read without unpickling anything and without running what its text says.

`torch.export.load` unpickles the example inputs, evaluates the text of guards and symbolic sizes, and looks operators
up by any name in torch. Here weights are raw bytes, example inputs and guards are left out, operators come from a list,
and sizes are numbers and symbols. What cannot be read so, is refused with the reason.
"""

from __future__ import annotations

import io
import re
import warnings
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgepress.models.errors import UsageError

if TYPE_CHECKING:
    import torch
    from torch.export import ExportedProgram

LARGEST_FILE_BYTES = 1 << 30
_LARGEST_TEXT_BYTES = 64 << 20
_MOST_ENTRIES = 100_000
_MODEL = "models/model.json"
_WEIGHTS, _CONSTANTS = "data/weights/", "data/constants/"
#: Operators that compute; `aten.from_file` maps files.
_OPERATOR = re.compile(r"torch\.ops\.(aten|prims|quantized_decomposed)\.(?!from_file\b)\w+\.\w+")
_PLAIN = {
    "_operator.getitem",
    *(f"_operator.{name}" for name in ("add", "sub", "mul", "floordiv", "truediv", "mod", "neg", "pow")),
    *(f"_operator.{name}" for name in ("eq", "ne", "lt", "le", "gt", "ge", "and_", "or_", "not_")),
    *(f"torch.sym_{name}" for name in ("int", "float", "max", "min", "not", "sum")),
}
#: s77, 2*s77 + 1, Symbol('s77', positive=True), Add(...): sums and products; no other name, no power.
_EXPRESSION = re.compile(
    r"(?:(?:Symbol|Integer|Add|Mul|positive|nonnegative|integer|True|False)\b|'[su]\d{1,9}'|[su]\d{1,9}\b|\d{1,19}\b"
    r"|[(),=+\- ]|\*(?!\*)){1,200}"
)


def load_program(path: str | Path) -> ExportedProgram:
    """Read a .pt2 file.

    Args:
        path: a file that torch.export.save wrote; it may come from a stranger.

    Raises:
        UsageError: it is missing or damaged, was written by another version of torch, or holds what is not read.
    """
    from edgepress.models.files.reading import open_bytes, parse_json

    path = Path(path)
    data = bytes(open_bytes(path, LARGEST_FILE_BYTES))
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            files = _entries(archive, path)
            told = {
                name: parse_json(_text(archive, files, name, path), f"{path}: {name}") for name in _texts(files, path)
            }
            _check(told[_MODEL], path)
            weights, constants = (
                _tensors(archive, files, told[f"{folder}model_{kind}_config.json"], folder, path)
                for folder, kind in ((_WEIGHTS, "weights"), (_CONSTANTS, "constants"))
            )
    except zipfile.BadZipFile as error:
        raise UsageError(f"{path} is no .pt2 file of torch.export.save: {error}") from error
    return _assembled(told[_MODEL], weights, constants, path)


def _entries(archive: zipfile.ZipFile, path: Path) -> dict[str, zipfile.ZipInfo]:
    """Name within the archive, without its first folder -> entry."""
    listed = archive.infolist()
    if len(listed) > _MOST_ENTRIES:
        raise UsageError(f"{path} has {len(listed):,} entries; at most {_MOST_ENTRIES:,} are read")
    found: dict[str, zipfile.ZipInfo] = {}
    for entry in listed:
        if entry.compress_type != zipfile.ZIP_STORED:
            raise UsageError(f"{path}: {entry.filename!r:.80} is compressed, which torch.export.save does not do")
        found[entry.filename.partition("/")[2]] = entry
    foreign = next((name for name in found if name.startswith("data/aotinductor/")), None)
    if foreign is not None:
        raise UsageError(f"{path} holds compiled code ({foreign!r:.80}); export the program itself")
    return found


def _texts(files: dict[str, zipfile.ZipInfo], path: Path) -> list[str]:
    wanted = [_MODEL, f"{_WEIGHTS}model_weights_config.json", f"{_CONSTANTS}model_constants_config.json"]
    missing = [name for name in wanted if name not in files]
    if missing:
        raise UsageError(f"{path} is no .pt2 file of torch.export.save in torch 2.10 or later: it has no {missing[0]}")
    return wanted


def _text(archive: zipfile.ZipFile, files: dict[str, zipfile.ZipInfo], name: str, path: Path) -> bytes:
    if files[name].file_size > _LARGEST_TEXT_BYTES:
        raise UsageError(
            f"{path}: {name} has {files[name].file_size:,} bytes; at most {_LARGEST_TEXT_BYTES:,} are read"
        )
    return archive.read(files[name])


def _check(value: Any, path: Path) -> None:
    """Every operator is known, every size is arithmetic; what is only for torch's own loader goes, in place."""
    if not isinstance(value, dict):
        raise UsageError(f"{path}: {_MODEL} is no program")
    value["guards_code"] = []
    pending: list[Any] = [value]
    while pending:
        part = pending.pop()
        if isinstance(part, list):
            pending += part
        if not isinstance(part, dict):
            continue
        if "target" in part and "inputs" in part:
            target = part["target"]
            if not (isinstance(target, str) and (target in _PLAIN or _OPERATOR.fullmatch(target))):
                raise UsageError(f"{path} has the operator {target!r:.80}, which is not one that is read from a file")
            kept = (part.get("metadata") or {}).get("nn_module_stack")
            part["metadata"] = {"nn_module_stack": kept} if isinstance(kept, str) else {}
        if "expr_str" in part and not _EXPRESSION.fullmatch(str(part["expr_str"])):
            raise UsageError(
                f"{path} has the size {part['expr_str']!r:.80}; sizes that are read are numbers and symbols"
            )
        for device in ("device", "as_device"):
            if isinstance(part.get(device), dict) and "type" in part[device]:
                part[device] = {**part[device], "type": "cpu", "index": None}
        for unread in ("as_custom_obj", "as_operator"):
            if unread in part:
                raise UsageError(f"{path} holds an object of its own ({unread}), which nothing here runs")
        pending += part.values()


def _tensors(
    archive: zipfile.ZipFile, files: dict[str, zipfile.ZipInfo], told: Any, folder: str, path: Path
) -> dict[str, torch.Tensor]:
    """Name -> tensor, from raw bytes."""
    import torch
    from torch._export.serde.serialize import deserialize_scalar_type

    found: dict[str, torch.Tensor] = {}
    try:
        for name, about in told["config"].items():
            meta = about["tensor_meta"]
            if about["use_pickle"] or meta is None:
                raise UsageError(f"{path}: {name!r:.80} is pickled, and nothing pickled is read: save plain tensors")
            entry = files.get(folder + about["path_name"])
            if entry is None:
                raise UsageError(f"{path} lacks {folder}{about['path_name']!r:.80}")
            dtype = deserialize_scalar_type(meta["dtype"])
            raw = bytearray(archive.read(entry))
            flat = torch.frombuffer(raw, dtype=dtype) if raw else torch.empty(0, dtype=dtype)
            sizes, strides = ([int(one["as_int"]) for one in meta[key]] for key in ("sizes", "strides"))
            tensor = torch.as_strided(flat, sizes, strides, int(meta["storage_offset"]["as_int"])).clone()
            found[name] = torch.nn.Parameter(tensor, requires_grad=False) if about["is_param"] else tensor
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise UsageError(f"{path}: its tensors are not described as torch.export.save does: {error}") from error
    return found


def _assembled(
    model: Any, weights: dict[str, torch.Tensor], constants: dict[str, torch.Tensor], path: Path
) -> ExportedProgram:
    import torch
    from torch.ao.quantization.fx import _decomposed  # noqa: F401 - registers the operators of pairs

    try:
        from torch._export.serde import schema
        from torch._export.serde.serialize import ExportedProgramDeserializer, _dict_to_dataclass

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ExportedProgramDeserializer().deserialize(
                _dict_to_dataclass(schema.ExportedProgram, model), weights, constants, None
            )
    except Exception as error:  # of a private module, with exceptions of many kinds
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UsageError(
            f"torch {torch.__version__} does not read {path}: {reason}; export it with this torch"
        ) from error
