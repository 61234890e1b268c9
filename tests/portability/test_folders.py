"""From a saved folder to an answer: every family as people meet it, through the registry, a memory and a session."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import megacontext as mc
from megacontext.bases.registry import BaseHandle
from megacontext.errors import BaseModelError
from megacontext.testing.model_folder import tiny_tokenizer
from megacontext.testing.tiny_families import FAMILIES, family_config, family_model

pytestmark = pytest.mark.portability

TEXT = "The quick brown fox jumps over the lazy dog, and the dog did not even bark. " * 40


def saved(family: str, folder: Path) -> Path:
    config = family_config(family, vocab_size=512)
    family_model(config).save_pretrained(folder)
    tiny_tokenizer().save(str(folder / "tokenizer.json"))
    return folder


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_and_widths_that_are_not_stored_are_found_in_every_family(family: str, tmp_path: Path) -> None:
    path = saved(family, tmp_path) / "config.json"
    config = json.loads(path.read_text())
    text = config.get("text_config", config)
    rows, dim = BaseHandle(str(tmp_path)).embeddings.shape
    assert (rows, dim) == (512, text["hidden_size"])
    for key in ("num_hidden_layers", "hidden_size", "vocab_size"):
        wrong = {**text, key: text[key] + 1}
        path.write_text(json.dumps({**config, "text_config": wrong} if text is not config else wrong))
        with pytest.raises(BaseModelError, match=f"config.json: (text_config.)?{key} is {text[key] + 1}, but .*; use"):
            _ = BaseHandle(str(tmp_path)).info


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_model_answers_from_a_memory(family: str, tmp_path: Path) -> None:
    folder = saved(family, tmp_path / "model")
    handle = BaseHandle(str(folder), device="cpu")
    plain = family_model(family_config(family, vocab_size=512))
    with mc.open(tmp_path / "memory", base=handle, create=True, gister="mean") as memory:
        memory.append(handle.codec.encode(TEXT).token_ids)
        history = memory.tokens(0, memory.num_tokens)
        # all of it in the window: what a session makes of tokens is what the model makes of them
        with memory.session(budget_entries=1024, kv="exact") as session:
            following = handle.codec.encode(" A fox barks.").token_ids
            nats = session.nll(following)
        ids = torch.from_numpy(np.concatenate([history, following]).astype(np.int64))[None]
        with torch.no_grad():
            log_probs = plain(input_ids=ids).logits[0].float().log_softmax(-1).numpy()
        where = np.arange(len(history) - 1, len(history) + len(following) - 1)
        np.testing.assert_allclose(nats, -log_probs[where, following], atol=1e-3)
        # a window smaller than the history: gists, refocuses, patches
        with memory.session(budget_entries=192) as session:
            events = list(session.generate("Who barks?", max_new_tokens=6, seed=0))
            assert session.working_context.levels.max() >= 1
        assert events
