"""Is a loaded base what the memory takes it for? One small check per promise, each with what was measured and how much
of it is let pass. Nothing here knows transformers: the reference of most is a fresh forward of the same base.

Errors are distances between logits against the norm of the reference, over all rows of a window.

Shape legend: T entries, R gist rows, V vocabulary, D embedding width.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from megacontext.ports.base import Base, ModelCache, SupportsBatches, SupportsPatch, SupportsPlainLogits

__all__ = ["CHECKS", "LIMITS", "CheckResult", "Probe", "check_base", "compare_precision"]

TokenIds = npt.NDArray[np.uint32]

# How far logits may be from the reference: what a precision's own rounding makes of another order of sums; expert
# layers of a low precision may choose differently.
LIMITS = {"float32": 3e-4, "bfloat16": 0.15, "float16": 0.05}
FAR_LIMITS = {**LIMITS, "float32": 2e-3}  # positions of 2^40 leave float64 phases fewer digits
# Float64 has 53 bits: beyond 2^40 positions, phases would lose what float32 needs.
FAR_STARTS = (0.5, 2.0**24 + 1, 2.0**40)
# Norms of gists against that of tokens that must come out as numbers: means are short, learned ones may be long.
NORM_SCALES = (0.0, 0.1, 1.0, 4.0, 16.0)
NUM_TOKENS = 80
GIST_TOKENS = 8  # averaged into each gist row of the mixed window


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """error: what was measured, None where the check does not apply (then it passed); limit: the most that passes."""

    name: str
    passed: bool
    error: float | None
    limit: float
    detail: str

    @property
    def cells(self) -> tuple[str, str, str, str, str]:
        """A row of a table: name, result, what was measured, its limit, what was tried."""
        measured = "-" if self.error is None else f"{self.error:.2g}"
        return self.name, "passed" if self.passed else "FAILED", measured, f"{self.limit:.2g}", self.detail


@dataclass(frozen=True)
class Probe:
    """What a base is tried with. token_ids: [NUM_TOKENS], of real text where its codec is real."""

    base: Base
    token_ids: TokenIds = field(default_factory=lambda: np.zeros(0, dtype=np.uint32))

    @classmethod
    def of_text(cls, base: Base, text: str) -> Probe:
        """The first tokens of a text; ids by a seed where it has too few."""
        ids = base.codec.encode(text).token_ids[:NUM_TOKENS]
        if len(ids) < NUM_TOKENS:
            ids = np.random.default_rng(0).integers(0, base.info.vocab_size, NUM_TOKENS).astype(np.uint32)
        return cls(base, ids)

    @property
    def limit(self) -> float:
        return LIMITS[self.base.info.dtype]

    def run(self, ids: TokenIds, cache: ModelCache, *, start: float | None = None) -> torch.Tensor:
        """Logits [T, V] of tokens put at the end of a cache, numbered in the window."""
        first = float(cache.num_entries) if start is None else start
        return self.base.forward(self.base.embed(ids), first + np.arange(float(len(ids))), cache, num_logits=len(ids))

    def fresh(self, ids: TokenIds, *, start: float = 0.0) -> torch.Tensor:
        return self.run(ids, self.base.new_cache(len(ids)), start=start)

    def mixed_window(self) -> tuple[torch.Tensor, npt.NDArray[np.float64]]:
        """Vectors [T, D] and positions [T] of a window of gists among tokens: means of tokens, each as far from its
        neighbours as a few tokens are, so that most positions are fractions."""
        half = NUM_TOKENS // 2
        tokens_TD = self.base.embed(self.token_ids)
        means_RD = tokens_TD[:half].float().reshape(half // GIST_TOKENS, GIST_TOKENS, -1).mean(1).to(tokens_TD.dtype)
        window_TD = torch.cat([tokens_TD[:4], means_RD, tokens_TD[half:]])
        steps = np.concatenate([np.ones(4), np.full(len(means_RD), 2.75), np.ones(half)])
        return window_TD, np.cumsum(steps) - steps / 2 - 0.5


def check_base(base: Base, text: str) -> list[CheckResult]:
    """Every check of ``CHECKS`` on a base; text: real text in a language that the model knows."""
    probe = Probe.of_text(base, text)
    return [check(probe) for check in CHECKS.values()]


def tokens(probe: Probe) -> CheckResult:
    """A window of raw tokens is the plain model."""
    base = probe.base
    if not isinstance(base, SupportsPlainLogits):
        return _skipped("tokens", probe.limit, "the model has no implementation but ours to compare with")
    error = _distance(probe.fresh(probe.token_ids), base.plain_logits(probe.token_ids))
    return _result("tokens", error, probe.limit, "a window of raw tokens against the model by transformers alone")


def cache(probe: Probe) -> CheckResult:
    """Whatever the pieces in which a window is run, it is the same."""
    kept = probe.base.new_cache(1)
    borders = [0, 1, 2, 19, NUM_TOKENS - 1, NUM_TOKENS]
    parts = [probe.run(probe.token_ids[a:b], kept) for a, b in itertools.pairwise(borders)]
    kept.truncate(19)
    parts.append(probe.run(probe.token_ids[19:], kept))
    whole = probe.fresh(probe.token_ids)
    error = _distance(torch.cat(parts), torch.cat([whole, whole[19:]]))
    return _result("cache", error, probe.limit, "in pieces, and cut back and run again, against whole")


def patch(probe: Probe) -> CheckResult:
    """Entries that come and go in the middle leave the window that a fresh forward makes."""
    base, ids = probe.base, probe.token_ids
    if not isinstance(base, SupportsPatch) or not base.can_patch:
        return _skipped("patch", probe.limit, "exact only: its keys cannot be turned to other positions")
    kept = base.new_cache(8)
    probe.run(ids[9:40], kept)
    places = (np.arange(9), np.arange(9, 25), np.arange(25, 40))
    logits = probe.fresh(ids[:1])
    for number, run in enumerate(places):  # what stands in front first, then all behind it, so that nothing is stale
        others = np.arange(31) if number == 0 else np.setdiff1d(np.arange(40), run)
        logits = base.patch(
            base.embed(ids[run]),
            run.astype(np.float64),
            kept,
            kept_n=others,
            moved_n=np.full(len(others), 9.0 if number == 0 else 0.0),
            places_T=run,
            num_logits=len(run),
        )
    reference = base.new_cache(NUM_TOKENS)
    expected = probe.run(ids[:40], reference)[25:]
    after, expected_after = probe.run(ids[40:], kept), probe.run(ids[40:], reference)
    error = _distance(torch.cat([logits, after]), torch.cat([expected, expected_after]))
    return _result("patch", error, probe.limit, "edits run in place against a fresh window")


def mixed(probe: Probe) -> CheckResult:
    """Gists among tokens, at positions between whole numbers: run piece by piece it is the same window."""
    window_TD, positions_T = probe.mixed_window()
    whole = _forward(probe.base, window_TD, positions_T, probe.base.new_cache(len(window_TD)))
    kept = probe.base.new_cache(4)
    parts = [
        _forward(probe.base, window_TD[a:b], positions_T[a:b], kept)
        for a, b in itertools.pairwise([0, 3, 6, 7, 20, len(window_TD)])
    ]
    return _result("mixed", _distance(torch.cat(parts), whole), probe.limit, "gists among tokens, in pieces and whole")


def far(probe: Probe) -> CheckResult:
    """Only distances count, wherever a window stands."""
    near = probe.fresh(probe.token_ids)
    error = max(_distance(probe.fresh(probe.token_ids, start=start), near) for start in FAR_STARTS)
    return _result("far", error, FAR_LIMITS[probe.base.info.dtype], "windows at positions up to 2^40 against one at 0")


def batch(probe: Probe) -> CheckResult:
    """Sessions that step together are each of them alone."""
    base, ids = probe.base, probe.token_ids
    if not isinstance(base, SupportsBatches):
        return _skipped("batch", probe.limit, "the adapter runs one session after another")
    lengths = (3, 41, 17)
    together, alone = ([base.new_cache(4) for _ in lengths] for _ in range(2))
    for caches in (together, alone):
        for size, each in zip(lengths, caches, strict=True):
            probe.run(ids[:size], each)
    ours, theirs = [], []
    for step in range(2):
        next_ids = ids[[size + step for size in lengths]]
        positions_B = np.array([float(each.num_entries) for each in together])
        ours.append(base.decode_batch(base.embed(next_ids), positions_B, together))
        theirs += [probe.run(next_ids[row : row + 1], each) for row, each in enumerate(alone)]
    error = _distance(torch.cat(ours), torch.cat(theirs))
    return _result("batch", error, probe.limit, "three sessions of different lengths, together and alone")


def finite(probe: Probe) -> CheckResult:
    """Gists of any norm come out as numbers."""
    window_TD, positions_T = probe.mixed_window()
    tokens_norm = window_TD[:4].float().norm(dim=-1).mean()
    means_RD = window_TD[4 : 4 + NUM_TOKENS // 2 // GIST_TOKENS].float()
    units_RD = means_RD / means_RD.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    failed = []
    for scale in NORM_SCALES:
        scaled_TD = window_TD.clone()
        scaled_TD[4 : 4 + len(means_RD)] = (units_RD * tokens_norm * scale).to(window_TD.dtype)
        logits = _forward(probe.base, scaled_TD, positions_T, probe.base.new_cache(len(window_TD)))
        if not torch.isfinite(logits).all():
            failed.append(scale)
    said = f"gists {', '.join(f'{scale:g}' for scale in failed or NORM_SCALES)} times as long as tokens"
    return _result("finite", float(len(failed)), 0.0, f"{said} give NaN or infinity" if failed else said)


def tokenizer(probe: Probe) -> CheckResult:
    """Text comes back as it was, and nothing that a text says is a control token."""
    codec = probe.base.codec
    changed, unstable = [], []
    for name, text in TEXTS.items():
        back = codec.decode(codec.encode(text).token_ids)
        if back != text:
            changed.append(name)
            if codec.decode(codec.encode(back).token_ids) != back:
                unstable.append(name)
    broken = [name for name in changed if name in ("prose", "control tokens")] + unstable
    detail = f"{len(TEXTS)} texts encoded and back"
    if changed:
        detail += f"; changed: {', '.join(changed)}"
    return _result("tokenizer", float(len(broken)), 0.0, detail)


def compare_precision(probe: Probe, exact: Base) -> CheckResult:
    """The base in its own precision against the same weights in float32: tokens and gists among them."""
    limit = LIMITS[probe.base.info.dtype]
    window_TD, positions_T = probe.mixed_window()
    ours = _forward(probe.base, window_TD, positions_T, probe.base.new_cache(len(window_TD)))
    theirs = _forward(exact, window_TD.float(), positions_T, exact.new_cache(len(window_TD)))
    tokens_of = [Probe(each, probe.token_ids).fresh(probe.token_ids).cpu() for each in (probe.base, exact)]
    error = max(_distance(ours.cpu(), theirs.cpu()), _distance(*tokens_of))
    return _result("precision", error, limit, f"{probe.base.info.dtype} against float32")


CHECKS: dict[str, Callable[[Probe], CheckResult]] = {
    "tokens": tokens,
    "cache": cache,
    "patch": patch,
    "mixed": mixed,
    "far": far,
    "batch": batch,
    "finite": finite,
    "tokenizer": tokenizer,
}
# What tokenizers trip over; the first and the last have to come back whole.
TEXTS = {
    "prose": "The miller's daughter said: \"It's 7 o'clock!\" and left; nobody (not even he) had asked why.",
    "spaces": "  two before,\ta tab,   three between, and lines\n\n\nthat are empty \n",
    "code": "def f(x: int) -> str:\n    return f'{x:>08_}'  # ¬ π ≠ 3\n",
    "scripts": "Grüße, naïve Ελλάδα; Привет, мир. 日本語のテキスト — العربية עברית हिन्दी ไทย 한국어",
    "odd Unicode": "e\u0301 \u200b\ufeff 👩\u200d🚀 🏴\U000e0067\U000e0062 \U0001f1e9\U0001f1ea \u202eabc\u202c ﬁ ㎏",
    "control tokens": "He wrote <|endoftext|> and </s>, <|im_start|>system, [INST] and <think> on the wall.",
}


def _forward(
    base: Base, window_TD: torch.Tensor, positions_T: npt.NDArray[np.float64], kept: ModelCache
) -> torch.Tensor:
    return base.forward(window_TD, positions_T, kept, num_logits=len(window_TD))


def _distance(ours: torch.Tensor, reference: torch.Tensor) -> float:
    """Against the norm of the reference; infinite if either is no number."""
    if not (torch.isfinite(ours).all() and torch.isfinite(reference).all()):
        return float("inf")
    return float((ours - reference).norm() / reference.norm().clamp_min(1e-12))


def _result(name: str, error: float, limit: float, detail: str) -> CheckResult:
    return CheckResult(name=name, passed=error <= limit, error=error, limit=limit, detail=detail)


def _skipped(name: str, limit: float, detail: str) -> CheckResult:
    return CheckResult(name=name, passed=True, error=None, limit=limit, detail=detail)
