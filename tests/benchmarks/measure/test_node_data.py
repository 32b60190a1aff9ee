"""Node data of Model Explorer: its keys are those of the graph that it draws, its values those of the profile."""

from __future__ import annotations

import json
import shutil

import pytest

from edgepress.benchmarks.measure.node_data import node_data
from edgepress.benchmarks.measure.profiling import profile
from edgepress.models.errors import UsageError
from tests.benchmarks.test_cli import call
from tests.deploy.small_models import qdq_onnx, sequence

#: What its adapter 0.2.1 (`ConvertFlatbufferDirectlyToJson`) gives for `small`: id of each operator, tensor_name.
SMALL_NODES = {"0": "layer 0", "1": "layer 1", "2": "layer 2"}


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "small.tflite"
    path.write_bytes(sequence((1, 4, 4, 1), [("conv", 2, 3, 1), ("max", 2, 2), ("dense", 3)]))
    return path


def test_values_are_by_the_name_of_the_output(small):
    found, _ = node_data(small, layers=False)
    assert set(found) == {"macs", "weight_bytes", "live_bytes"}
    assert {key: entry["value"] for key, entry in found["macs"]["results"].items()} == {
        "layer 0": 4 * 4 * 2 * 9,
        "layer 2": 2 * 2 * 2 * 3,
    }
    assert found["weight_bytes"]["results"]["layer 0"] == {"value": 2 * 9 + 2 * 4}
    assert {key: entry["value"] for key, entry in found["live_bytes"]["results"].items()} == {
        "layer 0": 16 + 32,
        "layer 1": 32 + 8,
        "layer 2": 8 + 3,
    }
    assert set(found["live_bytes"]["results"]) <= set(SMALL_NODES.values())
    stops = [item["stop"] for item in found["macs"]["gradient"]]
    assert (stops[0], stops[-1]) == (0, 1), "Model Explorer wants both ends"
    assert found["macs"]["name"] == "MACs, rule core"
    assert node_data(small, layers=False, rule="dcase")[0]["macs"]["name"] == "MACs, rule dcase"


def test_operators_without_a_name_of_their_own_are_told_by_their_number(shared, tmp_path):
    from edgepress.deploy.verify.shrink import shrink_file

    path = tmp_path / "nameless.tflite"
    shrink_file(shared / "data" / "reference_models" / "kws_ref_model.tflite", path, plan=False)
    found, _ = node_data(path, layers=False)
    layers = profile(path)["layers"]
    assert list(found["live_bytes"]["results"]) == [str(i) for i in range(len(layers))]


def test_nodes_of_onnx_are_told_by_their_name(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(qdq_onnx())
    found, notes = node_data(path)
    assert list(found["live_bytes"]["results"]) == [layer["name"] for layer in profile(path)["layers"]]
    assert any(".tflite" in note for note in notes)


def test_differences_between_runtimes_are_in_lsb(shared):
    pytest.importorskip("tflite_micro")
    path = shared / "data" / "reference_models" / "kws_ref_model.tflite"
    found, _ = node_data(path)
    exact = found["lsb_tflm"]
    assert exact["name"] == "LSB between litert-reference and tflm, mean"
    layers = profile(path)["layers"]
    assert list(exact["results"]) == [layer["name"] for layer in layers]
    assert max(entry["value"] for entry in exact["results"].values()) == 0, "both have TFLite's own arithmetic"
    assert max(entry["value"] for entry in found["lsb_litert"]["results"].values()) > 0


def test_sensitivity_goes_to_the_operator_that_gives_the_value(small, tmp_path, capsys, monkeypatch):
    entries = [
        {"key": "conv", "kind": "weights", "share": 0.25, "value": "layer 0"},
        {"key": "layer 2", "kind": "activations", "share": 0.5, "value": "layer 2"},
        {"key": "x", "kind": "activations", "share": 0.125, "value": "x"},
        {"key": "lost", "kind": "activations", "share": 0.125, "value": "lost"},
    ]
    found, notes = node_data(small, layers=False, sensitivity=entries)
    assert found["sensitivity_weights"]["results"] == {"layer 0": {"value": 25.0}}
    assert found["sensitivity_activations"]["results"] == {"layer 2": {"value": 50.0}, "x": {"value": 12.5}}
    assert notes == ["sensitivity of activations: no operator gives lost"]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.json").write_text(json.dumps({"schema": 1, "kind": "sensitivity", "layers": entries}))
    code, out, err = call(capsys, "node-data", small, "--no-layers", "--sensitivity", "s.json", "-o", "nodes")
    assert (code, len(out.split())) == (0, 5)
    assert "--node_data_paths=nodes/macs.json," in err
    assert json.loads((tmp_path / "nodes" / "sensitivity_weights.json").read_text()) == found["sensitivity_weights"]
    assert call(capsys, "node-data", small, "--no-layers", "-o", "nodes")[0] == 2, "nothing is replaced unasked"
    (tmp_path / "s.json").write_text('{"kind": "sensitivity", "layers": [{"key": 3}]}')
    code, _, err = call(capsys, "node-data", small, "--sensitivity", "s.json", "-o", "other")
    assert (code, "is no JSON of" in err) == (2, True)


def test_the_keys_are_those_of_the_graph_that_model_explorer_draws(shared, tmp_path):
    adapter = pytest.importorskip("ai_edge_model_explorer_adapter")
    for source in (shared / "data" / "reference_models").glob("*.tflite"):
        path = shutil.copy(source, tmp_path)
        graph = json.loads(adapter.ConvertFlatbufferDirectlyToJson(adapter.VisualizeConfig(), str(path)))[0][
            "subgraphs"
        ][0]
        names = {
            entry["value"]: node["id"]
            for node in graph["nodes"]
            for output in node["outputsMetadata"]
            for entry in output["attrs"]
            if entry["key"] == "tensor_name"
        }
        keys = list(node_data(path, layers=False)[0]["live_bytes"]["results"])
        assert [names.get(key, key) for key in keys] == [str(i) for i in range(len(keys))]


def test_a_checkpoint_is_no_file(tmp_path):
    with pytest.raises(UsageError, match="export it first"):
        node_data(tmp_path)
