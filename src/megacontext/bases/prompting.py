"""How a model wants to be addressed, by the files beside its weights: BOS, the frame of a question, where it stops.

``megacontext.json`` has the first word, then the model's chat template, then a plain question. A template's control
tokens become ids here, once; the question's own text never yields one.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from megacontext.bases.chat_template import ChatTemplate
from megacontext.bases.model_files import read_json
from megacontext.bases.tokenizers_codec import TokenizersCodec
from megacontext.errors import BaseModelError
from megacontext.values import shown

__all__ = ["DEFAULT_QUESTION_TEMPLATE", "ChatMarkers", "Prompting", "read_prompting"]

_log = logging.getLogger(__name__)

DEFAULT_QUESTION_TEMPLATE = "\nQuestion: {question}\nAnswer:"
# A folder may say how its model was taught to be asked: {"question_template": "..."}.
EXTRAS_FILE = "megacontext.json"
# No template changes these, and no text is likely to hold them.
QUESTION, ANSWER = "zqQuestionqz", "zqAnswerqz"

ChatMarkers = Literal["", "text", "tokens"]


@dataclass(frozen=True, kw_only=True)
class Prompting:
    """What stands around a question.

    bos_token_id: what the model was trained to see first; question_template: str.format with {question}, as text;
    question_before_ids, question_after_ids: ids around it; stop_token_ids: what ends a turn, beside what
    ``generation_config.json`` names; chat_markers: what the model's chat template marks turns with, "" without one;
    problem: why a template that is there does not serve.
    """

    bos_token_id: int | None = None
    question_template: str = DEFAULT_QUESTION_TEMPLATE
    question_before_ids: tuple[int, ...] = ()
    question_after_ids: tuple[int, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    chat_markers: ChatMarkers = ""
    problem: str = ""


def read_prompting(folder: Path, codec: TokenizersCodec) -> Prompting:
    """Read the files of a model folder. A chat template that takes no question is passed over with a warning; files
    that cannot be read, and a ``megacontext.json`` without {question}, are BaseModelErrors."""
    config = read_json(folder / "tokenizer_config.json")
    found = _of_template(folder, config, codec)
    if found.problem:
        _log.warning("%s: %s; it is asked as a plain model, unless %s says how", folder, found.problem, EXTRAS_FILE)
    own = _own_template(folder, codec)
    return found if own is None else replace(found, **own)


def _own_template(folder: Path, codec: TokenizersCodec) -> dict[str, Any] | None:
    """The frame that ``megacontext.json`` gives, if it does."""
    template = read_json(folder / EXTRAS_FILE).get("question_template")
    if template is None:
        return None
    try:
        text = str(template).format(question=QUESTION)
    except (LookupError, ValueError, AttributeError) as error:
        raise BaseModelError(
            f"{folder / EXTRAS_FILE}: question_template {template!r} cannot be filled in ({error}); write {{question}} "
            "for the question, and {{ for a brace"
        ) from error
    if text.count(QUESTION) != 1:
        raise BaseModelError(f"{folder / EXTRAS_FILE}: question_template {template!r} lacks {{question}}; add it")
    return _frame(codec.template_parts(text), codec)


def _of_template(folder: Path, config: dict[str, Any], codec: TokenizersCodec) -> Prompting:
    tokens = _special_tokens(folder, config)
    bos_token_id = _habit_of_bos(config, tokens, codec)
    source = _template_source(folder, config)
    if source is None:
        return Prompting(bos_token_id=bos_token_id)
    try:
        template = ChatTemplate(source, tokens)
        parts = codec.template_parts(template.render([("user", QUESTION)], asks=True))
        stop_token_ids = _turn_end(template, codec)
    except BaseModelError as error:
        return Prompting(bos_token_id=bos_token_id, problem=str(error))
    if tokens.get("bos_token") in codec.control_ids and parts[0] == codec.control_ids[tokens["bos_token"]]:
        bos_token_id = int(parts.pop(0))
    markers: ChatMarkers = "tokens" if any(isinstance(part, int) for part in parts) else "text"
    if codec.habits.puts_space_first and isinstance(parts[0], str):
        parts[0] = f" {parts[0]}"  # as in training, where this was the beginning of a text
    return Prompting(
        bos_token_id=bos_token_id, stop_token_ids=stop_token_ids, chat_markers=markers, **_frame(parts, codec)
    )


def _frame(parts: list[int | str], codec: TokenizersCodec) -> dict[str, Any]:
    """The fields of ``Prompting`` that stand around a question: text beside it stays text, to be encoded with it."""
    place = next(place for place, part in enumerate(parts) if isinstance(part, str) and QUESTION in part)
    around = str(parts[place]).replace("{", "{{").replace("}", "}}")
    return {
        "question_before_ids": _ids(parts[:place], codec),
        "question_template": around.replace(QUESTION, "{question}"),
        "question_after_ids": _ids(parts[place + 1 :], codec),
    }


def _ids(parts: list[int | str], codec: TokenizersCodec) -> tuple[int, ...]:
    ids = [[part] if isinstance(part, int) else codec.encode(part).token_ids.tolist() for part in parts]
    return tuple(token_id for some in ids for token_id in some)


def _turn_end(template: ChatTemplate, codec: TokenizersCodec) -> tuple[int, ...]:
    """The control token behind what the model says in a conversation, if there is one."""
    try:
        parts = codec.template_parts(template.render([("user", QUESTION), ("assistant", ANSWER)], asks=False))
    except BaseModelError:  # one that takes no answers says nothing about how they end
        return ()
    place = next(place for place, part in enumerate(parts) if isinstance(part, str) and ANSWER in part)
    return tuple(part for part in parts[place + 1 : place + 2] if isinstance(part, int))


def _habit_of_bos(config: dict[str, Any], tokens: dict[str, str], codec: TokenizersCodec) -> int | None:
    """What the tokenizer puts first, unless its configuration says that it does not."""
    says = config.get("add_bos_token")
    first = codec.habits.first_token
    if says is True and first is None:
        first = tokens.get("bos_token")
    return None if says is False or first is None else codec.control_ids.get(first)


def _special_tokens(folder: Path, config: dict[str, Any]) -> dict[str, str]:
    """Names such as ``bos_token``, and what each looks like."""
    found: dict[str, str] = {}
    for told in (read_json(folder / "special_tokens_map.json"), config):
        for name, token in told.items():
            content = token.get("content") if isinstance(token, dict) else token
            if name.endswith("_token") and isinstance(content, str):
                found[name] = content
    return found


def _template_source(folder: Path, config: dict[str, Any]) -> str | None:
    """The template in its file of its own, or in one of the older places."""
    path = folder / "chat_template.jinja"
    if path.exists():
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise BaseModelError(f"{path}: not readable ({shown(error)}); copy the model again") from error
    for told in (read_json(folder / "chat_template.json"), config):
        source = told.get("chat_template")
        if isinstance(source, list):  # several, by name
            named = {part.get("name"): part.get("template") for part in source if isinstance(part, dict)}
            source = named.get("default", next(iter(named.values()), None))
        if isinstance(source, str):
            return source
    return None
