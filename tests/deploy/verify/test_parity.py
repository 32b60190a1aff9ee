from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from edgepress.compress.quantize import quantize_model
from edgepress.deploy.export.export import export_model
from edgepress.deploy.runtimes.sessions import open_session
from edgepress.deploy.tables import layers_text, verify_text
from edgepress.deploy.tflite.objects import operator_name
from edgepress.deploy.tflite.writer import pack, unpack
from edgepress.deploy.verify import parity
from edgepress.deploy.verify.differences import compare, output_pairs
from edgepress.deploy.verify.inputs import load_inputs
from edgepress.deploy.verify.layers import departures_from_torch, layer_differences, layers_figure, only_rounds
from edgepress.deploy.verify.parity import (
    Thresholds,
    behind_integers,
    in_steps_of,
    judged_pairs,
    streamed,
    summary,
    verify,
    violations,
)
from edgepress.models.errors import UsageError
from tests.compress.quantize.quantized_networks import Residual, trained_like
from tests.deploy.small_models import chain

KWS = "data/reference_models/kws_ref_model.tflite"


def test_figures_of_a_pair_by_hand() -> None:
    a = np.array([[1.0, 2.0], [3.0, 1.0], [0.0, 0.0], [0.5, 0.0]], np.float32)
    b = np.array([[1.0, 2.0], [2.0, 2.0], [0.0, 0.0], [0.0, 0.5]], np.float32)
    # In steps of 0.5: 0 0 | 2 2 | 0 0 | 1 1. Labels 1 0 0 0 against 1 0 0 1: a tie goes to the first index.
    figures = compare(a, b, 0.5)
    assert (figures["max_lsb"], figures["mean_lsb"], figures["equal"]) == (2, 0.75, 0.5)
    assert (figures["label_agreement"], figures["max_abs"], figures["samples"]) == (0.75, 1.0, 4)
    low, high = figures["label_interval"]
    assert (round(low, 4), round(high, 4)) == (0.3006, 0.9544)  # Wilson, 3 of 4
    assert figures["relative"] is None


def test_float_files_have_no_lsb() -> None:
    figures = compare(np.array([[4.0]], np.float32), np.array([[4.5]], np.float32), None)
    assert figures["max_lsb"] is None
    assert figures["label_agreement"] is None
    assert figures["relative"] == pytest.approx(0.125)


def test_not_a_number_agrees_with_itself_alone() -> None:
    nan, inf = np.nan, np.inf
    assert compare(np.array([[nan, inf]]), np.array([[nan, inf]]), None)["max_abs"] == 0
    for a, b in ((nan, 1.0), (1.0, nan), (inf, -inf), (inf, 1.0)):
        figures = compare(np.array([[a]]), np.array([[b]]), None)
        assert violations([{"a": "x", "b": "y", **figures}], Thresholds())[0]["metric"] == "relative"


def test_of_several_outputs_every_one_is_compared() -> None:
    """Two outputs in steps of 0.5 and 0.1: equal in the first, four of five steps of 0.1 off in the second."""
    first = np.zeros((1, 3), np.float32)
    a, b = [first, np.zeros((1, 1), np.float32)], [first, np.full((1, 1), 0.4, np.float32)]
    (pair,) = output_pairs({"x": a, "y": b}, [0.5, 0.1])
    assert (pair["max_lsb"], pair["mean_lsb"], pair["equal"]) == (4, 1.0, 0.75)
    assert pair["max_abs"] == pytest.approx(0.4)
    with pytest.raises(UsageError, match="different networks"):
        output_pairs({"x": a, "y": b[:1]}, [0.5, 0.1])


def test_dust_of_float_is_no_difference() -> None:
    assert compare(np.array([[0.3]], np.float32), np.array([[0.1 * 3]], np.float64), 0.1)["max_lsb"] == 0


def test_keyword_model_between_runtimes(shared: Path) -> None:
    report = verify(
        shared / KWS,
        data=shared / "data/kws01.npz",
        samples=100,
        random_samples=4,
        thresholds=Thresholds(max_lsb=3, mean_lsb=None, label_agreement=None),
    )
    by_pair = {(pair["a"], pair["b"]): pair for pair in report["pairs"]}
    assert by_pair["litert-reference", "tflm"]["max_lsb"] <= 3
    assert by_pair["litert-reference", "litert"]["max_lsb"] > 3  # XNNPACK rounds otherwise (deploy notes: 368 of 1,000)
    assert report["passed"] is False
    assert [(v["b"], v["metric"]) for v in report["violations"]] == [("litert", "max_lsb"), ("litert", "max_lsb")]
    assert "max_lsb" in summary(report)
    assert report["inputs"]["samples"] == 100
    assert all(entry["total"] == 100 for entry in report["runtimes"].values())


