# SPDX-License-Identifier: Apache-2.0
"""Small valid files of every kind that edgepress reads, to be damaged."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

CLASSES, CLIPS = 3, 48
#: Hz; clips of a tenth of a second.
_RATE = 8000


def write_tflite(folder: Path) -> Path:
    """A quantized network with a convolution, a depthwise convolution, a sum, pooling and a dense layer."""
    import torch

    from edgepress import build, export_model, quantize_model

    torch.manual_seed(0)
    model = build("ds_cnn", in_channels=1, n_classes=CLASSES, channels=8, n_blocks=1).eval()
    batches = [(torch.randn(8, 1, 12, 8),)]
    quantized = quantize_model(model, batches[0], calibration=batches)
    return export_model(quantized, torch.randn(1, 1, 12, 8), folder / "m.tflite").path


def write_onnx(folder: Path) -> Path:
    """A float network with a function of its own, which is called twice."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    shapes = {"w1": (8, 1, 3, 3), "b1": (8,), "w2": (8, 1, 3, 3), "w3": (4, 8)}
    activation = helper.make_function(
        "own", "Twice", ["v"], ["u"], [helper.make_node("Relu", ["v"], ["u"])], [helper.make_opsetid("", 17)]
    )
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["a"], pads=[1, 1, 1, 1], name="stem"),
        helper.make_node("Twice", ["a"], ["r"], domain="own"),
        helper.make_node("Conv", ["r", "w2"], ["d"], group=8, pads=[1, 1, 1, 1], name="depthwise"),
        helper.make_node("Twice", ["d"], ["e"], domain="own"),
        helper.make_node("GlobalAveragePool", ["e"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "w3"], ["y"], transB=1, name="head"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
        [numpy_helper.from_array(rng.normal(size=s).astype(np.float32), name) for name, s in shapes.items()],
    )
    domains = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    path = folder / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=domains, ir_version=9, functions=[activation]), path)
    return path


def write_checkpoint(folder: Path) -> Path:
    """A quantized checkpoint with the metrics that a stage of `compress` leaves, and the float one beside it."""
    import torch

    from edgepress import ModelSpec, build, quantize_model, save_checkpoint
    from edgepress.compress.quantize.restore import quantization_json, unfold

    torch.manual_seed(0)
    arguments = {"in_channels": 1, "n_classes": CLASSES, "channels": 8, "n_blocks": 1}
    model = build("ds_cnn", **arguments).eval()
    batches = [(torch.randn(8, 1, 12, 8),)]
    quantized = quantize_model(model, batches[0], calibration=batches)
    figures = {"correct": 3, "total": 4, "accuracy": 0.75, "log_loss": 0.7, "interval": [0.3, 0.95]}
    cost = {"rule": "dcase", "macs": 9000, "params": 200, "weight_bytes": 300, "peak_activation_bytes": 900}
    data = {"task": "own", "source": None, "fingerprint": "0", "clips": {"test": 4}, "unseen_devices": []}
    metrics = {"stage": "own", "cost": cost, "test": figures, "data": data, "history": [{"loss": 1.0}]}
    spec = ModelSpec("ds_cnn", arguments, ((1, 12, 8),))
    save_checkpoint(folder / "float", model, spec, metrics)
    path = folder / "checkpoint"
    torch.save({"state_dict": model.state_dict(), "epoch": 3}, folder / "weights.pt")
    return save_checkpoint(path, unfold(quantized, model), spec, metrics, quantization=quantization_json(quantized))


