"""From a checkpoint to a model folder that `transformers` opens like any other."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from megacontext.bases.model_files import read_json
from megacontext.errors import InvalidValueError
from megacontext.training.checkpoint import read_checkpoint
from megacontext.training.reference import Decoder, ReferenceConfig, build_reference
from megacontext.training.tokens import read_tokenizer

__all__ = ["export_model", "load_checkpoint", "tokenizer_files"]

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


def tokenizer_files(folder: Path, *, vocab_size: int | None = None) -> list[Path]:
    """The files of a tokenizer that a model takes along. vocab_size: tokens that the model knows, if that is asked.

    Raises InvalidValueError if one is not there or has more tokens, CorruptionError or BaseModelError if it is damaged.
    """
    files = [folder / name for name in TOKENIZER_FILES]
    for file in files:
        if not file.is_file():
            raise InvalidValueError(f"{file} does not exist; give the folder of a run, or of a model, with both files")
    read_json(folder / "tokenizer_config.json")  # as whoever opens the model does
    num_tokens = read_tokenizer(folder).get_vocab_size()
    if vocab_size is not None and num_tokens > vocab_size:
        raise InvalidValueError(
            f"{folder} holds a tokenizer of {num_tokens} tokens, but the model knows {vocab_size}; put back the one "
            "that it was trained with"
        )
    return files


def load_checkpoint(path: Path, config: ReferenceConfig) -> tuple[Decoder, dict[str, Any]]:
    """The model of a checkpoint in bfloat16, and the state of the run that wrote it.

    Raises InvalidValueError if there is none or it has another shape, CorruptionError if it is damaged.
    """
    saved = read_checkpoint(path)
    model = build_reference(config, seed=0)
    weights = {name: master.to(torch.bfloat16) for name, master in saved["optimizer"]["masters"].items()}
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise InvalidValueError(
            f"{path} is of another shape than [model] says; give the configuration of its run"
        ) from error
    return model.eval(), saved["state"]


def export_model(model: Decoder, tokenizer_folder: Path, folder: Path) -> None:
    """Write configuration, weights (bfloat16 safetensors), tokenizer and generation settings.

    Raises as ``tokenizer_files`` does for a tokenizer that cannot be the model's, before anything is written.
    """
    files = tokenizer_files(tokenizer_folder, vocab_size=model.config.vocab_size)
    folder.mkdir(parents=True, exist_ok=True)
    model.generation_config = GenerationConfig(
        do_sample=False, eos_token_id=model.config.eos_token_id, pad_token_id=model.config.pad_token_id
    )
    model.save_pretrained(folder)
    for file in files:
        if file.resolve() != (folder / file.name).resolve():
            shutil.copyfile(file, folder / file.name)
