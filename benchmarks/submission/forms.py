# SPDX-License-Identifier: Apache-2.0
"""What DCASE Task 1 asks for, year by year: files, fields and counts.

The facts are those that the organisers' validators check (toni-heittola/dcase2022_, dcase2023_ and
dcase2024_task1_submission_validator on GitHub). We know of no validator of 2025: its fields are those of 2024 without
subsets, with the complexity of every device's model, and its folder `predictions` is what the published
`evaluate_submission.py` of dcase2025_task1_inference writes.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgepress.models.errors import UsageError

SCENES = (
    "airport",
    "bus",
    "metro",
    "metro_station",
    "park",
    "public_square",
    "shopping_mall",
    "street_pedestrian",
    "street_traffic",
    "tram",
)
DEVICES = ("a", "b", "c", "s1", "s2", "s3", "s4", "s5", "s6")
SUBSETS = ("5", "10", "25", "50", "100")
MOST_SYSTEMS = 4
LONGEST_ABBREVIATION = 10

SUBMISSION = ("label", "name", "abbreviation", "authors")
AUTHOR = ("lastname", "firstname", "email", "affiliation")
EXTERNAL_DATASET = ("name", "url", "total_audio_length")
RESULTS = ("overall", "class_wise", "device_wise")
MEASURES = ("accuracy", "logloss")

_DESCRIPTION_2022 = (
    "input_sampling_rate",
    "acoustic_features",
    "embeddings",
    "data_augmentation",
    "machine_learning_method",
    "ensemble_method_subsystem_count",
    "decision_making",
    "external_data_usage",
    "complexity_management",
    "pipeline",
    "framework",
)
_DESCRIPTION_2025 = (
    "input_sampling_rate",
    "acoustic_features",
    "data_augmentation",
    "machine_learning_method",
    "external_data_usage",
    "complexity_management",
    "pipeline",
    "framework",
)


@dataclass(frozen=True)
class Form:
    """One year's form.

    Attributes:
        year: of the challenge.
        clips: of the evaluation set, whose files are called 0.wav to CLIPS-1.wav; None where no count is published.
        description, complexity, energy: required fields of these parts of `system` in the meta file; an empty `energy`
            means that the part is not asked for.
        subsets: of the training data, in percent, each with predictions and results of its own; empty for one of each.
        by_device: whether every recording device may have a model of its own.
    """

    year: int
    clips: int | None
    description: tuple[str, ...]
    complexity: tuple[str, ...]
    energy: tuple[str, ...] = ()
    subsets: tuple[str, ...] = ()
    by_device: bool = False

    @property
    def device(self) -> str:
        """The device class that holds the year's limits."""
        return f"dcase{self.year}"

    @property
    def system(self) -> tuple[str, ...]:
        """Required fields of `system` in the meta file."""
        energy = ("energy_consumption",) if self.energy else ()
        return ("description", "complexity", *energy, "external_datasets", "source_code")

    def output_names(self, label: str) -> dict[str, str]:
        """Subset ("" where the year has none) -> the file of its predictions."""
        if not self.subsets:
            return {"": f"{label}.output.csv"}
        return {subset: f"{label}.output.split_{subset}.csv" for subset in self.subsets}


_COUNTS = ("total_parameters", "total_parameters_non_zero", "memory_use", "macs")

FORMS = {
    form.year: form
    for form in (
        Form(2022, 118_800, _DESCRIPTION_2022, _COUNTS),
        Form(
            2023,
            118_800,
            _DESCRIPTION_2022,
            ("total_model_size", *_COUNTS),
            energy=("training", "inference", "baseline_inference"),
        ),
        Form(
            2024,
            135_730,
            (*_DESCRIPTION_2025, "split_adaptations", "system_adaptations"),
            ("total_model_size", "total_parameters", "macs"),
            subsets=SUBSETS,
        ),
        Form(
            2025,
            None,
            (*_DESCRIPTION_2025, "device_adaptations"),
            ("total_model_size", "total_parameters", "macs"),
            by_device=True,
        ),
    )
}


def form_of(year: int) -> Form:
    """The form of a year.

    Raises:
        UsageError: Task 1 had no such form in that year.
    """
    if year not in FORMS:
        raise UsageError(f"--year {year} has no form here: allowed are {', '.join(map(str, FORMS))}")
    return FORMS[year]
