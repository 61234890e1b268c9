"""What far context is worth on real text, and how much of it each way to spend a window brings back.

The last 256 tokens of windows of 2,048 are scored. Every way shows the 256 tokens before them and those in between; of
the 48 blocks further back it opens some, shows gists of the others, or leaves them out. Blocks are chosen anew every 64
or every 8 tokens, from what was read so far: what the next word needs is known when it begins. The measure is the share
of what full context gains over 256 recent tokens.

Shape legend: W windows, T tokens of a window, N blocks, C far blocks, S scored tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch

from megacontext.errors import InvalidValueError
from megacontext.focus.lenses.features import lexical_scores
from megacontext.nets.core import Core
from megacontext.nets.gist_net import GistNet
from megacontext.nets.lens_net import LensNet
from megacontext.nets.shapes import QUERY_TOKENS
from megacontext.training.far_words import word_tokens
from megacontext.training.lens_labels import sample_of
from megacontext.training.lens_model import lens_utilities
from megacontext.training.memory_windows import Control, batches_of, run_windows, score_windows, scores_of
from megacontext.training.moments import Moment
from megacontext.training.scoring import SCORED, WINDOW, spread_windows
from megacontext.training.tokens import TokenStore
from megacontext.training.windows import Window

__all__ = [
    "EVERY",
    "LOCAL",
    "NUM_OPENED",
    "TextNets",
    "pair_report",
    "score_often",
    "score_ways",
    "share_report",
    "text_rows",
]

LOCAL, NUM_OPENED = 256, 6
EVERY = (64, 8)  # tokens between two choices
LEXICAL_TOKENS = (8, 32, 256)  # that the words alone go by
BLOCK = 32
FIRST = WINDOW - SCORED  # the first scored token
NUM_FAR = (FIRST - LOCAL) // BLOCK
BOOTSTRAPS = 1000

# Pairs of ways of which the first should cost less. "recent 512" has some more entries than six blocks and 42 gists.
COMPARED = (
    ("lens, every 8, and gists", "recent 512"),
    ("lens, every 64, and gists", "recent 512"),
    ("oracle, every 64, and gists", "recent 512"),
    *(
        (f"lens, every {every}", f"lexical, last {length}, every {every}")
        for every in EVERY
        for length in LEXICAL_TOKENS
    ),
    ("gists 32:1", "gists 32:1, shuffled"),
    ("gists 32:1", "recent 256"),
    ("gists 8:1", "gists 8:1, shuffled"),
    ("gists 8:1", "recent 256"),
)

Entry = dict[str, float | int | list[float] | None]

Choice = Callable[[Window, int, int], npt.NDArray[np.int64]]
"""From a window, the position of the next token, and the number of tokens until the next choice, to the far blocks to
open."""


@dataclass(frozen=True, kw_only=True)
class TextNets:
    """What is scored; ``lens_net`` may be missing."""

    core: Core
    gist_net: GistNet
    lens_net: LensNet | None = None


def text_rows(store: TokenStore, count: int, *, length: int = WINDOW) -> list[Window]:
    """Windows at even distances over a store."""
    return [
        Window(tokens_T=ids[:-1], targets_T=ids[1:], weights_T=np.ones(length, np.float32))
        for ids in spread_windows(store, count, length + 1)
    ]


def score_ways(
    nets: TextNets, rows: Sequence[Window], pieces_V: Sequence[bytes], *, batch_rows: int = 4
) -> dict[str, npt.NDArray[np.float64]]:
    """Nats [W, S] of the scored tokens of every window, by way; InvalidValueError if there is but one."""
    if len(rows) < 2:
        raise InvalidValueError(
            f"{len(rows)} windows of text: the shuffled control needs another one; give two or more"
        )
    ways: dict[str, list[npt.NDArray[np.float64]]] = {}
    for part in batches_of(rows, batch_rows):
        for name, nats_WS in _score_batch(nets, part, pieces_V).items():
            ways.setdefault(name, []).append(nats_WS)
    return {name: np.concatenate(parts) for name, parts in ways.items()}


def score_often(
    nets: TextNets, rows: Sequence[Window], *, every: int, batch_rows: int = 4
) -> dict[str, npt.NDArray[np.float64]]:
    """The same for the lens, if there is one, and the words of the last tokens alone, chosen anew every so many."""
    if every not in range(1, SCORED + 1) or SCORED % every:
        raise InvalidValueError(f"every is {every}; choose a number of tokens that divides the {SCORED} scored ones")
    ways: dict[str, list[npt.NDArray[np.float64]]] = {}
    length = min(LEXICAL_TOKENS)
    for part in batches_of(rows, batch_rows):
        found = {"full": _whole(nets, part, FIRST, "real"), "recent 256": _whole(nets, part, LOCAL, "none")}
        choices: dict[str, Choice] = {f"lexical, last {length}": partial(_lexical, length=length)}
        if nets.lens_net is not None:
            choices["lens"] = _lens_choice(nets, part, every)
        for name, choose in choices.items():
            found[f"{name}, every {every}"] = _with_opened(nets, part, choose, "none", every)
        for name, nats_WS in found.items():
            ways.setdefault(name, []).append(nats_WS)
    return {name: np.concatenate(parts) for name, parts in ways.items()}


def _whole(
    nets: TextNets, rows: Sequence[Window], num_recent: int, control: Control, *, block_tokens: int = BLOCK
) -> npt.NDArray[np.float64]:
    """One forward over the scored tokens, with the last ``num_recent`` tokens before them open."""
    is_open_BN = np.zeros((len(rows), WINDOW // block_tokens), dtype=np.bool_)
    is_open_BN[:, (FIRST - num_recent) // block_tokens :] = True
    scores = score_windows(
        nets.core, nets.gist_net, rows, is_open_BN, block_tokens=block_tokens, gist_width=1, control=control
    )
    return scores.nats_BT[:, FIRST - 1 : WINDOW - 1].astype(np.float64)


def _score_batch(
    nets: TextNets, rows: Sequence[Window], pieces_V: Sequence[bytes]
) -> dict[str, npt.NDArray[np.float64]]:
    whole = partial(_whole, nets, rows)
    ways = {
        "full": whole(FIRST, "real"),
        "recent 256": whole(LOCAL, "none"),
        "recent 448": whole(LOCAL + NUM_OPENED * BLOCK, "none"),
        "recent 512": whole(LOCAL + (NUM_OPENED + 2) * BLOCK, "none"),  # as many as six blocks and 42 gists, and more
        "gists 32:1": whole(LOCAL, "real"),
        "gists 32:1, shuffled": whole(LOCAL, "shuffled"),
        "gists 8:1": whole(LOCAL, "real", block_tokens=8),
        "gists 8:1, shuffled": whole(LOCAL, "shuffled", block_tokens=8),
    }
    choices: dict[str, Choice] = {
        f"lexical, last {length}": partial(_lexical, length=length) for length in LEXICAL_TOKENS
    }
    choices["oracle"] = partial(_oracle, pieces_V=pieces_V)
    if nets.lens_net is not None:
        choices["lens"] = _lens_choice(nets, rows, min(EVERY))
    for every in EVERY:
        for name, choose in choices.items():
            ways[f"{name}, every {every}"] = _with_opened(nets, rows, choose, "none", every)
        for name in ("lens", "oracle"):
            if name in choices:
                ways[f"{name}, every {every}, and gists"] = _with_opened(nets, rows, choices[name], "real", every)
    return ways


def _with_opened(
    nets: TextNets, rows: Sequence[Window], choose: Choice, control: Control, every: int
) -> npt.NDArray[np.float64]:
    """Nats of the scored tokens with ``NUM_OPENED`` far blocks open, chosen anew every so many tokens."""
    chunks = []
    for at in range(FIRST, WINDOW, every):
        stop = -(-(at + every) // BLOCK) * BLOCK
        cut = [
            Window(tokens_T=row.tokens_T[:stop], targets_T=row.targets_T[:stop], weights_T=row.weights_T[:stop])
            for row in rows
        ]
        is_open_BN = np.zeros((len(rows), stop // BLOCK), dtype=np.bool_)
        is_open_BN[:, NUM_FAR:] = True
        for number, row in enumerate(rows):
            is_open_BN[number, choose(row, at, every)[:NUM_OPENED]] = True
        run = run_windows(nets.core, nets.gist_net, cut, is_open_BN, block_tokens=BLOCK, gist_width=1, control=control)
        scores = scores_of(nets.core, run, cut, first=at - 1)
        chunks.append(scores.nats_BT[:, at - 1 : at + every - 1].astype(np.float64))
    return np.concatenate(chunks, axis=1)


def _far_blocks(row: Window) -> npt.NDArray[np.int64]:
    return row.tokens_T[: NUM_FAR * BLOCK].reshape(NUM_FAR, BLOCK)


def _lexical(row: Window, at: int, every: int, *, length: int) -> npt.NDArray[np.int64]:
    """Blocks by BM25 of the last ``length`` tokens."""
    return np.argsort(-lexical_scores(_far_blocks(row), row.tokens_T[at - length : at]), kind="stable")


def _oracle(row: Window, at: int, every: int, *, pieces_V: Sequence[bytes]) -> npt.NDArray[np.int64]:
    """Blocks that hold most of the far words among the next tokens, which no lens may see; then most of all of them.
    A word that began before them, or goes on behind them, is far as a whole, as it is scored."""
    positions = word_tokens([pieces_V[index] for index in row.tokens_T], first=FIRST)["far"]
    far = row.tokens_T[[position for position in positions if at <= position < at + every]]
    blocks = _far_blocks(row)
    scores = 10 * lexical_scores(blocks, far) + lexical_scores(blocks, row.tokens_T[at : at + every])
    return np.argsort(-scores, kind="stable")


def _lens_choice(nets: TextNets, rows: Sequence[Window], every: int) -> Choice:
    """Blocks by what the lens says, which is asked every so many tokens."""
    utilities = _lens_utilities(nets, rows, every)
    index = {id(row): number for number, row in enumerate(rows)}
    return lambda row, at, _: np.argsort(-utilities[index[id(row)], (at - FIRST) // every], kind="stable")


@torch.no_grad()
def _lens_utilities(nets: TextNets, rows: Sequence[Window], every: int) -> npt.NDArray[np.float32]:
    """Utilities [B, choices, C] of far blocks at each choice. One forward serves all: states do not look ahead."""
    assert nets.lens_net is not None
    is_open_BN = np.zeros((len(rows), WINDOW // BLOCK), dtype=np.bool_)
    is_open_BN[:, NUM_FAR:] = True
    run = run_windows(
        nets.core,
        nets.gist_net,
        rows,
        is_open_BN,
        block_tokens=BLOCK,
        gist_width=1,
        tap_layer=nets.core.config.num_layers // 2,
    )
    chunks = []
    for at in range(FIRST, WINDOW, every):
        moment = Moment(query=(at - QUERY_TOKENS, at), horizon=(at - 1, at))
        samples = [sample_of(row, moment, run, index) for index, row in enumerate(rows)]
        chunks.append(torch.stack([lens_utilities(nets.lens_net, sample) for sample in samples]))
    return torch.stack(chunks, dim=1).numpy()


def share_report(
    ways: Mapping[str, npt.NDArray[np.float64]], rows: Sequence[Window], pieces_V: Sequence[bytes], *, seed: int = 0
) -> dict[str, dict[str, Entry]]:
    """By way and kind of token (all, far, recent, new): the difference to 256 recent tokens in nats a token with its
    standard error over windows, and the share of full context's gain with a 95 % bootstrap interval over windows."""
    masks = _masks(ways, rows, pieces_V)
    num_windows = len(ways["full"])
    draws = np.random.default_rng(seed).integers(0, num_windows, (BOOTSTRAPS, num_windows))
    report: dict[str, dict[str, Entry]] = {}
    for name, nats_WS in ways.items():
        report[name] = {}
        for kind, mask_WS in masks.items():
            gain_W = ((nats_WS - ways["recent 256"]) * mask_WS).sum(1)
            most_W = ((ways["full"] - ways["recent 256"]) * mask_WS).sum(1)
            report[name][kind] = {
                **_per_token(gain_W, mask_WS.sum(1)),
                **_share_of(gain_W, most_W, draws),
                "tokens": int(mask_WS.sum()),
            }
    return report


