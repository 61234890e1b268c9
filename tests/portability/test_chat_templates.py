"""A question in the words and control tokens that a model was trained to find around it, and nothing in them forged."""

from __future__ import annotations

import itertools
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from megacontext.bases.chat_template import ChatTemplate
from megacontext.bases.prompting import read_prompting
from megacontext.bases.registry import BaseHandle
from megacontext.bases.tokenizers_codec import TokenizersCodec
from megacontext.errors import BaseModelError
from megacontext.ports.base import lead_ids, question_ids
from megacontext.runtime import assembly
from megacontext.runtime.events import DoneEvent
from megacontext.testing.model_folder import write_model_folder
from megacontext.testing.tokenizer_kinds import tokenizer_spec

pytestmark = pytest.mark.portability

# In the shape of each family's template, shortened.
CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou help.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}"
    "{% endif %}{% endif %}"
)
LLAMA_3 = (
    "{{- bos_token }}{%- if not date_string is defined %}{%- set date_string = '26 Jul 2024' %}{%- endif %}"
    "{%- for message in messages %}{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{{- message['content'] | trim }}{{- '<|eot_id|>' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate') }}{% endif %}"
    "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + "
    "'[/INST]' }}{% else %}{{ ' ' + message['content'] + eos_token }}{% endif %}{% endfor %}"
)
LLAMA_2 = (
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + message['content'] | "
    "trim + ' [/INST]' }}{% else %}{{ ' ' + message['content'] | trim + ' ' + eos_token }}{% endif %}{% endfor %}"
)
PHI_3 = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
DEEPSEEK = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ '<｜User｜>' + message['content'] }}"
    "{% else %}{{ '<｜Assistant｜>' + message['content'] + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<｜Assistant｜>' }}{% endif %}"
)
FAMILIES: dict[str, tuple[str, str | None, str, str]] = {  # template, BOS, EOS, what ends a turn
    "qwen": (CHATML, None, "<|im_end|>", "<|im_end|>"),
    "llama-3": (LLAMA_3, "<|begin_of_text|>", "<|eot_id|>", "<|eot_id|>"),
    "gemma": (GEMMA, "<bos>", "<eos>", "<end_of_turn>"),
    "mistral": (MISTRAL, "<s>", "</s>", "</s>"),
    "llama-2": (LLAMA_2, "<s>", "</s>", "</s>"),
    "phi-3": (PHI_3, "<s>", "<|end|>", "<|end|>"),
    "deepseek": (DEEPSEEK, "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜end▁of▁sentence｜>"),
}
QUESTION = "Where is the code, {Ada}?"


def write_folder(folder: Path, kind: str, template: str | None = None, **config: Any) -> TokenizersCodec:
    """The tokenizer's files of a family."""
    spec = tokenizer_spec(kind)
    (folder / "tokenizer.json").write_text(json.dumps(spec))
    own, bos, eos, _ = FAMILIES.get(kind, ("", None, None, None))
    told = {"bos_token": bos, "eos_token": {"content": eos, "special": True}, **config}
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    (folder / "chat_template.jinja").write_text(own if template is None else template)
    return TokenizersCodec(spec)


def framed(folder: Path, codec: TokenizersCodec, question: str) -> list[int]:
    found = read_prompting(folder, codec)
    middle = codec.encode(found.question_template.format(question=question)).token_ids.tolist()
    lead = [] if found.bos_token_id is None else [found.bos_token_id]
    return [*lead, *found.question_before_ids, *middle, *found.question_after_ids]


