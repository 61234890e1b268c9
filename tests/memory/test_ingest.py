"""Files, folders and texts on their way in, and what the report says of them."""

from __future__ import annotations

import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megacontext.documents.document import Section, name_of
from megacontext.errors import EmptySourceError, InvalidValueError, NotTextError, SourceError, UnreadableSourceError
from megacontext.memory.encoding import PIECE_CHARS, byte_offsets, encode_sections, piece_bounds


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "in"
    (root / "sub").mkdir(parents=True)
    (root / "a.txt").write_text("first text, with wörds\n")
    (root / "b.md").write_text("# second\n")
    (root / "bad.txt").write_bytes(b"caf\xe9")
    (root / "blank.txt").write_text("   \n")
    (root / "picture.png").write_bytes(b"\x89PNG\r\n")
    messages = [{"role": "user", "content": "hello", "time": 5}, {"role": "assistant", "content": "hi"}]
    (root / "sub/chat.jsonl").write_text("\n".join(map(json.dumps, messages)))
    (root / ".gitignore").write_text("ignored*\n")
    (root / "ignored.txt").write_text("no")
    return root


def test_a_folder(kit, folder):
    memory = kit.make_memory()
    seen = []
    report = memory.ingest(folder, labels={"team": "infra"}, author="Ann", progress=seen.append)
    sources = memory.sources()
    assert [(source.uri.rsplit("/", 1)[1], source.kind, source.version) for source in sources] == [
        ("a.txt", "text", 1),
        ("b.md", "markdown", 1),
        ("chat.jsonl", "chat", 1),
    ]
    assert all(source.labels == {"team": "infra"} and source.author == "Ann" for source in sources)
    assert (report.num_sources, report.num_unchanged, report.num_binary, report.num_skipped) == (3, 0, 1, 3)
    assert report.num_tokens == memory.num_tokens == sources[-1].token_stop
    assert report.seconds > 0
    assert [(failure.uri.rsplit("/", 1)[1]) for failure in report.failures] == ["bad.txt", "blank.txt"]
    assert "UTF-8" in report.failures[0].reason
    assert "no text" in report.failures[1].reason
    assert (seen[-1].num_tokens, seen[-1].num_gist_tokens) == (memory.num_tokens, memory.num_tokens)
    assert (seen[-1].uri, seen[-1].is_found) == (sources[-1].uri, True)
    assert seen[-1].num_bytes == seen[-1].found_bytes
    assert memory.text(0, memory.num_tokens) == ("first text, with wörds\n# second\nuser: hello\n\nassistant: hi\n\n")
    assert memory.check(recompute_gists=True).ok


def test_what_is_said_of_a_source_that_is_there_is_taken_over(kit):
    memory = kit.make_memory()
    memory.ingest(text="A text.", source="note", author="Ada", licence="MIT")
    assert memory.ingest(text="A text.", source="note", role="user", licence="CC0").num_unchanged == 1
    (source,) = memory.sources()
    assert (source.version, source.role, source.author, source.licence) == (1, "user", "Ada", "CC0")
    assert memory.provenance(0, 1)[0].role == "user"
    memory.append_text(" More.", source="other")
    assert memory.check().ok


def test_unchanged_is_skipped_and_changed_becomes_a_version(kit, folder):
    memory = kit.make_memory()
    memory.ingest(folder)
    num_tokens = memory.num_tokens
    again = memory.ingest(folder, labels={"x": "1"})
    assert (again.num_sources, again.num_tokens, again.num_unchanged) == (0, 0, 3)
    assert memory.num_tokens == num_tokens
    assert all(source.labels == {"x": "1"} for source in memory.sources())
    (folder / "a.txt").write_text("changed\n")
    assert memory.ingest(folder).num_sources == 1
    (folder / "a.txt").write_text("first text, with wörds\n")
    assert memory.ingest(folder).num_sources == 1
    versions = [(s.version, memory.text(s.token_start, s.token_stop)) for s in memory.sources() if "a.txt" in s.uri]
    assert versions == [(1, "first text, with wörds\n"), (2, "changed\n"), (3, "first text, with wörds\n")]


def test_one_file_named_twice_is_one_source(kit, folder):
    memory = kit.make_memory()
    report = memory.ingest([folder / "a.txt", folder / "a.txt", folder])
    assert (report.num_sources, report.num_unchanged) == (3, 2)


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("bad.txt", NotTextError),
        ("blank.txt", EmptySourceError),
        ("picture.png", NotTextError),
        ("missing.txt", UnreadableSourceError),
    ],
)
def test_a_named_file_that_fails_stops_the_ingest(kit, folder, name, error):
    memory = kit.make_memory()
    memory.ingest(text="before")
    before = kit.contents(memory)
    with pytest.raises(error) as caught:
        memory.ingest([folder / "a.txt", folder / name])
    assert ";" in str(caught.value)
    assert kit.contents(memory) == before
    assert memory.ingest(folder / "a.txt").num_sources == 1


def test_a_file_that_vanishes_on_the_way_is_reported(kit, folder):
    """Listed with its folder, gone when its turn comes."""
    memory = kit.make_memory(segment_tokens=64)

    def vanish(progress):
        (folder / "z.txt").unlink(missing_ok=True)

    for name in ("a.txt", "b.md", "c.md", "z.txt"):  # each is a group of its own
        (folder / name).write_text("many words. " * 20)
    report = memory.ingest(folder, progress=vanish)
    assert [failure.uri[-5:] for failure in report.failures if "No such file" in failure.reason] == ["z.txt"]
    assert report.num_sources == 4


