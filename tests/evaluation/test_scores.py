"""The verdict names a winner only if chance does not explain the lead."""

from __future__ import annotations

from megacontext.evaluation.scores import Comparison, MethodScore, verdicts


def _comparison(*scores: MethodScore) -> Comparison:
    return Comparison(title="t", num_tokens=1_000, budget_entries=128, scores=scores)


def _score(name: str, num_right: int, nats: float) -> MethodScore:
    return MethodScore(
        name=name,
        label=name.upper(),
        correct=[number < num_right for number in range(60)],
        nats=[nats + 0.1 * (number % 3) for number in range(30)],
    )


def test_a_clear_winner_is_named() -> None:
    facts, text = verdicts(
        _comparison(_score("recency", 0, 2.0), _score("rag", 30, 2.2), _score("megacontext", 58, 2.1))
    )
    assert facts.startswith("MEGACONTEXT finds most hidden facts")
    assert "more than chance" in facts
    assert text.startswith("RECENCY predicts held-out text best")


def test_rag_may_win() -> None:
    facts, _ = verdicts(_comparison(_score("recency", 0, 2.0), _score("rag", 58, 2.2), _score("megacontext", 30, 2.1)))
    assert facts.startswith("RAG finds most hidden facts")


def test_a_lead_that_may_be_chance_is_called_so() -> None:
    facts, text = verdicts(
        _comparison(_score("recency", 0, 2.0), _score("rag", 57, 2.0), _score("megacontext", 58, 2.0))
    )
    told = "On hidden facts MEGACONTEXT and RAG cannot be told apart; the rest stay behind MEGACONTEXT"
    assert facts.startswith(told)
    assert "RECENCY, RAG and MEGACONTEXT cannot be told apart (" in text


def test_the_gap_to_perfect_focus_is_stated() -> None:
    scores = [
        _score("recency", 0, 2.0),
        _score("rag", 30, 2.0),
        _score("megacontext", 51, 2.0),
        _score("oracle", 54, 2),
    ]
    assert "Perfect focus would find 5.0 points more" in " ".join(verdicts(_comparison(*scores)))


def test_no_gap_to_perfect_focus_is_said_plainly() -> None:
    scores = [_score("recency", 0, 2.0), _score("rag", 9, 2.0), _score("megacontext", 50, 2.0), _score("oracle", 50, 2)]
    assert "Perfect focus would find no more than the lens did." in verdicts(_comparison(*scores))


def test_what_full_context_gains_is_said_where_it_fits() -> None:
    scores = [_score("recency", 9, 2.0), _score("rag", 9, 2.0), _score("megacontext", 9, 2.0), _score("full", 9, 1.5)]
    said = verdicts(_comparison(*scores))[-1]
    assert said.startswith("FULL".capitalize())
    assert "predicts held-out text -0.5" in said
    assert said.endswith("nats against RECENCY.")


def test_the_oracle_is_a_limit_and_no_rival() -> None:
    scores = [
        _score("recency", 0, 2.0),
        _score("rag", 20, 2.0),
        _score("megacontext", 51, 2.0),
        _score("oracle", 60, 1),
    ]
    assert verdicts(_comparison(*scores))[0].startswith("MEGACONTEXT finds most")
