"""How long an ingest will still take."""

from __future__ import annotations

import pytest

from megacontext.cli.ingest import _done, _line
from megacontext.cli.pace import Pace
from megacontext.memory.reports import IngestProgress
from megacontext.units import MIB


def progress(num_mib, found_mib, num_tokens, num_gist_tokens, *, is_found=True):
    return IngestProgress(
        uri="notes",
        num_tokens=num_tokens,
        num_gist_tokens=num_gist_tokens,
        num_bytes=num_mib * MIB,
        found_bytes=found_mib * MIB,
        is_found=is_found,
    )


def seen(*progresses, seconds=10.0):
    pace = Pace()
    for number, one in enumerate(progresses):
        pace.see(one, number * seconds)
    return pace.seconds_left


def test_reading_at_an_even_speed():
    assert seen(progress(0, 100, 0, 0), progress(20, 100, 2000, 2000)) == pytest.approx(40)


def test_gists_that_lag_behind_count():
    """500 of 10,000 tokens in ten seconds: 190 more; reading ends long before."""
    assert seen(progress(0, 100, 0, 0), progress(20, 100, 2000, 500)) == pytest.approx(190)
    assert seen(progress(100, 100, 10_000, 500), progress(100, 100, 10_000, 1500)) == pytest.approx(85)


def test_what_was_there_already_says_nothing_about_what_is_new():
    """A thousand megabytes were passed over in ten seconds, a minute and more ago."""
    assert seen(
        progress(0, 2000, 0, 0), progress(1000, 2000, 0, 0), progress(1010, 2000, 1000, 1000), seconds=61
    ) == pytest.approx(61 * 99)


def test_nobody_knows_before_everything_is_found_or_anything_has_happened():
    assert seen(progress(0, 100, 0, 0)) is None
    assert seen(progress(0, 100, 0, 0), progress(0, 100, 0, 0)) is None
    assert seen(progress(0, 100, 0, 0), progress(10, 100, 9, 9, is_found=False)) is None
    assert seen(progress(100, 100, 500, 0), progress(100, 100, 500, 0)) is None
    assert seen(progress(0, 100, 0, 0), progress(100, 100, 500, 500)) == 0


def test_the_line_on_the_screen():
    line = _line(progress(3, 12, 900_000, 65_536), 10.0, 75.0)
    assert line == "1:15 left, 900 k tokens, 90 k a second, 3.0 MiB of 12.0 MiB, 0:10: notes"
    line = _line(progress(3, 12, 900_000, 0, is_found=False), 10.0, None)
    assert line == "900 k tokens, 90 k a second, 3.0 MiB of 12.0 MiB found so far, 0:10: notes"
    line = _line(progress(12, 12, 900_000, 65_536), 10.0, 75.0)
    assert line == "1:15 left, making gists: 65.5 k of 900 k tokens have theirs, 0:10"


def test_the_bar_goes_by_bytes_and_then_by_gists():
    assert _done(progress(3, 12, 9, 9, is_found=False)) == (3 * MIB, None)
    assert _done(progress(3, 12, 9, 0)) == (3 * MIB, 12 * MIB)
    assert _done(progress(12, 12, 900_000, 65_536)) == (65_536, 900_000)
