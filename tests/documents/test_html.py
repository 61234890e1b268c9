"""HTML as its reader sees it."""

from __future__ import annotations

import pytest

from megacontext.errors import EmptySourceError, NotTextError


def test_readable_text_and_nothing_else(parsed):
    document = parsed(
        "page.html",
        """<!DOCTYPE html><html><head><title> The
        Title </title><meta name="author" content="Ann Author"><style>p {color: red}</style>
        <script>var hidden = 1;</script></head>
        <body><!-- comment --><h1>Head</h1><p>One <b>bo</b>ld &amp; <i>two</i>
        words.</p>after<br>break<ul><li>first<li>second</ul>
        <table><tr><td>a</td><td>b</td></tr><tr><td>c</td><td>d</td></tr></table>
        <pre>x = 1
    y = 2</pre><template>no</template><noscript>no</noscript><svg><text>no</text></svg>
        <textarea>kept</textarea></body></html>""",
    )
    assert document.kind == "html"
    assert document.sections[0].title == "The Title"
    assert document.author == "Ann Author"
    assert document.text == (
        "Head\nOne bold & two words.\nafter\nbreak\nfirst\nsecond\na\tb\nc\td\nx = 1\n    y = 2\nkept\n"
    )


def test_fragments_need_no_page(parsed):
    assert parsed("bit.htm", "just <em>this</em>").text == "just this\n"


def test_declared_encodings(parsed):
    page = '<meta charset="{}"><p>naïve – ”quoted“</p>'
    assert parsed("a.html", page.format("windows-1252").encode("windows-1252")).text == "naïve – ”quoted“\n"
    assert parsed("b.html", page.format("utf-8").encode()).text == "naïve – ”quoted“\n"
    assert parsed("c.html", page.format("nonsense").encode()).text == "naïve – ”quoted“\n"
    assert parsed("u.html", page.format("undefined").encode()).text == "naïve – ”quoted“\n"
    assert parsed("d.html", page.format("ascii").encode()).text == "naïve – ”quoted“\n"
    with pytest.raises(NotTextError, match="meta charset"):
        parsed("e.html", "<p>naïve</p>".encode("latin-1"))


def test_pages_without_text(parsed):
    with pytest.raises(EmptySourceError):
        parsed("a.html", "<html><body><img src='x'><script>1</script></body></html>")


def test_depth_that_would_break_recursion(parsed):
    assert "deep" in parsed("a.html", "<div>" * 5000 + "deep" + "</div>" * 5000).text


@pytest.mark.parametrize("broken", ["<p>a</b></i><p>b", "a<", "<p>a &nosuch; b", "<<<>>>a<p", "<p\0>a"])
def test_broken_markup_is_read_as_browsers_do(parsed, broken):
    if "\0" in broken:
        with pytest.raises(NotTextError):
            parsed("a.html", broken)
    else:
        assert "a" in parsed("a.html", broken).text
