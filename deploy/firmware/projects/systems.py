# SPDX-License-Identifier: Apache-2.0
"""The folders of Arduino, PlatformIO, ESP-IDF, Zephyr and CMake: a library of kernels, one of the model, an example."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from string import Template

import edgepress
from edgepress.deploy.firmware.sources import HOT_SOURCES, template
from edgepress.models.errors import UsageError

_URL = "https://github.com/edgepress/edgepress"
_KERNELS = "edgepress_kernels"


@dataclass(frozen=True)
class Parts:
    """What every project is made of: file name -> text.

    Attributes:
        name: of the model.
        kernels: the same for every model.
        model: weights, layers, front end, classes.
        example: `label.c` and what it includes, without a main program.
        digest: of the kernels.
    """

    name: str
    kernels: Mapping[str, str]
    model: Mapping[str, str]
    example: Mapping[str, str]
    digest: str


def project_files(system: str, parts: Parts) -> dict[str, str]:
    """Path in the folder -> text.

    Raises:
        UsageError: no such build system.
    """
    if system not in SYSTEMS:
        raise UsageError(f"project = {system!r} is unknown: allowed are {', '.join(SYSTEMS)}")
    return SYSTEMS[system](parts)


def _within(folder: str, files: Mapping[str, str]) -> dict[str, str]:
    return {f"{folder}/{name}": text for name, text in files.items()}


def _c_files(files: Mapping[str, str], folder: str = "src/") -> str:
    return " ".join(f"{folder}{name}" for name in sorted(files) if name.endswith(".c"))


def _filled(file: str, parts: Parts, **more: str) -> str:
    values = {
        "name": parts.name,
        "upper": parts.name.upper(),
        "version": edgepress.__version__,
        "url": _URL,
        "digest": parts.digest,
        "kernel_sources": _c_files(parts.kernels),
        "model_sources": _c_files(parts.model),
        "hot": " ".join(f"src/{name}" for name in HOT_SOURCES),
    }
    return Template(template(f"{file}.template")).substitute(values, **more)


def _cmake(parts: Parts) -> dict[str, str]:
    return {
        "CMakeLists.txt": _filled("cmake_example.txt", parts),
        "main.c": _filled("label_main.c", parts),
        **parts.example,
        f"{_KERNELS}/CMakeLists.txt": _filled("cmake_kernels.txt", parts),
        **_within(f"{_KERNELS}/src", parts.kernels),
        f"{parts.name}/CMakeLists.txt": _filled("cmake_model.txt", parts),
        **_within(f"{parts.name}/src", parts.model),
    }


def _arduino(parts: Parts) -> dict[str, str]:
    kernels, model = "libraries/EdgepressKernels", f"libraries/{parts.name}"
    return {
        f"{kernels}/library.properties": _properties(
            "EdgepressKernels", "Kernels of networks by edgepress", "ep_kernels.h"
        ),
        **_within(f"{kernels}/src", parts.kernels),
        f"{model}/library.properties": _properties(
            parts.name, f"The network {parts.name}", f"{parts.name}.h", depends="EdgepressKernels"
        ),
        **_within(f"{model}/src", parts.model),
        f"{model}/examples/label/label.ino": _filled("label.ino", parts),
        **_within(f"{model}/examples/label", parts.example),
    }


def _properties(name: str, sentence: str, include: str, depends: str = "") -> str:
    lines = [
        f"name={name}",
        f"version={edgepress.__version__}",
        "author=edgepress",
        "maintainer=edgepress",
        f"sentence={sentence}, by edgepress.",
        "paragraph=Generated C99 without allocation.",
        "category=Data Processing",
        f"url={_URL}",
        "architectures=*",
        f"includes={include}",
    ]
    return "\n".join([*lines, *([f"depends={depends}"] if depends else []), ""])


def _platformio(parts: Parts) -> dict[str, str]:
    return {
        "platformio.ini": _filled("platformio.ini", parts),
        "src/main.c": _filled("label_main.c", parts),
        **_within("src", parts.example),
        "lib/EdgepressKernels/library.json": _library_json("EdgepressKernels", "Kernels of networks", ()),
        **_within("lib/EdgepressKernels/src", parts.kernels),
        f"lib/{parts.name}/library.json": _library_json(parts.name, f"The network {parts.name}", ("EdgepressKernels",)),
        **_within(f"lib/{parts.name}/src", parts.model),
    }


def _library_json(name: str, description: str, dependencies: Sequence[str]) -> str:
    import json

    value = {
        "name": name,
        "version": edgepress.__version__,
        "description": f"{description}, by edgepress",
        "license": "Apache-2.0",
        "frameworks": "*",
        "platforms": "*",
        "build": {"flags": ["-ffp-contract=off"]},
        **({"dependencies": [{"name": other} for other in dependencies]} if dependencies else {}),
    }
    return json.dumps(value, indent=2) + "\n"


def _esp_idf(parts: Parts) -> dict[str, str]:
    kernels, model = f"components/{_KERNELS}", f"components/{parts.name}"
    return {
        "CMakeLists.txt": _filled("idf_project.txt", parts),
        "main/CMakeLists.txt": 'idf_component_register(SRCS "main.c" "label.c" INCLUDE_DIRS "." '
        f"REQUIRES {parts.name})\n",
        "main/main.c": _filled("label_main.c", parts),
        **_within("main", parts.example),
        f"{kernels}/CMakeLists.txt": _idf_component(_c_files(parts.kernels), ""),
        f"{kernels}/idf_component.yml": _idf_manifest("Kernels of networks by edgepress"),
        **_within(f"{kernels}/src", parts.kernels),
        f"{model}/CMakeLists.txt": _idf_component(_c_files(parts.model), f" REQUIRES {_KERNELS}"),
        f"{model}/idf_component.yml": _idf_manifest(f"The network {parts.name}, by edgepress"),
        **_within(f"{model}/src", parts.model),
    }


def _idf_component(sources: str, requires: str) -> str:
    return (
        f'idf_component_register(SRCS {sources} INCLUDE_DIRS "src"{requires})\n'
        "target_compile_options(${COMPONENT_LIB} PRIVATE -O2 -ffp-contract=off)\n"
    )


def _idf_manifest(description: str) -> str:
    return (
        f'version: "{edgepress.__version__}"\ndescription: {description}\nurl: {_URL}\nlicense: Apache-2.0\n'
        'dependencies:\n  idf: ">=5.0"\n'
    )


def _zephyr(parts: Parts) -> dict[str, str]:
    model = f"edgepress_{parts.name}"
    return {
        "app/CMakeLists.txt": _filled("zephyr_app.txt", parts, model=model),
        "app/prj.conf": f"CONFIG_{model.upper()}=y\nCONFIG_MAIN_STACK_SIZE=4096\n",
        "app/src/main.c": _filled("label_main.c", parts),
        **_within("app/src", parts.example),
        **_zephyr_module(_KERNELS, "Kernels of networks by edgepress", parts.kernels, ""),
        **_zephyr_module(
            model, f"The network {parts.name}, by edgepress", parts.model, f"\tselect {_KERNELS.upper()}\n"
        ),
    }


def _zephyr_module(name: str, prompt: str, files: Mapping[str, str], selects: str) -> dict[str, str]:
    return {
        f"{name}/zephyr/module.yml": f"name: {name}\nbuild:\n  cmake: .\n  kconfig: Kconfig\n",
        f"{name}/Kconfig": f'config {name.upper()}\n\tbool "{prompt}"\n{selects}',
        f"{name}/CMakeLists.txt": f"if(CONFIG_{name.upper()})\n  zephyr_include_directories(src)\n"
        f"  zephyr_library_named({name})\n  zephyr_library_sources({_c_files(files)})\n"
        "  zephyr_library_compile_options(-O2 -ffp-contract=off)\nendif()\n",
        **_within(f"{name}/src", files),
    }


#: By the name of the build system.
SYSTEMS: dict[str, Callable[[Parts], dict[str, str]]] = {
    "arduino": _arduino,
    "platformio": _platformio,
    "esp-idf": _esp_idf,
    "zephyr": _zephyr,
    "cmake": _cmake,
}