def write_arrays(folder: Path) -> Path:
    """The documented form, with everything that it may hold."""
    rng = np.random.default_rng(0)
    split = np.array(["train"] * 24 + ["validation"] * 12 + ["test"] * 12)
    np.savez_compressed(
        folder / "task.npz",
        x=rng.integers(-128, 128, (CLIPS, 12, 8, 1), dtype=np.int8),
        y=np.arange(CLIPS) % CLASSES,
        split=split,
        device=np.array(["a", "b"] * (CLIPS // 2)),
        labels=np.array(["x", "y", "z"]),
        layout=np.array("NHWC"),
        scale=0.5,
        zero_point=3,
    )
    return folder / "task.npz"


def write_texts(folder: Path) -> dict[str, Path]:
    """Name -> a text of each kind; index and results belong to the run directory `folder`/run."""
    run = folder / "run"
    (run / "results").mkdir(parents=True, exist_ok=True)
    dense = {"kind": "checkpoint", "name": "dense", "path": "../float", "time": 1.0, "macs": 9000, "scheme": "float32"}
    integers = {**dense, "name": "int8", "path": "../checkpoint", "scheme": "w8a8", "parent": "dense"}
    file = {"kind": "artifact", "name": "m.tflite", "path": "../m.tflite", "time": 2.0, "format": "tflite"}
    model = folder / "m.tflite"
    sha256 = hashlib.sha256(model.read_bytes()).hexdigest()
    record = {"schema": 1, "time": 1.0, "kind": "accuracy", "runtime": "tflm", "sha256": sha256, "accuracy": 0.75}
    record |= {"correct": 3, "total": 4, "log_loss": 0.7, "interval": [0.3, 0.95], "data": {"task": "own"}}
    manifest = {"schema": 1, "sha256": sha256, "format": "tflite"}
    manifest |= {"scheme": "w8a8", "layouts": {"inputs": ["NHWC"], "outputs": [None]}, "files": {}, "spec": {}}
    profile = {"macs": {"dcase": 9000}, "params": 200, "weight_bytes": 300, "file_bytes": 4000, "arena_bytes": {}}
    texts = {
        "index": (run / "index.jsonl", "".join(json.dumps(line) + "\n" for line in (dense, integers, file))),
        "results": (run / "results" / "results.jsonl", (json.dumps(record) + "\n") * 3),
        "manifest": (folder / "m.tflite.manifest.json", json.dumps(manifest)),
        "baseline": (folder / "baseline.json", json.dumps({"schema": 1, "profile": profile, "results": [record]})),
        "budgets": (
            folder / "budgets.toml",
            '[device.own]\nlike = "cortex-m4"\nmacs = "3M"\nfile = "64kB"\narena = "20kB"\n',
        ),
        "recipe": (folder / "recipe.toml", 'name = "own"\ntask = "synthetic"\n[network]\nname = "ds_cnn"\n'),
        "grid": (folder / "grid.toml", 'recipes = ["default"]\nbudgets = ["30M"]\nseeds = [0, 1]\n'),
    }
    for path, text in texts.values():
        path.write_text(text)
    return {name: path for name, (path, _) in texts.items()}


def write_audio(folder: Path) -> Path:
    """Two scenes in TAU layout."""
    import soundfile

    root, rng = folder / "tau", np.random.default_rng(0)
    (root / "audio").mkdir(parents=True)
    (root / "evaluation_setup").mkdir()
    meta, train, test = [], [], []
    for scene in ("park", "tram"):
        for place in range(4):
            name = f"audio/{scene}-paris-{place}-{scene}-0-a.wav"
            soundfile.write(root / name, 0.1 * rng.standard_normal(_RATE // 10), _RATE, subtype="PCM_16")
            meta.append(f"{name}\t{scene}\tparis-{scene}{place}\ta\n")
            (train if place < 3 else test).append(f"{name}\t{scene}\n")
    (root / "meta.csv").write_text("filename\tscene_label\tidentifier\tsource_label\n" + "".join(meta))
    setup = root / "evaluation_setup"
    (setup / "fold1_train.csv").write_text("filename\tscene_label\n" + "".join(train))
    (setup / "fold1_evaluate.csv").write_text("filename\tscene_label\n" + "".join(test))
    (setup / "fold1_test.csv").write_text("filename\n" + "".join(line.split("\t")[0] + "\n" for line in test))
    return root
