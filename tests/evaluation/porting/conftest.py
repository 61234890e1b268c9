"""A small model folder, as the tests of bases have it."""

from __future__ import annotations

from pathlib import Path

import pytest

from megacontext.testing.model_folder import write_model_folder


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read-only: copy it before changing anything."""
    return write_model_folder(tmp_path_factory.mktemp("models") / "tiny")
