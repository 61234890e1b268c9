"""From a checkpoint to a model folder that `transformers` opens like any other."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from megacontext.training.reference import Decoder, ReferenceConfig, build_reference

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


def load_checkpoint(path: Path, config: ReferenceConfig) -> tuple[Decoder, dict[str, Any]]:
    """The model of a checkpoint in bfloat16, and the state of the run that wrote it."""
    saved = torch.load(path, weights_only=True)
    model = build_reference(config, seed=0)
    weights = {name: master.to(torch.bfloat16) for name, master in saved["optimizer"]["masters"].items()}
    model.load_state_dict(weights)
    return model.eval(), saved["state"]


def export_model(model: Decoder, tokenizer_folder: Path, folder: Path) -> None:
    """Write configuration, weights (bfloat16 safetensors), tokenizer and generation settings."""
    folder.mkdir(parents=True, exist_ok=True)
    model.generation_config = GenerationConfig(
        do_sample=False, eos_token_id=model.config.eos_token_id, pad_token_id=model.config.pad_token_id
    )
    model.save_pretrained(folder)
    for name in TOKENIZER_FILES:
        if (tokenizer_folder / name).resolve() != (folder / name).resolve():
            shutil.copyfile(tokenizer_folder / name, folder / name)
