"""Names of models behind an API: what is read, what is refused, and that nothing secret gets into one."""

from __future__ import annotations

import pytest

from megacontext.bases.remote.address import ApiAddress
from megacontext.errors import InvalidValueError, UnknownNameError


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("openai:gpt-4o-mini@https://api.openai.com/v1", ("openai", "gpt-4o-mini", "https://api.openai.com/v1")),
        ("openai:org/model@rev@http://[::1]:8000/v1/", ("openai", "org/model@rev", "http://[::1]:8000/v1")),
        ("vllm:Qwen/Qwen3-0.6B@http://localhost:8000/v1", ("vllm", "Qwen/Qwen3-0.6B", "http://localhost:8000/v1")),
    ],
)
def test_a_name_says_scheme_model_and_url(name, parts):
    address = ApiAddress.parse(name)
    assert (address.scheme, address.model, address.url) == parts


def test_options_follow_a_hash_and_survive_in_the_name():
    name = "openai:m@http://h:1/v1#api=completions&tokenizer=/models/my model&window_tokens=4096"
    address = ApiAddress.parse(name)
    assert (address.api, address.tokenizer, address.window_tokens) == ("completions", "/models/my model", 4096)
    assert ApiAddress.parse(address.name) == address
    assert ApiAddress.parse("vllm:m@http://h/v1#served=other").served_model == "other"


def test_defaults_are_left_out_of_the_name():
    assert ApiAddress.parse("openai:m@http://h/v1#api=chat&tokenizer=reference").name == "openai:m@http://h/v1"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("openai:m", "write openai:MODEL@URL"),
        ("openai:@http://h/v1", "write openai:MODEL@URL"),
        ("openai:m@ftp://h/v1", "write openai:MODEL@URL"),
        ("openai:m@http:///v1", "names no server"),
        ("openai:m@http://h:x/v1", "cannot be read"),
        ("openai:m@http://h/v1?key=abc", "a part after '\\?'"),
        ("openai:m@http://h/v1#window_tokens=-1", "window_tokens"),
        ("openai:m@http://h/v1#tokenizer", "cannot be read"),
        ("ollama:m@http://h/v1", "begin with one of"),
    ],
)
def test_what_cannot_be_a_name_is_one_line(name, says):
    with pytest.raises(InvalidValueError, match=says) as caught:
        ApiAddress.parse(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["openai:m@http://h/v1#api=assistants", "vllm:m@http://h/v1#tokenizer=x"])
def test_unknown_options_list_the_known_ones(name):
    with pytest.raises(UnknownNameError, match="known"):
        ApiAddress.parse(name)


def test_a_password_in_the_url_is_refused_and_not_repeated():
    with pytest.raises(InvalidValueError, match="MEGACONTEXT_API_KEY") as caught:
        ApiAddress.parse("openai:m@https://me:hunter2@h/v1")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "is_local"),
    [
        ("http://127.0.0.5:1/v1", True),
        ("http://localhost/v1", True),
        ("http://[::1]/v1", True),
        ("http://a.com", False),
    ],
)
def test_servers_on_this_machine_are_known(url, is_local):
    assert ApiAddress.parse(f"openai:m@{url}").is_local is is_local
