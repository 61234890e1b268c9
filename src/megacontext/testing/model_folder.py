"""A small model folder as ``save_pretrained`` writes it, for everything that opens a base by its folder."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from megacontext.testing.fake_base import DType, Family, tiny_model

__all__ = ["tiny_tokenizer", "write_model_folder"]

TRAINING_TEXT = [
    "The quick brown fox jumps over the lazy dog, and the dog did not even bark at the fox.",
    "def answer(question: str) -> str:\n    return question.strip()\n",
    "endoftext end of text tool_call <| |> </>",
]


def tiny_tokenizer(num_words: int = 350) -> Tokenizer:
    """Byte-level BPE as Qwen and Llama 3 have it, with one control token inside its vocabulary and two outside.

    num_words: upper limit of the vocabulary without the latter; at least 258.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    trainer = trainers.BpeTrainer(
        vocab_size=num_words,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TRAINING_TEXT, trainer)
    tokenizer.add_special_tokens(["<|im_start|>"])
    tokenizer.add_tokens([AddedToken("<tool_call>", special=False, normalized=False)])
    return tokenizer


def write_model_folder(
    folder: Path, family: Family = "qwen3", *, vocab_size: int = 512, dtype: DType = "bfloat16", seed: int = 0
) -> Path:
    """Write config, weights and tokenizer of ``tiny_model``; gives back the folder."""
    tiny_model(family, vocab_size=vocab_size, dtype=dtype, seed=seed).save_pretrained(folder)
    tiny_tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 0}))
    return folder
