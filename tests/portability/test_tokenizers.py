"""Tokenizers of every kind that open models use: exact text in and out, and nothing that text could forge."""

from __future__ import annotations

import json
import unicodedata
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from megacontext.bases.detokenize import Detokenizer
from megacontext.bases.tokenizers_codec import TokenizersCodec
from megacontext.errors import BaseModelError
from megacontext.ports.text import TextCodec
from megacontext.testing.tokenizer_kinds import KINDS, tokenizer_spec

pytestmark = pytest.mark.portability

PREFIXING = ("llama-2", "mistral", "phi-3", "t5", "unigram-bytes")  # a text gets a space in front
NORMALIZING = ("gpt-neox", "qwen")  # canonical composition
LOSSLESS = ("deepseek", "gemma", "llama-2", "llama-3", "mistral", "phi-3", "unigram-bytes")
BYTES = (*LOSSLESS, *NORMALIZING)

TEXTS = [
    "",
    " ",
    "plain ASCII text, 42 times.",
    " leading and trailing ",
    "runs  of   spaces    and\ttabs\t\tand \t both",
    "lines\nand\n\nblank\n\n\nlines\r\nwith\r\nCRLF\rand CR\n",
    "naïve café — “quotes” Привет, мир! ½ ﬁ Ａ",
    "日本語のテキスト。漢字かな交じり文",
    "\U0001f9d1\u200d\U0001f680 \U0001f1e9\U0001f1ea \U0001f44b\U0001f3fd \U00020000 \U0010ffff",
    "e\u0301 a\u0308\u0323 \u0301leading mark",
    "שלום עולם \u202bمرحبا\u202c \u200f",
    "\x00 \x01\x02 \x1b[31m \x7f \x85 \u2028 \u2029 \ufeff \u00ad \u200b",
    "\u2581 literal \u2581\u2581 signs <0x41> <0xe6> <0x0A>",
    "a" * 3000 + "日" * 500,
    "x\n" * 400,
]
# What control tokens look like in each kind, and what a normalizer could make one of.
FORGED = [
    "<s>",
    "</s>",
    "<unk>",
    "<pad>",
    "<bos>",
    "<eos>",
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|eot_id|>",
    "<|begin_of_text|>",
    "<|user|>",
    "<|end|>",
    "<start_of_turn>",
    "[INST]",
    "[/INST]",
    "[CLS]",
    "<tool_call>",
    "<think>",
    "<｜begin▁of▁sentence｜>",
    "<｜User｜>",
    "＜ｓ＞",
    "＜/ｓ＞",
    "<\u200bs>",
    "</S>",
    "<s\u0301>",
    "﹤s﹥",
    "[cls]",
    "▁<s>",
    "<0x3C>s>",
]


@cache
def codec_of(kind: str) -> TokenizersCodec:
    return TokenizersCodec(tokenizer_spec(kind))


@cache
def plain_of(kind: str) -> Tokenizer:
    """The family's own tokenizer, habits and all."""
    return Tokenizer.from_str(json.dumps(tokenizer_spec(kind)))


def stream(codec: TextCodec, token_ids: list[int]) -> list[str]:
    detokenizer = Detokenizer(codec)
    return [*(detokenizer.push(token_id) for token_id in token_ids), detokenizer.flush()]


def odd_text() -> st.SearchStrategy[str]:
    letters = st.sampled_from(
        [*"aB7 .<>|/\n\t\r\x00\u2581", "\u0301", "é", "日", "\U0001f9d1", "\u200d", "ﬁ", "\u200f"]
    )
    return st.lists(st.one_of(letters, st.text(max_size=3), st.sampled_from(TEXTS[:12])), max_size=12).map("".join)


# --- text in and out ---


@pytest.mark.parametrize("kind", LOSSLESS)
@settings(max_examples=20, deadline=None)
@given(text=odd_text())
def test_text_comes_back_byte_for_byte(kind: str, text: str) -> None:
    codec = codec_of(kind)
    assert codec.decode(codec.encode(text).token_ids) == text


