"""A base of text behind a server: its facts, its prompts, its counts, and answers in every shape that servers give."""

from __future__ import annotations

import json

import numpy as np
import pytest

from megacontext.bases.registry import BaseHandle, base_info
from megacontext.bases.remote.answers import answer_pieces
from megacontext.bases.remote.api_key import ApiKey
from megacontext.bases.remote.http import Patience
from megacontext.bases.remote.text_base import OpenAIHandle
from megacontext.errors import BaseModelError, InvalidTokensError, PromptTooLongError, ServerError
from megacontext.ports.base import Base, BaseSource
from megacontext.ports.completion import CompletionRequest, SupportsCompletion, SupportsSummaries
from megacontext.testing.model_folder import write_model_folder
from megacontext.testing.openai_server import Failure, OpenAIServer

NOWHERE = "http://127.0.0.1:9/v1"
PATIENT = Patience(num_retries=0)
STORY = "Once upon a time there was a little girl. " * 8


def handle_of(server, options="#api=completions", **given):
    return OpenAIHandle(f"openai:reference@{server.url}{options}", patience=PATIENT, **given)


def request_of(base, history=STORY, *, prompt="The girl", question="", answer="", **changes):
    ids = base.codec.encode(prompt + answer).token_ids
    rows = base.embed(base.codec.encode(history).token_ids)
    given = {"max_new_tokens": 6, **changes}
    return CompletionRequest(history_TD=rows, prompt=prompt, question=question, answer=answer, scratch=ids, **given)


def answer_of(base, request):
    pieces = list(base.complete(request))
    assert [piece.reason for piece in pieces[:-1]] == [""] * (len(pieces) - 1)
    return "".join(piece.text for piece in pieces), pieces[-1].reason


def test_facts_need_no_server():
    handle = OpenAIHandle(f"openai:gpt@{NOWHERE}")
    base = handle.load()
    assert isinstance(handle, BaseSource)
    assert isinstance(base, Base)
    assert isinstance(base, SupportsCompletion)
    assert isinstance(base, SupportsSummaries)
    info = handle.info
    assert (info.name, info.dim, info.is_remote, info.reads_text) == (f"openai:gpt@{NOWHERE}", 3, True, True)
    assert info.vocab_size == handle.codec.vocab_size
    with pytest.raises(InvalidTokensError):
        base.embed(np.array([info.vocab_size], dtype=np.uint32))


def test_the_fingerprint_is_that_of_the_tokenizer(tmp_path):
    one, other = OpenAIHandle(f"openai:a@{NOWHERE}"), OpenAIHandle("openai:b@https://example.com/v1#api=completions")
    assert one.info.fingerprint == other.info.fingerprint != base_info("reference").fingerprint
    folder = write_model_folder(tmp_path / "model")
    named = OpenAIHandle(f"openai:a@{NOWHERE}#tokenizer={folder}")
    assert named.info.fingerprint != one.info.fingerprint
    assert (
        named.codec.encode("hello").token_ids.tolist()
        == BaseHandle(str(folder)).codec.encode("hello").token_ids.tolist()
    )


