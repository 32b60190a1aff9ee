"""The checks of a submission: a good folder of every year passes, and every single fault is named."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from edgepress.benchmarks.submission.check import Facts, check_folder
from edgepress.benchmarks.submission.forms import FORMS, form_of
from edgepress.benchmarks.submission.labels import full_label, read_authors
from edgepress.benchmarks.submission.meta import as_yaml
from edgepress.models.errors import UsageError
from tests.benchmarks.submission.packages import CLIPS, LABEL, good_meta, good_rows, write_package

FACTS = Facts(clips=CLIPS)
FORM = FORMS[2023]


@pytest.mark.parametrize("year", FORMS)
def test_a_good_folder_of_every_year_passes(tmp_path, year):
    assert check_folder(write_package(tmp_path, FORMS[year]), FORMS[year], FACTS) == []


def test_the_evaluation_sets_have_the_published_counts(tmp_path):
    assert {year: form.clips for year, form in FORMS.items()} == {2022: 118800, 2023: 118800, 2024: 135730, 2025: None}
    (found,) = check_folder(write_package(tmp_path, FORM), FORM)
    assert found == f"{LABEL}: {LABEL}.output.csv: 12 files are predicted; the evaluation set has 118,800"


def changed(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Sets one key of a meta file; a value of `KeyError` takes it out."""

    def change(meta: Any) -> None:
        *way, last = path.split("/")
        for key in way:
            meta = meta[int(key) if key.isdigit() else key]
        if value is KeyError:
            del meta[last]
        else:
            meta[last] = value

    return change


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("submission", KeyError, "submission is missing"),
        ("submission/label", "Schmidt_FAU_task1_2", "is not the name of the folder"),
        ("submission/abbreviation", "elevenchars", "longer than 10"),
        ("submission/authors", [], "submission.authors is empty: give --authors"),
        ("submission/authors/0/corresponding", False, "0 authors are marked as corresponding"),
        ("submission/authors/0/email", KeyError, "submission.authors[0] lacks email"),
        ("submission/name", KeyError, "submission lacks name"),
        ("system/energy_consumption", KeyError, "system lacks energy_consumption"),
        ("system/energy_consumption/training", KeyError, "system.energy_consumption lacks training"),
        ("system/complexity/total_parameters", "many", "total_parameters = 'many' must be a whole number"),
        ("system/complexity/macs", KeyError, "system.complexity lacks macs"),
        ("system/description/pipeline", KeyError, "system.description lacks pipeline"),
        ("system/external_datasets", [{"name": "AudioSet"}], "external_datasets[0] lacks url, total_audio_length"),
        ("results/development_dataset", KeyError, "results.development_dataset is missing"),
        ("results/development_dataset/overall/accuracy", None, "overall.accuracy = None is no number"),
        ("results/development_dataset/class_wise/tram", KeyError, "class_wise lacks tram"),
        ("results/development_dataset/device_wise/s6", KeyError, "device_wise lacks s6"),
        ("results/development_dataset/device_wise/a", {"accuracy": 50.0}, "device_wise.a lacks logloss"),
    ],
)
def test_a_fault_of_the_meta_file_is_named(tmp_path, path, value, says):
    meta = copy.deepcopy(good_meta(FORM))
    changed(path, value)(meta)
    found = check_folder(write_package(tmp_path, FORM, meta), FORM, FACTS)
    assert any(says in problem for problem in found), found


def test_fields_of_one_year_are_not_those_of_another(tmp_path):
    (tmp_path / "a").mkdir()
    folder = write_package(tmp_path / "a", FORMS[2022])
    found = check_folder(folder, FORMS[2023], FACTS)
    assert [problem.partition("meta.yaml: ")[2] for problem in found] == [
        "system lacks energy_consumption",
        "system.complexity lacks total_model_size",
        "system.energy_consumption lacks training, inference, baseline_inference",
    ]