@pytest.mark.parametrize("kind", LOSSLESS)
def test_every_token_begins_where_it_says(kind: str) -> None:
    codec = codec_of(kind)
    for text, encoded in zip(TEXTS, codec.encode_batch(TEXTS), strict=True):
        assert codec.decode(encoded.token_ids) == text
        assert (encoded.token_ids.dtype, encoded.char_starts.dtype) == (np.uint32, np.int64)
        data, ends = text.encode(), 0
        for place, token_id in enumerate(encoded.token_ids[:200]):
            before = data[:ends].decode(errors="ignore")
            assert encoded.char_starts[place] == len(before)
            ends += len(codec.bytes_of(np.array([token_id], dtype=np.uint32)) or b"")


@pytest.mark.parametrize("kind", NORMALIZING)
def test_what_a_normalizer_composes_stays_composed(kind: str) -> None:
    codec = codec_of(kind)
    for text, encoded in zip(TEXTS, codec.encode_batch(TEXTS), strict=True):
        assert codec.decode(encoded.token_ids) == unicodedata.normalize("NFC", text)
        assert (np.diff(encoded.char_starts) >= 0).all()
        assert not len(text) or encoded.char_starts[-1] < len(text)


@pytest.mark.parametrize("kind", ["bert", "t5"])
def test_words_that_a_small_vocabulary_lacks_are_lost_and_nothing_else_breaks(kind: str) -> None:
    codec = codec_of(kind)
    for text, encoded in zip(TEXTS, codec.encode_batch(TEXTS), strict=True):
        starts = encoded.char_starts
        assert (np.diff(starts) >= 0).all()
        assert not len(starts) or 0 <= starts[0] <= starts[-1] < len(text)
    known = "the fox did not even jump over the lazy dog"
    assert codec.decode(codec.encode(known).token_ids).replace(" ", "").lower() == known.replace(" ", "").lower()


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize(
    "text", ["The answer is 42.", "  In   the garden, said Ada;\n\nshe isn't there\t.", "日本語 é"]
)
def test_ids_are_those_of_the_family_without_what_it_adds(kind: str, text: str) -> None:
    """No BOS, no EOS, no space in front; every other id is as the model was trained."""
    own = plain_of(kind).encode(text, add_special_tokens=False).ids
    if kind in PREFIXING:
        assert (
            codec_of(kind).encode(f" {text.lstrip()}").token_ids.tolist()
            == plain_of(kind).encode(text.lstrip(), add_special_tokens=False).ids
        )
    else:
        assert codec_of(kind).encode(text).token_ids.tolist() == own


@pytest.mark.parametrize("kind", ["bert", "gemma", "llama-2", "llama-3", "mistral", "phi-3", "t5", "unigram-bytes"])
def test_the_kinds_have_the_habits_that_the_codec_takes_off(kind: str) -> None:
    assert len(plain_of(kind).encode("fox").ids) > len(plain_of(kind).encode("fox", add_special_tokens=False).ids)
    if kind in PREFIXING:
        assert (
            codec_of(kind).encode("fox").token_ids.tolist()
            != plain_of(kind).encode("fox", add_special_tokens=False).ids
        )


@pytest.mark.parametrize("kind", BYTES)
@settings(max_examples=15, deadline=None)
@given(text=odd_text(), data=st.data())
def test_text_in_pieces_is_the_same_text(kind: str, text: str, data: st.DataObject) -> None:
    codec = codec_of(kind)
    text = unicodedata.normalize("NFC", text) if kind in NORMALIZING else text
    cut = data.draw(st.integers(0, len(text)))
    first, second = codec.encode(text[:cut]).token_ids, codec.encode(text[cut:]).token_ids
    token_ids = np.concatenate([first, second])
    whole = unicodedata.normalize("NFC", text[:cut]) + unicodedata.normalize("NFC", text[cut:])
    assert codec.decode(token_ids) == (whole if kind in NORMALIZING else text)
    start, stop = sorted((data.draw(st.integers(0, len(token_ids))), data.draw(st.integers(0, len(token_ids)))))
    parts = [codec.bytes_of(part) or b"" for part in np.split(token_ids, [start, stop])]
    assert b"".join(parts) == codec.bytes_of(token_ids)
    assert codec.decode(token_ids[start:stop]) == parts[1].decode(errors="replace")


@pytest.mark.parametrize("kind", BYTES)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_decoding_agrees_with_the_library(kind: str, data: st.DataObject) -> None:
    codec, plain = codec_of(kind), plain_of(kind)
    token_ids = data.draw(st.lists(st.integers(0, codec.vocab_size - 1), max_size=12))
    ours = codec.decode(np.array(token_ids, dtype=np.uint32))
    theirs = plain.decode([token_id for token_id in token_ids if token_id not in codec.control_ids.values()])
    if kind in PREFIXING and ours.startswith(" "):
        ours = ours[1:]  # the library takes it for the space that it puts there
    if "\ufffd" not in theirs:  # where bytes are no text it counts them otherwise, by whole runs
        assert ours == theirs


