"""Whether a window still tells when things were said: which of two came first, and in which quarter one stands."""

from __future__ import annotations

from abc import abstractmethod
from itertools import combinations

from megacontext.evaluation.data_folder import NOVELS
from megacontext.evaluation.hidden_facts import draw_facts
from megacontext.evaluation.tasks.haystacks import ROOM_TOKENS, hide, stretch
from megacontext.evaluation.tasks.task import (
    ANSWER_NATS,
    RIGHT,
    Case,
    Choice,
    Document,
    Metric,
    Plan,
    Setup,
    Task,
    plans_by_length,
)

__all__ = ["EVENTS", "OrderTask", "PlaceTask"]

EVENTS = ("{n} arrived at the gate.", "{n} lost a red umbrella.", "{n} paid for the horses.", "{n} closed the window.")
QUARTERS = ("first", "second", "third", "last")


class _EventsTask(Task):
    source = "events at known depths of a novel; chance is one over the number of options"
    reads = (NOVELS,)

    def plans(self, setup: Setup) -> list[Plan]:
        return plans_by_length(self.name, setup, self.case, usual=((4096, 32768), 20), quick=((2048,), 2))

    def case(self, setup: Setup, key: str, length: int) -> Case:
        """One event in each quarter of a novel, and what is asked about them."""
        random = setup.random(key)
        names = [fact.name for fact in draw_facts(random, len(EVENTS))]
        told = [event.format(n=name) for event, name in zip(random.sample(EVENTS, len(EVENTS)), names, strict=True)]
        used = sum(len(setup.codec.encode(statement).token_ids) + 2 for statement in told)
        novel = stretch(random, setup.codec, setup.data.books, length - ROOM_TOKENS - used)
        depths = [(quarter + random.uniform(0.15, 0.85)) / len(told) for quarter in range(len(told))]
        items = self.items(setup, key, told)
        return Case(documents=(Document(name="novel", text=hide(novel, told, depths)),), items=tuple(items))

    @abstractmethod
    def items(self, setup: Setup, key: str, told: list[str]) -> list[Choice]: ...


class OrderTask(_EventsTask):
    """Which of two events came first."""

    name = "order"
    summary = "position: which of two events in a novel came first"
    metrics = (RIGHT, ANSWER_NATS)
    columns = ("length", "apart")

    def items(self, setup: Setup, key: str, told: list[str]) -> list[Choice]:
        """All pairs; which of the two is named first is drawn."""
        random = setup.random(key, "pairs")
        items = []
        for earlier, later in combinations(range(len(told)), 2):
            pair = [earlier, later]
            random.shuffle(pair)
            first, second = (told[number].rstrip(".") for number in pair)
            items.append(
                Choice(
                    text=f"What happened first: {first}, or {second}?",
                    options=(f"{first}.", f"{second}."),
                    right=pair.index(earlier),
                    evidence=(told[earlier], told[later]),
                    facets={"apart": f"{later - earlier} quarter{'s' * (later - earlier > 1)}"},
                )
            )
        return items


class PlaceTask(_EventsTask):
    """In which quarter of the history an event stands: its index, reconstructed roughly."""

    name = "place"
    summary = "position: in which quarter of a novel an event stands (its index, reconstructed)"
    metrics = (RIGHT, Metric(name="error", title="quarters off", is_loss=True), ANSWER_NATS)
    columns = ("length", "quarter")

    def items(self, setup: Setup, key: str, told: list[str]) -> list[Choice]:
        """One question about each event."""
        return [
            Choice(
                text=f"In which quarter of the text stands: {statement.rstrip('.')}?",
                options=tuple(f"The {name} quarter." for name in QUARTERS),
                right=number,
                evidence=(statement,),
                is_ordered=True,
                facets={"quarter": QUARTERS[number]},
            )
            for number, statement in enumerate(told)
        ]
