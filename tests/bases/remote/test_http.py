"""One request and what may go wrong with it, against a real server: retries, silence, refusals, broken streams."""

from __future__ import annotations

import json
import socket
import threading
import time

import pytest

from megacontext.bases.remote import http
from megacontext.bases.remote.api_key import ApiKey
from megacontext.errors import InvalidValueError, MegaContextError, PromptTooLongError, ServerError
from megacontext.testing.openai_server import Failure, OpenAIServer

BODY = {"model": "reference", "prompt": "Once upon a time", "max_tokens": 4, "temperature": 0.0}


def ask(client, *, stream=True, **changes):
    url = f"{client.address.url}/completions"
    body = {**BODY, **changes}
    return list(client.events(url, {**body, "stream": True})) if stream else client.post(url, body)


def text_of(events):
    return "".join(choice["text"] for event in events for choice in event["choices"])


def refused(client, says, **changes):
    for stream in (True, False):
        with pytest.raises(MegaContextError, match=says) as caught:
            ask(client, stream=stream, **changes)
        assert "\n" not in str(caught.value)
        yield caught.value


def test_an_answer_is_the_same_streamed_and_whole(server, client_of):
    client = client_of(server.url)
    whole = ask(client, stream=False)["choices"][0]["text"]
    assert whole
    assert text_of(ask(client)) == whole


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503])
def test_what_may_pass_is_tried_again(server, client_of, waits, status, stream):
    server.fail(Failure(status=status), Failure(status=status))
    assert ask(client_of(server.url), stream=stream)
    assert len(waits) == 2
    assert 0.25 <= waits[0] <= 0.5 <= waits[1] <= 1.0  # doubled, less what chance takes off
    assert len(server.asked("completions")) == 3


def test_a_server_that_keeps_failing_is_an_error_with_what_it_says(server, client_of, waits):
    server.fail(*[Failure(status=500, body={"error": {"message": "out of\n memory"}})] * 6)
    with pytest.raises(ServerError, match=r"failed \(HTTP 500\): out of memory; try again"):
        ask(client_of(server.url, num_retries=2))
    assert len(waits) == 2


def test_retry_after_is_kept_to_in_seconds_and_as_a_date(server, client_of, waits):
    server.fail(Failure(status=429, headers=[("Retry-After", "7")]))
    server.fail(Failure(status=503, headers=[("Retry-After", "Wed, 21 Oct 2015 07:28:00 GMT")]))
    server.fail(Failure(status=503, headers=[("Retry-After", "soon")]))
    ask(client_of(server.url))
    assert 7 <= waits[0] < 7.1
    assert waits[1] < 0.2  # that date is past
    assert 1.0 <= waits[2] <= 2.0


def test_a_server_that_wants_too_long_a_wait_is_not_waited_for(server, client_of, waits):
    server.fail(Failure(status=429, headers=[("Retry-After", "3600")]))
    with pytest.raises(ServerError, match="asks to wait 3600 s"):
        ask(client_of(server.url))
    assert not waits


def test_a_quota_that_is_used_up_is_not_tried_again(server, client_of, waits):
    server.fail(Failure(status=429, body={"error": {"code": "insufficient_quota", "message": "You exceeded it"}}))
    with pytest.raises(ServerError, match="no more requests"):
        ask(client_of(server.url))
    assert not waits


def test_a_wrong_key_names_where_it_came_from_and_never_the_key(reference, client_of, waits):
    with OpenAIServer(reference, api_key="right") as server:
        for error in refused(client_of(server.url, key="wr0ng-key-9876"), "the key from the test .HTTP 401."):
            assert "wr0ng" not in str(error)
        assert len([*refused(client_of(server.url), "a request without a key")]) == 2
        assert ask(client_of(server.url, key="right"))
    assert not waits


def test_a_key_is_never_shown():
    key = ApiKey(" sk-secret ", "somewhere")
    assert key.value == "sk-secret"
    assert "sk-secret" not in repr(key)
    for bad in ("", "  ", "a\nb", "schlüssel", "\ud800"):
        with pytest.raises(InvalidValueError, match="the key from somewhere is empty or holds") as caught:
            ApiKey(bad, "somewhere")
        assert not bad.strip() or bad not in str(caught.value)


def test_what_a_server_says_is_shown_without_keys_and_short(server, client_of):
    said = "no: sk-abc123*** and mine, k-mine-1, are wrong " + "x" * 1000
    server.fail(*[Failure(status=403, body={"error": {"message": said}})] * 2)
    for error in refused(client_of(server.url, key="k-mine-1"), "HTTP 403"):
        assert "abc123" not in str(error)
        assert "k-mine-1" not in str(error)
        assert len(str(error)) < 500


def test_an_unknown_model_lists_those_that_are_there(server, client_of):
    assert (
        len([*refused(client_of(server.url), "does not know the model reference; it has reference", model="other")])
        == 2
    )


def test_a_wrong_path_says_so(server, client_of):
    client = client_of(server.url.removesuffix("/v1") + "/api")
    with pytest.raises(ServerError, match="no OpenAI-compatible API"):
        ask(client)


