"""`compress fit`: which network a device class gets, and that trainings are shared."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgepress.compress.pipeline import fit
from edgepress.models.errors import UsageError


def network(name: str, accuracy: float, macs: int) -> dict:
    return {
        "name": name,
        "float": {"name": name, "path": name, "macs": macs},
        "int8": {"validation_accuracy": accuracy},
    }


def verdicts(**passed: bool) -> dict:
    gates = {device.replace("_", "-"): {"passed": value} for device, value in passed.items()}
    return {"runs": [{"runtime": "tflm", "accuracy": 0.5}], "gates": gates}


@pytest.fixture
def made(monkeypatch, tmp_path):
    """Three networks; the large one fits the M4 alone, the small one fits both."""
    monkeypatch.setattr(fit, "with_footprint", lambda entry, targets, device, trust: {**entry, "arena_bytes": 1000})
    networks = [network("dense", 0.9, 30), network("small", 0.8, 10), network("smaller", 0.8, 5)]
    files = {one["name"]: {"tflite": tmp_path / f"{one['name']}.tflite"} for one in networks}
    for formats in files.values():
        formats["tflite"].write_bytes(bytes(100))
    results = {
        "dense.tflite": verdicts(cortex_m4=True, cortex_m0plus=False),
        "small.tflite": verdicts(cortex_m4=True, cortex_m0plus=True),
        "smaller.tflite": verdicts(cortex_m4=True, cortex_m0plus=True),
    }
    return networks, files, results


def test_the_most_accurate_that_fits_and_of_equal_ones_the_cheapest(made):
    assert fit.chosen("cortex-m4", "tflm", *made).network["name"] == "dense"
    small = fit.chosen("cortex-m0plus", "tflm", *made)
    assert small.network["name"] == "smaller"
    assert small.accuracy == 0.5
    assert small.file == Path(made[1]["smaller"]["tflite"])


def test_a_class_without_a_network_is_said(made):
    nothing = fit.chosen("cortex-m85", "tflm", *made)
    assert nothing.network is None
    _, rows = fit.fit_table([nothing, fit.chosen("cortex-m4", "tflm", *made)])
    assert rows[0][:2] == ["cortex-m85", "none fits"]
    assert rows[0][-1] == "failed"
    assert rows[1][:4] == ["cortex-m4", "dense", "30", "100 B"]


def test_classes_with_the_same_limits_share_a_network(monkeypatch):
    """Two names for one set of limits train once; a class that the dense network fits trains nothing."""
    from edgepress.compress.recipes.recipe import parse_recipe
    from edgepress.models.limits import Limits

    trained = []
    limits = {
        "tight": Limits(macs=5, arena_bytes=10, device="tight"),
        "twin": Limits(macs=5, arena_bytes=10, device="twin"),
        "wide": Limits(macs=100, arena_bytes=100, device="wide"),
    }
    monkeypatch.setattr(fit, "held_limits", limits.__getitem__)
    monkeypatch.setattr(fit, "limits_for", lambda entry, targets, device: limits[device])
    monkeypatch.setattr(fit, "with_footprint", lambda entry, targets, device, trust: {**entry, "arena_bytes": 50})
    monkeypatch.setattr(
        fit, "train_stage", lambda *args, **kwargs: {**network("dense", 0.9, 30)["float"], "rule": "dcase"}
    )
    monkeypatch.setattr(
        fit, "prune_stage", lambda run, path, limits, *args, label, **kw: trained.append(label) or {"name": label}
    )
    monkeypatch.setattr(fit, "quantize_int8", lambda run, recipe, entry, *args: entry)
    monkeypatch.setattr("edgepress.compress.pipeline.teaching.teach_stages", lambda *args, **kwargs: None)
    recipe = parse_recipe({"name": "r", "task": "synthetic", "network": {"name": "ds_cnn"}}, "test", deep=False)
    measure = recipe.measure.model_copy(update={"devices": ("tight", "twin", "wide")})
    entries = fit.fitted_networks(None, recipe.model_copy(update={"measure": measure}), None, None)
    assert trained == ["tight"]
    assert [entry["name"] for entry in entries] == ["dense", "tight"]


def test_fit_without_a_class_says_how(tmp_path):
    with pytest.raises(UsageError, match="--device NAME"):
        fit.fit_recipe("default", devices=(), data=None, run=tmp_path, seed=None, trust=False, machine=None)


class InlineRay:
    """Ray's four calls, carried out where they are made: a task ends when it is started."""

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 4.0, "memory": 1e10}

    def remote(self, **options):
        self.options = options

        def of(function):
            def start(*arguments):
                try:
                    return ("value", function(*arguments), object())
                except Exception as error:
                    return ("error", error, object())

            return type("Remote", (), {"remote": staticmethod(start)})

        return of

    def wait(self, references, num_returns):
        return references[:num_returns], references[num_returns:]

    def get(self, reference):
        kind, value, _ = reference
        if kind == "error":
            raise value
        return value


def test_on_ray_a_task_for_each_class_that_needs_one(monkeypatch, tmp_path):
    """The dense network is made once; a class that it fits gets no task; who fails does not stop the rest."""
    from contextlib import contextmanager

    from edgepress.compress.recipes.recipe import parse_recipe
    from edgepress.compress.sweep import fit_classes
    from edgepress.compress.sweep.cluster import Resources
    from edgepress.compress.training.machine import Machine
    from edgepress.models.limits import Limits
    from edgepress.models.run_directory import RunDirectory

    ray, calls = InlineRay(), []

    @contextmanager
    def connected(address):
        yield ray

    def fitted(run, recipe, task, machine):
        calls.append((recipe.measure.devices, machine.accelerator))
        if recipe.measure.devices == ("bad",):
            raise RuntimeError("worker died\nof thirst")
        return [network("dense", 0.9, 30)]

    limits = {name: Limits(macs=value, device=name) for name, value in {"bad": 1, "tight": 5, "wide": 100}.items()}
    monkeypatch.setattr(fit, "held_limits", limits.__getitem__)
    monkeypatch.setattr(fit, "limits_for", lambda entry, targets, device: limits[device])
    monkeypatch.setattr(fit, "with_footprint", lambda entry, targets, device, trust: {**entry, "rule": "dcase"})
    monkeypatch.setattr(fit_classes, "connected", connected)
    monkeypatch.setattr(fit_classes, "fitted_networks", fitted)
    monkeypatch.setattr(fit_classes, "open_task", lambda *args, **kwargs: None)
    recipe = parse_recipe({"name": "r", "task": "synthetic", "network": {"name": "ds_cnn"}}, "test", deep=False)
    recipe = fit_classes._for_classes(recipe, ("bad", "wide", "tight"))
    ended = fit_classes.side_by_side(RunDirectory(tmp_path), recipe, None, Machine(), Resources(cpus=2))
    assert ended == {"bad": "of thirst", "tight": "done"}
    assert calls == [((), "auto"), (("bad",), "cpu"), (("tight",), "cpu")]
    assert ray.options["num_cpus"] == 2
