"""Which tokens of a continuation far context can help with.

Words of five letters and more (identifiers, in code) are *far* copies if they were said before, but not within the last
``FAR_TOKENS`` tokens; *recent* if they were said within them; *new* if they were never said. All other tokens carry no
label: far context hardly changes them, and they would hide what it does.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from megacontext.evaluation.methods.method import Span, TokenIds
from megacontext.evaluation.tasks.task import Continuation, Metric
from megacontext.ports.text import TextCodec

__all__ = ["FAR_METRICS", "FAR_TOKENS", "copy_labels", "going_on"]

FAR_TOKENS = 512
WORD = re.compile(r"[^\W\d]{5,}")
IDENTIFIER = re.compile(r"[^\W\d]\w{4,}")

FAR_METRICS = (
    Metric(name="far", title="nats per token, far copies", is_loss=True),
    Metric(name="all", title="nats per token, all tokens", is_loss=True),
    Metric(name="recent", title="nats per token, recent copies", is_loss=True),
    Metric(name="new", title="nats per token, new words", is_loss=True),
)


def copy_labels(
    text: str, char_starts: Sequence[int], first: int, stop: int, *, is_code: bool
) -> tuple[tuple[str, ...], tuple[Span, ...]]:
    """The label of each token of ``[first, stop)``, and where the far ones were said last, as token ranges.

    char_starts: where each token of ``text`` begins. A word belongs to the tokens from the one that holds its first
    letter on.
    """
    edges = np.append(np.asarray(char_starts, dtype=np.int64), len(text))
    labels = [""] * (stop - first)
    evidence: dict[Span, None] = {}
    last_seen: dict[str, Span] = {}
    for match in (IDENTIFIER if is_code else WORD).finditer(text):
        start = int(np.searchsorted(edges, match.start(), side="right")) - 1
        end = int(np.searchsorted(edges, match.end(), side="left"))
        if start >= stop:
            break
        seen = last_seen.get(match.group())
        if start >= first:
            label = "new" if seen is None else "far" if start - seen[0] > FAR_TOKENS else "recent"
            labels[start - first : min(end, stop) - first] = [label] * (min(end, stop) - start)
            if label == "far" and seen is not None:
                evidence[seen] = None
        last_seen[match.group()] = (start, end)
    return tuple(labels), tuple(evidence)


def going_on(
    codec: TextCodec, history: str, following: str, num_tokens: int, *, is_code: bool, facets: dict[str, str]
) -> tuple[TokenIds, Continuation]:
    """The tokens of a history, and the first ``num_tokens`` of what follows, with labels and evidence."""
    encoded = codec.encode(history + following)
    first = int(np.searchsorted(encoded.char_starts, len(history), side="left"))
    stop = min(first + num_tokens, len(encoded.token_ids))
    labels, evidence = copy_labels(history + following, encoded.char_starts.tolist(), first, stop, is_code=is_code)
    continuation = Continuation(
        target_ids=encoded.token_ids[first:stop], labels=labels, evidence=evidence, facets=facets
    )
    return encoded.token_ids[:first], continuation
