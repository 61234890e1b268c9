"""The tokenizer of a model folder, in whatever files it is."""

from __future__ import annotations

import json
from pathlib import Path

from megacontext.bases.sentencepiece_file import sentencepiece_spec
from megacontext.bases.tokenizers_codec import TokenizersCodec
from megacontext.errors import BaseModelError

__all__ = ["read_codec"]

SENTENCEPIECE_FILES = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")
VOCABULARY_FILES = (*SENTENCEPIECE_FILES, "vocab.json", "vocab.txt")


def read_codec(folder: Path) -> TokenizersCodec:
    """The codec of a folder: from ``tokenizer.json``, else from a SentencePiece file, else from vocabulary files that
    transformers converts. BaseModelError if there is none that can be read."""
    path = folder / "tokenizer.json"
    if path.exists():
        return TokenizersCodec.from_file(path)
    found = next((folder / name for name in SENTENCEPIECE_FILES if (folder / name).exists()), None)
    if found is None or not _is_sentencepiece(found):
        return _converted(folder)
    return TokenizersCodec(sentencepiece_spec(found), name=str(found))


def _is_sentencepiece(path: Path) -> bool:
    """Whether it begins as such files do, with a piece; others go by the same name (lines of base64 and ranks)."""
    try:
        with path.open("rb") as file:
            return file.read(1) == b"\n"
    except OSError as error:
        raise BaseModelError(f"{path}: not readable ({error}); copy the model again") from error


def _converted(folder: Path) -> TokenizersCodec:
    """Folders from before tokenizer.json: transformers converts their vocabulary files."""
    if not any((folder / name).exists() for name in VOCABULARY_FILES):
        raise BaseModelError(f"{folder}: has no tokenizer.json; save one with PreTrainedTokenizerFast.save_pretrained")
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        codec = TokenizersCodec(json.loads(tokenizer.backend_tokenizer.to_str()))
        if len(codec.encode("a").token_ids) == 0:  # what transformers makes of files that do not fit the family
            raise ValueError("the converted tokenizer is empty")
    except Exception as error:
        raise BaseModelError(
            f"{folder}: has no tokenizer.json, and its vocabulary files could not be converted; "
            "save one with PreTrainedTokenizerFast.save_pretrained"
        ) from error
    return codec
