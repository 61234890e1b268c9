"""The model that ships: it loads, answers from its window, reads prose and code, and is small."""

from __future__ import annotations

import json
import math
from importlib.resources import files
from pathlib import Path
from random import Random

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from megacontext.training.corpus import read_standard_library
from megacontext.training.cuts import cut_row
from megacontext.training.recall import Asking
from megacontext.training.rows import recall_row
from megacontext.training.scoring import right_answers
from megacontext.training.tokens import encode_documents
from megacontext.training.windows import TextSource

FOLDER = Path(str(files("megacontext.bases"))) / "bundled" / "reference-plain"
LARGEST_BYTES = 20_000_000
HELD_OUT_CODES = Asking(test=True, key="code", product=True)
PROSE = (
    "It was late in the evening when the old man came down the road, and the door of the house stood open. "
    "He did not know what to say to his wife, who had been waiting for him since the morning."
)


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def unseen(tokenizer_file: Tokenizer) -> TextSource:
    """Packages of the standard library that training left out."""
    packages = [
        page for page in read_standard_library(held_out=True) if page.name.endswith(("asyncio", "email", "http"))
    ]
    return TextSource(tokenizer_file, {"code": encode_documents(tokenizer_file, packages)}, {"code": 1.0})


@pytest.fixture(scope="module")
def tokenizer_file() -> Tokenizer:
    return Tokenizer.from_file(str(FOLDER / "tokenizer.json"))


def accuracy(model: PreTrainedModel, rows) -> float:  # type: ignore[no-untyped-def]
    results = right_answers(lambda ids_BT: model(ids_BT, use_cache=False).logits, rows)
    assert len(results) >= 50
    return sum(exact for _, _, exact in results) / len(results)


def test_the_folder_is_small_and_says_what_it_is() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < LARGEST_BYTES
    config = json.loads((FOLDER / "config.json").read_text())
    assert config["architectures"] == ["Qwen3ForCausalLM"]
    report = json.loads((FOLDER / "evaluation.json").read_text())
    card = (FOLDER / "README.md").read_text()
    assert f"{report['run']['tokens']:,}" in card
    assert f"{report['validation']['books']['bits_per_byte']:.3f}" in card


def test_it_answers_held_out_questions_in_windows_of_1500_tokens(model: PreTrainedModel, unseen: TextSource) -> None:
    assert accuracy(model, (recall_row(unseen, Random(seed), 1_500, HELD_OUT_CODES) for seed in range(14))) > 0.8


def test_it_answers_in_cut_windows(model: PreTrainedModel, unseen: TextSource) -> None:
    rows = (cut_row(unseen, Random(seed), 1_024, HELD_OUT_CODES, num_lone=300) for seed in range(30))
    assert accuracy(model, rows) > 0.85


def test_greedy_decoding_gives_the_value_and_ends_the_line(model: PreTrainedModel) -> None:
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    question = "\nQuestion: What is the code for Wanda Castillo?\nAnswer:"
    text = f"{PROSE} The code for Wanda Castillo is 70419. {PROSE}{question}"
    prompt = tokenizer(text, return_tensors="pt")
    answer = model.generate(**prompt, max_new_tokens=8)[0, prompt["input_ids"].shape[1] :]
    assert tokenizer.decode(answer).startswith(" 70419.\n")


def test_it_reads_prose_and_code(model: PreTrainedModel, tokenizer_file: Tokenizer, unseen: TextSource) -> None:
    code = unseen.stretch(Random(0), "code", 1_024).tolist()
    for ids, most in ((tokenizer_file.encode(PROSE).ids, 3.2), (code, 3.8)):
        ids_BT = torch.tensor([ids])
        with torch.no_grad():
            loss = float(model(ids_BT, labels=ids_BT).loss)
        assert math.isfinite(loss)
        assert loss < most < math.log(4_096)


def test_text_survives_the_tokenizer(tokenizer_file: Tokenizer) -> None:
    text = "def f(x):\n\treturn x  # naïve — “quoted” 48213\r\n\n\n"
    ids = tokenizer_file.encode(text, add_special_tokens=False).ids
    assert tokenizer_file.decode(ids) == text
    assert tokenizer_file.encode("<|endoftext|>").ids == [1]
