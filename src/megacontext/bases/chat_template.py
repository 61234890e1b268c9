"""A model's own chat template, rendered: the words and control tokens that it was trained to find around a question.

Templates are programs in Jinja. They come with the model, and are as trusted as its weights; all the same they run in
Jinja's sandbox, read nothing but what is given to them, and stop at a number of steps and letters.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import product
from typing import TYPE_CHECKING, Any, NoReturn

from megacontext.errors import BaseModelError
from megacontext.values import reason_of

if TYPE_CHECKING:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

__all__ = ["ChatTemplate", "Turn"]

Turn = tuple[str, str]
"""Who speaks, and what is said."""

MAX_STEPS = 20_000  # of all loops together
MAX_LETTERS = 1 << 18
# Said where a template refuses to begin with the user.
SYSTEM: Turn = ("system", "You are a helpful assistant.")


class ChatTemplate:
    """One template. special_tokens: what it may name, such as ``bos_token``.

    Raises BaseModelError where it is no Jinja.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        from jinja2 import Template, TemplateError, nodes

        self._special_tokens = dict(special_tokens)
        self._num_steps = 0
        environment = _environment()
        environment.filters["counted"] = self._counted
        try:
            program = environment.parse(source)
            for loop in list(program.find_all(nodes.For)):
                loop.iter = nodes.Filter(loop.iter, "counted", [], [], None, None)
            self._template = Template.from_code(
                environment, environment.compile(program), environment.make_globals(None), None
            )
        except (TemplateError, RecursionError) as error:
            raise BaseModelError(f"its chat template cannot be read ({reason_of(error)})") from error

    def render(self, turns: Sequence[Turn], *, asks: bool) -> str:
        """The text of a conversation; with ``asks`` up to where the model begins to answer.

        A template that wants its text in parts, the day, or a system turn first gets it. BaseModelError, with what the
        template said, if it takes none of that.
        """
        errors: list[Exception] = []
        for said, in_parts, day in product(
            (list(turns), [SYSTEM, *turns]), (False, True), ({}, {"strftime_now": _today})
        ):
            try:
                text = self._run(_messages(said, in_parts=in_parts), asks=asks, **day)
                if all(text.count(content) == 1 for _, content in turns):
                    return text
                raise ValueError("it leaves out or repeats what is said")
            except Exception as error:  # noqa: BLE001 - a template may fail in any way, and is data
                errors.append(error)
        raise BaseModelError(f"its chat template takes no question ({reason_of(errors[0])})") from errors[0]

    def _run(self, messages: list[dict[str, Any]], *, asks: bool, **more: Any) -> str:
        self._num_steps, letters, num_letters = 0, [], 0
        # a model that may think aloud is asked to answer at once
        given = {"messages": messages, "add_generation_prompt": asks, "enable_thinking": False, **more}
        for piece in self._template.generate(**self._special_tokens, tools=None, documents=None, **given):
            letters.append(piece)
            num_letters += len(piece)
            if num_letters > MAX_LETTERS:
                raise ValueError(f"it writes more than {MAX_LETTERS} letters")
        return "".join(letters)

    def _counted(self, items: Iterable[Any]) -> list[Any]:
        found = list(items)
        self._num_steps += len(found)
        if self._num_steps > MAX_STEPS:
            raise ValueError(f"its loops take more than {MAX_STEPS} steps")
        return found


def _messages(turns: Sequence[Turn], *, in_parts: bool) -> list[dict[str, Any]]:
    return [
        {"role": role, "content": [{"type": "text", "text": content}] if in_parts else content}
        for role, content in turns
    ]


def _environment() -> ImmutableSandboxedEnvironment:
    """What templates are written for: the names and switches that transformers gives them."""
    from jinja2 import nodes
    from jinja2.ext import Extension
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """``{% generation %}`` marks what a model says, for training; here it is only its content."""

        tags = {"generation"}  # noqa: RUF012 - as Jinja declares it

        def parse(self, parser: Parser) -> list[nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    return environment


def _refuse(message: str) -> NoReturn:
    from jinja2 import TemplateError

    raise TemplateError(message)


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _today(layout: str) -> str:
    return datetime.now().strftime(layout)
