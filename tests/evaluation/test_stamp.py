"""Figures know where they come from."""

from __future__ import annotations

import json
from datetime import datetime

from megacontext.evaluation.stamp import stamp


def test_a_stamp_names_date_machine_and_versions() -> None:
    found = json.loads(json.dumps(stamp()))
    assert datetime.fromisoformat(found["date"]).tzinfo is not None
    assert found["machine"]["num_cores"] >= 1
    assert found["versions"]["numpy"]
    assert "commit" in found
