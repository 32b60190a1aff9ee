# SPDX-License-Identifier: Apache-2.0
"""Code of a user's own, named as package.module:name: found in the working directory first, from every entry alike."""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from edgepress.models.errors import EdgepressError, UsageError, did_you_mean

_REFERENCE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*\Z")
#: The folder of our parts: a checkout, or `edgepress` where it is installed.
_OWN = Path(__file__).resolve().parents[1]
_PARTS = ("models", "compress", "deploy", "benchmarks")
T = TypeVar("T")
_announced: set[str] = set()


def is_reference(text: object) -> bool:
    """Whether this names code: package.module:name."""
    return isinstance(text, str) and bool(_REFERENCE.match(text))


def find_object(reference: str) -> Any:
    """Import what "package.module:name" names, and say so on stderr; running that code is the caller's decision.

    A module in the working directory comes first, as with `python -m`: console scripts and `python -P` find it too, a
    folder without `__init__.py` is not hidden by an installed package of its name, and nothing of ours is taken for it.
    The directory stays on `sys.path`, at its end, for what the code imports later.

    Raises:
        UsageError: not of that form, no such module, its name is another one's, the module fails, or no such name in
            it.
    """
    if not is_reference(reference):
        raise UsageError(f"{reference!r} must have the form package.module:factory")
    module_name, _, attribute = reference.partition(":")
    ours = module_name.partition(".")[0] == "edgepress"
    if not ours and reference not in _announced:
        _announced.add(reference)
        print(f"running code outside edgepress: {reference}", file=sys.stderr, flush=True)
    with _as_usage_errors(module_name):
        found: Any = importlib.import_module(module_name) if ours else _import_from_here(module_name)
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise UsageError(f"module {module_name} has no {attribute!r}{did_you_mean(part, dir(found))}")
        found = getattr(found, part)
    return found


def call(reference: str, function: Callable[..., T], **arguments: Any) -> T:
    """Call a user's function; what it raises becomes one sentence, with the place where it was raised.

    Raises:
        UsageError: it failed.
    """
    try:
        return function(**arguments)
    except EdgepressError:
        raise
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        given = {name: value for name, value in arguments.items() if value is not None}
        raise UsageError(
            f"{reference} failed{f' with {given}' if given else ''}: {type(error).__name__}: {error} "
            f"({last.filename}, line {last.lineno})"
        ) from error


def _import_from_here(name: str) -> ModuleType:
    folder, top = Path(os.getcwd()), name.partition(".")[0]
    here = _holds(folder, name)
    if here and top in sys.modules and not _lies_in(sys.modules[top], folder):
        raise UsageError(
            f"module {name!r}: the name {top} is taken by {_location(sys.modules[top])}, which is imported already; "
            f"rename {folder / top}"
        )
    with _first_on_path(folder):
        if here:
            _enter_namespace(folder, top)
        if _is_ours(top):
            raise UsageError(
                f"there is no module {name!r} here, and {top} is a part of edgepress: call from the folder that holds "
                f"yours, or say edgepress.{name}"
            )
        return importlib.import_module(name)


@contextmanager
def _as_usage_errors(name: str) -> Iterator[None]:
    """Whatever the import of a module raises, as one sentence."""
    try:
        yield
    except EdgepressError:
        raise
    except ModuleNotFoundError as error:
        missing = error.name or name
        if name == missing or name.startswith(f"{missing}."):
            raise UsageError(
                f"there is no module {name!r}: call from the folder that holds it, or install it"
            ) from error
        raise UsageError(f"module {name!r} needs {missing!r}, which is not installed") from error
    except Exception as error:
        raise UsageError(f"module {name!r} cannot be imported: {type(error).__name__}: {error}") from error


def _holds(folder: Path, name: str) -> bool:
    """Whether the module lies in the folder, as a file or as a package."""
    *packages, last = name.split(".")
    place = folder.joinpath(*packages)
    files = (place / last / "__init__.py", *(place / f"{last}{end}" for end in importlib.machinery.all_suffixes()))
    return any(file.is_file() for file in files)


def _enter_namespace(folder: Path, top: str) -> None:
    """A folder without `__init__.py` as the package that it is here: Python would prefer any other one of that name."""
    place = folder / top
    if top not in sys.modules and place.is_dir() and not (place / "__init__.py").exists():
        spec = importlib.machinery.ModuleSpec(top, None, is_package=True)
        spec.submodule_search_locations = [str(place)]
        sys.modules[top] = importlib.util.module_from_spec(spec)


@contextmanager
def _first_on_path(folder: Path) -> Iterator[None]:
    importlib.invalidate_caches()
    before = list(sys.path)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        if str(folder) not in before and "" not in before:
            sys.path.append(str(folder))


def _is_ours(top: str) -> bool:
    """Whether a name would be taken for one of our parts, since a checkout of edgepress is on the path."""
    if top not in _PARTS:
        return False
    spec = importlib.util.find_spec(top) if top not in sys.modules else sys.modules[top].__spec__
    return _OWN / top in [Path(place).resolve() for place in (spec and spec.submodule_search_locations) or ()]


def _location(module: ModuleType) -> str:
    return str(getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), "Python itself"))


def _lies_in(module: ModuleType, folder: Path) -> bool:
    return Path(_location(module)).resolve().is_relative_to(folder.resolve())
