"""Histories that fit into the base's trained window, where the whole text can be shown: the limit for every method.

Each history is a stretch of real text with a few facts in it, in a memory of its own; a smaller window stands for the
usual one, so that something must be left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from megacontext.bases.registry import BaseHandle
from megacontext.evaluation.hidden_facts import draw_facts, hide_facts, locate
from megacontext.evaluation.library import Text
from megacontext.evaluation.methods.focused import FocusedMemory, OracleFocus
from megacontext.evaluation.methods.learned import with_learned
from megacontext.evaluation.methods.method import Method, TokenIds
from megacontext.evaluation.methods.plain import FullContext, Recency
from megacontext.evaluation.methods.retrieval import Retrieval
from megacontext.evaluation.scores import Comparison
from megacontext.evaluation.trials import Question, Tally, ask_all
from megacontext.ports.text import TextCodec
from megacontext.runtime.assembly import open as open_memory

__all__ = ["SHORT_METHODS", "ShortConfig", "compare_short_histories"]

SHORT_METHODS: tuple[type[Method], ...] = (Recency, Retrieval, FocusedMemory, OracleFocus, FullContext)


@dataclass(frozen=True, kw_only=True)
class ShortConfig:
    """history_tokens: of text, the facts come on top; num_facts: hidden in, and asked of, each history."""

    num_histories: int = 12
    num_facts: int = 3
    history_tokens: int = 1840
    target_tokens: int = 64
    budget_entries: int = 512
    seed: int = 0


def compare_short_histories(
    folder: Path,
    handle: BaseHandle,
    texts: Sequence[Text],
    config: ShortConfig,
    *,
    gister: str,
    on_step: Callable[[], None] | None = None,
) -> Comparison:
    """Every method, full context among them, on the facts and the continuation of each history."""
    base = handle.load()
    random = Random(config.seed)
    kinds = with_learned(SHORT_METHODS, handle.info, gister=gister)
    tallies = [Tally(name=kind.name, label=kind.label) for kind in kinds]
    for number in range(config.num_histories):
        stretch, target = _stretch(random, base.codec, texts, config)
        facts = draw_facts(random, config.num_facts)
        [told], hidden = hide_facts(random, [stretch], facts)
        with open_memory(folder / f"short-{number}.mc", base=handle, create=True, gister=gister) as memory:
            memory.ingest(text=told.text, source=told.name)
            token_ids = memory.tokens(0, memory.num_tokens)
            questions = [
                Question(fact=place.fact, evidence=locate(base.codec, token_ids, place.statement)) for place in hidden
            ]
            methods = [kind(memory, base, budget_entries=config.budget_entries) for kind in kinds]
            _ask_and_score(methods, questions, base.codec.encode(target).token_ids[: config.target_tokens], tallies)
        if on_step:
            on_step()
    return Comparison(
        title=f"Short histories: {config.history_tokens:,} tokens, window of {config.budget_entries:,}",
        num_tokens=config.history_tokens,
        budget_entries=config.budget_entries,
        scores=[tally.score() for tally in tallies],
    )


def _ask_and_score(
    methods: Sequence[Method], questions: Sequence[Question], target_ids: TokenIds, tallies: Sequence[Tally]
) -> None:
    for method, tally in zip(methods, tallies, strict=True):
        ask_all(method, questions, tally)
        tally.nats.append(float(method.nll(target_ids).mean()))
        method.close()


def _stretch(random: Random, codec: TextCodec, texts: Sequence[Text], config: ShortConfig) -> tuple[Text, str]:
    """A random stretch of a text and what follows it."""
    long_enough = [text for text in texts if len(text.text) > 12 * (config.history_tokens + config.target_tokens)]
    text = random.choice(long_enough)
    chars = 8 * (config.history_tokens + config.target_tokens)
    start = text.text.index("\n", random.randrange(len(text.text) - chars - chars // 4)) + 1
    encoded = codec.encode(text.text[start : start + chars])
    cut = start + int(encoded.char_starts[config.history_tokens])
    end = start + int(encoded.char_starts[config.history_tokens + config.target_tokens + 1])
    return replace(text, text=text.text[start:cut]), text.text[cut:end]
