"""The front end on emulated cores: the decisions of the host, its instructions, flash and RAM; files that hear."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from edgepress.benchmarks.measure.linked_firmware import linked_firmware
from edgepress.deploy.artifact import write_manifest
from edgepress.deploy.cli import _write_firmware
from edgepress.deploy.firmware.boards import missing_tools
from edgepress.deploy.firmware.emulated import EmulatedCore
from edgepress.deploy.firmware.listening import HostEar
from edgepress.deploy.firmware.sources import firmware
from edgepress.deploy.runtimes.sessions import open_session
from edgepress.models.errors import UsageError
from edgepress.models.tasks.front_ends.log_mel import MEL22
from tests.deploy.firmware.test_front_end import SCALE, SMALL, ZERO, hearing, identity, sounds

needs_tools = pytest.mark.skipif(missing_tools("cortex-m4") is not None, reason=str(missing_tools("cortex-m4")))


def clips_of(samples: int) -> np.ndarray:
    return np.round(sounds(samples) * 32767).astype(np.int16)


@needs_tools
def test_mel22_on_m4_keeps_its_budgets():
    made = hearing(MEL22, 32000)
    clips = clips_of(32000)[:2]
    with HostEar(made) as ear:
        wanted = ear.hear(clips.reshape(-1)).decisions
    with EmulatedCore(made, "cortex-m4", listening=True) as core, EmulatedCore(made, "cortex-m4") as deaf:
        heard = core.hear(clips, count=True)
        flash, ram = core.sizes.flash - deaf.sizes.flash, core.sizes.ram - deaf.sizes.ram
    # Fused multiplications round once where the host rounds twice.
    apart = heard.outputs[0].reshape(wanted.shape).astype(int) - wanted
    assert np.abs(apart).max() <= 1
    assert np.mean(apart != 0) < 1e-3
    assert heard.front_end_instructions is not None
    assert heard.front_end_instructions <= 5_000_000
    assert flash <= 30_000
    assert ram <= 20_000
    assert 0 < heard.stack_bytes < 1024


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["cortex-m0plus", "cortex-m3", "riscv32"])
def test_cores_without_a_unit_for_floats_give_the_integers_of_the_host(runtime):
    if reason := missing_tools(runtime):
        pytest.skip(reason)
    made, clips = hearing(SMALL, 4000), clips_of(4000)
    with HostEar(made, fixed_point=True) as ear:
        wanted = ear.hear(clips.reshape(-1)).decisions
    with EmulatedCore(made, runtime, listening=True) as core:
        heard = core.hear(clips)
    np.testing.assert_array_equal(heard.outputs[0].reshape(wanted.shape), wanted)


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["cortex-m7", "cortex-m33", "cortex-m55"])
def test_cores_with_one_hear_what_the_host_hears(runtime):
    if reason := missing_tools(runtime):
        pytest.skip(reason)
    made, clips = hearing(SMALL, 4000), clips_of(4000)
    with HostEar(made) as ear:
        wanted = ear.hear(clips.reshape(-1)).decisions
    with EmulatedCore(made, runtime, listening=True) as core:
        heard = core.hear(clips)
    apart = heard.outputs[0].reshape(wanted.shape).astype(int) - wanted
    assert np.abs(apart).max() <= 1
    assert np.mean(apart != 0) < 2e-3


@needs_tools
def test_a_core_hears_whole_clips_only():
    wrong = pytest.raises(UsageError, match=r"int16 \[N, 4000\], not float32 \[2, 4000\]")
    with EmulatedCore(hearing(SMALL, 4000), "cortex-m4", listening=True) as core, wrong:
        core.hear(np.zeros((2, 4000), np.float32))
    with pytest.raises(UsageError, match="no front end"):
        EmulatedCore(firmware(identity(SMALL, 40)), "cortex-m4", listening=True)


@pytest.fixture
def audio_file(tmp_path) -> Path:
    """A file whose manifest names a front end."""
    path = tmp_path / "kitchen.tflite"
    path.write_bytes(identity(SMALL, 40))
    spec = {"factory": "x", "arguments": {}, "input_shapes": [[1, 16, 40]], "front_end": SMALL.to_json()}
    write_manifest(path, {"format": "tflite", "scheme": "w8a8", "spec": spec, "ranges": {}})
    return path


@needs_tools
def test_figures_of_audio_files_hold_the_front_end(audio_file):
    with open_session(audio_file, "cortex-m4") as session:
        figures = session.firmware_figures()
    deaf = audio_file.with_name("deaf.tflite")
    deaf.write_bytes(audio_file.read_bytes())
    with open_session(deaf, "cortex-m4") as session:
        without = session.firmware_figures()
    assert "front_end_instructions" not in without
    assert figures["front_end_instructions"] > 40 * SMALL.n_fft  # frames, some instructions for each value
    assert figures["flash_bytes"] - without["flash_bytes"] > 4 * SMALL.n_fft
    assert figures["ram_bytes"] - without["ram_bytes"] > 4 * SMALL.n_fft + 16 * 40
    linked = linked_firmware(audio_file, "cortex-m4")
    assert linked["flash_bytes"] == figures["flash_bytes"]
    assert linked["front_end_instructions"] == figures["front_end_instructions"]
    assert linked_firmware(deaf, "cortex-m4")["front_end_instructions"] is None


def test_the_folder_of_an_audio_file_hears(audio_file, tmp_path, capsys):
    folder = tmp_path / "out"
    _write_firmware(audio_file, folder, False, None, False)
    assert "kitchen_listen()" in capsys.readouterr().out
    assert {"kitchen_listen.c", "kitchen_listen.h", "ep_log_mel.c", "ep_ear.c"} <= {p.name for p in folder.iterdir()}
    assert "ep_ear.c" in (folder / "CMakeLists.txt").read_text()
    (folder / "loud.c").write_text(
        '#include <stdio.h>\n#include "kitchen_listen.h"\n'
        "int main(void) {\n"
        "  static int16_t clip[KITCHEN_CLIP_SAMPLES];\n"
        "  const int8_t *classes = kitchen_listen(clip, KITCHEN_CLIP_SAMPLES);\n"
        '  return classes ? printf("%d\\n", classes[0]) < 0 : 1;\n}\n'
    )
    sources = [str(p) for p in sorted(folder.glob("*.c")) if p.name != "main.c"]
    subprocess.run(
        ["cc", "-std=c99", "-Wall", "-Werror", "-O1", "-o", str(folder / "loud"), *sources, "-lm"], check=True
    )
    said = subprocess.run([str(folder / "loud")], capture_output=True, text=True, check=True).stdout
    silence = (np.log(1e-5) + 4.5) / 5
    assert int(said) == round(silence / SCALE) + ZERO


def test_a_front_end_without_c_is_said(tmp_path, capsys):
    config = json.loads(json.dumps({**SMALL.to_json(), "n_fft": 400}))
    path = tmp_path / "odd.tflite"
    path.write_bytes(identity(SMALL, 40))
    spec = {"factory": "x", "arguments": {}, "input_shapes": [[1, 16, 40]], "front_end": config}
    write_manifest(path, {"format": "tflite", "scheme": "w8a8", "spec": spec, "ranges": {}})
    _write_firmware(path, tmp_path / "out", False, None, False)
    assert "n_fft = 400 is no power of two" in capsys.readouterr().err
    assert "_listen" not in (tmp_path / "out" / "odd.h").read_text()
