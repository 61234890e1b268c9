"""Vectors over the wire: read as vLLM reads them, and the same model answers the same."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import pytest
import torch

from megacontext.bases.registry import BaseHandle
from megacontext.bases.remote.embeds_base import VllmHandle, encoded_embeds
from megacontext.bases.remote.http import Patience
from megacontext.errors import BaseModelError, InvalidTokensError, PromptTooLongError, ServerError
from megacontext.ports.base import Base
from megacontext.ports.completion import CompletionRequest, SupportsCompletion
from megacontext.testing.model_folder import write_model_folder
from megacontext.testing.openai_server import OpenAIServer
from megacontext.testing.prompt_embeds import decoded_embeds

PATIENT = Patience(num_retries=0)
TEXT = "Once upon a time there was a little girl. She lived in a"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_model_folder(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def local(folder):
    return BaseHandle(str(folder)).load()


@pytest.fixture(scope="module")
def led_folder(tmp_path_factory):
    """A model that was trained to see a BOS first."""
    folder = write_model_folder(tmp_path_factory.mktemp("models") / "led")
    says = {"add_bos_token": True, "bos_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(says))
    return folder


@pytest.fixture
def vllm(local):
    with OpenAIServer(local, model="served") as server:
        yield server


def handle_of(server, folder):
    return VllmHandle(f"vllm:{folder}@{server.url}#served=served", patience=PATIENT)


def request_of(base, text=TEXT, **changes):
    ids = base.codec.encode(text).token_ids
    given = {"prompt": "", "question": "", "answer": "", "max_new_tokens": 6, "scratch": ids[8:], **changes}
    return CompletionRequest(history_TD=base.embed(ids[:8]), **given)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_is_sent_is_read_bit_for_bit(dtype):
    rows = torch.randn(5, 7).to(dtype)
    back = decoded_embeds(encoded_embeds(rows), hidden_size=7)
    assert back.dtype == dtype
    assert torch.equal(back, rows)
    view = torch.randn(100, 7)[10:15]
    assert len(encoded_embeds(view)) == len(encoded_embeds(view.clone()))  # a view does not send what it is of
    assert torch.equal(decoded_embeds(encoded_embeds(view), hidden_size=7), view)


def saved(found):
    buffer = io.BytesIO()
    torch.save(found, buffer)
    return base64.b64encode(buffer.getvalue()).decode()


@pytest.mark.parametrize(
    ("sent", "says"),
    [
        ("!!!", "no tensor"),
        (base64.b64encode(b"hello").decode(), "no tensor"),
        (saved({"a": 1}), "holds a dict"),
        (saved(torch.zeros(3, 8)), "not .num_tokens, 7."),
        (saved(torch.zeros(7)), "not .num_tokens, 7."),
        (saved(torch.zeros(2, 3, 7)), "not .num_tokens, 7."),
        (saved(torch.zeros(3, 7, dtype=torch.int64)), "no floating-point"),
    ],
)
def test_what_vllm_refuses_is_refused(sent, says):
    with pytest.raises(ValueError, match=says):
        decoded_embeds(sent, hidden_size=7)
    assert decoded_embeds(saved(torch.zeros(1, 3, 7)), hidden_size=7).shape == (3, 7)


def test_the_facts_are_those_of_the_model_run_here(vllm, folder):
    handle, here = handle_of(vllm, folder), BaseHandle(str(folder))
    assert handle.info.fingerprint == here.info.fingerprint
    assert (handle.info.dim, handle.info.vocab_size) == (here.info.dim, here.info.vocab_size)
    assert handle.info.is_remote
    assert not handle.info.reads_text
    base = handle.load()
    assert isinstance(base, Base)
    assert isinstance(base, SupportsCompletion)
    assert not vllm.seen
    with pytest.raises(InvalidTokensError):
        base.embed(np.array([base.info.vocab_size], dtype=np.uint32))
    with pytest.raises(BaseModelError, match="no logits"):
        base.new_cache(3)


def test_a_folder_is_recorded_by_its_whole_name_and_asked_for_as_it_was(folder, vllm, monkeypatch):
    monkeypatch.chdir(folder.parent)
    handle = VllmHandle(f"vllm:./{folder.name}@{vllm.url}")
    assert handle.address.served_model == f"./{folder.name}"
    monkeypatch.chdir("/")
    again = VllmHandle(handle.info.name)
    assert again.info == handle.info
    assert again.address.served_model == f"./{folder.name}"


def test_the_answer_is_that_of_the_tokens_here(vllm, folder, local):
    base = handle_of(vllm, folder).load()
    answer = "".join(piece.text for piece in base.complete(request_of(base)))
    rows = local.embed(local.codec.encode(TEXT).token_ids)
    assert answer == "".join(text for text, _ in vllm.generate(rows, {"max_tokens": 6, "temperature": 0.0}))
    (seen,) = vllm.asked("completions")
    assert (seen.body["model"], seen.body["prompt"]) == ("served", "")
    sent = decoded_embeds(seen.body["prompt_embeds"], hidden_size=32)
    assert sent.dtype == torch.bfloat16  # as the weights are stored, which vLLM computes in
    assert torch.equal(sent.float(), rows.float())


def test_rows_are_the_servers_tokens(vllm, folder):
    base = handle_of(vllm, folder).load()
    request = request_of(base)
    size = base.prompt_size(request)
    assert size.num_tokens == 8 + len(request.scratch)
    assert size.window_tokens == vllm.context_tokens
    with pytest.raises(PromptTooLongError):
        list(base.complete(request_of(base, TEXT * 200)))


def test_the_models_bos_is_the_first_row_and_counted(led_folder):
    here = BaseHandle(str(led_folder)).load()
    bos = here.info.bos_token_id
    assert bos is not None
    with OpenAIServer(here, model="served") as server:
        base = handle_of(server, led_folder).load()
        request = request_of(base)
        answer = "".join(piece.text for piece in base.complete(request))
        ids = np.array([bos, *here.codec.encode(TEXT).token_ids], dtype=np.uint32)
        rows = here.embed(ids)
        assert torch.equal(server.prompt_rows(server.asked("completions")[-1].body).float(), rows.float())
        assert answer == "".join(text for text, _ in server.generate(rows, {"max_tokens": 6, "temperature": 0.0}))
        assert base.prompt_size(request).num_tokens == len(ids)


def test_a_server_that_takes_no_vectors_says_which_flag(folder, local):
    with OpenAIServer(local, model="served", takes_embeds=False) as server:
        base = handle_of(server, folder).load()
        with pytest.raises(ServerError, match="start vLLM with --enable-prompt-embeds"):
            list(base.complete(request_of(base)))


def test_gists_are_made_by_the_folder(vllm):
    base = VllmHandle(f"vllm:reference@{vllm.url}").load()
    here = BaseHandle("reference").load()
    ids = np.arange(64, dtype=np.uint32).reshape(2, 32)
    gists = base.gists_of_tokens(ids, gist_width=1)
    np.testing.assert_array_equal(gists, here.gists_of_tokens(ids, gist_width=1))
    np.testing.assert_array_equal(
        base.gists_of_gists(np.tile(gists[None, :1], (1, 32, 1, 1)), level=2),
        here.gists_of_gists(np.tile(gists[None, :1], (1, 32, 1, 1)), level=2),
    )
    np.testing.assert_array_equal(base.surprise(ids), here.surprise(ids))


def test_a_model_without_learned_gists_says_so(vllm, folder):
    with pytest.raises(BaseModelError, match="no learned gists"):
        handle_of(vllm, folder).load().gists_of_tokens(np.zeros((1, 8), np.uint32), gist_width=1)
