"""What is said of a tokenizer is what it does, and files that do not serve are refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megacontext.bases.prompting import Prompting
from megacontext.bases.registry import BaseHandle
from megacontext.bases.tokenizer_facts import PROBES, TokenizerFacts, facts_of, tokenizer_facts
from megacontext.bases.tokenizers_codec import TokenizersCodec
from megacontext.errors import BaseModelError, InvalidTokensError, MegaContextError
from megacontext.testing.model_folder import write_model_folder
from megacontext.testing.tokenizer_kinds import KINDS, tokenizer_spec

pytestmark = pytest.mark.portability

EVERYTHING = tuple(PROBES)
COMPOSED = ("composed and decomposed letters",)
T5_LOSES = tuple(name for name in EVERYTHING if name not in ("spaces at either end", "runs of spaces"))
# kind, what it loses, whether a space goes first, bytes for the unknown, bytes of every token
EXPECTED: dict[str, tuple[str, tuple[str, ...], bool, bool, bool]] = {
    "bert": ("WordPiece", EVERYTHING, False, False, False),
    "deepseek": ("byte-level BPE", (), False, False, True),
    "gemma": ("SentencePiece BPE", (), False, True, True),
    "gpt-neox": ("byte-level BPE", COMPOSED, False, False, True),
    "llama-2": ("SentencePiece BPE", (), True, True, True),
    "llama-3": ("byte-level BPE", (), False, False, True),
    "mistral": ("SentencePiece BPE", (), True, True, True),
    "phi-3": ("SentencePiece BPE", (), True, True, True),
    "qwen": ("byte-level BPE", COMPOSED, False, False, True),
    "t5": ("SentencePiece Unigram", T5_LOSES, True, False, True),
    "unigram-bytes": ("SentencePiece Unigram", (), True, True, True),
}


def facts(spec: dict[str, Any]) -> TokenizerFacts:
    return facts_of(TokenizersCodec(spec), Prompting())


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_the_facts_of_each_kind(kind: str) -> None:
    found = facts(tokenizer_spec(kind))
    assert EXPECTED[kind] == (
        found.kind,
        found.loses,
        found.puts_space_first,
        found.has_byte_pieces,
        found.has_token_bytes,
    )
    assert found.is_lossless == (not found.loses)
    assert 0 < found.num_control <= found.num_added < found.num_ids


def test_every_kind_is_expected() -> None:
    assert sorted(EXPECTED) == sorted(KINDS)


@pytest.mark.parametrize(
    ("normalizer", "lost"),
    [
        ({"type": "Lowercase"}, "case"),
        ({"type": "NFKC"}, "compatibility forms"),
        ({"type": "NFD"}, "composed and decomposed letters"),
        ({"type": "Strip", "strip_left": True, "strip_right": True}, "spaces at either end"),
        ({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}, "runs of spaces"),
        ({"type": "Replace", "pattern": {"String": "\r\n"}, "content": "\n"}, "line ends"),
    ],
)
def test_what_a_normalizer_takes_is_found_by_trying(normalizer: dict[str, Any], lost: str) -> None:
    plain = tokenizer_spec("llama-3")
    assert facts(plain).is_lossless
    found = facts({**plain, "normalizer": normalizer})
    assert lost in found.loses
    assert found.normalizers == (normalizer["type"],)


def test_a_folder_is_looked_at_as_a_whole(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer_spec("llama-3")))
    (tmp_path / "chat_template.jinja").write_text("{{ raise_exception('none') }}")
    codec = TokenizersCodec.from_file(tmp_path / "tokenizer.json")
    found = tokenizer_facts(tmp_path, codec)
    assert found.bos_token_id == codec.control_ids["<|begin_of_text|>"]
    assert (found.chat_markers, found.stop_token_ids) == ("", ())
    assert "none" in found.chat_problem
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0].content }}<|eot_id|>")
    (tmp_path / "tokenizer_config.json").write_text('{"add_bos_token": false}')
    found = tokenizer_facts(tmp_path, codec)
    assert (found.chat_markers, found.chat_problem, found.bos_token_id) == ("tokens", "", None)


def test_the_bundled_model_has_no_habits() -> None:
    handle = BaseHandle("reference")
    found = facts_of(handle.codec, handle.prompting)
    assert found.is_lossless
    assert (found.bos_token_id, found.chat_markers, found.puts_space_first) == (None, "", False)
    assert handle.info.question_before_ids == handle.info.question_after_ids == ()


# --- files that do not serve ---


def one_line(error: pytest.ExceptionInfo[MegaContextError]) -> str:
    line = str(error.value)
    assert "\n" not in line
    assert len(line) < 600
    return line


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model_folder(tmp_path_factory.mktemp("models") / "tiny", "llama", vocab_size=640)


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def test_a_tokenizer_of_other_weights(copy: Path) -> None:
    spec = tokenizer_spec("llama-3")
    spec["model"]["vocab"].update({f"more{number}": number + 2000 for number in range(3)})
    (copy / "tokenizer.json").write_text(json.dumps(spec))
    with pytest.raises(BaseModelError, match="tokenizer has 2003 ids but the embedding only 640 rows") as error:
        _ = BaseHandle(str(copy)).info
    one_line(error)


SPEC = json.dumps(tokenizer_spec("qwen"))
BROKEN = {
    "cut short": SPEC[: len(SPEC) // 2],
    "empty": "",
    "a list": "[1, 2]",
    "a number": "7",
    "nothing in it": "{}",
    "no model": json.dumps({**json.loads(SPEC), "model": None}),
    "an unheard model": json.dumps({**json.loads(SPEC), "model": {"type": "Unheard", "vocab": {}}}),
    "merges of nothing": json.dumps(
        {**json.loads(SPEC), "model": {**json.loads(SPEC)["model"], "merges": [["q", "?!"]]}}
    ),
    "tokens without content": json.dumps({**json.loads(SPEC), "added_tokens": [{"id": 3}]}),
    "an unheard normalizer": json.dumps({**json.loads(SPEC), "normalizer": {"type": "Unheard"}}),
    "a normalizer without a type": json.dumps({**json.loads(SPEC), "normalizer": {"kind": "NFC"}}),
}


@pytest.mark.parametrize("damage", sorted(BROKEN))
def test_a_broken_tokenizer(damage: str, copy: Path) -> None:
    (copy / "tokenizer.json").write_text(BROKEN[damage])
    with pytest.raises(BaseModelError, match=r"tokenizer\.json.*save") as error:
        _ = BaseHandle(str(copy)).info
    assert str(copy) in one_line(error)


def test_a_tokenizer_that_is_no_text(copy: Path) -> None:
    (copy / "tokenizer.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BaseModelError, match="not a readable tokenizer") as error:
        _ = BaseHandle(str(copy)).info
    one_line(error)


def test_a_folder_without_any_tokenizer(copy: Path) -> None:
    (copy / "tokenizer.json").unlink()
    with pytest.raises(BaseModelError, match=r"has no tokenizer\.json") as error:
        _ = BaseHandle(str(copy)).info
    one_line(error)


@pytest.mark.parametrize("name", ["tokenizer_config.json", "special_tokens_map.json", "chat_template.json"])
@pytest.mark.parametrize("content", ["{", "[]", "null"])
def test_broken_files_beside_it(name: str, content: str, copy: Path) -> None:
    (copy / name).write_text(content)
    with pytest.raises(BaseModelError, match=f"{name}: (not readable|holds)") as error:
        _ = BaseHandle(str(copy)).info
    one_line(error)


def test_a_template_that_is_no_text(copy: Path) -> None:
    (copy / "chat_template.jinja").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BaseModelError, match=r"chat_template\.jinja: not readable") as error:
        _ = BaseHandle(str(copy)).info
    one_line(error)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_ids_outside_the_vocabulary_show_nothing_and_impossible_ones_are_refused(kind: str) -> None:
    codec = TokenizersCodec(tokenizer_spec(kind))
    fox = codec.encode("fox").token_ids
    beyond = np.array([codec.vocab_size, (1 << 32) - 1], dtype=np.uint32)
    assert codec.decode(np.concatenate([beyond, fox])) == codec.decode(fox)
    for bad in (-1, 1 << 32):
        with pytest.raises(InvalidTokensError, match="none is below 0 or above") as error:
            codec.decode(np.array([bad], dtype=np.int64))
        one_line(error)
    with pytest.raises(InvalidTokensError, match="flat array"):
        codec.decode(np.array([0.5]))
