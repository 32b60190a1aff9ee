# SPDX-License-Identifier: Apache-2.0
"""Pages of the site that the code writes: Python from docstrings, commands from the parsers, recipes from the schema.

A hook of MkDocs (mkdocs.yml). Links from the pages to files outside docs/ become links to the repository.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

COMMANDS = ("compress", "deploy", "benchmarks")


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages."""
    from mkdocs.structure.files import File

    for name, text in (("python", python_page()), ("commands", commands_page()), ("recipes", recipes_page())):
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Point what lies outside docs/ to the repository."""
    here = (ROOT / "docs" / page.file.src_uri).parent

    def outside(found: re.Match[str]) -> str:
        target, anchor = found[1], found[2] or ""
        path = (here / target).resolve()
        if path.exists() and not path.is_relative_to(ROOT / "docs"):
            return f"]({config.repo_url}/blob/main/{path.relative_to(ROOT)}{anchor})"
        return found[0]

    return re.sub(r"\]\(((?!https?:)[^)#\s]+)(#[^)]*)?\)", outside, markdown)


def python_page() -> str:
    """Every public name, with its docstring."""
    import edgepress

    parts = ["# Python\n\nEverything public is in `edgepress` and is imported when it is first used.\n"]
    for name in edgepress.__all__:
        parts.append(f"::: edgepress.{edgepress._HOME[name]}.{name}\n")
    return "\n".join(parts)


def commands_page() -> str:
    """Every command: what it does, how it is called, its options, examples."""
    from typer.main import get_command

    parts = [
        "# Commands\n\n`edgepress compress`, `edgepress deploy` and `edgepress benchmarks` are the same commands. "
        "Exit codes: 0 done or passed, 1 a verdict against the model, 2 usage, configuration or a bad file, "
        "3 a runtime failed, 130 Ctrl-C, 143 SIGTERM. Every command has `-h`, `-q` and `-v`.\n"
    ]
    for group in COMMANDS:
        app: Any = get_command(import_module(f"edgepress.{group}.cli").app)
        parts.append(f"## {group}\n\n{app.help}\n")
        for name, command in app.commands.items():
            parts.append("\n".join(_command(f"{group} {name}", command)))
    return "\n".join(parts)


def _command(name: str, command: Any) -> Iterator[str]:
    with command.make_context(name, [], resilient_parsing=True) as context:
        yield f"### {name}\n\n{_escaped(_unwrapped(command.help or ''))}\n"
        yield f"```\n{name} {' '.join(command.collect_usage_pieces(context))}\n```\n"
        shared = {"--quiet", "--verbose", "--help"}
        told = [p.get_help_record(context) for p in command.get_params(context) if not shared & set(p.opts)]
        rows = [record for record in told if record is not None]
    if rows:
        yield "| option | meaning |\n|---|---|"
        for options, says in rows:
            yield f"| `{_cell(options)}` | {_cell(_escaped(says))} |"
        yield ""
    lines = [line.strip() for line in (command.epilog or "").splitlines()[2:]]
    if lines:
        yield "```sh\n" + "\n".join(lines) + "\n```\n"


def _unwrapped(text: str) -> str:
    paragraphs = re.split(r"\n\s*\n", text.replace("\b\n", ""))
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def _escaped(text: str) -> str:
    """No link and no HTML where a text has brackets."""
    return re.sub(r"([\[\]<>])", r"\\\1", text)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def recipes_page() -> str:
    """Every section and key of a recipe, as the schema has them."""
    from edgepress.compress.recipes.recipe import SHIPPED, Recipe

    intro = (
        "# Recipes\n\nA recipe is a TOML file that says what `compress run` does. `compress init DATA` writes one "
        "for your data, `compress check FILE` says everything that is wrong with one, and `--set train.epochs=5` "
        "changes a key for one call. Unknown keys are errors; what is left out has its default.\n"
    )
    parts = [intro, *_section("", Recipe)]
    parts.append("## The shipped recipes\n")
    for path in sorted(SHIPPED.glob("*.toml")):
        parts.append(f"### {path.stem}\n\n```toml\n{path.read_text(encoding='utf-8')}```\n")
    return "\n".join(parts)


def _section(prefix: str, model: Any) -> Iterator[str]:
    from pydantic import BaseModel
    from pydantic_core import PydanticUndefined

    title = f"`[{prefix}]`" if prefix else "The top of the file"
    says = _unwrapped((model.__doc__ or "").split("Attributes:")[0])
    yield f"## {title}\n\n{_escaped(says) if prefix else ''}\n\n| key | type | default | |\n|---|---|---|---|"
    inner = []
    for name, field in model.model_fields.items():
        found = [kind for kind in (field.annotation, *get_args(field.annotation)) if isinstance(kind, type)]
        sections = [kind for kind in found if issubclass(kind, BaseModel)]
        if sections:
            inner.append((f"{prefix}.{name}" if prefix else name, sections[0]))
            continue
        default = "" if field.default is PydanticUndefined else _value(field.default)
        kind = re.sub(r"\b(?:\w+\.)+(\w+)", r"\1", getattr(field.annotation, "__name__", str(field.annotation)))
        if get_args(field.annotation):
            kind = re.sub(r"\b(?:\w+\.)+(\w+)", r"\1", str(field.annotation))
        yield f"| `{name}` | {_cell(_escaped(kind))} | {default} | {_cell(_escaped(field.description or ''))} |"
    yield ""
    for name, section in inner:
        yield from _section(name, section)


def _value(default: Any) -> str:
    if default is None:
        return ""
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, (tuple, list)):
        return f"`[{', '.join(map(repr, default))}]`".replace("'", '"')
    return f"`{default!r}`".replace("'", '"')
