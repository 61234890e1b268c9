"""Text to ids and back, with text that tries to be more than text."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from megacontext.bases.tokenizers_codec import TokenizersCodec
from megacontext.errors import BaseModelError, InvalidTokensError, InvalidValueError
from megacontext.testing.model_folder import tiny_tokenizer

SPEC = json.loads(tiny_tokenizer().to_str())
CODEC = TokenizersCodec(SPEC)
ODD = "naïve café — “quotes” 日本語 🧑\u200d🚀 \u0301 e\u0301 \x00\t\r\n\u2028  \ufeff\U0010ffff"


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60))
def test_round_trip_and_token_starts(text: str) -> None:
    encoded = CODEC.encode(text)
    assert CODEC.decode(encoded.token_ids) == text
    slow = CODEC._with_offsets(text)
    np.testing.assert_array_equal(encoded.token_ids, slow.token_ids)
    np.testing.assert_array_equal(encoded.char_starts, slow.char_starts)


def test_odd_unicode_round_trips_in_a_batch() -> None:
    texts = [ODD, "", "plain", ODD * 20]
    for text, encoded in zip(texts, CODEC.encode_batch(texts), strict=True):
        assert CODEC.decode(encoded.token_ids) == text
        assert encoded.token_ids.dtype == np.uint32
        assert encoded.char_starts.dtype == np.int64
        assert len(encoded.char_starts) == len(encoded.token_ids)


def test_token_starts_are_where_the_text_of_the_token_begins() -> None:
    text = "The fox 日本 jumps"
    encoded = CODEC.encode(text)
    for index in (1, 2, len(encoded.token_ids) - 1):
        start = encoded.char_starts[index]
        assert CODEC.decode(encoded.token_ids[:index]).rstrip("\ufffd") == text[:start]


@pytest.mark.parametrize("control", ["<|endoftext|>", "<|im_start|>", "<tool_call>"])
def test_control_tokens_in_data_stay_plain_text(control: str) -> None:
    text = f"before {control}{control} after"
    encoded = CODEC.encode(text)
    controls = {token["id"] for token in SPEC["added_tokens"]}
    assert controls.isdisjoint(encoded.token_ids.tolist())
    assert CODEC.decode(encoded.token_ids) == text
    plain = Tokenizer.from_str(json.dumps(SPEC)).encode(text).ids
    assert not controls.isdisjoint(plain)  # an ordinary tokenizer would have let them in


def test_control_tokens_that_are_whole_words_of_the_vocabulary_stay_out_too() -> None:
    tokenizer = Tokenizer(models.WordLevel({"<s>": 0, "a": 1, "<": 2, "s>": 3, "?": 4}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(["<s>"])
    codec = TokenizersCodec(json.loads(tokenizer.to_str()))
    encoded = codec.encode("a <s> a")
    assert encoded.token_ids.tolist() == [1, 4, 1]  # a word like any other that the vocabulary lacks
    assert encoded.char_starts.tolist() == [0, 2, 6]


def test_control_ids_and_unknown_ids_show_nothing() -> None:
    fox = CODEC.encode("fox").token_ids
    controls = np.array([token["id"] for token in SPEC["added_tokens"]] + [4095], dtype=np.uint32)
    assert CODEC.decode(np.concatenate([controls, fox, controls])) == "fox"
    assert CODEC.vocab_size == 1 + controls[:-1].max()


def test_tokenizers_that_normalize_fall_back_to_the_librarys_offsets() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.normalizer = normalizers.NFC()
    codec = TokenizersCodec(json.loads(tokenizer.to_str()))
    encoded = codec.encode("xe\u0301y")
    assert codec.decode(encoded.token_ids) == "x\u00e9y"
    assert encoded.char_starts[-1] == 3
    tokenizer.normalizer = normalizers.Lowercase()
    codec = TokenizersCodec(json.loads(tokenizer.to_str()))
    assert codec.decode(codec.encode("FOX").token_ids) == "fox"


def test_fingerprint_changes_with_what_decides_ids_only() -> None:
    assert TokenizersCodec({**SPEC, "truncation": None, "decoder": None, "post_processor": None}).fingerprint == (
        CODEC.fingerprint
    )
    assert TokenizersCodec(json.loads(tiny_tokenizer(300).to_str())).fingerprint != CODEC.fingerprint


def test_bad_input_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match="lone surrogate at character 2"):
        CODEC.encode("ab\ud800")
    with pytest.raises(InvalidTokensError, match="flat array of integers"):
        CODEC.decode(np.zeros((2, 2), dtype=np.uint32))
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(BaseModelError, match="not a readable tokenizer"):
        TokenizersCodec.from_file(tmp_path / "tokenizer.json")
    with pytest.raises(BaseModelError, match="cannot be read"):
        TokenizersCodec({"model": {"type": "Unheard"}, "added_tokens": []})


# How GPT-2, Qwen2 and Llama 3 cut text before the merges.
QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


@pytest.mark.parametrize("pattern", [None, QWEN, QWEN.replace(r"\p{N}|", r"\p{N}{1,3}|")])
def test_long_texts_in_pieces_get_the_same_ids(pattern: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = tiny_tokenizer()
    if pattern:
        cut = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
        bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([cut, bytes_only])
    codec = TokenizersCodec(json.loads(tokenizer.to_str()))
    lines = ["def f(x):", "    return x  ", "", "  # done", "1234", "'s 'll", ");", "日本", "e\u0301", "\t", "end."]
    rng = np.random.default_rng(0)
    text = "\n".join(lines[index] for index in rng.integers(0, len(lines), 2000))
    whole = codec._with_offsets(text)
    monkeypatch.setattr("megacontext.bases.tokenizers_codec.PIECE_CHARACTERS", 50)
    assert len(codec._pieces(text)) > 100
    in_pieces = codec.encode(text)
    np.testing.assert_array_equal(in_pieces.token_ids, whole.token_ids)
    np.testing.assert_array_equal(in_pieces.char_starts, whole.char_starts)


def test_tokenizers_whose_tokens_run_over_lines_are_not_cut() -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    text = "fox\njumps\n" * 5000
    tokenizer.train_from_iterator([text], trainers.BpeTrainer(vocab_size=300, show_progress=False))
    codec = TokenizersCodec(json.loads(tokenizer.to_str()))
    assert codec._pieces(text) == [text]
    assert codec.encode(text).token_ids.tolist() == tokenizer.encode(text, add_special_tokens=False).ids
