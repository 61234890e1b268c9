"""How a run of the scaling study is judged: held-out text by context, answers from tokens and gists, what gists of text
save; and what the length of the window is worth to a core that learned long ones.

Digits of a code are of two kinds. Those after the first follow one another: four of five are right as soon as a core
copies. The first is told by the name alone: who reads nothing needs ln 10 = 2.30 nats for it, who sees the codes of the
row but not whose they are some 1.19 (four codes, drawn alike), and only who needs less has found one by its name.
"""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from itertools import pairwise
from random import Random
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from megacontext.errors import InvalidValueError
from megacontext.nets.core import Core
from megacontext.nets.gist_net import GistNet
from megacontext.training.held_out import core_logits
from megacontext.training.memory_windows import CONTROLS, Control, score_windows
from megacontext.training.recall import Asking
from megacontext.training.rows import ALIGNED_BLOCK, aligned_row
from megacontext.training.scaling import fit_power
from megacontext.training.scoring import spread_windows, token_nlls
from megacontext.training.text_scoring import text_rows
from megacontext.training.windows import TextSource, Window

__all__ = [
    "NAMELESS",
    "SCORED_TOKENS",
    "WINDOW_CONTEXTS",
    "answer_masks",
    "judge",
    "judge_windows",
    "refuse_short_text",
]

NAMELESS = 1.19  # nats of a first digit for who sees four codes and no names
BLOCK = ALIGNED_BLOCK
RATIOS = {"2:1": 16, "8:1": 4, "32:1": 1}  # vectors of a gist of a block
CONTEXTS = (32, 64, 128, 256, 512)
FAR_TOKENS, SCORED_TOKENS = 256, 64
ANSWER_TOKENS = 192  # of a row that asks
NUM_JUDGED = 48
ASKED = Asking(test=True, key="code")
WINDOW_CONTEXTS = (32, 64, 128, 256, 512, 1024, 2048, 4032)  # the last with what is scored: what the core was made for
LEARNT_CONTEXT = 2048  # the longest rows that it learnt from


def refuse_short_text(held_out: TextSource) -> None:
    """InvalidValueError where a held-out domain has no window of the longest kind that is judged."""
    least = WINDOW_CONTEXTS[-1] + SCORED_TOKENS + 1
    for domain, store in held_out.stores.items():
        if len(store.ids_N) < least:
            raise InvalidValueError(
                f"held-out {domain} has {len(store.ids_N):,} tokens, but windows of {least:,} are judged; give more"
            )


def answer_masks(rows: list[Window]) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Which of the last tokens of each row are predicted digits of an answer, and which of these an answer's first:
    two masks [B, T] over targets."""
    answers_BT = np.stack([row.weights_T > 1 for row in rows])
    firsts_BT = answers_BT & ~np.pad(answers_BT, ((0, 0), (1, 0)))[:, :-1]
    for asked_BT in (answers_BT, firsts_BT):
        asked_BT[:, :-SCORED_TOKENS] = False
    return answers_BT, firsts_BT


@torch.no_grad()
def judge(core: Core, gist_net: GistNet, held_out: TextSource) -> dict[str, Any]:
    """Nats on held-out text by tokens of context; nats and hits of an answer's digits from tokens and from gists by
    ratio, and nats of its first digit, which the name alone tells, where the others follow one another; nats of the
    next 64 tokens after 256 of text, and after gists of them, of others, or none in their place. (The first token
    after gists is not scored: where there are none, nothing predicts it.)"""
    length = CONTEXTS[-1] + 1
    windows = [ids for store in held_out.stores.values() for ids in spread_windows(store, NUM_JUDGED // 2, length)]
    nats_WT = token_nlls(core_logits(core), torch.from_numpy(np.stack(windows)))
    edges = [0, *CONTEXTS]
    by_context = {str(stop): float(nats_WT[:, start:stop].mean()) for start, stop in pairwise(edges)}
    rows = [aligned_row(held_out, Random(f"judge/{index}"), ANSWER_TOKENS, ASKED) for index in range(2 * NUM_JUDGED)]
    answers_BT, firsts_BT = answer_masks(rows)
    text = [
        row
        for store in held_out.stores.values()
        for row in text_rows(store, NUM_JUDGED, length=FAR_TOKENS + SCORED_TOKENS)
    ]
    is_open_BN, of_text_BN = (_last_open(len(some), len(some[0].tokens_T) // BLOCK) for some in (rows, text))
    score = partial(score_windows, core, gist_net, block_tokens=BLOCK)
    known = score(rows, np.ones_like(is_open_BN), gist_width=1)
    read = {ratio: score(rows, is_open_BN, gist_width=width) for ratio, width in RATIOS.items()}
    after_text = score(text, np.ones_like(of_text_BN), gist_width=1).nats_BT[:, -SCORED_TOKENS:]

    def after_gists(width: int, control: Control) -> float:
        return float(score(text, of_text_BN, gist_width=width, control=control).nats_BT[:, -SCORED_TOKENS:].mean())

    next_64 = {ratio: {way: after_gists(width, way) for way in CONTROLS} for ratio, width in RATIOS.items()}
    return {
        "nats": float(nats_WT.mean()),
        "nats_by_context": by_context,
        "recall_nats": float(known.nats_BT[answers_BT].mean()),
        "recall_hits": float(known.hits_BT[answers_BT].mean()),
        "first_digit_nats": float(known.nats_BT[firsts_BT].mean()),
        "gist_first_digit_nats": {ratio: float(scores.nats_BT[firsts_BT].mean()) for ratio, scores in read.items()},
        "gist_recall_nats": {ratio: float(scores.nats_BT[answers_BT].mean()) for ratio, scores in read.items()},
        "gist_recall_hits": {ratio: float(scores.hits_BT[answers_BT].mean()) for ratio, scores in read.items()},
        "next_64": {"text": float(after_text.mean()), **next_64},
    }


def _last_open(num_rows: int, num_blocks: int) -> npt.NDArray[np.bool_]:
    """The last two blocks open, those before them gists: [B, N]."""
    is_open_BN = np.zeros((num_rows, num_blocks), dtype=np.bool_)
    is_open_BN[:, -SCORED_TOKENS // BLOCK :] = True
    return is_open_BN


@torch.no_grad()
def judge_windows(core: Core, held_out: TextSource) -> dict[str, Any]:
    """Nats of the same held-out tokens by tokens of context before them, the law through the lengths that the core
    learnt from, what it says of longer ones, and what a law without the longest of them says too much of that."""
    report = {}
    for domain, store in held_out.stores.items():
        windows = torch.from_numpy(np.stack(spread_windows(store, NUM_JUDGED, WINDOW_CONTEXTS[-1] + SCORED_TOKENS)))
        nats = {}
        for context in WINDOW_CONTEXTS:
            parts = windows[:, -context - SCORED_TOKENS :].split(4)  # type: ignore[no-untyped-call]
            scored = torch.cat([token_nlls(core_logits(core), part)[:, -SCORED_TOKENS:] for part in parts])
            nats[context] = float(scored.mean())
        learnt = {context: value for context, value in nats.items() if context <= LEARNT_CONTEXT}
        law, before = fit_power(learnt), fit_power(dict(list(learnt.items())[:-1]))
        report[domain] = {
            "nats": {str(context): round(value, 4) for context, value in nats.items()},
            **asdict(law),
            "left_out_error": round(before.at(LEARNT_CONTEXT) - learnt[LEARNT_CONTEXT], 4),
            "predicted": {str(context): round(law.at(context), 4) for context in (*WINDOW_CONTEXTS[-1:], 8192, 32768)},
        }
    return report