def _row(number: int, column: int, text: str) -> Callable[[list[list[str]]], None]:
    def change(rows: list[list[str]]) -> None:
        rows[number][column] = text

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_row(0, 11, "trams"), "the header is"),
        (_row(3, 0, "1.wav"), "1.wav is predicted twice"),
        (_row(3, 0, "2.flac"), "does not end in .wav"),
        (_row(3, 0, "12.wav"), "12.wav is none of 0.wav to 11.wav"),
        (_row(3, 0, "two.wav"), "two.wav is none of 0.wav to 11.wav"),
        (_row(3, 1, "beach"), "'beach' is no scene"),
        (_row(3, 1, "tram"), "tram is not the class with the largest probability"),
        (_row(3, 3, "much"), "a probability is no number"),
        (_row(3, 3, "nan"), "not between 0 and 1"),
        (_row(3, 3, "0.4"), "not between 0 and 1 with a sum of 1"),
        (lambda rows: rows[3].pop(), "line 4 has 11 fields, not 12"),
        (lambda rows: rows.pop(), "11 files are predicted; the evaluation set has 12"),
    ],
)
def test_a_fault_of_the_predictions_is_named(tmp_path, change, says):
    rows = good_rows()
    change(rows)
    found = check_folder(write_package(tmp_path, FORM, rows=rows), FORM, FACTS)
    assert any(says in problem for problem in found), found


def test_many_bad_lines_are_counted_not_listed(tmp_path):
    rows = good_rows()
    for row in rows[1:]:
        row[1] = "beach"
    found = check_folder(write_package(tmp_path, FORM, rows=rows), FORM, FACTS)
    assert len(found) == 4
    assert "9 more lines like these" in found[-1]


def test_names_and_numbers_of_folders(tmp_path):
    folder = write_package(tmp_path, FORM)
    (folder / "task1" / LABEL).rename(folder / "task1" / "Schmidt_FAU_IIS_task1_1")
    (folder / "task1" / "notes.txt").touch()
    (folder / "task1" / "Schmidt_FAU_task1.technical_report.pdf").touch()
    for number in range(2, 6):
        (folder / "task1" / f"Schmidt_FAU_task1_{number}").mkdir()
    found = check_folder(folder, FORM, FACTS)
    assert "task1/notes.txt is no part of the form" in found[0]
    assert "task1 holds 5 systems: 1 to 4 are allowed" in found
    assert any("'Schmidt_FAU_IIS_task1_1' is not LASTNAME_INST_task1_N" in problem for problem in found)
    assert any("the number '5' of the label must be from 1 to 4" in problem for problem in found)
    assert not any("pdf" in problem for problem in found[2:])
    with pytest.raises(UsageError, match="holds no folder task1"):
        check_folder(tmp_path / "task1", FORM)


def test_a_file_that_is_no_yaml_is_said_to_be_none(tmp_path):
    folder = write_package(tmp_path, FORM)
    (folder / "task1" / LABEL / f"{LABEL}.meta.yaml").write_text("a: [1,\n")
    (found,) = check_folder(folder, FORM, FACTS)
    assert "is no YAML" in found


def test_what_is_written_is_read_back_as_it_was():
    value = {
        "text": 'a "quoted": #text, ü',
        "no": 'the key "no" is text',
        "1e-3": 1.25e-17,
        "number": 30_000_000,
        "share": 51.25,
        "small": 0.000012,
        "nothing": None,
        "flag": True,
        "empty": [],
        "none": {},
        "list": [{"a": 1, "b": {"c": [1, 2.5, "x"]}}, "tail"],
    }
    assert yaml.safe_load(as_yaml(value, ["a remark"])) == value


def test_authors_and_labels():
    found = read_authors("Lorenz P. Schmidt <lo@fau.de> (FAU); van Dam, Jo <jo@x.org> (Uni X)")
    assert [(author["lastname"], author["firstname"]) for author in found] == [
        ("Schmidt", "Lorenz P."),
        ("van Dam", "Jo"),
    ]
    assert [author.get("corresponding", False) for author in found] == [True, False]
    assert read_authors(None) == []
    for wrong in ("Schmidt <lo@fau.de> (FAU)", "Lo Schmidt (FAU)", "Lo Schmidt <lo@fau.de>", "Lo Schmidt <lo> (FAU)"):
        with pytest.raises(UsageError, match="--authors"):
            read_authors(wrong)
    assert full_label("Schmidt_FAU", 3) == full_label("Schmidt_FAU_task1", 3) == "Schmidt_FAU_task1_3"
    for wrong in ("Schmidt", "Schmidt_FAU_IIS", "Schmidt FAU", "Schmidt_", "../a_b"):
        with pytest.raises(UsageError, match="--label"):
            full_label(wrong, 1)
    with pytest.raises(UsageError, match="--year 2021 has no form here: allowed are 2022, 2023, 2024, 2025"):
        form_of(2021)
