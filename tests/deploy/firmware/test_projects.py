"""Projects of build systems: they compile with the tools that are here, two models link, callers give arenas."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from edgepress.deploy.artifact import write_manifest
from edgepress.deploy.firmware.boards import missing_tools
from edgepress.deploy.firmware.host import WARNINGS
from edgepress.deploy.firmware.projects.interface import _text
from edgepress.deploy.firmware.projects.project import write_project
from edgepress.deploy.firmware.projects.systems import SYSTEMS
from edgepress.models.errors import UsageError
from tests.deploy.firmware.test_front_end import SMALL, identity
from tests.deploy.integer_networks import Builder, random_network

C99 = ["cc", "-std=c99", "-Wall", "-Wextra", "-Werror", "-O1", "-ffp-contract=off"]


def run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)[:300]}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def keyword_file(folder: Path, name: str = "yes_no") -> Path:
    """Sound in, one of four classes out, whose names are hard to write in C."""
    builder = Builder(3)
    builder.inputs.append(builder.tensor((1, SMALL.n_mels, 40, 1), 0.016, -20))
    path = folder / f"{name}.tflite"
    path.write_bytes(builder.finished([builder.dense(builder.inputs[0])]))
    count = builder.shapes[-1][-1]
    classes = ['say "yes"', "nö", "tab\there", "back\\slash??/", *map(str, range(count))][:count]
    spec = {
        "factory": "x",
        "arguments": {},
        "input_shapes": [[1, 16, 40]],
        "front_end": SMALL.to_json(),
        "classes": classes,
    }
    write_manifest(path, {"format": "tflite", "scheme": "w8a8", "spec": spec, "ranges": {}})
    return path


def plain_file(folder: Path, name: str = "plain") -> Path:
    path = folder / f"{name}.tflite"
    path.write_bytes(random_network(4))
    return path


def c_files(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in sorted(folder.rglob("*.c"))]


def include_folders(folder: Path) -> list[str]:
    return [f"-I{path}" for path in sorted({path.parent for path in folder.rglob("*.h")})]


@pytest.mark.parametrize(
    ("system", "file"), [("platformio", keyword_file), ("esp-idf", plain_file), ("zephyr", keyword_file)]
)
def test_example_finds_the_expected_label(system, file, tmp_path):
    # Their own tools are not here: the same files are compiled by this machine's compiler.
    write_project(file(tmp_path), tmp_path / "out", system=system)
    run(
        [*C99, *include_folders(tmp_path / "out"), "-o", "program", *c_files(tmp_path / "out"), "-lm"], tmp_path / "out"
    )
    said = run(["./program"], tmp_path / "out")
    assert re.fullmatch(r"(yes_no|plain): .+\n", said), said
    assert "no decision" not in said


@pytest.mark.skipif(shutil.which("cmake") is None, reason="needs cmake")
@pytest.mark.parametrize("file", [keyword_file, pytest.param(plain_file, marks=pytest.mark.slow)])
def test_cmake_builds_its_example(file, tmp_path):
    path = file(tmp_path)
    write_project(path, tmp_path / "out", system="cmake")
    run(["cmake", "-S", ".", "-B", "build"], tmp_path / "out")
    run(["cmake", "--build", "build"], tmp_path / "out")
    assert f"{path.stem}: " in run([f"build/{path.stem}_label"], tmp_path / "out")


@pytest.mark.skipif(
    shutil.which("cmake") is None or shutil.which("c++") is None, reason="needs cmake and a C++ compiler"
)
@pytest.mark.parametrize("system", [None, pytest.param("cmake", marks=pytest.mark.slow)])
def test_two_models_in_one_program_of_cpp(system, tmp_path):
    inner = "" if system is None else "/{0}"
    lines = ["cmake_minimum_required(VERSION 3.13)", "project(two C CXX)"]
    for file, name in ((plain_file, "first"), (keyword_file, "second")):
        write_project(file(tmp_path, name), tmp_path / name, system=system)
        if system is not None:
            lines.append(f"add_subdirectory({name}/edgepress_kernels kernels_of_{name})")
        lines.append(f"add_subdirectory({name}{inner.format(name)} model_{name})")
    lines += ["add_executable(both main.cpp)", "target_link_libraries(both first second m)"]
    (tmp_path / "CMakeLists.txt").write_text("\n".join(lines))
    (tmp_path / "main.cpp").write_text(
        '#include "first_classes.h"\n#include "second_classes.h"\n#include "second_listen.h"\n#include <vector>\n'
        "int main() {\n"
        "  first_invoke();\n"
        "  std::vector<int16_t> clip(SECOND_CLIP_SAMPLES);\n"
        "  const void *heard = second_listen(clip.data(), SECOND_CLIP_SAMPLES);\n"
        "  return heard && first_label(first_winner(first_output(0))) && second_winner(heard) >= 0 ? 0 : 1;\n}\n"
    )
    run(["cmake", "-S", ".", "-B", "build"], tmp_path)
    run(["cmake", "--build", "build"], tmp_path)
    run(["build/both"], tmp_path)


@pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler")
def test_arduino_sketch_compiles(tmp_path):
    path = keyword_file(tmp_path)
    write_project(path, tmp_path / "out", system="arduino")
    out, example = tmp_path / "out", "libraries/yes_no/examples/label"
    for library, depends in (("EdgepressKernels", None), ("yes_no", "EdgepressKernels")):
        fields = dict(
            line.split("=", 1)
            for line in (out / f"libraries/{library}/library.properties").read_text().split("\n")
            if line
        )
        assert fields["name"] == library
        assert fields.get("depends") == depends
        assert (out / f"libraries/{library}/src" / fields["includes"]).is_file()
        assert re.fullmatch(r"\d+\.\d+\.\d+", fields["version"])
    (out / "board.cpp").write_text(
        "#include <cstdio>\n#include <cstdlib>\n"
        'struct Port { void begin(int) {} void print(const char *t) { std::printf("%s", t); }\n'
        '  void println(const char *t) { std::printf("%s\\n", t); } } Serial;\n'
        "void delay(int) { std::exit(0); }\n"
        f'#include "{example}/label.ino"\n'
        "int main() { setup(); for (;;) loop(); }\n"
    )
    flags = include_folders(out)
    run([*C99, *flags, "-c", *c_files(out)], out)
    objects = [Path(name).with_suffix(".o").name for name in c_files(out)]
    run(["c++", "-Wall", "-Wextra", "-Werror", *flags, "-o", "program", "board.cpp", *objects, "-lm"], out)
    said = run(["./program"], out)
    assert said.startswith("yes_no: ")
    assert "another class" not in said


def test_callers_give_arenas_and_ears(tmp_path):
    """Two models share an arena; two instances of one hear different sounds by turns."""
    folder = tmp_path / "all"
    folder.mkdir()
    for file, name in ((plain_file, "first"), (keyword_file, "second")):
        write_project(file(tmp_path, name), tmp_path / name)
        for source in (tmp_path / name).glob("*.[ch]"):
            if source.name != "main.c":
                (folder / source.name).write_text(source.read_text())
    (folder / "main.c").write_text(
        '#include <stdlib.h>\n#include <string.h>\n#include "first.h"\n#include "second_listen.h"\n'
        "static int64_t shared[(FIRST_ARENA_BYTES + SECOND_ARENA_BYTES) / 8 + 1];\n"
        "static second_ears ears[2];\n"
        "static int16_t clips[2][SECOND_CLIP_SAMPLES];\n"
        "int main(void) {\n"
        "  int8_t alone[2][SECOND_OUTPUT_0_BYTES];\n"
        "  for (int i = 0; i < SECOND_CLIP_SAMPLES; ++i)\n"
        "    clips[0][i] = (int16_t)(i * 7919), clips[1][i] = (int16_t)(i % 50);\n"
        "  first_use_arena(shared), second_use_arena(shared);\n"
        "  for (int who = 0; who < 2; ++who) {\n"
        "    second_use_ears(&ears[who]);\n"
        "    memcpy(alone[who], second_listen(clips[who], SECOND_CLIP_SAMPLES), SECOND_OUTPUT_0_BYTES);\n"
        "  }\n"
        "  int wrong = memcmp(alone[0], alone[1], SECOND_OUTPUT_0_BYTES) == 0;\n"
        "  for (int at = 0; at < SECOND_CLIP_SAMPLES; at += 100)\n"
        "    for (int who = 0; who < 2; ++who) {\n"
        "      memset(first_input(0), at, FIRST_INPUT_0_BYTES), first_invoke();\n"
        "      second_use_ears(&ears[who]);\n"
        "      const void *heard = second_listen(clips[who] + at, 100);\n"
        "      if ((heard != NULL) != (at + 100 >= SECOND_CLIP_SAMPLES)) wrong |= 2;\n"
        "      if (heard != NULL && memcmp(heard, alone[who], SECOND_OUTPUT_0_BYTES) != 0) wrong |= 4;\n"
        "    }\n"
        "  return wrong;\n}\n"
    )
    sanitized = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    run(["cc", *WARNINGS, *sanitized, "-DEP_CALLER_ARENA=1", "-o", "program", *c_files(folder), "-lm"], folder)
    run(["./program"], folder)


def test_weights_and_arenas_lie_where_they_are_put(tmp_path):
    if reason := missing_tools("cortex-m4"):
        pytest.skip(reason)
    write_project(keyword_file(tmp_path), tmp_path / "out")
    sections = [
        f'-DEP_{what}_SECTION=__attribute__((section("{name}")))'
        for what, name in (("WEIGHTS", ".slow"), ("ARENA", ".fast"))
    ]
    compiler = ["arm-none-eabi-gcc", "-mcpu=cortex-m4", "-mthumb", "-Os", *sections, "-c"]
    run([*compiler, "yes_no.c", "yes_no_weights.c", "yes_no_listen.c"], tmp_path / "out")
    for file, section in (("yes_no_weights.o", ".slow"), ("yes_no_listen.o", ".slow"), ("yes_no.o", ".fast")):
        assert section in run(["arm-none-eabi-objdump", "-h", file], tmp_path / "out")


def test_models_of_other_kernels_do_not_compile(tmp_path):
    write_project(plain_file(tmp_path), tmp_path / "out")
    version = tmp_path / "out/ep_version.h"
    version.write_text(re.sub("0x[0-9a-f]{8}u", "0x12345678u", version.read_text()))
    done = subprocess.run(["cc", "-c", "plain.c"], cwd=tmp_path / "out", capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "generated for other kernels" in done.stderr


def test_real_numbers_and_labels(tmp_path):
    path = tmp_path / "same.tflite"
    path.write_bytes(identity(SMALL, 40, 0.5, 3))
    write_project(path, tmp_path / "out")
    (tmp_path / "out/main.c").write_text(
        '#include <stdio.h>\n#include <string.h>\n#include "same_classes.h"\n'
        "static float x[640], y[640];\n"
        "int main(void) {\n"
        "  x[0] = 1.26f, x[1] = -1000.0f, x[2] = 1000.0f, x[639] = 0.24f;\n"
        "  same_set_input_0(x), same_invoke(), same_get_output_0(y);\n"
        '  printf("%g %g %g %g\\n", y[0], y[1], y[2], y[639]);\n'
        '  return strcmp(same_label(0), "0") != 0 || strcmp(same_label(-1), "") != 0;\n}\n'
    )
    run([*C99, "-o", "program", *c_files(tmp_path / "out"), "-lm"], tmp_path / "out")
    # Steps of 0.5 about 3: 1.26 -> 1.5; the limits are 0.5 * (-128 - 3) and 0.5 * (127 - 3).
    assert run(["./program"], tmp_path / "out") == "1.5 -65.5 62 0\n"
    assert _text('a"b\\c?é\n') == '"a\\042b\\134c\\077\\303\\251\\012"'


def test_manifests_of_libraries(tmp_path):
    path = plain_file(tmp_path)
    write_project(path, tmp_path / "pio", system="platformio")
    model = json.loads((tmp_path / "pio/lib/plain/library.json").read_text())
    assert model["dependencies"] == [{"name": "EdgepressKernels"}]
    assert json.loads((tmp_path / "pio/lib/EdgepressKernels/library.json").read_text())["name"] == "EdgepressKernels"
    yaml = pytest.importorskip("yaml")
    write_project(path, tmp_path / "idf", system="esp-idf")
    for component in ("edgepress_kernels", "plain"):
        found = yaml.safe_load((tmp_path / f"idf/components/{component}/idf_component.yml").read_text())
        assert found["dependencies"] == {"idf": ">=5.0"}
    write_project(path, tmp_path / "zephyr", system="zephyr")
    for module in ("edgepress_kernels", "edgepress_plain"):
        found = yaml.safe_load((tmp_path / f"zephyr/{module}/zephyr/module.yml").read_text())
        assert found == {"name": module, "build": {"cmake": ".", "kconfig": "Kconfig"}}
    assert "\tselect EDGEPRESS_KERNELS\n" in (tmp_path / "zephyr/edgepress_plain/Kconfig").read_text()


@pytest.mark.skipif(shutil.which("cmake") is None, reason="needs cmake")
@pytest.mark.parametrize("system", ["esp-idf", "zephyr"])
def test_cmake_of_the_frameworks_names_files_that_exist(system, tmp_path):
    """Their functions, as far as these files use them, in CMake's own terms."""
    write_project(keyword_file(tmp_path), tmp_path / "out", system=system)
    if system == "esp-idf":
        stub = (
            'function(idf_component_register)\n  cmake_parse_arguments(A "" "" "SRCS;INCLUDE_DIRS;REQUIRES" ${ARGN})\n'
            "  get_filename_component(lib ${CMAKE_CURRENT_SOURCE_DIR} NAME)\n  set(COMPONENT_LIB ${lib} PARENT_SCOPE)\n"
            "  add_library(${lib} STATIC ${A_SRCS})\n  target_include_directories(${lib} PUBLIC ${A_INCLUDE_DIRS})\n"
            "  target_link_libraries(${lib} PUBLIC ${A_REQUIRES})\nendfunction()\n"
        )
        folders = ["components/edgepress_kernels", "components/yes_no", "main"]
        link = "add_executable(all_of_it empty.c)\ntarget_link_libraries(all_of_it main m)\n"
        define = "add_compile_definitions(app_main=main)\n"
    else:
        stub = (
            "macro(zephyr_library_named name)\n  add_library(${name} STATIC)\n  set(last ${name})\nendmacro()\n"
            "macro(zephyr_library_sources)\n  target_sources(${last} PRIVATE ${ARGN})\nendmacro()\n"
            "macro(zephyr_library_compile_options)\n  target_compile_options(${last} PRIVATE ${ARGN})\nendmacro()\n"
            "macro(zephyr_include_directories folder)\n"
            "  set_property(DIRECTORY ${CMAKE_SOURCE_DIR}\n"
            "    APPEND PROPERTY INCLUDE_DIRECTORIES ${CMAKE_CURRENT_SOURCE_DIR}/${folder})\n"
            "  include_directories(${CMAKE_CURRENT_SOURCE_DIR}/${folder} ${CMAKE_SOURCE_DIR}/edgepress_kernels/src)\n"
            "endmacro()\n"
            "set(CONFIG_EDGEPRESS_KERNELS y)\nset(CONFIG_EDGEPRESS_YES_NO y)\n"
        )
        folders = ["edgepress_kernels", "edgepress_yes_no"]
        link = (
            "add_executable(all_of_it app/src/main.c app/src/label.c)\n"
            "target_link_libraries(all_of_it edgepress_yes_no edgepress_kernels m)\n"
        )
        define = ""
    (tmp_path / "out/empty.c").write_text("extern int ep_nothing;\n")
    lines = "".join(f"add_subdirectory({folder} {folder})\n" for folder in folders)
    (tmp_path / "out/CMakeLists.txt").write_text(
        f"cmake_minimum_required(VERSION 3.20)\nproject(all C)\n{define}{stub}{lines}{link}"
    )
    run(["cmake", "-S", ".", "-B", "build"], tmp_path / "out")
    if system == "zephyr":
        run(["cmake", "--build", "build"], tmp_path / "out")
        assert run(["build/all_of_it"], tmp_path / "out").startswith("yes_no: ")


