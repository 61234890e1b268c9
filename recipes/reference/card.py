"""Copy the figures of `evaluation.json` into the tables of the model card, between the markers.

`python recipes/reference/card.py --model FOLDER`
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from megacontext.cli.failures import run_script
from megacontext.training.card import percent, read_figures, rewrite_figures, table, tables_of

WRITER = "recipes/reference/card.py"


def figures(report: dict[str, Any]) -> str:
    """All tables of the card."""
    run, recall = report["run"], report["recall"]
    plain = run["tokens_by_row_kind"].get("plain_2048", 0)
    full = plain + run["tokens_by_row_kind"].get("recall_2048", 0)
    cut = sum(tokens for kind, tokens in run["tokens_by_row_kind"].items() if kind.startswith("cut_"))
    stage_ends = ", ".join(f"{end['minutes']:.0f}" for end in run["stage_ends"])
    facts = table(
        ("training", ""),
        [
            ("tokens seen", f"{run['tokens']:,}"),
            ("of these in uncut sequences of 2,048 tokens", f"{100 * full / run['tokens']:.0f} %"),
            ("of these without any recall text in them", f"{100 * plain / run['tokens']:.0f} %"),
            ("of these in cut windows", f"{100 * cut / run['tokens']:.0f} %"),
            ("steps", f"{run['steps']:,}"),
            ("minutes", f"{run['minutes']} (stages ended after {stage_ends})"),
            ("machine", run["machine"]),
        ],
    )
    validation = table(
        ("held-out text", "bits per byte", "nats per token"),
        [
            (domain, f"{row['bits_per_byte']:.3f} ± {row['standard_error']:.3f}", f"{row['nats_per_token']:.3f}")
            for domain, row in report["validation"].items()
        ],
    )
    far = table(
        ("2,048 against 512 tokens of context, nats per token", "all tokens", "far words"),
        [
            (
                domain,
                f"{row['all_tokens']:+.3f} ± {row['all_tokens_standard_error']:.3f}",
                f"{row['far_words']:+.3f} ± {row['far_words_standard_error']:.3f} (n = {row['far_word_tokens']:,})",
            )
            for domain, row in report["far_context"].items()
        ],
    )
    distances = table(
        ("5-digit codes, tokens since the fact", "exact"),
        [(distance, percent(row)) for distance, row in recall["codes_by_distance"].items()]
        + [("all", percent(recall["codes"]))],
    )
    kinds = table(("kind of fact, any distance", "exact"), [(k, percent(row)) for k, row in recall["by_kind"].items()])
    cuts = table(
        ("cut window of 1,024 entries, single-token entries in it", "exact"),
        [(lone, percent(row)) for lone, row in report["cut_recall"].items()],
    )
    return "\n\n".join((facts, validation, far, distances, kinds, cuts))


def main() -> None:
    """Rewrite what stands between the markers of the card."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="model folder with evaluation.json and README.md")
    args = parser.parse_args()
    path = args.model / "evaluation.json"
    report = read_figures(path, measure="recipes/reference/evaluate.py --out FOLDER --model FOLDER")
    (tables,) = tables_of(path, lambda report: [figures(report)], report)
    rewrite_figures(args.model / "README.md", tables, writer=WRITER)


if __name__ == "__main__":
    run_script(main)
