"""What methods reached on the same trials, and what may honestly be concluded from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from megacontext.evaluation.intervals import Mean, Share, paired_difference, wins_may_be_chance

__all__ = ["Comparison", "MethodScore", "verdicts"]


@dataclass(frozen=True, kw_only=True)
class MethodScore:
    """One method on all trials. correct: per question, whether the answer was right; nats: per continuation, mean
    nats per token; seconds: for everything."""

    name: str
    label: str
    correct: Sequence[bool] = ()
    nats: Sequence[float] = ()
    seconds: float = 0.0

    @property
    def accuracy(self) -> Share | None:
        return Share.of(self.correct) if self.correct else None

    @property
    def nll(self) -> Mean | None:
        return Mean.of(self.nats) if len(self.nats) else None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Methods on the same questions and continuations at the same budget. rivals: names of the methods that the
    verdict ranks (the others, oracle and full context, are limits)."""

    title: str
    num_tokens: int
    budget_entries: int
    scores: Sequence[MethodScore]
    rivals: Sequence[str] = field(default=("recency", "rag", "megacontext", "learned"))

    def score(self, name: str) -> MethodScore:
        return next(score for score in self.scores if score.name == name)


def verdicts(comparison: Comparison) -> list[str]:
    """One sentence on the questions and one on the continuations, from what pairs say at 95 %: an exact test of who was
    right where not both were, and Student's t of the nats."""
    rivals = [score for score in comparison.scores if score.name in comparison.rivals]
    sentences = []
    if rivals and all(score.correct for score in rivals):
        sentences.append(_ranking(rivals, "finds most hidden facts", "hidden facts", higher_is_better=True))
        sentences += _gap_to_oracle(comparison)
    if rivals and all(len(score.nats) for score in rivals):
        sentences.append(_ranking(rivals, "predicts held-out text best", "held-out text", higher_is_better=False))
    return sentences + _gap_to_full(comparison)


def _ranking(rivals: Sequence[MethodScore], praise: str, subject: str, *, higher_is_better: bool) -> str:
    """Who wins: the best method, unless its lead over the next could be chance."""
    values = {score.name: _values(score, higher_is_better) for score in rivals}
    ranked = sorted(rivals, key=lambda score: -float(np.mean(values[score.name])))
    best, others = ranked[0], ranked[1:]
    if higher_is_better:
        tied = [other for other in others if wins_may_be_chance(best.correct, other.correct)]
    else:
        tied = [other for other in others if not paired_difference(best.nats, other.nats).differs_from_zero]
    figures = ", ".join(f"{score.label} {_figure(score, higher_is_better)}" for score in ranked)
    if not tied:
        return f"{best.label} {praise} ({figures}); its lead is more than chance (95 %)."
    names = _listed([score.label for score in [best, *tied]])
    rest = "" if len(tied) == len(others) else f"; the rest stay behind {best.label}"  # the others were not compared
    return f"On {subject} {names} cannot be told apart{rest} ({figures}; {len(values[best.name])} trials, 95 %)."


def _gap_to_oracle(comparison: Comparison) -> list[str]:
    names = [score.name for score in comparison.scores]
    if not {"megacontext", "oracle"} <= set(names) or not comparison.score("oracle").correct:
        return []
    auto, oracle = comparison.score("megacontext"), comparison.score("oracle")
    gap = paired_difference(_values(oracle, True), _values(auto, True))
    if not gap.value:
        return ["Perfect focus would find no more than the lens did."]
    more = "more" if gap.value > 0 else "less"
    return [f"Perfect focus would find {100 * abs(gap.value):.1f} points {more} than the lens did."]


def _gap_to_full(comparison: Comparison) -> list[str]:
    """What there is to win at all, where everything fits."""
    found = [score for score in comparison.scores if score.name == "full" and len(score.nats)]
    first = comparison.scores[0]
    if not found or not len(first.nats):
        return []
    gap = paired_difference(found[0].nats, first.nats)
    return [
        f"{found[0].label.capitalize()}, which fits here, predicts held-out text {gap.value:+.3f} ± {gap.error:.3f} "
        f"nats against {first.label}."
    ]


def _listed(names: Sequence[str]) -> str:
    """``A, B and C``."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 2 else names)


def _values(score: MethodScore, higher_is_better: bool) -> list[float]:
    return [float(right) for right in score.correct] if higher_is_better else [-nats for nats in score.nats]


def _figure(score: MethodScore, is_share: bool) -> str:
    return f"{100 * np.mean(score.correct):.0f} %" if is_share else f"{np.mean(score.nats):.3f} nats"
