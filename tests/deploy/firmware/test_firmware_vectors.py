"""Test vectors of generated projects: they spread the outputs, and with checksums of layers no planted fault hides."""

from __future__ import annotations

import re
import shutil
import subprocess
from importlib.util import find_spec

import numpy as np
import pytest

from edgepress.deploy.firmware.emit import completes, layer_name
from edgepress.deploy.firmware.host import HostProgram
from edgepress.deploy.firmware.projects.project import write_project
from edgepress.deploy.firmware.sources import Firmware, firmware, sources
from edgepress.deploy.firmware.vectors import find_vectors, searched, spread
from tests.deploy.integer_networks import random_network

pytestmark = [
    pytest.mark.skipif(find_spec("tflite_micro") is None, reason="needs TFLite Micro (Linux on x86-64)"),
    pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler"),
]


def planted(text: str, made: Firmware, number: int) -> str:
    """NAME.c whose convolution gives one more on every third channel."""
    step = made.network.steps[number]
    value = made.network.values[made.network.home(step.output)]
    place = re.search(rf"CHECK\({number}, (.+), \d+\)", text)
    assert place is not None
    call = f"  {layer_name(number, step)}();\n"
    fault = (
        f"  for (int i = 0; i < {value.size_bytes}; ++i) {{\n    int8_t *at = (int8_t *)({place[1]}) + i;\n"
        f"    if (i % {value.shape[-1]} % 3 == 0 && *at < 127) ++*at;\n  }}\n"
    )
    assert text.count(call) == 1
    return text.replace(call, call + fault)


def found(made: Firmware, path) -> dict[str, tuple[int, int]]:
    """How many planted faults are found by the outputs alone, and by checksums in the right layer; of how many."""
    vectors, _ = find_vectors(made, path)
    assert vectors is not None
    assert vectors.checksums is not None
    text = sources(made, "")[f"{made.name}.c"]
    convolutions = [i for i, step in enumerate(made.network.steps) if step.code in ("CONV_2D", "DEPTHWISE_CONV_2D")]
    by_output = by_layer = 0
    for number in convolutions:
        with HostProgram(made, check=True, changes={f"{made.name}.c": planted(text, made, number)}) as program:
            outputs, sums = program.run_checked(vectors.inputs)
        by_output += any((a != b).any() for a, b in zip(outputs, vectors.outputs, strict=True))
        wrong = np.nonzero((sums != vectors.checksums).any(0))[0]
        by_layer += len(wrong) > 0 and wrong[0] == number
    return {"output": (by_output, len(convolutions)), "layer": (by_layer, len(convolutions))}


def test_faults_in_the_keyword_model_are_found_where_they_are(shared):
    path = shared / "data" / "reference_models" / "kws_ref_model.tflite"
    made = firmware(path)
    vectors, head = find_vectors(made, path)
    assert vectors is not None
    assert head == 16000
    inside = (vectors.outputs[0] > -128) & (vectors.outputs[0] < 127)
    assert inside.mean() > 0.9
    assert len(np.unique(vectors.outputs[0], axis=0)) == len(vectors.outputs[0]) == 4
    for hits, all_ in found(made, path).values():
        assert hits == all_


@pytest.mark.slow
def test_faults_in_resnet_are_found_where_they_are(shared):
    path = shared / "data" / "reference_models" / "pretrainedResnet_quant.tflite"
    for hits, all_ in found(firmware(path), path).values():
        assert hits == all_


@pytest.mark.parametrize("seed", [11, 12])
def test_the_example_names_the_layer_with_a_planted_fault(seed, tmp_path):
    model = tmp_path / "net.tflite"
    model.write_bytes(random_network(seed))
    made = write_project(model, tmp_path / "out")
    build = ["cc", "-std=c99", "-Wall", "-Werror", "-DEP_CHECK=1", "-o", "example", "-lm"]
    steps = [i for i, s in enumerate(made.network.steps) if completes(made.network, i)]
    text = (tmp_path / "out" / "net.c").read_text()
    for number in (None, steps[-1], steps[0]):
        wrong = text if number is None else planted(text, made, number)
        (tmp_path / "out" / "net.c").write_text(wrong)
        files = [str(path) for path in (tmp_path / "out").glob("*.c")]
        subprocess.run([*build[:-1], *files, build[-1]], cwd=tmp_path, check=True)
        done = subprocess.run([tmp_path / "example"], capture_output=True, text=True, check=False)
        assert done.returncode == (number is not None)
        assert number is None or f"layer {number} is the first that differs" in done.stdout


def test_searched_inputs_reach_from_whispers_to_the_limits():
    network = firmware(random_network(11)).network
    inputs = searched(network)[0].astype(int)
    value = network.values[network.inputs[0]]
    reach = np.abs(inputs.reshape(len(inputs), -1) - value.zero_point).mean(1)
    assert reach.min() < 6
    assert reach.max() > 60


def test_the_chosen_outputs_are_inside_and_apart():
    network = firmware(random_network(11)).network
    value = network.values[network.outputs[0]]
    outputs = np.array([[-128, 127], [0, 0], [1, 1], [100, -90], [127, -128]], np.int8)
    assert sorted(spread([outputs], [value], 2)) == [1, 3] or sorted(spread([outputs], [value], 2)) == [2, 3]


def test_real_inputs_are_taken_where_there_are_some(tmp_path):
    model = tmp_path / "net.tflite"
    model.write_bytes(random_network(11))
    made = firmware(model.read_bytes())
    shape = made.network.values[made.network.inputs[0]].shape
    x = np.random.default_rng(0).integers(-20, 20, (5, *shape[1:]), dtype=np.int8)
    np.savez(tmp_path / "x.npz", x=x)
    write_project(model, tmp_path / "out", data=str(tmp_path / "x.npz"))
    text = (tmp_path / "out" / "net_test_vector.h").read_text()
    assert "x.npz" in text.splitlines()[1]