def test_foreign_file_passes_without_thresholds(tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    path.write_bytes(chain([64, 32]))
    report = verify(path, random_samples=8)
    assert report["passed"] is True
    assert {pair["equal"] for pair in report["pairs"]} == {1.0}
    assert len(report["pairs"]) == 3
    assert report["random_pairs"] == []
    assert any("torch is left out" in note for note in report["notes"])
    with pytest.raises(UsageError, match="onnxruntime: nothing here runs with it"):
        verify(path, runtimes=["onnxruntime"])


def test_labels_of_noise_are_no_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the labels differ by a step: a fault of real inputs, and none of noise."""
    path = tmp_path / "m.tflite"
    path.write_bytes(chain([64, 32]))
    figures = compare(np.tile([[0.0, 1.0]], (8, 1)), np.array([[0.0, 1.0], [1.0, 0.0]] * 4), 1.0)
    pair = {"a": "litert-reference", "b": "tflm", **figures, "samples": 8}
    monkeypatch.setattr(parity, "output_pairs", lambda made, scales, labels: [pair] if made else [])
    assert pair["label_agreement"] == 0.5
    assert verify(path, random_samples=8, thresholds=Thresholds(1, 1))["passed"] is True
    np.savez(tmp_path / "x.npz", x=np.zeros((8, 64), np.float32))
    real = verify(path, data=tmp_path / "x.npz", random_samples=0, thresholds=Thresholds(1, 1))
    assert [found["metric"] for found in real["violations"]] == ["label_agreement"]


def test_first_layer_that_departs_is_named(shared: Path) -> None:
    with np.load(shared / "data/kws01.npz", allow_pickle=False) as data:
        x = data["x"][:64]
    found = layer_differences(shared / KWS, [x])
    assert len(found["layers"]) == 13
    assert layers_figure(found, "kws").startswith("<svg")
    # TFLite Micro and LiteRT's reference kernels differ in FULLY_CONNECTED only; XNNPACK from the first convolution on.
    assert (found["first"]["tflm"]["step"], found["first"]["tflm"]["operator"]) == (11, "FULLY_CONNECTED")
    assert (found["first"]["litert"]["step"], found["first"]["litert"]["operator"]) == (0, "CONV_2D")


def test_layers_are_judged_by_themselves(tmp_path: Path) -> None:
    """A file whose second convolution has a wrong weight: only that layer departs by itself, what follows inherits."""
    net, x = trained_like(Residual), torch.randn(24, 2, 40, 32, generator=torch.Generator().manual_seed(1))
    quantized = quantize_model(net, x[:1], [x[:16]])
    path = export_model(quantized, x[:1], tmp_path / "net.tflite", samples=x[16:]).path
    with open_session(path, "litert") as session:
        raw = session.quantize(x[16:].numpy())
    honest = departures_from_torch(path, raw, quantized, [x[16:].numpy()], runtimes=("litert",))
    assert honest["reference"] == "torch"
    assert {row["bits"] for row in honest["layers"]} == {8}
    assert len(honest["layers"]) >= 6
    assert all(row["litert"]["own_equal"] > 0.99 for row in honest["layers"])

    model = unpack(path.read_bytes())
    layers = [o for o in model.subgraphs[0].operators if operator_name(model, o).endswith("CONV_2D")]
    weights = model.buffers[model.subgraphs[0].tensors[layers[1].inputs[1]].buffer]
    weights.data = 255 - np.array(weights.data, np.uint8)  # -1 - w
    broken = tmp_path / "broken.tflite"
    broken.write_bytes(pack(model))
    found = departures_from_torch(broken, raw, quantized, [x[16:].numpy()], runtimes=("litert",))
    wrong = [row["tensor"] for row in found["layers"] if row["litert"]["own_equal"] < 0.9]
    assert wrong == [layers[1].outputs[0]]
    assert found["layers"][-1]["litert"]["equal"] < 0.9
    assert only_rounds(path, "litert", quantized, [x[16:].numpy()], 1, 0.5)
    assert not only_rounds(broken, "litert", quantized, [x[16:].numpy()], 1, 0.5)
    assert "by itself" in layers_text(found)


def test_a_file_of_another_kind_is_a_usage_error(tmp_path):
    path = tmp_path / "inputs.npz"
    np.savez(path, x=np.zeros(3, np.float32))
    with pytest.raises(UsageError, match=r"inputs\.npz is no file of \.tflite, \.onnx"):
        verify(path)


def test_limits_of_16_bit_outputs_are_those_of_8_bits_in_real_values(tmp_path: Path) -> None:
    assert in_steps_of(Thresholds(3, 0.5), 16) == Thresholds(768, 128)
    assert in_steps_of(Thresholds(max_lsb=None), 16).max_lsb is None
    net, x = trained_like(Residual), torch.randn(24, 2, 40, 32, generator=torch.Generator().manual_seed(1))
    quantized = quantize_model(net, x[:1], [x[:16]], "a16w8")
    file, other = (
        export_model(quantized, x[:1], tmp_path / f"net.{form}", format=form, samples=x[16:]).path
        for form in ("tflite", "onnx")
    )
    runtimes = ("litert-reference", "onnxruntime")
    found = verify(file, also=[other], random_samples=16, runtimes=runtimes)
    assert found["output_bits"] == 16
    worst = found["pairs"][0]["max_lsb"]
    assert worst > 0  # two kernels, 16 bits: some value is a step off
    for share, passes in ((1.01, True), (0.99, False)):
        limits = Thresholds(max_lsb=share * worst / 256, mean_lsb=None)
        gated = verify(file, also=[other], random_samples=16, runtimes=runtimes, thresholds=limits)
        assert gated["passed"] is passes


def test_a_float_output_behind_integers_moves_by_their_steps() -> None:
    assert behind_integers(Thresholds(max_lsb=3)).relative == 3 / 127
    assert behind_integers(Thresholds(relative=0.5)).relative == 0.5
    assert behind_integers(Thresholds(relative=None)).relative is None
    assert behind_integers(Thresholds(max_lsb=None)).relative == 1e-3


def test_what_was_not_compared_has_not_passed(shared: Path) -> None:
    """TFLite Micro alone runs its own person detection: LiteRT refuses the file, and the table stays."""
    report = verify(shared / "data/outside_files/tflm_person.tflite", random_samples=2)
    assert report["passed"] is False
    assert (report["pairs"], report["judged"], report["violations"]) == ([], [], [])
    assert {name for name, entry in report["runtimes"].items() if entry["ran"]} == {"tflm"}
    assert verify_text(report).endswith(
        "NOT COMPARED: only tflm ran it; --with FILE, a checkpoint or --max-lsb gives something to judge"
    )


def test_a_stateful_file_starts_every_sample_anew_on_every_runtime(shared: Path) -> None:
    """Two LSTMs: with the state of the sample before, the runtimes were 139 steps apart."""
    report = verify(shared / "data/outside_files/tflm_dtln.tflite", random_samples=16)
    assert report["passed"] is True
    assert report["judged"] == [["litert-reference", "tflm"]]
    assert max(pair["max_lsb"] for pair in report["pairs"]) <= 3


def test_samples_of_a_stream_keep_their_states_and_the_operator_that_departs_is_named(shared: Path) -> None:
    path = shared / "data/outside_files/tflm_dtln.tflite"
    report = verify(path, random_samples=16, streams=True)
    assert report["inputs"]["streams"] is True
    assert report["passed"] is False
    assert any("tflm: UNIDIRECTIONAL_SEQUENCE_LSTM of int8" in note for note in report["notes"])
    assert "(random, streams)" in verify_text(report)
    same = next(pair for pair in report["pairs"] if {pair["a"], pair["b"]} == {"litert", "litert-reference"})
    assert same["max_lsb"] == 0
    assert not any("LSTM" in note for note in verify(path, random_samples=4)["notes"])


def test_a_recording_is_a_stream_of_its_own(shared: Path, tmp_path: Path) -> None:
    """Rows in their order: the same three twice, so that one stream goes on and two begin alike."""
    path = shared / "data/outside_files/tflm_dtln.tflite"
    x = np.random.default_rng(1).integers(-128, 128, (3, 1, 257)).astype(np.int8)
    expected = []
    with open_session(path, "litert") as session:
        for rows in ([x[0], x[1], x[2], x[0], x[1]], [x[0], x[1]]):
            session.reset()
            expected.append(session.run_integer(np.array(rows), stream=True)[-2:])
        for names, wanted in ((["a"] * 5, expected[0]), (["a"] * 3 + ["b"] * 2, expected[1])):
            rows = np.concatenate([x, x])
            np.savez(tmp_path / "rows.npz", x=rows, identifiers=[*names, "c"])
            inputs = load_inputs(tmp_path / "rows.npz", session, samples=5, in_order=True)
            made = streamed(session, inputs)[0]
            assert np.array_equal(made[-2:], session.dequantize(wanted)[0])
    assert not np.array_equal(expected[0], expected[1])


def test_xnnpack_is_not_judged_by_noise_and_what_lies_beyond_is_said(shared: Path) -> None:
    names = (("torch", "tflm"), ("torch", "litert"), ("tflm", "litert"))
    pairs = [{"a": a, "b": b, "max_lsb": 1} for a, b in names]
    assert judged_pairs(pairs, real=True) == pairs[:2]
    assert judged_pairs(pairs, real=False) == pairs[:1]
    assert judged_pairs(pairs[2:], real=True) == []
    assert judged_pairs([{**pairs[2], "max_lsb": None}], real=False) != [], "float outputs are judged on every kernel"
    report = verify(shared / KWS, data=shared / "data/kws01.npz", samples=100, random_samples=0)
    assert report["passed"] is True
    assert {(v["a"], v["b"]) for v in report["beyond_unjudged"]} == {("litert-reference", "litert"), ("tflm", "litert")}
    last = verify_text(report).splitlines()[-1]
    assert last.startswith("within the limits: litert-reference and tflm; beyond them, and not judged")