def test_nothing_to_ingest(kit):
    memory = kit.make_memory()
    with pytest.raises(InvalidValueError, match="0 paths"):
        memory.ingest([])
    with pytest.raises(InvalidValueError, match="both paths"):
        memory.ingest("here", text="x")
    with pytest.raises(EmptySourceError, match="no text"):
        memory.ingest(text=" \n")
    with pytest.raises(EmptySourceError, match="no text"):
        memory.append_text("")
    with pytest.raises(InvalidValueError, match="label"):
        memory.ingest(text="x", labels={"a": 1})
    assert memory.num_tokens == 0


def test_turns_of_a_chat(kit):
    memory = kit.make_memory()
    assert memory.append_text("hello", source="chat", role="user") == (0, 5)
    assert memory.append_text("hello", source="chat", role="user") == (5, 10)
    assert memory.append_text("hi \ud800", source="chat", role="assistant") == (10, 16)
    assert [(s.version, s.role) for s in memory.sources()] == [(1, "user"), (2, "user"), (3, "assistant")]
    assert [quote.text for quote in memory.provenance(0, 16)] == ["hello", "hello", "hi \ufffd"]
    assert memory.provenance(10, 11)[0].role == "assistant"


@settings(max_examples=50, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip))
def test_odd_unicode_survives(kit, text):
    memory = kit.make_memory()
    memory.ingest(text=text)
    assert memory.text(0, memory.num_tokens) == text
    assert [quote.text for quote in memory.provenance(0, memory.num_tokens)] == [text]


@settings(max_examples=30, deadline=None)
@given(
    words=st.lists(st.sampled_from(["word ", "ö", "\n", "x" * 9000, "\n\n", "🏳️‍🌈 ", " ", "line\n" * 900]), min_size=1),
    cut=st.integers(0, 10**6),
)
def test_pieces_tile_and_anchors_find_every_block(kit, words, cut):
    text = "".join(words)
    bounds = list(piece_bounds(text, 0, len(text)))
    assert [start for start, _ in bounds] == [0, *(stop for _, stop in bounds)][:-1]
    assert bounds[-1][1] == len(text)
    assert all(0 < stop - start <= PIECE_CHARS for start, stop in bounds)
    shifted = [(start - 7, stop - 7) for start, stop in piece_bounds("a" * 7 + text, 7, len(text) + 7)]
    assert shifted == bounds  # the rule looks at the section alone

    cut %= len(text) + 1
    sections = [Section(char_start=0, char_stop=cut), Section(char_start=cut, char_stop=len(text))]
    tokens, extents = encode_sections(text, sections, kit.ByteCodec())
    data = text.encode()
    assert tokens.tolist() == list(data)
    for extent in extents:
        assert len(extent.anchors) == -(-(extent.token_stop - extent.token_start) // 32)
        for number, anchor in enumerate(extent.anchors.tolist()):
            byte = extent.byte_start + anchor
            assert byte <= extent.token_start + 32 * number < byte + 4  # of the character that the token is part of
            assert data[byte] & 0xC0 != 0x80
    assert sum(extent.byte_stop - extent.byte_start for extent in extents) == len(data)


def test_byte_offsets():
    assert byte_offsets("").tolist() == [0]
    assert byte_offsets("aö€🏳").tolist() == [0, 1, 3, 6, 10]


SPOILT = {
    "no utf-8.txt": b"caf\xe9",
    "zero.md": b"a" * 20_000 + b"\0",
    "blank ü.txt": b"   \n",
    "nothing.txt": b"",
    "line.jsonl": b'{"role": "user", "content": "a"}\n{"role": "user", \n',
    "array.json": b'[{"role": "user", "content": "a"}, 7]',
    "time.jsonl": b'{"role": "user", "content": "a", "time": "noon"}\n',
    "damaged.pdf": b"%PDF-1.7 and no more",
    "latin.html": b"<p>caf\xe9</p>",
    "scripts.html": b"<script>x</script>",
}


def test_failures_name_plain_paths(kit, tmp_path):
    """As people type and click them, whether the file is named or lies in a folder that is; never as a uri."""
    folder = tmp_path / "my files"
    folder.mkdir()
    for name, content in SPOILT.items():
        (folder / name).write_bytes(content)
    memory = kit.make_memory()
    report = memory.ingest(folder)
    assert report.num_sources == 0
    reasons = {failure.uri: failure.reason for failure in report.failures}
    assert sorted(reasons) == sorted((folder / name).as_uri() for name in SPOILT)
    for name in SPOILT:
        path = folder / name
        assert reasons[path.as_uri()].startswith(str(path))
        with pytest.raises(SourceError) as named:
            memory.ingest(path)
        assert str(named.value) == reasons[path.as_uri()]


def test_a_file_name_that_is_no_text_can_be_reported(kit, tmp_path):
    """Bytes that are no UTF-8 become a mark that every encoding can carry."""
    path = tmp_path / os.fsdecode(b"odd \xff.txt")
    path.write_bytes(b"caf\xe9")
    (failure,) = kit.make_memory().ingest(tmp_path).failures
    assert "odd \ufffd.txt is not UTF-8" in failure.reason.encode().decode()


def test_plain_names_of_sources():
    assert name_of("file:///home/ada/to%20do%3F.md") == "/home/ada/to do?.md"
    assert [name_of(name) for name in ("chat", "s3://a%20b/c", "file:x", "file://[")] == [
        "chat",
        "s3://a%20b/c",
        "file:x",
        "file://[",
    ]
