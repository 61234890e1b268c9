"""Lenses and allocators of other packages are found through their entry points."""

from __future__ import annotations

import pytest

from megacontext.errors import UsageError
from megacontext.focus.allocators.registry import known_allocators, make_allocator
from megacontext.focus.lenses.registry import known_lenses, make_lens
from megacontext.gisters.registry import gister_version

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
        "broken = broken_package:Part\n"
        "[megacontext.allocators]\nlucky = other_package:Part\nbroken = other_package:Nothing\n"
        "[megacontext.gisters]\nbroken = broken_package:Part\n"
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


@pytest.mark.usefixtures("other_package")
@pytest.mark.parametrize(
    ("make", "said"),
    [
        (make_lens, "the lens 'broken', cannot be imported (ModuleNotFoundError: No module named 'broken_package')"),
        (make_allocator, "the allocator 'broken', cannot be imported (AttributeError: "),
        (gister_version, "the gister 'broken', cannot be imported (ModuleNotFoundError: "),
    ],
)
def test_a_package_that_cannot_be_imported_is_named(make, said):
    with pytest.raises(UsageError) as caught:
        make("broken")
    assert str(caught.value).startswith("other-package, which brings " + said)
    assert str(caught.value).endswith("update or uninstall it")