def test_pages_that_are_not_there_are_none(server, client_of):
    client = client_of(server.url)
    assert client.get(f"{server.url}/props") is None
    assert client.post_optional(f"{server.url}/nothing", {}) is None
    assert client.get(f"{server.url}/models")["data"][0]["id"] == "reference"
    assert client.model_ids() == ["reference"]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 422, 501])
def test_pages_that_are_not_for_everybody_are_none(server, client_of, waits, status):
    server.fail(Failure(status=status, page="/tokenize"))
    assert client_of(server.url, key="k").post_optional(f"{server.url[:-3]}/tokenize", {"prompt": "a"}) is None
    assert not waits


@pytest.mark.parametrize("status", [408, 409, 429, 503])
def test_what_may_pass_is_no_missing_page(server, client_of, waits, status):
    url, client = f"{server.url[:-3]}/tokenize", client_of(server.url, num_retries=1)
    server.fail(*[Failure(status=status, page="/tokenize")] * 3)
    with pytest.raises(ServerError, match=f"HTTP {status}"):
        client.post_optional(url, {"prompt": "a"})
    assert len(waits) == 1
    assert client.post_optional(url, {"prompt": "a"})["tokens"]
    assert len(waits) == 2


def test_a_quota_that_is_used_up_is_no_missing_page(server, client_of):
    server.fail(Failure(status=429, body={"error": {"code": "insufficient_quota", "message": "no"}}, page="/tokenize"))
    with pytest.raises(ServerError, match="no more requests"):
        client_of(server.url).post_optional(f"{server.url[:-3]}/tokenize", {"prompt": "a"})


def test_an_error_that_comes_as_an_answer_is_one_and_shows_no_key(server, client_of):
    said = {"error": {"message": "k-mine-1 is not good here", "code": 400}}
    server.fail(*[Failure(status=200, body=said)] * 2)
    for error in refused(client_of(server.url, key="k-mine-1"), r"refused the request .HTTP 400.: \*\*\* is not good"):
        assert "k-mine-1" not in str(error)
    server.fail(*[Failure(status=200, body={"error": None, "code": 503, "message": "too busy"})] * 2)
    assert len([*refused(client_of(server.url), r"failed .HTTP 503.: too busy")]) == 2


def test_a_redirect_is_not_followed(server, client_of):
    server.fail(*[Failure(status=307, headers=[("Location", "http://127.0.0.1:9/v1/completions")])] * 2)
    assert len([*refused(client_of(server.url, key="k"), "leads to another place")]) == 2
    assert len(server.seen) == 2


@pytest.mark.parametrize("body", ["<html>Welcome</html>", "not json at all"])
def test_an_answer_that_is_no_json_says_so(server, client_of, body):
    server.fail(*[Failure(status=200, body=body)] * 2)
    assert len([*refused(client_of(server.url), "answers with (a web page|no JSON)")]) == 2


def test_a_server_that_does_not_stream_is_understood(server, client_of):
    whole = {"choices": [{"text": "hello", "finish_reason": "stop"}]}
    server.fail(Failure(status=200, body=whole))
    assert ask(client_of(server.url)) == [whole]


def test_an_enormous_answer_is_cut_off(server, client_of, monkeypatch):
    monkeypatch.setattr(http, "MOST_BODY_BYTES", 1000)
    server.fail(*[Failure(status=200, body="x" * 2000)] * 2)
    assert len([*refused(client_of(server.url), "more than 0 MiB")]) == 2


def test_nobody_there_is_tried_again_and_then_said(client_of, waits):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and never listens
        client = client_of(f"http://127.0.0.1:{taken.getsockname()[1]}/v1", num_retries=1)
        assert len([*refused(client, "nothing answers at")]) == 2
    assert len(waits) == 2


def test_a_connection_that_breaks_before_the_answer_is_tried_again(server, client_of, waits):
    server.fail(Failure(), Failure(after_tokens=0))
    assert text_of(ask(client_of(server.url))) == text_of(ask(client_of(server.url)))
    assert len(waits) == 2


def test_a_connection_that_breaks_in_the_answer_is_never_tried_again(server, client_of, waits):
    server.fail(Failure(after_tokens=2))
    events = client_of(server.url).events(f"{server.url}/completions", {**BODY, "stream": True})
    assert [next(events)["choices"][0]["finish_reason"] for _ in range(2)] == [None, None]
    with pytest.raises(ServerError, match=r"broke off in the middle of an answer .*; ask again"):
        next(events)
    assert not waits


def test_an_error_in_the_middle_of_the_answer_is_one(server, client_of):
    server.fail(Failure(after_tokens=2, event={"error": {"message": "CUDA out of memory", "code": 500}}))
    with pytest.raises(ServerError, match="CUDA out of memory"):
        ask(client_of(server.url))


@pytest.mark.parametrize("after_tokens", [None, 0, 2])
def test_silence_ends_in_an_error(server, client_of, waits, after_tokens):
    server.fail(Failure(hang_s=30, after_tokens=after_tokens))
    client = client_of(server.url, first_token_s=0.3, between_tokens_s=0.3)
    with pytest.raises(ServerError, match=r"silent for 0\.3 s"):
        ask(client, max_tokens=8)
    assert not waits


