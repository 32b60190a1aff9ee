# SPDX-License-Identifier: Apache-2.0
"""What a model is compared with: another file, a file at a git revision, or an earlier verdict."""

from __future__ import annotations

import hashlib
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgepress.benchmarks.gate.git_files import file_at, near_models, top_of
from edgepress.benchmarks.measure.manifests import manifest_beside
from edgepress.benchmarks.measure.profiling import profile_of
from edgepress.models.errors import UsageError
from edgepress.models.files.reading import LFS_POINTER, parse_json, read_json

_LARGEST_JSON = 200_000_000


#: Measures a model file: results as `edgepress.benchmarks.measure.result_log` has them.
Measure = Callable[[Path], Sequence[dict[str, Any]]]


@dataclass(frozen=True)
class Baseline:
    """What a model is compared with.

    Attributes:
        profile: as `edgepress.benchmarks.measure.profiling.profile` returns it.
        source: the words for the report ("git:main", "old.tflite").
        results: measured results that came with it.
        environment: where its figures were measured, where that is known.
        manifest: the exporter's manifest of that file, {} where there is none.
        note: why there are no figures, where there are none.
        foreign: there are none since no baseline is of this network, which leaves limits on growth unmeasured; a model
            that is new has no growth.
    """

    profile: Mapping[str, Any]
    source: str
    results: tuple[dict[str, Any], ...] = ()
    environment: dict[str, Any] = field(default_factory=dict)
    manifest: dict[str, Any] = field(default_factory=dict)
    note: str = ""
    foreign: bool = False


def load_baseline(
    source: Any,
    *,
    current: Mapping[str, Any],
    arena: bool = True,
    shapes: Mapping[str, Sequence[int]] | None = None,
    measure: Measure | None = None,
) -> Baseline:
    """Read a baseline.

    Args:
        source: "git:REV" (the model's own path at that revision) or "git:REV:PATH" (from here, else from the top of the
            repository), a model file, a JSON file (of
            `benchmarks profile` or `benchmarks gate --update-baseline`), or a mapping of one of these.
        current: the profile of the model that is compared; its "file" is the path that is looked up in git.
        arena: whether arenas are measured.
        shapes: as for `profile_of`.
        measure: gives results of a model file; called on a baseline that is one.

    Raises:
        UsageError: there is no such file or revision, or it is no model.
        RuntimeFailure: git is missing or does not answer.
    """
    if isinstance(source, Baseline):
        return source
    if isinstance(source, Mapping):
        return _from_json(dict(source), "the given baseline")
    text = str(source)
    if text.startswith("git:"):
        return _from_git(text, str(current.get("file", "")), arena, shapes, measure)
    path = Path(text)
    if path.suffix == ".json" and path.is_file():
        return _from_json(_read_json(path), text)
    results = tuple(measure(path)) if measure is not None else ()
    return Baseline(profile_of(path, arena, shapes), text, results, manifest=manifest_beside(path))


def as_json(
    profile: Mapping[str, Any],
    results: list[dict[str, Any]],
    environment: Mapping[str, Any],
    manifest: Mapping[str, Any],
) -> dict[str, Any]:
    """What `--update-baseline` writes: the profile, the newest results of this file, and the environment."""
    newest = {
        (r.get("kind", "accuracy"), r.get("runtime"), r.get("device_class")): r
        for r in results
        if r.get("sha256") == profile.get("sha256")
    }
    return {
        "schema": 1,
        "profile": dict(profile),
        "results": list(newest.values()),
        "environment": dict(environment),
        "manifest": {key: manifest[key] for key in ("sha256", "tools", "tool_versions") if key in manifest},
    }


def _read_json(path: Path) -> dict[str, Any]:
    value = read_json(path, largest_bytes=_LARGEST_JSON)
    if not isinstance(value, dict):
        raise UsageError(f"the baseline {path} holds no JSON object")
    return value


def _from_json(value: dict[str, Any], source: str) -> Baseline:
    if value.get("schema") != 1:
        raise UsageError(f"{source}: schema = {value.get('schema')!r} is unknown, this version reads 1")
    profile = value.get("profile", value)
    if not isinstance(profile, dict) or not _usable(profile):
        raise UsageError(
            f"{source} holds neither a profile nor a baseline: write one with "
            "`benchmarks gate --update-baseline FILE.json` or `benchmarks profile --format json`"
        )
    results, environment, manifest = (value.get(key) for key in ("results", "environment", "manifest"))
    kept = tuple(r for r in results if isinstance(r, dict)) if isinstance(results, list) else ()
    return Baseline(
        profile,
        source,
        kept,
        environment if isinstance(environment, dict) else {},
        manifest if isinstance(manifest, dict) else {},
    )


def _usable(profile: Mapping[str, Any]) -> bool:
    """Whether every figure that is compared is a finite number or absent."""
    macs, arena = profile.get("macs"), profile.get("arena_bytes") or {}
    if not isinstance(macs, dict) or not isinstance(arena, dict) or not isinstance(profile.get("layers", []), list):
        return False
    figures = [
        *macs.values(),
        arena.get("tflm"),
        *(profile.get(key) for key in ("params", "weight_bytes", "file_bytes", "peak_activation_bytes")),
    ]
    return all(value is None or (isinstance(value, int | float) and math.isfinite(value)) for value in figures)


def _from_git(
    text: str, current: str, arena: bool, shapes: Mapping[str, Sequence[int]] | None, measure: Measure | None
) -> Baseline:
    revision, _, named = text.removeprefix("git:").partition(":")
    path = Path(named or current)
    if not revision or revision.startswith("-"):
        raise UsageError(f"baseline = {text!r} names no revision: write git:main or git:main:path/model.tflite")
    if not path.name or (named == "" and not Path(current).is_file()):
        raise UsageError(f"baseline = {text!r} needs a model that is a file of the repository")
    data = file_at(revision, path)
    if data is None and named and not path.is_absolute() and ".." not in path.parts:
        # As git reads it: from the top of the repository.
        data = file_at(revision, top_of(path) / path)
    if data is None and named:
        raise UsageError(f"baseline = {text!r}: {path} does not exist at {revision!r}{near_models(revision, path)}")
    if data is None:
        # A model that is new has no baseline; that must not keep it out.
        return Baseline(
            {}, text, note=f"{path} does not exist at {revision!r}: a new model, so there is nothing to compare with"
        )
    if data.startswith(LFS_POINTER):
        raise UsageError(f"{path} at {revision!r} is a Git LFS pointer: run `git lfs fetch {revision}`, or use a file")
    beside = file_at(revision, Path(f"{path}.manifest.json"))
    with tempfile.TemporaryDirectory(prefix="edgepress-baseline-") as folder:
        copy = Path(folder) / path.name
        copy.write_bytes(data)
        profile = profile_of(copy, arena, shapes)
        results = tuple(measure(copy)) if measure is not None else ()
    try:
        manifest = parse_json(beside, "the manifest") if beside else {}
    except UsageError:
        manifest = {}
    return Baseline(
        {**profile, "file": f"{revision}:{path}", "sha256": hashlib.sha256(data).hexdigest()},
        text,
        results,
        manifest=manifest if isinstance(manifest, dict) else {},
    )