def test_unknown_systems_are_refused(tmp_path):
    with pytest.raises(UsageError, match="'mbed' is unknown: allowed are arduino, platformio, esp-idf, zephyr, cmake"):
        write_project(plain_file(tmp_path), tmp_path / "out", system="mbed")
    assert not (tmp_path / "out").exists()
    assert list(SYSTEMS) == ["arduino", "platformio", "esp-idf", "zephyr", "cmake"]


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["cortex-m4", "riscv32"])
def test_projects_compile_for_microcontrollers(runtime, tmp_path):
    """arm-none-eabi-gcc and riscv64-unknown-elf-gcc (the core of ESP32-C3) take every file of the layouts."""
    from edgepress.deploy.firmware.boards import BOARDS

    if reason := missing_tools(runtime):
        pytest.skip(reason)
    board = BOARDS[runtime]
    for system in ("zephyr",) if runtime == "cortex-m4" else ("esp-idf",):
        write_project(keyword_file(tmp_path), tmp_path / system, system=system)
        compiler = [
            f"{board.family.tools}-gcc",
            "-std=gnu99",
            "-Wall",
            "-Werror",
            *board.family.flags,
            *board.flags,
            "-Os",
        ]
        run([*compiler, *include_folders(tmp_path / system), "-c", *c_files(tmp_path / system)], tmp_path / system)


def test_the_recording_is_of_the_length_of_a_clip(tmp_path):
    write_project(keyword_file(tmp_path), tmp_path / "out", system="cmake")
    text = (tmp_path / "out/recording.h").read_text()
    words = np.array([int(x) for x in re.search(r"\{(.*)\}", text, re.S)[1].split(",") if x.strip()])  # type: ignore[index]
    assert words[:2].astype("<i2").tobytes() == b"RIFF"
    assert len(words) == 22 + 4000
