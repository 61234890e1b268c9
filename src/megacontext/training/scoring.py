"""What a trained base can do: bits per byte, the worth of far context, recall by distance and in cut windows.

Bits per byte rather than per token, so that models with other tokenizers can be compared.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from random import Random
from typing import TypedDict

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from megacontext.training.cuts import cut_row
from megacontext.training.far_words import far_tokens
from megacontext.training.recall import Asking
from megacontext.training.rows import recall_row
from megacontext.training.tokens import TokenStore
from megacontext.training.windows import TextSource, Window

__all__ = [
    "SCORED",
    "WINDOW",
    "Logits",
    "Share",
    "bits_per_byte",
    "cut_report",
    "far_copy",
    "recall_report",
    "right_answers",
    "share",
    "spread_windows",
    "token_nlls",
]

WINDOW = 2048
SHORT_WINDOW = 512
SCORED = 256
DISTANCES = (0, 64, 128, 256, 512, 1024, 2048)

Logits = Callable[[Tensor], Tensor]
"""From token ids [B, T] to logits [B, T, V]."""


class Share(TypedDict):
    """A share of right answers with its binomial standard error; None where nothing was asked."""

    accuracy: float | None
    standard_error: float | None
    n: int


def share(hits: Sequence[bool]) -> Share:
    """The share of true values; its standard error is that of a binomial draw."""
    if not hits:
        return {"accuracy": None, "standard_error": None, "n": 0}
    rate = sum(hits) / len(hits)
    error = math.sqrt(max(rate * (1 - rate), 0.0) / len(hits))
    return {"accuracy": round(rate, 4), "standard_error": round(error, 4), "n": len(hits)}


@torch.no_grad()
def token_nlls(logits: Logits, ids_BT: Tensor) -> Tensor:
    """-log p of tokens 1..T-1 given all before them, nats, [B, T - 1] float32."""
    logits_BTV = logits(ids_BT[:, :-1]).float()
    return torch.nn.functional.cross_entropy(logits_BTV.flatten(0, 1), ids_BT[:, 1:].flatten(), reduction="none").view(
        len(ids_BT), -1
    )


def spread_windows(store: TokenStore, count: int, length: int) -> list[npt.NDArray[np.int64]]:
    """`count` windows at even distances over the whole store."""
    starts = np.linspace(0, len(store.ids_N) - length, count).astype(int)
    return [store.ids_N[start : start + length].astype(np.int64) for start in starts]


def bits_per_byte(logits: Logits, store: TokenStore, bytes_V: npt.NDArray[np.int64], *, count: int) -> dict[str, float]:
    """Bits per byte of UTF-8 over `count` windows of 2,048 tokens (each token sees 0 to 2,047 before it)."""
    rates = []
    for ids in spread_windows(store, count, WINDOW):
        nlls = token_nlls(logits, torch.from_numpy(ids)[None])
        rates.append((float(nlls.sum()), int(bytes_V[ids[1:]].sum())))
    nats, num_bytes = np.array(rates).T
    mean = nats.sum() / math.log(2) / num_bytes.sum()
    residuals = nats / math.log(2) - mean * num_bytes
    error = math.sqrt((residuals**2).sum()) / num_bytes.sum()
    return {
        "bits_per_byte": round(float(mean), 4),
        "standard_error": round(error, 4),
        "nats_per_token": round(float(nats.sum() / (count * (WINDOW - 1))), 4),
        "windows": count,
    }


def far_copy(logits: Logits, store: TokenStore, pieces_V: Sequence[bytes], *, count: int) -> dict[str, float]:
    """How much a context of 2,048 instead of 512 tokens helps in the last 256 tokens, in nats a token.

    `far_words` are tokens of words of 5+ letters seen in the window, but not within the last 512 tokens: where far
    context can pay. Differences are paired by window; standard errors are over windows.
    """
    gains, far_gains = [], []
    for ids in spread_windows(store, count, WINDOW):
        full = token_nlls(logits, torch.from_numpy(ids)[None])[0, -SCORED:]
        short = token_nlls(logits, torch.from_numpy(ids[-SHORT_WINDOW:])[None])[0, -SCORED:]
        gain = (full - short).tolist()
        gains.append(sum(gain) / len(gain))
        first = WINDOW - SCORED
        far_gains.append([gain[at - first] for at in far_tokens([pieces_V[index] for index in ids], first=first)])
    tokens = [value for window in far_gains for value in window]
    mean = sum(tokens) / max(len(tokens), 1)
    residuals = [sum(window) - mean * len(window) for window in far_gains]
    return {
        "all_tokens": round(float(np.mean(gains)), 4),
        "all_tokens_standard_error": round(float(np.std(gains) / math.sqrt(len(gains))), 4),
        "far_words": round(mean, 4),
        "far_words_standard_error": round(math.sqrt(sum(value**2 for value in residuals)) / max(len(tokens), 1), 4),
        "far_word_tokens": len(tokens),
        "windows": count,
    }


def right_answers(logits: Logits, rows: Iterable[Window]) -> list[tuple[str, int, bool]]:
    """Kind, distance and exactness of the first answer to every fact asked in the rows.

    Exact: the model's most likely token is right at every position of the value, which is what greedy decoding
    needs. Later answers to the same fact are not counted: they could be copied from the first.
    """
    results = []
    for row in rows:
        with torch.no_grad():
            best_T = logits(torch.from_numpy(row.tokens_T)[None])[0].argmax(-1).numpy()
        asked = set()
        for answer in sorted(row.answers, key=lambda answer: answer.start):
            if answer.fact in asked:
                continue
            asked.add(answer.fact)
            part = slice(answer.start, answer.stop)
            exact = bool((best_T[part] == row.targets_T[part]).all())
            results.append((answer.fact.key, answer.distance, exact))
    return results


def recall_report(logits: Logits, source: TextSource, *, count: int, seed: int = 7) -> dict[str, object]:
    """Exact recall of held-out names and values in windows of 2,048, by distance (5-digit codes) and by kind."""
    codes = Asking(test=True, key="code", product=True)
    kinds = Asking(test=True, product=True)
    by_distance, by_kind = defaultdict(list), defaultdict(list)
    rows = (recall_row(source, Random(f"{seed}/code/{index}"), WINDOW, codes) for index in range(count))
    for _, distance, exact in right_answers(logits, rows):
        bucket = max(edge for edge in DISTANCES if edge <= distance)
        by_distance[bucket].append(exact)
    rows = (recall_row(source, Random(f"{seed}/kind/{index}"), WINDOW, kinds) for index in range(count))
    for key, _, exact in right_answers(logits, rows):
        by_kind[key].append(exact)
    upper = dict(pairwise(DISTANCES))
    return {
        "codes": share([exact for hits in by_distance.values() for exact in hits]),
        "codes_by_distance": {f"{edge}-{upper[edge]}": share(by_distance[edge]) for edge in sorted(by_distance)},
        "by_kind": {key: share(hits) for key, hits in sorted(by_kind.items())},
    }


def cut_report(
    logits: Logits, source: TextSource, *, count: int, lone: Sequence[int] = (40, 200, 400, 600, 800), seed: int = 7
) -> dict[str, Share]:
    """Exact recall of held-out codes in cut windows of 1,024 entries, by the number of single-token entries."""
    asking = Asking(test=True, key="code", product=True)
    report = {}
    for num_lone in lone:
        rows = (
            cut_row(source, Random(f"{seed}/{num_lone}/{index}"), 1024, asking, num_lone=num_lone)
            for index in range(count)
        )
        report[str(num_lone)] = share([exact for _, _, exact in right_answers(logits, rows)])
    return report
