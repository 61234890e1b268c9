"""One method on the items of one case: what it said, and how likely it found what is right."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from megacontext.evaluation.methods.method import Lead, Method, Span, TokenIds
from megacontext.evaluation.tasks.task import Choice, Continuation, Item, Question
from megacontext.ports.base import question_ids

__all__ = ["ItemResult", "Measure", "run_item", "states"]

Measure = tuple[float, int]
"""A sum and over how many things it was taken: tokens, expected values, choices."""


@dataclass(frozen=True, kw_only=True)
class ItemResult:
    """measures by name; said: the answer or the option that was taken."""

    facets: dict[str, str]
    measures: dict[str, Measure]
    said: str = ""
    evidence: tuple[Span, ...] = field(default=())


def run_item(method: Method, item: Item, evidence: Sequence[Span]) -> ItemResult:
    """Ask, choose or score."""
    if isinstance(item, Question):
        return _ask(method, item, evidence)
    if isinstance(item, Choice):
        return _choose(method, item, evidence)
    return _go_on(method, item, evidence)


def states(answer: str, expected: str) -> bool:
    """Whether an answer holds a value with no letter or digit going on on either side, in either case.

    >>> states("They are 12 and Oak.", "oak"), states("1234", "123")
    (True, False)
    """
    return re.search(rf"(?<![^\W_]){re.escape(expected)}(?![^\W_])", answer, re.IGNORECASE) is not None


def _prompt_ids(method: Method, question: str) -> TokenIds:
    return question_ids(method.base.info, method.base.codec, question)


def _ask(method: Method, item: Question, evidence: Sequence[Span]) -> ItemResult:
    answer = method.answer(item.text, evidence=evidence, max_new_tokens=item.max_new_tokens)
    found = sum(states(answer, value) for value in item.expected)
    lead = Lead(token_ids=_prompt_ids(method, item.text), query=item.text, evidence=evidence)
    nats = method.nll(method.base.codec.encode(item.gold).token_ids, after=lead)
    return ItemResult(
        facets=dict(item.facets),
        measures={"score": (float(found), len(item.expected)), "answer nats": (float(nats.sum()), len(nats))},
        said=answer,
        evidence=tuple(evidence),
    )


def _choose(method: Method, item: Choice, evidence: Sequence[Span]) -> ItemResult:
    options = [method.base.codec.encode(f" {option}").token_ids for option in item.options]
    prompt_ids, longest = _prompt_ids(method, item.text), max(map(len, options))
    lead = Lead(token_ids=prompt_ids, query=item.text, evidence=evidence, reserve_entries=longest)
    nats = [method.nll(token_ids, after=lead) for token_ids in options]
    taken = int(np.argmin([values.mean() for values in nats]))
    measures: dict[str, Measure] = {
        "right": (float(taken == item.right), 1),
        "answer nats": (float(nats[item.right].sum()), len(nats[item.right])),
    }
    if item.is_ordered:
        measures["error"] = (float(abs(taken - item.right)), 1)
    return ItemResult(facets=dict(item.facets), measures=measures, said=item.options[taken], evidence=tuple(evidence))


def _go_on(method: Method, item: Continuation, evidence: Sequence[Span]) -> ItemResult:
    lead = Lead(evidence=evidence)
    if item.cue:
        lead = Lead(token_ids=method.base.codec.encode(item.cue).token_ids, query=item.cue, evidence=evidence)
    nats = method.nll(item.target_ids, after=lead)
    labels = np.array(item.labels)
    measures: dict[str, Measure] = {"all": (float(nats.sum()), len(nats))}
    for label in sorted(set(item.labels) - {""}):
        measures[label] = (float(nats[labels == label].sum()), int((labels == label).sum()))
    return ItemResult(facets=dict(item.facets), measures=measures, evidence=tuple(evidence))
