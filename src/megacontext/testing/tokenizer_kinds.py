"""Small tokenizers of every kind that open models use: the pipeline of the family, trained on a few lines.

Each is the content of a ``tokenizer.json``, with the habits that the family's file has: BOS and EOS in the
post-processor, a space in front of a text, bytes for what the vocabulary lacks, added tokens with and without
``special``, ones that swallow the white space behind them, normalizers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from megacontext.bases.tokenizer_spec import SPACE

__all__ = ["KINDS", "tokenizer_spec"]

TEXT = [
    "The quick brown fox jumps over the lazy dog, and the dog did not even bark at the fox.",
    "def answer(question: str) -> str:\n    return question.strip()\n",
    "The answer is 42, said Ada; it isn't 43.\n\nWhere were we?  In   the\tgarden, naïvely.\n",
    "日本語のテキスト。 Привет, мир! שלום עולם مرحبا 🧑‍🚀 ½ ﬁ Ａ é",
    "user assistant system start of turn end header id eot im inst table <s> </s> <unk> <|end|> <pad>",
]
NUM_PIECES = 420
BYTE_PIECES = [f"<0x{byte:02X}>" for byte in range(256)]
UNKNOWN = "<unk>"
LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN = LLAMA_3.replace(r"\p{N}{1,3}", r"\p{N}")


def _spec(tokenizer: Tokenizer) -> dict[str, Any]:
    spec: dict[str, Any] = json.loads(tokenizer.to_str())
    return spec


def _with_bos(content: str, token_id: int | None) -> processors.PostProcessor:
    assert token_id is not None
    return processors.TemplateProcessing(
        single=f"{content} $A", pair=f"{content} $A {content} $B", special_tokens=[(content, token_id)]
    )


# --- SentencePiece BPE: pieces with a sign for the space, and bytes for the rest ---


def _sentencepiece(specials: Sequence[str], **parts: Any) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN, fuse_unk=True, byte_fallback=True))
    for name, part in parts.items():
        setattr(tokenizer, name, part)
    trainer = trainers.BpeTrainer(
        vocab_size=len(specials) + 256 + NUM_PIECES, special_tokens=[*specials, *BYTE_PIECES], show_progress=False
    )
    # no piece has a line end in it, as no trained one has
    tokenizer.train_from_iterator((line for text in TEXT for line in text.splitlines() if line.isascii()), trainer)
    spec = _spec(tokenizer)
    spec["added_tokens"] = [token for token in spec["added_tokens"] if token["content"] in specials]
    return Tokenizer.from_str(json.dumps(spec))


def _joining(*more: decoders.Decoder) -> decoders.Decoder:
    return decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *more])


def _llama_2() -> Tokenizer:
    return _sentencepiece(
        ["<unk>", "<s>", "</s>"],
        normalizer=normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)]),
        decoder=_joining(decoders.Strip(" ", 1, 0)),
        post_processor=_with_bos("<s>", 1),
    )


def _mistral() -> Tokenizer:
    tokenizer = _sentencepiece(
        ["<unk>", "<s>", "</s>"],
        pre_tokenizer=pre_tokenizers.Metaspace(prepend_scheme="first", split=False),
        decoder=_joining(decoders.Strip(" ", 1, 0)),
        post_processor=_with_bos("<s>", 1),
    )
    tokenizer.add_special_tokens(["[INST]", "[/INST]", "[TOOL_CALLS]"])
    return tokenizer


def _gemma() -> Tokenizer:
    tokenizer = _sentencepiece(
        ["<pad>", "<eos>", "<bos>", "<unk>"],
        normalizer=normalizers.Replace(" ", SPACE),
        pre_tokenizer=pre_tokenizers.Split(" ", behavior="merged_with_previous"),
        decoder=_joining(),
        post_processor=_with_bos("<bos>", 2),
    )
    tokenizer.add_special_tokens(["<start_of_turn>", "<end_of_turn>"])
    text = ["\n\n", "\n\n\n", SPACE * 2, SPACE * 3, "<table>", "</table>"]
    tokenizer.add_tokens([AddedToken(content, special=False, normalized=False) for content in text])
    return tokenizer


def _phi_3() -> Tokenizer:
    tokenizer = _llama_2()
    swallowing = ["</s>", "<|assistant|>", "<|user|>", "<|end|>", "<|system|>"]
    spec = _spec(tokenizer)
    spec["added_tokens"] = [token for token in spec["added_tokens"] if token["content"] != "</s>"]
    tokenizer = Tokenizer.from_str(json.dumps(spec))
    tokenizer.add_tokens([AddedToken(content, rstrip=True, normalized=False) for content in swallowing[:1]])
    tokenizer.add_special_tokens([AddedToken(content, rstrip=True, normalized=False) for content in swallowing[1:]])
    return tokenizer


# --- byte-level BPE: letters for bytes, cut by a pattern first ---


def _byte_level(specials: Sequence[str], *, pattern: str | None, ignore_merges: bool = False) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if pattern is not None:
        cut = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
        letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([cut, letters])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=256 + NUM_PIECES,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    tokenizer.add_special_tokens(list(specials))
    return tokenizer


def _gpt_neox() -> Tokenizer:
    tokenizer = _byte_level(["<|endoftext|>", "<|padding|>"], pattern=None)
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.add_tokens([AddedToken(" " * width, normalized=True) for width in (8, 4, 2)])
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    return tokenizer


def _llama_3() -> Tokenizer:
    specials = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    tokenizer = _byte_level(specials, pattern=LLAMA_3, ignore_merges=True)
    bos = _with_bos(specials[0], tokenizer.token_to_id(specials[0]))
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), bos])
    return tokenizer


def _qwen() -> Tokenizer:
    tokenizer = _byte_level(["<|endoftext|>", "<|im_start|>", "<|im_end|>"], pattern=QWEN)
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.add_tokens([AddedToken(content, normalized=False) for content in ("<tool_call>", "</tool_call>")])
    tokenizer.add_tokens([AddedToken(content, normalized=False) for content in ("<think>", "</think>")])
    return tokenizer


def _deepseek() -> Tokenizer:
    specials = ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"]
    tokenizer = _byte_level(specials, pattern=r"[一-龥぀-ゟ゠-ヿ]+|\p{N}{1,3}|[^\p{N}]+")
    tokenizer.add_tokens([AddedToken(content, normalized=True) for content in ("<｜User｜>", "<｜Assistant｜>")])
    tokenizer.post_processor = _with_bos(specials[0], tokenizer.token_to_id(specials[0]))
    return tokenizer


# --- unigram, and words in pieces ---


def _unigram(*, byte_fallback: bool, normalizer: normalizers.Normalizer | None) -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    specials = ["<unk>", "<pad>", "<s>", "</s>"]
    trainer = trainers.UnigramTrainer(
        vocab_size=160, special_tokens=specials, unk_token=UNKNOWN, show_progress=False, max_piece_length=8
    )
    tokenizer.train_from_iterator([text for text in TEXT if text.isascii()], trainer)
    spec = _spec(tokenizer)
    if byte_fallback:
        spec["model"]["byte_fallback"] = True
        spec["model"]["vocab"] += [[piece, 0.0] for piece in BYTE_PIECES]
        spec["decoder"] = _spec_of(_joining(decoders.Strip(" ", 1, 0)))
    return Tokenizer.from_str(json.dumps(spec))


def _spec_of(decoder: decoders.Decoder) -> dict[str, Any]:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.decoder = decoder
    found: dict[str, Any] = _spec(tokenizer)["decoder"]
    return found


def _t5() -> Tokenizer:
    tokenizer = _unigram(byte_fallback=False, normalizer=normalizers.NFKC())
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 3)])
    return tokenizer


def _unigram_bytes() -> Tokenizer:
    tokenizer = _unigram(byte_fallback=True, normalizer=None)
    tokenizer.post_processor = _with_bos("<s>", 2)
    return tokenizer


def _bert() -> Tokenizer:
    unknown, *_ = specials = ["[UNK]", "[PAD]", "[CLS]", "[SEP]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token=unknown))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(cleanup=True)
    tokenizer.train_from_iterator(
        TEXT, trainers.WordPieceTrainer(vocab_size=300, special_tokens=specials, show_progress=False)
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


KINDS: dict[str, Callable[[], Tokenizer]] = {
    "bert": _bert,
    "deepseek": _deepseek,
    "gemma": _gemma,
    "gpt-neox": _gpt_neox,
    "llama-2": _llama_2,
    "llama-3": _llama_3,
    "mistral": _mistral,
    "phi-3": _phi_3,
    "qwen": _qwen,
    "t5": _t5,
    "unigram-bytes": _unigram_bytes,
}


@cache
def _text_of(kind: str) -> str:
    text: str = KINDS[kind]().to_str()
    return text


def tokenizer_spec(kind: str) -> dict[str, Any]:
    """The content of a ``tokenizer.json`` of a kind in ``KINDS``; a new copy each time."""
    spec: dict[str, Any] = json.loads(_text_of(kind))
    return spec