def test_a_folder_is_recorded_by_its_whole_name(tmp_path, monkeypatch):
    write_model_folder(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    name = OpenAIHandle(f"openai:a@{NOWHERE}#tokenizer=model").info.name
    monkeypatch.chdir("/")
    assert OpenAIHandle(name).codec.vocab_size
    with pytest.raises(BaseModelError, match="no such folder"):
        OpenAIHandle(f"openai:a@{NOWHERE}#tokenizer=a/b/nothing-here")


def test_nothing_can_be_scored(server):
    base = handle_of(server).load()
    for call in (lambda: base.new_cache(4), lambda: base.forward(None, None, None)):
        with pytest.raises(BaseModelError, match="shows no logits"):
            call()
    with pytest.raises(BaseModelError, match="is a model behind an API"):
        BaseHandle(f"openai:a@{NOWHERE}")


@pytest.mark.parametrize("options", ["", "#api=completions"])
def test_the_answer_is_what_the_model_says(server, reference, options):
    base = handle_of(server, options).load()
    text, reason = answer_of(base, request_of(base))
    assert reason == "length"
    rows = server.prompt_rows(server.asked("completions")[-1].body)
    assert text == "".join(said for said, _ in server.generate(rows, {"max_tokens": 6, "temperature": 0.0}))
    assert len(reference.codec.encode(text).token_ids) == 6


def test_an_answer_is_gone_on_with_where_texts_are(server):
    base = handle_of(server).load()
    whole, _ = answer_of(base, request_of(base))
    begun, _ = answer_of(base, request_of(base, max_new_tokens=3))
    rest, _ = answer_of(base, request_of(base, answer=begun, max_new_tokens=3))
    assert begun + rest == whole
    assert base.can_continue
    assert not handle_of(server, "").load().can_continue


def test_sampling_is_asked_for_only_where_it_is_wanted(server):
    base = handle_of(server).load()
    answer_of(base, request_of(base))
    answer_of(base, request_of(base, temperature=0.7, top_p=0.9, seed=5))
    plain, drawn = (seen.body for seen in server.asked("completions"))
    assert plain["temperature"] == 0.0
    assert "seed" not in plain
    assert "top_p" not in plain
    assert (drawn["temperature"], drawn["top_p"], drawn["seed"]) == (0.7, 0.9, 5)


@pytest.mark.parametrize("style", ["vllm", "llama.cpp", "openai"])
def test_the_window_and_the_counts_are_the_servers(reference, style):
    with OpenAIServer(reference, style=style, context_tokens=777) as server:
        base = handle_of(server).load()
        request = request_of(base)
        size = base.prompt_size(request)
        exact = len(server.prompt_rows({"prompt": STORY + "The girl"}))
        assert size.window_tokens == {"openai": 0}.get(style, 777)
        if style == "openai":  # nobody counts: an estimate, which an answer makes closer
            assert exact < size.num_tokens < 1.2 * exact
            answer_of(base, request)
            assert exact <= base.prompt_size(request).num_tokens < 1.06 * exact + 2
        else:
            assert size.num_tokens == exact


def test_a_chat_template_is_learned_from_what_prompts_cost(reference):
    with OpenAIServer(
        reference, chat_template=lambda said: " ".join(m["content"] for m in said) + " now" * 20
    ) as server:
        base = handle_of(server, "").load()
        request = request_of(base, question="Who was she?")
        answer_of(base, request)
        asked = len(server.prompt_rows(server.asked("chat/completions")[-1].body))
        assert base.prompt_size(request).num_tokens >= asked


def test_the_window_may_be_told(reference):
    with OpenAIServer(reference, style="openai") as server:
        base = handle_of(server, "#api=completions&window_tokens=555").load()
        assert base.prompt_size(request_of(base)).window_tokens == 555


def test_a_server_whose_other_pages_are_closed_answers(server, reference):
    closed = [Failure(status=status, page=page) for page, status in (("/tokenize", 401), ("/tokenize", 403))]
    server.fail(*closed)
    base = handle_of(server).load()
    estimated = base.prompt_size(request_of(base)).num_tokens
    assert estimated > len(reference.codec.encode(STORY + "The girl").token_ids)
    assert answer_of(base, request_of(base))[0]


def test_a_server_that_was_busy_counts_when_it_no_longer_is(server, reference):
    base = handle_of(server).load()
    server.fail(Failure(status=429, page="/tokenize"))
    with pytest.raises(ServerError, match="HTTP 429"):
        base.prompt_size(request_of(base))
    exact = len(reference.codec.encode(STORY + "The girl").token_ids)
    assert base.prompt_size(request_of(base)).num_tokens == exact


@pytest.mark.parametrize(
    ("said", "window"),
    [({"error": {"message": "maximum context length is 100 tokens"}}, 100), ({"error": "prompt is too long"}, None)],
)
def test_a_refusal_tells_the_window(reference, said, window):
    with OpenAIServer(reference, style="openai") as server:
        base = handle_of(server).load()
        request = request_of(base)
        server.fail(Failure(status=400, body=said))
        with pytest.raises(PromptTooLongError):
            list(base.complete(request))
        size = base.prompt_size(request)
        assert size.window_tokens == (window or int(0.75 * (size.num_tokens + 6)))


def test_too_long_in_the_middle_of_an_answer_tells_no_window(reference):
    exceeded = {"error": {"code": 500, "message": "Context size has been exceeded."}}
    with OpenAIServer(reference, style="openai") as server:
        base = handle_of(server).load()
        request = request_of(base)
        server.fail(Failure(after_tokens=2, event=exceeded), Failure(after_tokens=0, event=exceeded))
        with pytest.raises(ServerError, match=r"broke off in the middle of an answer .*; ask again, with a smaller"):
            list(base.complete(request))
        assert base.prompt_size(request).window_tokens == 0
        with pytest.raises(PromptTooLongError):  # before a word, it is the prompt that is too long
            list(base.complete(request))
        assert base.prompt_size(request).window_tokens > 0


def test_too_long_after_a_thought_is_no_prompt_that_is_too_long():
    def events():
        yield {"choices": [{"delta": {"reasoning_content": "hm"}}]}
        raise PromptTooLongError("Context size has been exceeded")

    with pytest.raises(ServerError, match="broke off in the middle"):
        pieces(coming=events())


@pytest.mark.parametrize(
    ("said", "changed"),
    [
        ("Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens'.", ("max_tokens", "max_completion_tokens")),
        ("Please use max_completion_tokens instead of max_tokens", ("max_tokens", "max_completion_tokens")),
        ("Unrecognized request argument supplied: stream_options", ("stream_options", None)),
        ("Unsupported value: 'temperature' does not support 0.0 with this model.", ("temperature", None)),
        ("invalid temperature: only 1 is allowed for this model", ("temperature", None)),
        ("temperature: Extra inputs are not permitted", ("temperature", None)),
    ],
)  # fmt: skip
def test_what_a_server_will_not_be_asked_is_asked_otherwise(server, said, changed):
    base = handle_of(server).load()
    server.fail(Failure(status=400, body={"error": {"message": said}}))
    answer_of(base, request_of(base))
    answer_of(base, request_of(base))
    refused, *later = (seen.body for seen in server.asked("completions"))
    gone, instead = changed
    assert gone in refused
    assert len(later) == 2
    assert all(gone not in body and (instead is None or instead in body) for body in later)


@pytest.mark.parametrize(
    ("said", "changed"),
    [
        ("property 'seed' is unsupported", "seed"),
        ('Unknown name "top_p": Cannot find field.', "top_p"),
        ("`temperature` and `top_p` cannot both be specified for this model. Please use only one.", "top_p"),
    ],
)  # fmt: skip
def test_nothing_else_is_left_out_than_what_the_server_will_not_be_asked(server, said, changed):
    base = handle_of(server).load()
    server.fail(Failure(status=400, body={"error": {"message": said}}))
    answer_of(base, request_of(base, temperature=0.7, top_p=0.9, seed=5))
    refused, later = (seen.body for seen in server.asked("completions"))
    assert refused.keys() - later.keys() == {changed}


@pytest.mark.parametrize(
    "said",
    [
        "Invalid 'temperature': decimal above maximum value. Expected a value <= 2, but got 3 instead.",
        "temperature must be non-negative, got -1.",
        "top_p must be in (0, 1], got 1.5.",
        "temperature 3 is not supported: use a value between 0 and 2",
        "Invalid 'seed': integer below minimum value.",
        "Invalid 'max_completion_tokens': integer above maximum value.",
    ],
)
def test_a_value_that_a_server_refuses_is_an_error_and_not_left_out(server, said):
    base = handle_of(server).load()
    drawn = request_of(base, temperature=0.7, top_p=0.9, seed=5)
    server.fail(Failure(status=400, body={"error": {"message": said}}))
    with pytest.raises(ServerError, match="refused the request"):
        list(base.complete(drawn))
    assert len(server.asked("completions")) == 1
    answer_of(base, drawn)
    refused, later = (seen.body for seen in server.asked("completions"))
    assert later == refused


def test_another_refusal_is_an_error(server):
    base = handle_of(server).load()
    server.fail(Failure(status=400, body={"error": {"message": "no thanks"}}))
    with pytest.raises(ServerError, match=r"refused the request \(HTTP 400\): no thanks"):
        list(base.complete(request_of(base)))


def pieces(*events, max_new_tokens=4, coming=None):
    used = []
    found = list(answer_pieces(coming or events, "host", key=None, max_new_tokens=max_new_tokens, on_usage=used.append))
    return "".join(piece.text for piece in found), found[-1].reason, used


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([{"choices": [{"text": "a"}]}, {"choices": [{"text": "b", "finish_reason": "length"}]}], ("ab", "length", [])),
        ([{"choices": [{"delta": {"role": "assistant", "content": None}}]},
          {"choices": [{"delta": {"content": "a"}, "finish_reason": None}]},
          {"choices": [{"delta": {}, "finish_reason": "stop"}]},
          {"choices": [], "usage": {"prompt_tokens": 7}}], ("a", "stop", [7])),
        ([{"choices": [{"message": {"content": "ab"}, "finish_reason": "tool_calls"}]}], ("ab", "stop", [])),
        ([{"choices": [{"delta": {"content": [{"type": "text", "text": "a"}]}, "finish_reason": "stop"}]}],
         ("a", "stop", [])),
        ([{"choices": [{"delta": {"content": "a\ud83d"}, "finish_reason": "stop"}]}], ("a?", "stop", [])),
        ([{"choices": [{"delta": {"reasoning_content": "hm"}}]},
          {"choices": [{"delta": {"content": "a"}, "finish_reason": "stop"}]}], ("a", "stop", [])),
        ([{"choices": [{"text": "", "finish_reason": "stop"}]}], ("", "stop", [])),
    ],
)  # fmt: skip
def test_answers_in_every_shape(events, expected):
    assert pieces(*events) == expected


