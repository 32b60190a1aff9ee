# SPDX-License-Identifier: Apache-2.0
"""Models at revisions of git, with git's own reasons where it refuses."""

from __future__ import annotations

import os
import subprocess
from difflib import get_close_matches
from pathlib import Path

from edgepress.models.errors import RuntimeFailure, UsageError

_GIT_SECONDS = 60
_MODEL_SUFFIXES = (".tflite", ".onnx")


def file_at(revision: str, path: Path) -> bytes | None:
    """The content of a file at a revision; None where that revision lacks it.

    Raises:
        UsageError: no repository, no such revision, or git refuses, with its own reason. RuntimeFailure: no git.
    """
    folder, name = _from_folder(path)
    known = _git(folder, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
    if known.returncode:
        inside = _git(folder, "rev-parse", "--git-dir")
        reason = inside.stderr.decode(errors="replace").strip()
        if inside.returncode and "not a git repository" not in reason:
            # In containers the folder often belongs to another user: git says what to do about it.
            raise UsageError(f"git refuses {folder.resolve()}: {reason}")
        raise UsageError(
            f"{folder.resolve()} is in no git repository: name a baseline file instead of git:"
            if inside.returncode
            else f"the git revision {revision!r} is unknown here: fetch it (in CI: fetch-depth: 0)"
        )
    listed = _git(folder, "ls-tree", "-z", revision, "--", f"./{name}")
    if listed.returncode == 0 and not listed.stdout:
        return None
    if listed.stdout.split()[1:2] != [b"blob"]:
        raise UsageError(f"{path} is no file at {revision!r}: name a model in it")
    shown = _git(folder, "show", f"{revision}:./{name}")
    if listed.returncode or shown.returncode:
        reason = (listed.stderr + shown.stderr).decode(errors="replace").strip()
        raise UsageError(f"git does not give {path} at {revision!r}: {reason}")
    return shown.stdout


def commits_of(path: Path, last: int) -> list[tuple[str, str, str]]:
    """(hash, date, first line) of the commits that changed a file, oldest first.

    Raises:
        UsageError: git refuses, with its own reason, or the file has no commit. RuntimeFailure: no git.
    """
    folder, name = _from_folder(path)
    listed = _git(folder, "log", f"--max-count={last}", "--format=%H%x09%cs%x09%s", "--", f"./{name}")
    if listed.returncode:
        raise UsageError(f"git gives no history of {path}: {listed.stderr.decode(errors='replace').strip()}")
    lines = [line.split("\t", 2) for line in listed.stdout.decode(errors="replace").splitlines()]
    if not lines:
        raise UsageError(f"{path} is in no commit here: name a file of a repository, or a folder of models")
    return [(commit, date, subject) for commit, date, subject in reversed(lines)]


def top_of(path: Path) -> Path:
    """The root of the repository that a path lies in, from which git counts `REV:PATH`."""
    return Path(
        _git(_from_folder(path)[0], "rev-parse", "--show-toplevel").stdout.decode(errors="replace").rstrip("\n")
    )


def near_models(revision: str, path: Path) -> str:
    """The end of a sentence about a path that a revision lacks: the model there with the nearest name."""
    top = top_of(path)
    listed = _git(top, "ls-tree", "-r", "--name-only", "-z", revision)
    names = [name for name in listed.stdout.decode(errors="replace").split("\0") if name.endswith(_MODEL_SUFFIXES)]
    # As they are typed here.
    models = [str(top / name) if path.is_absolute() else os.path.relpath(top / name) for name in names]
    by_name = {Path(name).name: name for name in models}
    near = get_close_matches(str(path), models, n=1)
    near = near or [by_name[name] for name in get_close_matches(path.name, by_name, n=1)]
    return f": did you mean {near[0]}?" if near else f"; models there are {', '.join(models[:5]) or 'none'}"


def _from_folder(path: Path) -> tuple[Path, str]:
    return (path.parent, path.name) if path.parent.is_dir() else (Path(), str(path))


def _git(folder: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(
            ["git", *arguments],
            cwd=folder,
            capture_output=True,
            timeout=_GIT_SECONDS,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
    except FileNotFoundError:
        raise RuntimeFailure("git is not installed: install it, or name a baseline file instead of git:REV") from None
    except subprocess.TimeoutExpired:
        raise RuntimeFailure(f"git did not answer within {_GIT_SECONDS} s") from None