def pair_report(
    ways: Mapping[str, npt.NDArray[np.float64]], rows: Sequence[Window], pieces_V: Sequence[bytes]
) -> dict[str, dict[str, dict[str, float]]]:
    """By pair of ``COMPARED`` and kind of token: the paired difference in nats a token, with its standard error over
    windows."""
    masks = _masks(ways, rows, pieces_V)
    return {
        f"{first} - {second}": {
            kind: _per_token(((ways[first] - ways[second]) * mask_WS).sum(1), mask_WS.sum(1))
            for kind, mask_WS in masks.items()
        }
        for first, second in COMPARED
        if first in ways and second in ways
    }


def _per_token(gain_W: npt.NDArray[np.float64], count_W: npt.NDArray[np.integer]) -> dict[str, float]:
    total = max(1, int(count_W.sum()))
    mean = gain_W.sum() / total
    error = np.sqrt(((gain_W - mean * count_W) ** 2).sum()) / total
    return {"nats": round(float(mean), 4), "standard_error": round(float(error), 4)}


def _masks(
    ways: Mapping[str, npt.NDArray[np.float64]], rows: Sequence[Window], pieces_V: Sequence[bytes]
) -> dict[str, npt.NDArray[np.bool_]]:
    """Which scored tokens [W, S] are of which kind."""
    num_windows = len(ways["full"])
    masks = {kind: np.zeros((num_windows, SCORED), dtype=np.bool_) for kind in ("far", "recent", "new")}
    for number, row in enumerate(rows[:num_windows]):
        found = word_tokens([pieces_V[index] for index in row.tokens_T], first=FIRST)
        for kind, positions in found.items():
            masks[kind][number, [position - FIRST for position in positions]] = True
    return {"all": np.ones((num_windows, SCORED), dtype=np.bool_), **masks}


def _share_of(
    gain_W: npt.NDArray[np.float64], most_W: npt.NDArray[np.float64], draws: npt.NDArray[np.int64]
) -> dict[str, float | list[float] | None]:
    """The share of a gain and its interval; None where full context gains nothing (in a resample: no interval)."""
    if most_W.sum() >= 0:
        return {"share": None, "interval": None}
    totals = most_W[draws].sum(1)
    if (totals >= 0).any():
        return {"share": round(float(gain_W.sum() / most_W.sum()), 4), "interval": None}
    edges = np.quantile(gain_W[draws].sum(1) / totals, [0.025, 0.975])
    return {
        "share": round(float(gain_W.sum() / most_W.sum()), 4),
        "interval": [round(float(edge), 4) for edge in edges],
    }
