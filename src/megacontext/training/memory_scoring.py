"""What gists carry and what opening blocks brings: the same questions through windows of equal budget, with controls.

A closure without its controls says nothing: a flattering number is reached by calibration alone. So every window is
also run with the gists of another row (``shuffled``) and without any (``none``), against recency at the same budget and
against full context.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from random import Random
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from megacontext.errors import InvalidValueError
from megacontext.focus.lenses.features import lexical_scores
from megacontext.nets.core import Core
from megacontext.nets.gist_net import GistNet
from megacontext.nets.lens_net import LensNet
from megacontext.nets.shapes import QUERY_TOKENS
from megacontext.training.closure import Nats, closure_report
from megacontext.training.lens_labels import sample_of
from megacontext.training.lens_model import lens_utilities
from megacontext.training.memory_windows import CONTROLS, Control, batches_of, run_windows, score_windows
from megacontext.training.moments import Moment
from megacontext.training.scoring import Logits, share
from megacontext.training.windows import Answer, Window

__all__ = [
    "Policy",
    "blocks_within",
    "lens_opens",
    "plain_recall",
    "recall_by_ratio",
    "recall_in_windows",
    "words_open",
]

Policy = Callable[[Window, int, int], npt.NDArray[np.bool_]]
"""From a row, the number of blocks that may be open and the block size to which blocks are open [N]."""


def blocks_within(budget_entries: int, *, num_blocks: int, block_tokens: int, gist_width: int) -> int:
    """How many blocks can be open in a window that shows all others as gists."""
    return (budget_entries - num_blocks * gist_width) // (block_tokens - gist_width)


def _open_tail(row: Window, num_open: int, block_tokens: int) -> npt.NDArray[np.bool_]:
    """Recency: the last blocks."""
    is_open_N = np.zeros(len(row.tokens_T) // block_tokens, dtype=np.bool_)
    is_open_N[-num_open:] = True
    return is_open_N


def _open_evidence(tail_blocks: int) -> Policy:
    """Oracle: the tail, and before it the blocks that state what the tail asks for, the latest question's first."""

    def choose(row: Window, num_open: int, block_tokens: int) -> npt.NDArray[np.bool_]:
        is_open_N = _open_tail(row, min(tail_blocks, num_open), block_tokens)
        random = Random(int(row.tokens_T[:64].sum()))
        wanted = [
            block
            for answer in sorted(row.answers, key=lambda answer: -answer.start)
            for start, stop in answer.evidence
            for block in range(start // block_tokens, (stop - 1) // block_tokens + 1)
        ]
        spare = random.sample(range(len(is_open_N)), len(is_open_N))
        for block in [*wanted, *spare]:
            if is_open_N.sum() == num_open:
                break
            is_open_N[block] = True
        return is_open_N

    return choose


def lens_opens(core: Core, gist_net: GistNet, lens_net: LensNet, *, tail_blocks: int) -> Policy:
    """A policy that opens what the lens values most for the questions of the tail, by turns, the latest one's first. It
    goes by stored gists, as sessions do."""

    def choose(row: Window, num_open: int, block_tokens: int) -> npt.NDArray[np.bool_]:
        is_open_N = _open_tail(row, min(tail_blocks, num_open), block_tokens)
        first = len(row.tokens_T) - tail_blocks * block_tokens
        run = run_windows(
            core,
            gist_net,
            [row],
            is_open_N[None],
            block_tokens=block_tokens,
            gist_width=1,
            tap_layer=core.config.num_layers // 2,
        )
        orders = []
        for answer in sorted(_asked_in_tail(row, tail_blocks * block_tokens), key=lambda answer: -answer.start):
            query = (max(first, answer.asked - QUERY_TOKENS), answer.asked)
            sample = sample_of(row, Moment(query=query, horizon=(answer.start, answer.stop)), run, 0)
            with torch.no_grad():
                utilities_C = lens_utilities(lens_net, sample)
            orders.append(utilities_C.argsort(descending=True).tolist())
        spare = range(len(is_open_N))  # rows of one batch have equally many open blocks, also where nothing is asked
        for block in [*(block for turn in zip(*orders, strict=True) for block in turn), *spare]:
            if is_open_N.sum() == num_open:
                break
            is_open_N[block] = True
        return is_open_N

    return choose


def words_open(*, tail_blocks: int, query_tokens: int = 32) -> Policy:
    """A policy that opens what has most words in common with the last tokens of the tail's question (BM25)."""

    def choose(row: Window, num_open: int, block_tokens: int) -> npt.NDArray[np.bool_]:
        is_open_N = _open_tail(row, min(tail_blocks, num_open), block_tokens)
        num_closed = len(is_open_N) - tail_blocks
        blocks_CK = row.tokens_T[: num_closed * block_tokens].reshape(num_closed, block_tokens)
        asked = [answer.asked for answer in _asked_in_tail(row, tail_blocks * block_tokens)]
        order: list[int] = list(range(num_closed))
        if asked:
            scores_C = lexical_scores(blocks_CK, row.tokens_T[asked[-1] - query_tokens : asked[-1]])
            order = np.argsort(-scores_C, kind="stable").tolist()
        is_open_N[order[: max(0, num_open - tail_blocks)]] = True
        return is_open_N

    return choose


def recall_in_windows(
    core: Core,
    gist_net: GistNet,
    rows: Sequence[Window],
    *,
    budgets: Sequence[int],
    lens_net: LensNet | None = None,
    plain: Logits | None = None,
    tail_blocks: int = 2,
    block_tokens: int = 32,
    gist_width: int = 1,
    batch_rows: int = 4,
    only: Sequence[str] = ("gists", "oracle", "words", "lens"),
    controls: Sequence[Control] = CONTROLS,
) -> dict[str, dict[str, Any]]:
    """Exact recall and answer nats of the questions in every row's tail whose evidence lies before it.

    By budget and way of choosing: ``recency`` (the last blocks, nothing else), ``gists`` (the tail and gists),
    ``words`` and ``lens`` (what they value most opened), ``oracle`` (evidence opened) each with its controls, and
    ``full`` (everything open). Where blocks are opened, every question has a window of its own: a later one repeats the
    answers to earlier ones, and what is opened for it would serve them.
    ``inside`` is the exact recall of what was stated within one block: elsewhere one gist holds the name and its
    neighbour the value. ``closure`` is the share of what full context gains over recency on answer tokens, with its
    95 % interval over rows; None where that is too little to share. ``by_kind`` has the same for each kind of what is
    asked for, where there are several. ``only``: ways of choosing, of those; ``controls``: likewise. With ``plain``, a
    model that learned no memory and sees everything, ``closure_of_plain`` measures against what full context is worth
    to that one.
    """
    num_blocks = len(rows[0].tokens_T) // block_tokens
    together = batches_of(rows, batch_rows)
    apart = _one_question_each(rows, tail_tokens=tail_blocks * block_tokens, batch_rows=batch_rows)
    run = partial(
        _recalled,
        core,
        gist_net,
        rows=_numbers(rows),
        tail_tokens=tail_blocks * block_tokens,
        block_tokens=block_tokens,
        gist_width=gist_width,
    )
    kinds = _kinds(rows, tail_blocks * block_tokens)
    full, full_nats = run(together, _open_tail, num_blocks, "real")
    report: dict[str, dict[str, Any]] = {"full": full}
    ceilings = {"closure": full_nats}
    if plain is not None:
        report["plain"], ceilings["closure_of_plain"] = plain_recall(
            plain, rows, tail_tokens=tail_blocks * block_tokens
        )
    for budget in budgets:
        at_budget = blocks_within(budget, num_blocks=num_blocks, block_tokens=block_tokens, gist_width=gist_width)
        _check_room(budget, at_budget, num_blocks, tail_blocks)
        recency, recency_nats = run(together, _open_tail, budget // block_tokens, "none")
        report[f"{budget}/recency"] = recency
        ways = _ways(core, gist_net, lens_net, tail_blocks)
        for name in (name for name in ways if name in only):
            for control in controls:
                asked = together if name == "gists" else apart
                found, nats = run(asked, ways[name], at_budget, control)
                _add_closures(found, recency_nats, ceilings, nats, kinds)
                report[f"{budget}/{name}/{control}"] = found
    return report


def _check_room(budget: int, num_open: int, num_blocks: int, tail_blocks: int) -> None:
    if not tail_blocks <= num_open < num_blocks:
        raise InvalidValueError(
            f"a budget of {budget} entries opens {num_open} of {num_blocks} blocks; give one that opens at least "
            f"the {tail_blocks} of the tail and not all"
        )


def _ways(core: Core, gist_net: GistNet, lens_net: LensNet | None, tail_blocks: int) -> dict[str, Policy]:
    """Ways of choosing what is open, by name."""
    ways: dict[str, Policy] = {
        "gists": _open_tail,
        "oracle": _open_evidence(tail_blocks),
        "words": words_open(tail_blocks=tail_blocks),
    }
    if lens_net is not None:
        ways["lens"] = lens_opens(core, gist_net, lens_net, tail_blocks=tail_blocks)
    return ways


def recall_by_ratio(
    core: Core,
    gist_net: GistNet,
    rows: Sequence[Window],
    *,
    widths: Sequence[int],
    tail_blocks: int = 2,
    block_tokens: int = 32,
    batch_rows: int = 4,
) -> dict[str, dict[str, Any]]:
    """Exact recall and answer nats from gists alone, the tail as tokens beside them, by how many tokens one vector
    stands for: ``R:1/recency`` (as many last tokens), ``R:1/gists/CONTROL``, and ``full``.

    A window has as many entries as its gists take (``entries``), so ratios are compared with recency at their own
    budget, never with each other at the same.
    """
    num_blocks = len(rows[0].tokens_T) // block_tokens
    batches = batches_of(rows, batch_rows)
    numbers, tail_tokens = _numbers(rows), tail_blocks * block_tokens
    run = partial(_recalled, core, gist_net, rows=numbers, tail_tokens=tail_tokens, block_tokens=block_tokens)
    full, full_nats = run(batches, _open_tail, num_blocks, "real", gist_width=1)
    report = {"full": full}
    for width in widths:
        entries = tail_tokens + (num_blocks - tail_blocks) * width
        ratio = f"{block_tokens / width:g}:1"
        num_last = min(num_blocks, entries // block_tokens)
        recency, recency_nats = run(batches, _open_tail, num_last, "none", gist_width=width)
        report[f"{ratio}/recency"] = {"entries": entries} | recency
        for control in ("real", "shuffled"):
            found, nats = run(batches, _open_tail, tail_blocks, control, gist_width=width)
            _add_closures(found, recency_nats, {"closure": full_nats}, nats, _kinds(rows, tail_tokens))
            report[f"{ratio}/gists/{control}"] = {"entries": entries} | found
    return report


def _kinds(rows: Sequence[Window], tail_tokens: int) -> dict[tuple[int, int], str]:
    """What kind of fact each question of the rows' tails asks for."""
    return {
        (number, answer.start): answer.fact.key
        for number, row in enumerate(rows)
        for answer in _asked_in_tail(row, tail_tokens)
    }


def _add_closures(
    found: dict[str, Any], recency: Nats, ceilings: Mapping[str, Nats], nats: Nats, kinds: Mapping[tuple[int, int], str]
) -> None:
    """Note what of the gap to each ceiling a window closes: of all questions, and of each kind."""
    for ceiling, most in ceilings.items():
        one = closure_report(recency, most, nats)
        found |= {ceiling: one["closure"], f"{ceiling}_interval": one["interval"]}
        for kind, part in found.get("by_kind", {}).items():
            some = [question for question in nats if kinds[question] == kind]
            one = closure_report(
                *({question: all_nats[question] for question in some} for all_nats in (recency, most, nats))
            )
            part |= {ceiling: one["closure"], f"{ceiling}_interval": one["interval"]}


def _recalled(
    core: Core,
    gist_net: GistNet,
    batches: Sequence[Sequence[Window]],
    choose: Policy,
    num_open: int,
    control: Control,
    *,
    rows: Mapping[int, int],
    tail_tokens: int,
    block_tokens: int,
    gist_width: int,
) -> tuple[dict[str, Any], Nats]:
    """Exact recall, of all and of what was stated within one block, and mean nats of what the rows' tails ask for; the
    nats of each answer beside them."""
    inside: list[bool] = []
    by_kind: dict[str, list[tuple[bool, float]]] = defaultdict(list)
    nats: dict[tuple[int, int], float] = {}
    for part in batches:
        is_open_BN = np.stack([choose(row, num_open, block_tokens) for row in part])
        scores = score_windows(
            core, gist_net, part, is_open_BN, block_tokens=block_tokens, gist_width=gist_width, control=control
        )
        for index, row in enumerate(part):
            for answer in _asked_in_tail(row, tail_tokens):
                span = slice(answer.start, answer.stop)
                is_hit, value = bool(scores.hits_BT[index, span].all()), float(scores.nats_BT[index, span].mean())
                if all(start // block_tokens == (stop - 1) // block_tokens for start, stop in answer.evidence):
                    inside.append(is_hit)
                by_kind[answer.fact.key].append((is_hit, value))
                nats[rows[id(row.tokens_T)], answer.start] = value
    hits = [is_hit for some in by_kind.values() for is_hit, _ in some]
    found = {"exact": share(hits), "inside": share(inside), "answer_nats": _mean(nats.values())}
    return found | _parts(by_kind), nats


def _parts(by_kind: Mapping[str, Sequence[tuple[bool, float]]]) -> dict[str, Any]:
    """Exact recall and mean nats of each kind, where there are several."""
    if len(by_kind) < 2:
        return {}
    parts = {
        kind: {"exact": share([is_hit for is_hit, _ in some]), "answer_nats": _mean([value for _, value in some])}
        for kind, some in sorted(by_kind.items())
    }
    return {"by_kind": parts}


def _numbers(rows: Sequence[Window]) -> dict[int, int]:
    """The number of a row by its tokens, which it shares with what asks one question of it."""
    return {id(row.tokens_T): number for number, row in enumerate(rows)}


def _mean(nats: Collection[float]) -> float | None:
    return round(float(np.mean(list(nats))), 4) if nats else None


def plain_recall(logits: Logits, rows: Sequence[Window], *, tail_tokens: int = 64) -> tuple[dict[str, Any], Nats]:
    """The same questions asked of a plain model that sees everything: exact recall and mean nats, and those of each."""
    by_kind: dict[str, list[tuple[bool, float]]] = defaultdict(list)
    nats: dict[tuple[int, int], float] = {}
    for number, row in enumerate(rows):
        targets_T = torch.from_numpy(row.targets_T)
        with torch.no_grad():
            logits_TV = logits(torch.from_numpy(row.tokens_T)[None])[0].float()
        nats_T = torch.nn.functional.cross_entropy(logits_TV, targets_T, reduction="none")
        for answer in _asked_in_tail(row, tail_tokens):
            span = slice(answer.start, answer.stop)
            is_hit, value = bool((logits_TV[span].argmax(-1) == targets_T[span]).all()), float(nats_T[span].mean())
            by_kind[answer.fact.key].append((is_hit, value))
            nats[number, answer.start] = value
    hits = [is_hit for some in by_kind.values() for is_hit, _ in some]
    return {"exact": share(hits), "answer_nats": _mean(nats.values())} | _parts(by_kind), nats


def _one_question_each(rows: Sequence[Window], *, tail_tokens: int, batch_rows: int) -> list[list[Window]]:
    """Batches of rows that ask one question of their tail each. No row stands twice in a batch, or its own gists would
    come back to it shuffled; a lone one has company that asks nothing."""
    rounds: list[list[Window]] = []
    for row in rows:
        for number, answer in enumerate(_asked_in_tail(row, tail_tokens)):
            rounds += [[]] if number == len(rounds) else []
            rounds[number].append(replace(row, answers=(answer,)))
    batches = [some[first : first + batch_rows] for some in rounds for first in range(0, len(some), batch_rows)]
    for batch in batches:
        if len(batch) == 1:
            other = next((row for row in rows if row.tokens_T is not batch[0].tokens_T), batch[0])
            batch.append(replace(other, answers=()))
    return batches


def _asked_in_tail(row: Window, tail_tokens: int) -> list[Answer]:
    """The first answers to facts that are asked for in the tail and were stated before it."""
    first = len(row.tokens_T) - tail_tokens
    found: dict[object, Answer] = {}
    for answer in sorted(row.answers, key=lambda answer: answer.start):
        found.setdefault(answer.fact, answer)
    return [
        answer
        for answer in found.values()
        if answer.asked > first and all(stop <= first for _, stop in answer.evidence)
    ]
