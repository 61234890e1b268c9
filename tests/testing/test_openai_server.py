"""The server that ships for tests, from outside: pages, refusals, and answers as real servers give them."""

from __future__ import annotations

import json
import urllib.error
import urllib.request

import pytest

from megacontext.testing.openai_server import Failure, OpenAIServer


def call(url, body=None, *, raw=None, key=""):
    """Status and body of one request, by the standard library."""
    data = raw if raw is not None else None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers={"Authorization": f"Bearer {key}"} if key else {})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


BODY = {"model": "reference", "prompt": "Once upon a time", "max_tokens": 3, "temperature": 0}


@pytest.mark.parametrize(
    ("style", "field", "has_props"), [("vllm", "prompt", False), ("llama.cpp", "content", True), ("openai", "", False)]
)
def test_each_style_tells_what_its_servers_tell(reference, style, field, has_props):
    with OpenAIServer(reference, style=style, context_tokens=99) as server:
        root = server.url.removesuffix("/v1")
        told = json.loads(call(f"{server.url}/models")[1])["data"][0]
        assert (told["id"], told.get("max_model_len")) == ("reference", 99 if style == "vllm" else None)
        status, props = call(f"{root}/props")
        assert (status == 200 and json.loads(props)["default_generation_settings"]["n_ctx"] == 99) == has_props
        for name in ("prompt", "content"):
            status, found = call(f"{root}/tokenize", {"model": "reference", name: "a b c"})
            assert (status == 200) == (name == field)
            if status == 200:
                assert json.loads(found)["tokens"] == reference.codec.encode("a b c").token_ids.tolist()


def test_an_answer_at_once_and_as_events(reference):
    with OpenAIServer(reference) as server:
        whole = json.loads(call(f"{server.url}/completions", BODY)[1])
        usage = {"include_usage": True}
        _, events = call(f"{server.url}/completions", {**BODY, "stream": True, "stream_options": usage})
        chat = {
            "model": "reference",
            "messages": [{"role": "user", "content": "Once"}],
            "max_tokens": 2,
            "temperature": 0,
        }
        said = json.loads(call(f"{server.url}/chat/completions", chat)[1])["choices"][0]
    *parts, end = [line.removeprefix("data: ") for line in events.split("\n\n") if line]
    assert end == "[DONE]"
    *choices, last = [json.loads(part) for part in parts]
    assert last["usage"] == whole["usage"]
    assert whole["usage"]["completion_tokens"] == 3
    assert "".join(part["choices"][0]["text"] for part in choices) == whole["choices"][0]["text"]
    assert choices[-1]["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"] == "length"
    assert said["message"]["role"] == "assistant"


def test_what_is_wrong_is_refused(reference):
    with OpenAIServer(reference, api_key="k", takes_embeds=False) as server:
        page = f"{server.url}/completions"
        assert call(page, BODY)[0] == 401
        assert call(page, raw=b"{", key="k")[0] == 400
        assert call(page, {**BODY, "model": "other"}, key="k")[0] == 404
        assert call(page, {**BODY, "prompt": ""}, key="k")[0] == 400
        status, said = call(page, {**BODY, "prompt_embeds": "AAAA"}, key="k")
        assert (status, "--enable-prompt-embeds" in said) == (400, True)
        assert call(f"{server.url}/embeddings", BODY, key="k")[0] == 404
        server.fail(Failure(status=418, body={"error": "teapot"}))
        assert call(page, BODY, key="k") == (418, '{"error": "teapot"}')
        assert call(page, BODY, key="k")[0] == 200
        assert [seen.method for seen in server.seen] == ["POST"] * 7  # what is no JSON is not taken down
        assert server.seen[-1].headers["authorization"] == "Bearer k"