def receive(connection: socket.socket) -> None:
    """Read a whole request: who closes with some of it unread resets the connection, and the answer may be lost."""
    with connection.makefile("rb") as reading:
        length = 0
        while line := reading.readline().strip():
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        reading.read(length)


def test_an_event_whose_error_is_null_is_part_of_a_healthy_answer(client_of):
    told = [
        {"choices": [{"text": "Once"}], "error": None},
        {"choices": [{"text": " more", "finish_reason": "stop"}], "error": None, "code": 0, "message": "Success"},
    ]

    def serve(listening):
        connection, _ = listening.accept()
        with connection:
            receive(connection)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
            connection.sendall("".join(f"data: {json.dumps(event)}\n\n" for event in told).encode())

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, args=(listening,), daemon=True)
        thread.start()
        assert ask(client_of(f"http://127.0.0.1:{listening.getsockname()[1]}/v1")) == told
        thread.join()


def test_a_server_that_only_keeps_the_connection_alive_is_silent(client_of):
    over = threading.Event()

    def serve(listening):
        connection, _ = listening.accept()
        with connection:
            receive(connection)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
            while not over.wait(0.05):
                try:
                    connection.sendall(b": ping\n\n")
                except OSError:
                    return

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, args=(listening,), daemon=True)
        thread.start()
        client = client_of(f"http://127.0.0.1:{listening.getsockname()[1]}/v1", first_token_s=0.4)
        with pytest.raises(ServerError, match=r"silent for 0\.4 s"):
            ask(client)
        over.set()
        thread.join()


def test_who_takes_long_over_what_came_is_not_silent(server, client_of):
    client = client_of(server.url, first_token_s=0.5, between_tokens_s=0.5)
    events = client.events(f"{server.url}/completions", {**BODY, "max_tokens": 40, "stream": True})
    next(events)
    time.sleep(0.8)
    assert list(events)[-1]["choices"][0]["finish_reason"] == "length"


def test_a_proxy_that_refuses_is_named_and_none_stands_before_this_machine(server, client_of, monkeypatch, waits):
    def serve(listening):
        connection, _ = listening.accept()
        with connection:
            receive(connection)
            connection.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listening:
        proxy = f"http://127.0.0.1:{listening.getsockname()[1]}"
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
            monkeypatch.setenv(name, proxy)
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        thread = threading.Thread(target=serve, args=(listening,), daemon=True)
        thread.start()
        assert ask(client_of(server.url))
        with pytest.raises(ServerError, match=r"the proxy before https://api\.example\.com/v1 refused .*HTTPS_PROXY"):
            ask(client_of("https://api.example.com/v1"))
        thread.join()
    assert not waits


def test_closing_the_answer_ends_the_request(server, client_of):
    events = client_of(server.url).events(f"{server.url}/completions", {**BODY, "max_tokens": 500, "stream": True})
    next(events)
    events.close()
    assert ask(client_of(server.url))


def test_tls_where_there_is_none_is_said(server, client_of, waits):
    client = client_of(server.url.replace("http://", "https://"), num_retries=0)
    with pytest.raises(ServerError, match="not secure"):
        ask(client)


@pytest.mark.parametrize("style", ["vllm", "llama.cpp", "openai"])
def test_a_prompt_that_is_too_long_says_how_long_a_window_is(reference, client_of, waits, style):
    with OpenAIServer(reference, style=style, context_tokens=64) as server:
        for error in refused(client_of(server.url), "does not fit into the window of reference", prompt="word " * 200):
            assert isinstance(error, PromptTooLongError)
            assert error.window_tokens == 64
            assert error.prompt_tokens == len(reference.codec.encode("word " * 200).token_ids)
    assert not waits


@pytest.mark.parametrize(
    ("status", "said", "window", "prompt"),
    [
        (400, {"error": {"message": "This model's maximum context length is 8192 tokens. However, your messages "
                                    "resulted in 9000 tokens.", "code": "context_length_exceeded"}}, 8192, 9000),
        (400, {"object": "error", "message": "The decoder prompt (length 5000) is longer than the maximum model length "
                                             "of 4096. Make sure"}, 4096, 5000),
        (400, {"error": {"message": "prompt is too long"}}, 0, 0),
        (413, {"error": {"message": "Request too large for model"}}, 0, 0),
        (429, {"error": {"message": "Request too large for model: Limit 12000, Requested 15318"}}, 0, 0),
        (500, {"error": {"message": "input is too large to process. increase the physical batch size"}}, 0, 0),
    ],
)  # fmt: skip
def test_all_the_ways_to_say_too_long(server, client_of, waits, status, said, window, prompt):
    server.fail(Failure(status=status, body=said))
    with pytest.raises(PromptTooLongError) as caught:
        ask(client_of(server.url))
    assert (caught.value.window_tokens, caught.value.prompt_tokens) == (window, prompt)
    assert not waits
