"""Fixtures for all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# A busy machine must not fail a property: no example has a deadline.
settings.register_profile("edgepress", deadline=None)
settings.load_profile("edgepress")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the real data; tests that need it skip where it is absent."""
    folder = Path(os.environ.get("EDGEPRESS_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip(f"needs the reference data, which is not in {folder} (EDGEPRESS_SHARED names another place)")
    return folder