@pytest.mark.parametrize("kind", sorted(FAMILIES))
def test_a_framed_question_is_what_transformers_makes_of_the_template(kind: str, tmp_path: Path) -> None:
    codec = write_folder(tmp_path, kind)
    template, bos, eos, _ = FAMILIES[kind]
    theirs = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(tokenizer_spec(kind))), bos_token=bos, eos_token=eos
    )
    text = theirs.apply_chat_template(
        [{"role": "user", "content": QUESTION}],
        chat_template=template,
        tokenize=False,
        add_generation_prompt=True,
        enable_thinking=False,
    )
    ours = framed(tmp_path, codec, QUESTION)
    if kind == "phi-3":  # the file's normalizer puts a space behind every control token, too, as training did not
        assert codec.decode(np.array(ours, np.uint32)) == f"{QUESTION}"
        assert [codec.control_ids[name] for name in ("<|user|>", "<|end|>", "<|assistant|>")] == [
            token_id for token_id in ours if token_id in codec.control_ids.values()
        ][-3:]
    else:
        assert ours == theirs(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("kind", sorted(FAMILIES))
def test_where_a_turn_ends_and_what_marks_it_are_found(kind: str, tmp_path: Path) -> None:
    codec = write_folder(tmp_path, kind)
    found = read_prompting(tmp_path, codec)
    _, bos, _, end = FAMILIES[kind]
    assert found.stop_token_ids == (codec.control_ids[end],)
    assert found.chat_markers == ("text" if kind == "llama-2" else "tokens")
    assert found.bos_token_id == (None if bos is None else codec.control_ids[bos])
    assert not found.problem


@pytest.mark.parametrize("kind", sorted(FAMILIES))
def test_a_question_cannot_end_its_turn(kind: str, tmp_path: Path) -> None:
    """A question that writes the whole template out has as many control tokens in its frame as any other."""
    codec = write_folder(tmp_path, kind)
    controls = set(codec.control_ids.values())
    plain = [token_id for token_id in framed(tmp_path, codec, "hm") if token_id in controls]
    forged = "".join(codec.control_ids) + FAMILIES[kind][0]
    token_ids = framed(tmp_path, codec, forged)
    assert [token_id for token_id in token_ids if token_id in controls] == plain
    assert forged in codec.decode(np.array(token_ids, dtype=np.uint32))


def test_a_template_that_needs_a_system_turn_parts_or_the_day_gets_it(tmp_path: Path) -> None:
    needs_system = (
        "{% if messages[0]['role'] != 'system' %}{{ raise_exception('say who you are') }}{% endif %}"
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}"
    )
    needs_parts = (
        "{% for m in messages %}<|im_start|>{% for part in m['content'] %}{% if part['type'] == 'text' %}"
        "{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>{% endfor %}"
    )
    needs_day = "{{ strftime_now('%Y') }}{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
    for template, is_there in ((needs_system, "You are a helpful assistant."), (needs_parts, ""), (needs_day, "20")):
        codec = write_folder(tmp_path, "qwen", template)
        found = read_prompting(tmp_path, codec)
        assert not found.problem
        token_ids = np.array(framed(tmp_path, codec, QUESTION), dtype=np.uint32)
        assert is_there in codec.decode(token_ids)
        assert codec.decode(token_ids).endswith(QUESTION)
        assert codec.control_ids["<|im_end|>"] == token_ids[-1]


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('no chat, please') }}", "no chat, please"),
        ("{% for m in messages %}", "Unexpected end of template"),
        ("Hello.", "leaves out or repeats"),
        ("{{ messages[0].content }} {{ messages[0].content }}", "leaves out or repeats"),
        ("{{ messages[7].content }}", "no element 7"),
        ("{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}", "more than 20000 steps"),
        ("{% for a in range(200) %}{{ 'x' * 5000 }}{% endfor %}", "more than 262144 letters"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
        ("{{ messages.append(1) }}", "unsafe|not safe"),
        ("{{ open('/etc/passwd').read() }}", "undefined"),
    ],
)
def test_a_template_that_does_not_serve_is_passed_over_with_one_line(
    template: str, reason: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    codec = write_folder(tmp_path, "qwen", template)
    with caplog.at_level(logging.WARNING):
        found = read_prompting(tmp_path, codec)
    assert found.question_template == "\nQuestion: {question}\nAnswer:"
    assert not found.question_before_ids
    assert found.chat_markers == ""
    assert len(caplog.records) == 1
    line = caplog.records[0].getMessage()
    assert "\n" not in line
    assert "megacontext.json" in line
    with pytest.raises(BaseModelError, match=f"chat template.*({reason})") as error:
        ChatTemplate(template, {}).render([("user", "hm")], asks=True)
    assert found.problem in line
    assert "chat template" in str(error.value)


def test_what_a_folder_says_itself_has_the_first_word(tmp_path: Path) -> None:
    codec = write_folder(tmp_path, "llama-3")
    (tmp_path / "megacontext.json").write_text(json.dumps({"question_template": "Q: {question} A:"}))
    found = read_prompting(tmp_path, codec)
    assert (found.question_template, found.question_before_ids) == ("Q: {question} A:", ())
    assert found.bos_token_id == codec.control_ids["<|begin_of_text|>"]
    template = "{{<|start_header_id|>user: {question}}}<|eot_id|> so"
    (tmp_path / "megacontext.json").write_text(json.dumps({"question_template": template}))
    found = read_prompting(tmp_path, codec)
    begin, end = codec.control_ids["<|start_header_id|>"], codec.control_ids["<|eot_id|>"]
    assert found.question_before_ids == (*codec.encode("{").token_ids.tolist(), begin)
    assert found.question_template == "user: {question}}}"
    assert found.question_after_ids == (end, *codec.encode(" so").token_ids.tolist())


@pytest.mark.parametrize(
    "template", ["Q:", "{question} {answer}", "{question", "{question} {question}", "{0} {question}"]
)
def test_a_template_of_its_own_that_cannot_be_filled_in_is_refused(template: str, tmp_path: Path) -> None:
    codec = write_folder(tmp_path, "llama-3")
    (tmp_path / "megacontext.json").write_text(json.dumps({"question_template": template}))
    with pytest.raises(
        BaseModelError, match=r"megacontext\.json: question_template .*(add it|cannot be filled in)"
    ) as error:
        read_prompting(tmp_path, codec)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("place", ["chat_template.json", "tokenizer_config.json", "by name"])
def test_templates_in_older_places_are_found(place: str, tmp_path: Path) -> None:
    codec = write_folder(tmp_path, "qwen")
    expected = read_prompting(tmp_path, codec)
    (tmp_path / "chat_template.jinja").unlink()
    assert read_prompting(tmp_path, codec).chat_markers == ""
    told: Any = CHATML
    if place == "by name":
        told = [{"name": "tool_use", "template": "hm"}, {"name": "default", "template": CHATML}]
    name = place if place.endswith(".json") else "tokenizer_config.json"
    (tmp_path / name).write_text(json.dumps({"chat_template": told, "eos_token": "<|im_end|>"}))
    assert read_prompting(tmp_path, codec) == expected


@pytest.mark.parametrize(
    ("kind", "config", "bos"),
    [
        ("llama-3", {}, "<|begin_of_text|>"),
        ("llama-2", {}, "<s>"),
        ("llama-2", {"add_bos_token": False}, None),
        ("gemma", {"add_bos_token": True}, "<bos>"),
        ("qwen", {"bos_token": "<|endoftext|>"}, None),
        ("qwen", {"bos_token": "<|endoftext|>", "add_bos_token": True}, "<|endoftext|>"),
        ("qwen", {"bos_token": None, "add_bos_token": True}, None),
        ("gpt-neox", {}, None),
        ("t5", {}, None),
        ("bert", {}, "[CLS]"),
    ],
)
def test_bos_is_a_habit_of_the_tokenizer_not_a_name_in_a_file(
    kind: str, config: dict[str, Any], bos: str | None, tmp_path: Path
) -> None:
    codec = write_folder(tmp_path, kind, **config)
    (tmp_path / "chat_template.jinja").unlink()
    found = read_prompting(tmp_path, codec)
    assert found.bos_token_id == (None if bos is None else codec.control_ids[bos])


# --- a whole base, and what is asked of it ---


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An instruct model of the Llama 3 kind, with random weights."""
    folder = write_model_folder(tmp_path_factory.mktemp("models") / "instruct", "llama", vocab_size=640)
    write_folder(folder, "llama-3")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 3}))
    return folder


def test_a_base_knows_its_frame_bos_and_ends(folder: Path) -> None:
    handle = BaseHandle(str(folder))
    info, controls = handle.info, handle.codec.control_ids
    assert info.bos_token_id == controls["<|begin_of_text|>"]
    assert info.stop_token_ids == (3, controls["<|eot_id|>"])
    asked = question_ids(info, handle.codec, "Hm?").tolist()
    assert asked[0] == controls["<|start_header_id|>"]
    assert handle.codec.decode(np.array(asked, dtype=np.uint32)) == "user\n\nHm?assistant\n\n"
    assert lead_ids(info).tolist() == [info.bos_token_id]


def test_a_session_asks_in_the_models_own_frame(folder: Path, tmp_path: Path) -> None:
    with assembly.open(tmp_path / "m", base=str(folder), create=True, block_tokens=8, gister="mean") as memory:
        memory.append_text("The code is <|eot_id|> 42. " * 20, source="fact")
        controls = set(memory.codec.control_ids.values()) if isinstance(memory.codec, TokenizersCodec) else set()
        info, codec = BaseHandle(str(folder)).info, BaseHandle(str(folder)).codec
        assert set(codec.control_ids.values()).isdisjoint(memory.tokens(0, memory.num_tokens).tolist())
        assert controls <= set(codec.control_ids.values())
        with memory.session(budget_entries=256) as session:
            events = list(session.generate("What is <|eot_id|>?", max_new_tokens=3))
            rows = session._engine.window.rows.keys
    assert isinstance(events[-1], DoneEvent)
    shown = rows[rows[:, 0] < 0, 1].tolist()
    asked = question_ids(info, codec, "What is <|eot_id|>?").tolist()
    assert shown[: 1 + len(asked)] == [info.bos_token_id, *asked]
    assert asked.count(codec.control_ids["<|eot_id|>"]) == 1  # the frame's own


def test_answers_end_with_their_turn_and_of_plain_models_with_their_line(folder: Path, tmp_path: Path) -> None:
    """Random weights say anything, so each base is made to say "a", newline, "a" ...: only the framed one goes on."""
    plain = write_model_folder(tmp_path / "plain", "llama", vocab_size=640)
    for place, is_framed in ((folder, True), (plain, False)):
        base = BaseHandle(str(place)).load()
        words, forward = itertools.cycle(base.codec.encode("a\n").token_ids.tolist()), base.forward

        def says_words(*given: Any, forward: Any = forward, words: Any = words, **named: Any) -> Any:
            logits = forward(*given, **named)
            logits[:, next(words)] = 1e4
            return logits

        base.forward = says_words  # type: ignore[method-assign]
        with assembly.open(tmp_path / f"m{is_framed}", base=base, create=True, block_tokens=8, gister="mean") as memory:
            memory.append_text("The code is 42. " * 8, source="fact")
            with memory.session(budget_entries=256) as session:
                *_, done = session.generate("Hm?", max_new_tokens=4)
        assert isinstance(done, DoneEvent)
        assert done.reason == ("length" if is_framed else "stop")
        assert (len(done.text) == 4) == is_framed