@pytest.mark.parametrize(
    ("events", "says"),
    [
        ([], "no finish_reason"),
        ([{"choices": [{"text": "a"}]}], "no finish_reason"),
        (["hello"], "in a form that no"),
        ([{"choices": "x"}], "in a form that no"),
        ([{"choices": [3]}], "in a form that no"),
        ([{"choices": [{"text": 3}]}], "in a form that no"),
        ([{"id": 1}], "in a form that no"),
        ([{"choices": [{"delta": {"reasoning": "hm"}, "finish_reason": "length"}]}], "4 tokens on thinking"),
    ],
)
def test_what_is_no_answer_is_one_line(events, says):
    with pytest.raises(ServerError, match=says) as caught:
        pieces(*events)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("found", [{"status": "no", "detail": "key {} is wrong"}, {"choices": [{"text": {"a": "{}"}}]},
                                   {"padding": "{}" * 9}, "{}"])  # fmt: skip
def test_what_is_no_answer_is_shown_without_the_key(server, found):
    secret = "quite-secret-value-1"
    body = json.loads(json.dumps(found).replace("{}", secret))
    server.fail(*[Failure(status=200, body=body if isinstance(body, dict) else json.dumps(body))] * 2)
    base = handle_of(server, "", key=ApiKey(secret, "the test")).load()
    for ask in (lambda: list(base.complete(request_of(base))), lambda: base.summarise(["some text"], num_tokens=8)):
        with pytest.raises(ServerError, match=r"in a form that no .*\*\*\*") as caught:
            ask()
        assert "secret" not in str(caught.value)


def test_summaries_are_asked_for_a_few_at_a_time_and_once(server):
    base = handle_of(server, "").load()
    texts = [f"Note {number}: Anna met Bob in room {number}, and they spoke." for number in range(6)]
    server.fail(Failure(status=400, body={"error": {"message": "no thanks"}}))
    with pytest.raises(ServerError, match="no thanks"):
        base.summarise(texts, num_tokens=8)
    made = base.summarise(texts, num_tokens=8)
    assert len(server.asked("completions")) == 1 + len(texts)  # what was made before the failure is remembered
    assert made == handle_of(server, "").load().summarise(texts, num_tokens=8)
    body = server.asked("completions")[0].body
    assert "in at most" in body["messages"][0]["content"]
    assert "<recalled_text>\nNote" in body["messages"][1]["content"]


def test_an_empty_summary_is_an_error(server):
    server.fail(Failure(status=200, body={"choices": [{"message": {"content": " \n"}, "finish_reason": "stop"}]}))
    with pytest.raises(ServerError, match="empty summary"):
        handle_of(server, "").load().summarise(["some text"], num_tokens=8)