# --- streams ---


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_stream_is_the_text_in_whole_characters(kind: str) -> None:
    codec = codec_of(kind)
    for text in [*TEXTS[:13], "日" * 40]:
        token_ids = codec.encode(text).token_ids
        pieces = stream(codec, token_ids.tolist())
        assert "".join(pieces) == codec.decode(token_ids)
        assert all("\ufffd" not in piece for piece in pieces)
        if kind in BYTES:  # as early as can be
            for count in range(0, len(token_ids), 1 + len(token_ids) // 40):
                whole = codec.bytes_of(token_ids[:count]) or b""
                assert "".join(pieces[:count]) == whole.decode(errors="ignore")


@pytest.mark.parametrize("kind", BYTES)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_a_stream_of_any_tokens_is_what_decoding_at_once_gives(kind: str, data: st.DataObject) -> None:
    codec = codec_of(kind)
    token_ids = data.draw(st.lists(st.integers(0, codec.vocab_size + 5), max_size=20))
    whole = codec.decode(np.array(token_ids, dtype=np.uint32))
    shown = ""
    detokenizer = Detokenizer(codec)
    for token_id in token_ids:
        shown += detokenizer.push(token_id)
        assert whole.startswith(shown)
    assert shown + detokenizer.flush() == whole


# --- what text cannot do ---


@pytest.mark.parametrize("kind", sorted(KINDS))
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_no_text_yields_a_control_token(kind: str, data: st.DataObject) -> None:
    codec = codec_of(kind)
    own = sorted(codec.control_ids)
    fragments = st.one_of(
        st.sampled_from(FORGED), st.sampled_from(own), st.sampled_from(own).map(str.upper), odd_text()
    )
    cut = st.tuples(st.sampled_from(own), st.integers(0, 5)).map(lambda found: found[0][: found[1]])
    text = "".join(data.draw(st.lists(st.one_of(fragments, cut), max_size=8)))
    token_ids = codec.encode(text).token_ids
    controls = set(codec.control_ids.values()) - unknown_ids(kind)
    assert controls.isdisjoint(token_ids.tolist())
    if kind in LOSSLESS:
        assert codec.decode(token_ids) == text
        assert not unknown_ids(kind) & set(token_ids.tolist())


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_the_familys_own_tokenizer_lets_them_in(kind: str) -> None:
    """What the test above guards against is real: each of these would have steered the model."""
    for text, token_id in codec_of(kind).control_ids.items():
        assert token_id in plain_of(kind).encode(f"a {text} b", add_special_tokens=False).ids
        assert token_id not in set(codec_of(kind).encode(f"a {text} b").token_ids.tolist()) - unknown_ids(kind)


@pytest.mark.parametrize("kind", ["t5", "unigram-bytes"])
def test_a_model_that_holds_its_control_tokens_as_pieces_cannot_be_steered_through_its_normalizer(kind: str) -> None:
    plain = tokenizer_spec(kind)
    plain["added_tokens"] = []  # no longer split off first, found in the vocabulary all the same
    text = "＜／ｓ＞" if kind == "t5" else "</s>"
    assert 3 in Tokenizer.from_str(json.dumps(plain)).encode(text).ids
    assert 3 not in codec_of(kind).encode(text).token_ids


def test_added_tokens_that_stand_for_text_stay_in_use() -> None:
    gemma, neox = codec_of("gemma"), codec_of("gpt-neox")
    assert plain_of("gemma").token_to_id("<table>") in gemma.encode("a <table> b").token_ids
    assert plain_of("gemma").token_to_id("\n\n") in gemma.encode("a\n\nb").token_ids
    assert plain_of("gpt-neox").token_to_id(" " * 8) in neox.encode("a" + " " * 8 + "b").token_ids


def unknown_ids(kind: str) -> set[int]:
    """What stands for characters that a vocabulary without bytes lacks."""
    return {token_id for text, token_id in codec_of(kind).control_ids.items() if text in ("<unk>", "[UNK]")}


def test_ids_that_a_file_leaves_out_do_not_shift_those_behind() -> None:
    spec = tokenizer_spec("qwen")
    last = max(token["id"] for token in spec["added_tokens"])
    spec["added_tokens"].append({**spec["added_tokens"][0], "id": last + 20, "content": "<|far|>"})
    spec["added_tokens"].append({**spec["added_tokens"][0], "id": last + 30, "content": "  ", "special": False})
    assert Tokenizer.from_str(json.dumps(spec)).token_to_id("<|far|>") == last + 1  # the library counts up
    codec = TokenizersCodec(spec)
    assert (codec.control_ids["<|far|>"], codec.vocab_size) == (last + 20, last + 31)
    assert last + 30 in codec.encode("a  b").token_ids
    assert codec.decode(codec.encode("a  b <|far|>").token_ids) == "a  b <|far|>"
    assert codec.decode(np.arange(last + 1, last + 30, dtype=np.uint32)) == ""
    spec["added_tokens"][-1]["id"] = 1 << 30
    with pytest.raises(BaseModelError, match="has id 1073741824, far from"):
        TokenizersCodec(spec)


@pytest.mark.parametrize("kind", ["qwen", "unigram-bytes"])
def test_added_tokens_get_the_ids_that_the_file_gives_them(kind: str) -> None:
    spec = tokenizer_spec(kind)
    token, last = spec["added_tokens"][0], codec_of(kind).vocab_size - 1
    spec["added_tokens"] += [
        {**token, "id": last + 9, "content": "<|z|>"},
        {**token, "id": last + 4, "content": "<|y|>"},
    ]
    if kind == "qwen":  # one that stands in a gap of the vocabulary
        spec["model"]["vocab"] = {piece: 3 + token_id for piece, token_id in spec["model"]["vocab"].items()}
        for other in spec["added_tokens"]:
            other["id"] += 3
        spec["added_tokens"].append({**token, "id": 1, "content": "<|x|>"})
    codec = TokenizersCodec(spec)
    assert codec.control_ids == {other["content"]: other["id"] for other in spec["added_tokens"]}
    assert codec.decode(codec.encode("the <|y|> fox").token_ids) == "the <|y|> fox"


def test_a_control_token_that_merges_would_make_is_spelled_out() -> None:
    spec = tokenizer_spec("llama-3")
    vocabulary, model = spec["model"]["vocab"], spec["model"]
    first = 1 + max(vocabulary.values())
    for token in spec["added_tokens"]:
        token["id"] += 3
    vocabulary.update({"<q": first, "<q>": first + 1, "<q>.": first + 2})
    model["merges"] = [["<", "q"], ["<q", ">"], ["<q>", "."], *model["merges"]]
    spec["added_tokens"].append({**spec["added_tokens"][0], "id": first + 1, "content": "<q>"})
    codec = TokenizersCodec(spec)
    found = codec.encode("a <q> b<q>. c").token_ids
    assert codec.control_ids["<q>"] == first + 1
    assert first + 1 not in found
    assert codec.decode(found) == "a <q> b<q>. c"


@pytest.mark.parametrize("kind", BYTES)
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_long_texts_in_pieces_get_the_same_ids(kind: str, data: st.DataObject) -> None:
    """Where tokens end at line ends a long text is cut there; with and without, ids and starts are the same."""
    codec = codec_of(kind)
    lines = [
        "def f(x):",
        "    return x  ",
        "",
        "  # done",
        "1234",
        "'s 'll",
        ");",
        "日本",
        "e\u0301",
        "\t",
        "end.",
        " a",
        "</s>",
    ]
    text = "\n".join(data.draw(st.lists(st.sampled_from([*lines, *TEXTS[3:8]]), min_size=20, max_size=60)))
    text = "a first line of some words\nand another of some more\n" * 4 + text
    whole = codec.encode(text)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("megacontext.bases.tokenizers_codec.PIECE_CHARACTERS", 20)
        assert (len(codec._pieces(text)) > 3) == codec._breaks_at_lines
        in_pieces = codec.encode(text)
    np.testing.assert_array_equal(in_pieces.token_ids, whole.token_ids)
    np.testing.assert_array_equal(in_pieces.char_starts, whole.char_starts)


def test_sentencepiece_kinds_are_cut_at_lines_too() -> None:
    assert all(codec_of(kind)._breaks_at_lines for kind in ("gemma", "llama-2", "mistral", "phi-3", "unigram-bytes"))
