"""Lenses and allocators of other packages are found through their entry points."""

from __future__ import annotations

import pytest

from megacontext.focus.allocators.registry import known_allocators, make_allocator
from megacontext.focus.lenses.registry import known_lenses, make_lens

MODULE = """
class Part:
    def __init__(self, **options):
        self.options = options
"""


@pytest.fixture
def other_package(tmp_path, monkeypatch):
    (tmp_path / "other_package.py").write_text(MODULE)
    info = tmp_path / "other_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[megacontext.lenses]\nfar = other_package:Part\nrecency = other_package:Part\n"
        "[megacontext.allocators]\nlucky = other_package:Part\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("other_package")
def test_parts_of_other_packages_are_known_and_made_with_their_options():
    assert "far" in known_lenses()
    assert "lucky" in known_allocators()
    assert make_lens("far", reach=3).options == {"reach": 3}
    assert make_allocator("lucky", seed=1).options == {"seed": 1}


@pytest.mark.usefixtures("other_package")
def test_our_own_names_cannot_be_taken():
    assert make_lens("recency").name == "recency"
    assert known_lenses().count("recency") == 1
