"""Vocabularies without a tokenizer.json: SentencePiece files give sentencepiece's ids, others are converted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from megacontext.bases.detokenize import Detokenizer
from megacontext.bases.prompting import read_prompting
from megacontext.bases.sentencepiece_file import sentencepiece_spec
from megacontext.bases.tokenizer_files import read_codec
from megacontext.bases.tokenizers_codec import TokenizersCodec
from megacontext.errors import BaseModelError

pytestmark = pytest.mark.portability

DATA = Path(__file__).parent / "data"
FILES = ("gemma", "llama", "unigram")
IDS: dict[str, dict[str, list[int]]] = json.loads((DATA / "sentencepiece_ids.json").read_text())
MARKERS = ("<start_of_turn>", "<end_of_turn>")


def folder_with(tmp_path: Path, name: str) -> Path:
    shutil.copy(DATA / f"{name}.model", tmp_path / "tokenizer.model")
    return tmp_path


@pytest.mark.parametrize("name", FILES)
def test_ids_are_those_of_sentencepiece(name: str, tmp_path: Path) -> None:
    codec = read_codec(folder_with(tmp_path, name))
    for text, expected in IDS[name].items():
        put_in_front = " " if codec.habits.puts_space_first and text else ""  # which the codec takes off
        found = codec.encode(put_in_front + text).token_ids.tolist()
        assert codec.decode(np.array(found, dtype=np.uint32)) == put_in_front + text
        if name == "gemma" and MARKERS[0] in text:  # sentencepiece takes the user's word for it
            assert set(expected) & set(codec.control_ids.values())
            assert not set(found) & set(codec.control_ids.values())
        else:
            assert found == expected


@pytest.mark.parametrize("name", FILES)
@settings(max_examples=25, deadline=None)
@given(text=st.text(max_size=20) | st.sampled_from(["<s>", "</s>", "<unk>", "\u2581", "<0x0A>", " \n\n ", *MARKERS]))
def test_text_comes_back_and_no_control_token_with_it(name: str, text: str) -> None:
    codec = TokenizersCodec(sentencepiece_spec(DATA / f"{name}.model"))
    encoded = codec.encode(text)
    assert codec.decode(encoded.token_ids) == text
    assert not set(encoded.token_ids.tolist()) & set(codec.control_ids.values())
    detokenizer = Detokenizer(codec)
    assert "".join([*map(detokenizer.push, encoded.token_ids.tolist()), detokenizer.flush()]) == text


def test_habits_of_such_files(tmp_path: Path) -> None:
    llama = read_codec(folder_with(tmp_path, "llama"))
    assert (llama.habits.puts_space_first, llama.habits.has_byte_pieces) == (True, True)
    assert read_prompting(tmp_path, llama).bos_token_id == 1
    (tmp_path / "tokenizer_config.json").write_text('{"add_bos_token": false}')
    assert read_prompting(tmp_path, llama).bos_token_id is None
    gemma = read_codec(folder_with(tmp_path, "gemma"))
    assert not gemma.habits.puts_space_first
    assert set(MARKERS) <= set(gemma.control_ids)


def test_added_tokens_beside_the_file(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, "llama")
    described = {
        "2": {"content": "</s>", "rstrip": True, "special": False},
        "441": {"content": "<|user|>", "rstrip": True, "special": True},
    }
    (folder / "added_tokens.json").write_text('{"<|end|>": 440}')
    (folder / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": described}))
    codec = read_codec(folder)
    assert (codec.control_ids["<|end|>"], codec.control_ids["<|user|>"], codec.vocab_size) == (440, 441, 442)
    assert codec.template_parts("<|user|>\nHm?<|end|>") == [441, "Hm?", 440]
    assert not {2, 440, 441} & set(codec.encode("<|user|></s><|end|>").token_ids.tolist())
    (folder / "added_tokens.json").write_text('{"<|end|>": 600}')
    with pytest.raises(BaseModelError, match=r"ids \[441, 600\] ..., but its vocabulary ends at 439"):
        read_codec(folder)


def test_a_damaged_file_is_refused_in_one_line(tmp_path: Path) -> None:
    whole = (DATA / "llama.model").read_bytes()
    rng = np.random.default_rng(0)
    refusals: list[str] = []
    for size in (1, 2, 40, len(whole) // 2 + 1, len(whole) - 3):
        (tmp_path / "tokenizer.model").write_bytes(whole[:size])
        with pytest.raises(BaseModelError, match=r"tokenizer\.model") as error:
            read_codec(tmp_path)
        assert "\n" not in str(error.value)
    for _ in range(60):  # any byte may be wrong: another vocabulary, or one line of ours
        damaged = bytearray(whole)
        damaged[rng.integers(1, len(whole))] ^= 1 << rng.integers(8)
        (tmp_path / "tokenizer.model").write_bytes(damaged)
        try:
            read_codec(tmp_path)
        except BaseModelError as error:
            refusals.append(str(error))
    assert refusals
    assert all("\n" not in refusal for refusal in refusals)


def test_a_file_of_another_format_under_the_same_name(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_text("IQ== 0\nIg== 1\n")
    with pytest.raises(
        BaseModelError, match=r"has no tokenizer\.json, and its vocabulary files could not be converted"
    ):
        read_codec(tmp_path)


def test_vocab_and_merges_are_converted(tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(["the fox, the dog, the fox again and the dog again"] * 3, trainer)
    tokenizer.add_special_tokens(["<|endoftext|>"])
    spec = json.loads(tokenizer.to_str())
    vocabulary = {**spec["model"]["vocab"], "<|endoftext|>": tokenizer.token_to_id("<|endoftext|>")}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "merges.txt").write_text(
        "#version: 0.2\n" + "\n".join(" ".join(pair) for pair in spec["model"]["merges"])
    )
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "GPT2Tokenizer"}))
    codec = read_codec(tmp_path)
    text = "the fox <|endoftext|> é\n"
    encoded = codec.encode(text)
    assert codec.decode(encoded.token_ids) == text
    assert codec.control_ids["<|endoftext|>"] not in encoded.token_ids
    assert codec.encode("the fox").token_ids.tolist() == tokenizer.encode("the fox").ids
