"""Networks that remember: LSTM and variables against TFLite Micro, sample after sample and after resets."""

from __future__ import annotations

import shutil
import subprocess
from importlib.util import find_spec

import numpy as np
import pytest

from edgepress.deploy.firmware.host import HostEngine
from edgepress.deploy.firmware.operators.lower import lower
from edgepress.deploy.firmware.projects.project import write_project
from edgepress.deploy.firmware.sources import firmware, sources
from edgepress.deploy.runtimes.engine import EngineOptions
from edgepress.models.errors import RuntimeFailure, UsageError
from tests.deploy.firmware.test_firmware_operators import differences, inputs_for
from tests.deploy.integer_networks import Builder
from tests.deploy.operator_networks import lstm, streaming, unsigned_ends

pytestmark = [
    pytest.mark.skipif(find_spec("tflite_micro") is None, reason="needs TFLite Micro (Linux on x86-64)"),
    pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler"),
]
_MAIN = """
#include <stdio.h>
#include "model.h"
int main(void) {
  while (fread(model_input(0), MODEL_INPUT_0_BYTES, 1, stdin) == 1) {
    model_invoke();
    fwrite(model_output(0), MODEL_OUTPUT_0_BYTES, 1, stdout);
  }
  return 0;
}
"""


def one_after_the_other(data: bytes, folder) -> tuple[np.ndarray, np.ndarray]:
    """Outputs of TFLite Micro and of C for samples that follow each other without a reset."""
    from tflite_micro import runtime

    made = firmware(data)
    x = inputs_for(made, 6)[0]
    interpreter = runtime.Interpreter.from_bytes(data, arena_size=1 << 18)
    wanted = []
    for sample in x:
        interpreter.set_input(sample, 0)
        interpreter.invoke()
        wanted.append(np.array(interpreter.get_output(0)))
    for name, text in {**sources(made, ""), "main.c": _MAIN}.items():
        (folder / name).write_text(text)
    files = sorted(str(path) for path in folder.glob("*.c"))
    subprocess.run(
        ["cc", "-std=c99", "-O1", "-fsanitize=address,undefined", "-o", "p", *files, "-lm"], cwd=folder, check=True
    )
    given = subprocess.run([folder / "p"], input=x.tobytes(), capture_output=True, check=True).stdout
    expected = np.stack(wanted)
    return expected, np.frombuffer(given, expected.dtype).reshape(expected.shape)


@pytest.mark.parametrize("dtype", ["INT8", "INT16"])
def test_lstm(dtype, tmp_path):
    for seed in range(3):
        assert differences(lstm(seed, dtype), tmp_path) == 0, seed
    (tmp_path / "c").mkdir()
    wanted, given = one_after_the_other(lstm(5, dtype), tmp_path / "c")
    np.testing.assert_array_equal(given, wanted)
    assert len(np.unique(wanted)) > 20


def test_variables_keep_the_past(tmp_path):
    wanted, given = one_after_the_other(streaming(1), tmp_path)
    np.testing.assert_array_equal(given, wanted)


def test_an_audio_network_of_the_examples(shared, tmp_path):
    data = (shared / "data" / "outside_files" / "tflm_dtln.tflite").read_bytes()
    assert differences(data, tmp_path) == 0


def test_uint8_at_both_ends(tmp_path):
    b = Builder(3)
    assert differences(b.finished([unsigned_ends(b)]), tmp_path) == 0


def test_the_example_of_a_network_that_remembers_begins_anew(tmp_path):
    (tmp_path / "net.tflite").write_bytes(streaming(1))
    write_project(tmp_path / "net.tflite", tmp_path / "out")
    files = [str(path) for path in (tmp_path / "out").glob("*.c")]
    subprocess.run(
        ["cc", "-std=c99", "-DEP_CHECK=1", "-Wall", "-Werror", "-o", "p", *files, "-lm"], cwd=tmp_path, check=True
    )
    assert subprocess.run([tmp_path / "p"], check=False, capture_output=True).returncode == 0


def test_subgraphs_that_do_more_than_begin_are_refused():
    from edgepress.deploy.tflite.writer import pack, unpack

    model = unpack(streaming(0))
    model.subgraphs[0].operators = [o for o in model.subgraphs[0].operators if len(o.inputs) or len(o.outputs)]
    with pytest.raises(UsageError, match="subgraph 1 of 2 is not called once"):
        lower(pack(model))


def test_a_stream_is_refused_where_every_sample_begins_anew():
    engine = HostEngine("host-c", streaming(0), EngineOptions())
    try:
        with pytest.raises(RuntimeFailure, match="begins every sample anew"):
            engine.stream([np.zeros((1, 1, 2, 3), np.int8)])
    finally:
        engine.close()
