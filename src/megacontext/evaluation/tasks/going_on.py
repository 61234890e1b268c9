"""Real text goes on: what a window predicts of the next 64 tokens, far copies, recent copies and new words apart.

Novels of the test side, packages of the standard library and documentation pages that no training run reads. Two tasks
share the histories: all methods at one budget, and windows that show all but the end at one level (delta-NLL@64).
"""

from __future__ import annotations

from functools import partial

from megacontext.evaluation.data_folder import NOVELS, PAGES
from megacontext.evaluation.tasks.far_copy import FAR_METRICS, going_on
from megacontext.evaluation.tasks.haystacks import stretch_texts
from megacontext.evaluation.tasks.task import Case, Document, Plan, Setup, Task, length_name

__all__ = ["TARGET_TOKENS", "GoingOnTask", "LevelsTask"]

TARGET_TOKENS = 64


class GoingOnTask(Task):
    """Every method at the run's budget."""

    name = "text"
    summary = (
        "nats of the next 64 tokens of books, code and documentation; far copies, recent copies and new words apart"
    )
    source = "far copies: words said before, but not within the last 512 tokens"
    metrics = FAR_METRICS
    columns = ("length", "domain")
    reads = (NOVELS, PAGES)

    def plans(self, setup: Setup) -> list[Plan]:
        return _plans(setup, self.name, usual=(2048, 4096, 16384), quick=(2048,))


class LevelsTask(Task):
    """What each level of the tree says of the text that it stands for."""

    name = "levels"
    summary = "delta-NLL@64 per level: all but the last 256 tokens shown as gists of one level"
    source = "the same histories as task text; the difference to full context is delta-NLL@64"
    metrics = FAR_METRICS
    columns = ("length", "domain")
    reads = (NOVELS, PAGES)
    methods = "levels"

    def plans(self, setup: Setup) -> list[Plan]:
        return _plans(setup, self.name, usual=(2048, 4096), quick=(4096,))


def _plans(setup: Setup, name: str, *, usual: tuple[int, ...], quick: tuple[int, ...]) -> list[Plan]:
    domains = ("books", "code", "knowledge") if setup.data.folder else ("books", "code")
    return [
        Plan(
            key=(key := f"{name}/{length}/{domain}/{number}"),
            facets={"length": length_name(length), "domain": domain},
            make=partial(text_case, setup, key.removeprefix(name), domain, length),
        )
        for length in setup.chosen_lengths(usual, quick)
        for domain in domains
        for number in range(setup.samples(84, 4))
    ]


def text_case(setup: Setup, key: str, domain: str, length: int) -> Case:
    """A stretch of text, and what follows it."""
    random = setup.random("text", key)
    history, following = stretch_texts(
        random, setup.codec, setup.data.texts(domain), length - TARGET_TOKENS, 2 * TARGET_TOKENS
    )
    token_ids, continuation = going_on(
        setup.codec, history, following, TARGET_TOKENS, is_code=domain == "code", facets={}
    )
    return Case(documents=(Document(name=domain, token_ids=token_ids),), items=(continuation,))
