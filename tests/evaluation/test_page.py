"""The page is whole by itself and says nothing that a reader's browser could misread."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

from tests.evaluation.doubles import small_trace

from megacontext.evaluation.page import fan_svg, legend_html, page_html, time_svg
from megacontext.evaluation.report import Grid, html_table


def test_pictures_are_well_formed_and_show_every_step() -> None:
    trace = small_trace(7)
    picture = ET.fromstring(time_svg(trace))
    assert len(picture.findall(".//{*}circle")) == 7
    titles = [title.text or "" for title in picture.findall(".//{*}title")]
    assert "1. What is the code for <0>? (right)" in titles
    fan = ET.fromstring(fan_svg(trace.steps[0]))
    assert "the answer stands here" in "".join(fan.itertext())


def test_ribbons_cover_the_window() -> None:
    fan = ET.fromstring(fan_svg(small_trace().steps[0]))
    widths = [float(box.get("width", 0)) for box in fan.findall(".//{*}rect") if box.get("y") == "196"]
    assert abs(sum(widths) - 1200) < 1


def test_the_page_needs_nothing_from_elsewhere() -> None:
    trace = small_trace()
    grid = Grid(title="a < b", header=["method", "n"], rows=[["<i>", "1"], ["ours", "2"]], ours=[1])
    page = page_html("A & B", "lead", [legend_html(3), time_svg(trace), html_table(grid)], footer="end")
    assert "A &amp; B" in page
    assert "<td>&lt;i&gt;</td>" in page
    assert re.findall(r"(?:src|href)=", page) == []
    assert set(re.findall(r"https?://[^'\"\s]+", page)) == {"http://www.w3.org/2000/svg"}
    HTMLParser().feed(page)
