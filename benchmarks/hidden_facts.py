"""Are hidden facts found? `auto` and the learned lens against oracle focus, RAG and recency in 1 M tokens of real text.

Every seed is another order of texts, other facts, other places; several are drawn. Targets are the gap of `auto` to
perfect focus, paired over the questions, and the share of what that finds which the learned lens alone finds.
python benchmarks/hidden_facts.py --out benchmarks/results
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from megacontext.bases.registry import BaseHandle
from megacontext.evaluation.haystack import build_haystack
from megacontext.evaluation.intervals import Share, paired_difference
from megacontext.evaluation.library import assemble_library
from megacontext.evaluation.methods.focused import FocusedMemory, OracleFocus
from megacontext.evaluation.methods.learned import LearnedFocus, with_learned
from megacontext.evaluation.methods.method import Method
from megacontext.evaluation.methods.plain import Recency
from megacontext.evaluation.methods.retrieval import Retrieval
from megacontext.evaluation.trials import Question, Tally, ask_all
from record import parser, record, row

METHODS: tuple[type[Method], ...] = (Recency, Retrieval, FocusedMemory, OracleFocus)
TARGET_POINTS = 5.0
TARGET_SHARE = 0.95  # of what perfect focus finds, for the learned lens alone


def main() -> None:
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--tokens", type=int, default=1_000_000)
    arguments.add_argument("--facts", type=int, default=60, help="per seed")
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--budget", type=int, default=1024)
    arguments.add_argument("--gister", default="gistnet")
    given = arguments.parse_args()
    kinds = with_learned(METHODS, BaseHandle("reference").info, gister=given.gister)
    tallies = [Tally(name=kind.name, label=kind.label) for kind in kinds]
    for seed in range(1, given.seeds + 1):
        ask_seed(kinds, tallies, seed, given.tokens, given.facts, given.budget, given.gister)
        print(
            f"seed {seed}: " + ", ".join(f"{tally.name} {sum(tally.correct)}/{len(tally.correct)}" for tally in tallies)
        )
    record("hidden_facts", rows_of(tallies, given.tokens, given.gister), given.out)


def ask_seed(
    kinds: Sequence[type[Method]],
    tallies: Sequence[Tally],
    seed: int,
    num_tokens: int,
    num_facts: int,
    budget: int,
    gister: str,
) -> None:
    """Build one haystack and ask every method for every fact."""
    handle = BaseHandle("reference")
    library = assemble_library(handle.codec, num_tokens=num_tokens, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        haystack = build_haystack(Path(folder), handle, library, num_facts=num_facts, seed=seed, gister=gister)
        questions = [
            Question(fact=place.fact, evidence=span)
            for place, span in zip(haystack.hidden, haystack.spans, strict=True)
        ]
        with haystack.memory as memory:
            for kind, tally in zip(kinds, tallies, strict=True):
                method = kind(memory, handle.load(), budget_entries=budget)
                ask_all(method, questions, tally)
                method.close()


def rows_of(tallies: Sequence[Tally], num_tokens: int, gister: str) -> list[dict[str, object]]:
    """The share of each method with its interval, and the paired gap to the oracle in points."""
    rows = []
    for tally in tallies:
        share = Share.of(tally.correct)
        low, high = share.interval
        rows.append(
            row(
                f"hidden facts found, {tally.label}",
                100 * share.value,
                "%",
                interval=f"{100 * low:.0f} to {100 * high:.0f}",
                questions=share.trials,
                seconds=tally.seconds,
            )
        )
    outcomes = {tally.name: [100.0 * right for right in tally.correct] for tally in tallies}
    gap = paired_difference(outcomes["oracle"], outcomes["megacontext"])
    rows.append(
        row(
            "oracle focus minus auto lens",
            gap.value,
            "points",
            at_most=TARGET_POINTS,
            standard_error=gap.error,
            num_tokens=num_tokens,
            gister=gister,
        )
    )
    if LearnedFocus.name in outcomes:
        rows.append(share_row(outcomes[LearnedFocus.name], outcomes["oracle"]))
    return rows


def share_row(learned: Sequence[float], oracle: Sequence[float]) -> dict[str, object]:
    """What the learned lens finds of what perfect focus finds, against its target; outcomes of the same questions."""
    found, best = sum(learned), sum(oracle)
    share = found / best if best else 0.0  # nothing to find is nothing shown
    return row("learned lens / oracle focus", share, "x", at_least=TARGET_SHARE, questions=len(learned))


if __name__ == "__main__":
    main()
