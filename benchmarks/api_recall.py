"""Hidden facts through an API: how often the bundled model finds them behind a server, against the same model here.

    python benchmarks/api_recall.py --tokens 50000 --facts 30 --budget 1024

One history of shipped books and code with facts at random depths. Asked are: sessions over the model itself (learned
gists, and means), sessions over ``vllm:`` on the same memory of learned gists, and sessions over ``openai:`` on
memories of text gists of several shapes, all with the same lens and budget. Both servers are
``megacontext.testing.openai_server`` on this machine.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from megacontext.bases.registry import BaseHandle
from megacontext.bases.remote.embeds_base import VllmHandle
from megacontext.bases.remote.text_base import OpenAIHandle
from megacontext.errors import BudgetError
from megacontext.evaluation.haystack import Haystack, build_haystack
from megacontext.evaluation.hidden_facts import answer_value
from megacontext.evaluation.library import assemble_library
from megacontext.ports.base import BaseSource
from megacontext.runtime.assembly import open as open_memory
from megacontext.runtime.events import DoneEvent
from megacontext.runtime.opened import OpenedMemory
from megacontext.testing.openai_server import OpenAIServer

MODEL = "reference"
SHAPES = ((8, 4), (16, 4), (16, 8), (32, 4), (32, 8), (64, 8))
ANSWER_TOKENS = 12


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--tokens", type=int, default=50_000)
    options.add_argument("--facts", type=int, default=30)
    options.add_argument("--budget", type=int, default=1024)
    options.add_argument("--lens", default="lexical")
    options.add_argument("--shapes", action="store_true", help="text gists of every shape, not the default alone")
    given = options.parse_args()
    here = BaseHandle(MODEL)
    library = assemble_library(here.codec, num_tokens=given.tokens, seed=0)
    print(f"{given.facts} facts in {given.tokens:,} tokens, budget {given.budget}, lens {given.lens}")
    with (
        tempfile.TemporaryDirectory() as folder,
        OpenAIServer(here.load(), context_tokens=here.info.max_positions) as server,
    ):
        for gister in ("gistnet", "mean"):
            made = build_haystack(Path(folder) / gister, here, library, seed=0, gister=gister, num_facts=given.facts)
            with made.memory as memory:
                report(f"here, {gister}", ask(memory, made, given.budget, given.lens))
            vllm = VllmHandle(f"vllm:{MODEL}@{server.url}")
            with open_memory(made.folder, base=vllm, read_only=True) as memory:
                report(f"vllm:, {gister}", ask(memory, made, given.budget, given.lens))
        for block_tokens, gist_width in SHAPES if given.shapes else ((None, None),):
            api = OpenAIHandle(f"openai:{MODEL}@{server.url}#api=completions")
            with text_memory(Path(folder), made, api, block_tokens, gist_width) as memory:
                shape = f"{memory.info.block_tokens}/{memory.info.gist_width}"
                report(f"openai:, sentences {shape}", ask(memory, made, given.budget, given.lens))


def text_memory(
    folder: Path, made: Haystack, base: BaseSource, block_tokens: int | None, gist_width: int | None
) -> OpenedMemory:
    """The same texts in a memory of text gists."""
    memory = open_memory(
        folder / f"text-{block_tokens}-{gist_width}",
        base=base,
        create=True,
        block_tokens=block_tokens,
        gist_width=gist_width,
    )
    for text in made.texts:
        memory.ingest(text=text.text, source=text.name)
    return memory


def ask(memory: OpenedMemory, made: Haystack, budget: int, lens: str) -> Iterator[tuple[bool, float]]:
    """Whether each fact was found, and how long the answer took."""
    with memory.session(budget_entries=budget, lens=lens) as session:
        for hidden in made.hidden:
            began = time.perf_counter()
            events = session.generate(hidden.fact.question, max_new_tokens=ANSWER_TOKENS)
            text = next(event.text for event in events if isinstance(event, DoneEvent))
            yield answer_value(text) == hidden.fact.value, time.perf_counter() - began


def report(name: str, answers: Iterator[tuple[bool, float]]) -> None:
    try:
        found, seconds = zip(*answers, strict=True)
    except BudgetError as error:
        print(f"{name:<28} {error}", flush=True)
        return
    print(f"{name:<28} {sum(found)}/{len(found)}  {sum(seconds) / len(seconds):.2f} s", flush=True)


if __name__ == "__main__":
    main()
