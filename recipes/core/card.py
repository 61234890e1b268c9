"""Copy the figures of `evaluation.json`, `lens.json` and `positions.json` into the tables of the model card.

`python recipes/core/card.py --model FOLDER`
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from megacontext.cli.failures import run_script
from megacontext.training.card import percent, read_figures, rewrite_figures, table, tables_of

WRITER = "recipes/core/card.py"
PARTS = ("run", "plain", "before", "recall")
WAYS = (
    "recent 448",
    "recent 512",
    "lexical, last 8, every 64",
    "lexical, last 32, every 64",
    "lexical, last 256, every 64",
    "lens, every 64",
    "lens, every 64, and gists",
    "oracle, every 64",
    "lexical, last 8, every 8",
    "lexical, last 32, every 8",
    "lexical, last 256, every 8",
    "lens, every 8",
    "lens, every 8, and gists",
    "oracle, every 8",
    "oracle, every 8, and gists",
    "gists 32:1",
    "gists 32:1, shuffled",
    "gists 8:1",
    "gists 8:1, shuffled",
)


def base_tables(report: dict[str, Any]) -> list[str]:
    """The core beside the plain model that it began with: text, far words, recall from full context."""
    now, before = report["plain"], report["before"]
    rows = [
        (f"{domain}, bits per byte", *(f"{one['validation'][domain]['bits_per_byte']:.3f}" for one in (before, now)))
        for domain in now["validation"]
    ]
    rows += [
        (
            f"{domain}, nats a far word, 2,048 against 512 tokens of context",
            *(f"{one['far_context'][domain]['far_words']:+.2f}" for one in (before, now)),
        )
        for domain in now["far_context"]
    ]
    rows.append(("5-digit codes in 2,048 tokens, exact", *(percent(one["recall"]["codes"]) for one in (before, now))))
    return [table(("", "plain model", "this core"), rows)]


NO_KIND = ("rows", "questions")  # what a part says of itself
CLOSURES = {"closure": "closure", "closure_of_plain": "closure of the plain model's"}


def recall_tables(report: dict[str, Any]) -> list[str]:
    """Questions in windows of 512, 256 and 128 of 2,048 tokens, with controls."""
    tables = []
    for kind, ways in report["recall"].items():
        if kind in NO_KIND:
            continue
        ceilings = [measure for measure in CLOSURES if any(measure in one for one in ways.values())]
        rows = []
        for name, one in ways.items():
            inside = percent(one["inside"]) if one.get("inside", {}).get("n") else ""
            figures = (name.replace("/", ", "), percent(one["exact"]), inside, _answer_nats(one))
            rows.append((*figures, *(_closure(one, measure) for measure in ceilings)))
        heads = (f"{kind}: entries, window, gists", "exact", "stated within one block", "nats a token")
        tables.append(table((*heads, *(CLOSURES[measure] for measure in ceilings)), rows))
    return tables


def _answer_nats(one: dict[str, Any]) -> str:
    return "" if one["answer_nats"] is None else f"{one['answer_nats']:.2f}"  # where nothing was asked


def _closure(one: dict[str, Any], name: str) -> str:
    if one.get(name) is None:
        return ""
    interval = one.get(f"{name}_interval")
    return f"{one[name]:.2f}" + ("" if interval is None else f" ({interval[0]:.2f} to {interval[1]:.2f})")


KIND_WINDOWS = ("full", "512/gists/real", "512/lens/real", "256/gists/real", "256/lens/real", "128/gists/real")


def kind_tables(report: dict[str, Any]) -> list[str]:
    """Puzzles by kind, asked in words of training and in others: exact recall, and closure of the core's own gap."""
    asked = {"taught": report["recall"].get("puzzles", {})}
    asked["unseen"] = report.get("wordings", {}).get("puzzles in unseen words", {})
    rows = []
    for wording, ways in asked.items():
        if "by_kind" not in ways.get("full", {}):
            continue
        for kind in ("all", *ways["full"]["by_kind"]):
            parts = [ways[name] if kind == "all" else ways[name]["by_kind"][kind] for name in KIND_WINDOWS]
            rows.append((kind, wording, f"{parts[0]['exact']['n']}", *map(_kind_cell, parts)))
    if not rows:
        return []
    heads = [name.removesuffix("/real").replace("/", ", ") for name in KIND_WINDOWS]
    return [table(("puzzles: kind", "words of the question", "n", *heads), rows)]


def _kind_cell(part: dict[str, Any]) -> str:
    one = part["exact"]
    if one["accuracy"] is None:
        return ""
    return f"{100 * one['accuracy']:.0f} ± {100 * one['standard_error']:.0f} % {_closure(part, 'closure')}".rstrip()


def ratio_tables(report: dict[str, Any]) -> list[str]:
    """Questions answered from gists alone, by how many tokens one vector stands for."""
    tables = []
    for kind, ways in report.get("ratios", {}).items():
        if kind in NO_KIND:
            continue
        rows = [("as it is", "", percent(ways["full"]["exact"]), "", _answer_nats(ways["full"]), "", "")]
        for ratio in (name.removesuffix("/recency") for name in ways if name.endswith("/recency")):
            real, other = (ways[f"{ratio}/gists/{control}"] for control in ("real", "shuffled"))
            recent = ways[f"{ratio}/recency"]
            exact = [percent(one["exact"]) for one in (real, other)]
            nats = [_answer_nats(one) for one in (real, recent)]
            rows.append((ratio, f"{real['entries']:,}", *exact, *nats, _closure(real, "closure")))
        heads = ("entries", "gists, exact", "another row's", "nats a token", "recency", "closure")
        tables.append(table((f"{kind}: tokens a vector", *heads), rows))
    return tables


def text_tables(report: dict[str, Any]) -> list[str]:
    """Held-out text: what each way brings back of what full context is worth, and pairs."""
    tables = []
    for domain, part in report["text"].items():
        if domain == "rows":
            continue
        rows = []
        for way in WAYS:
            if way in part["ways"]:
                every, far = part["ways"][way]["all"], part["ways"][way]["far"]
                interval = far["interval"]
                share = "" if far["share"] is None else f"{far['share']:.2f}"
                spread = "" if interval is None else f" ({interval[0]:.2f} to {interval[1]:.2f})"
                rows.append((way, _nats(every), _nats(far), share + spread))
        head = (f"{domain}: against 256 recent tokens", "all tokens", "far words", "share of full context's gain, far")
        tables.append(table(head, rows))
        pairs = [(name, _nats(one["all"]), _nats(one["far"])) for name, one in part["pairs"].items()]
        tables.append(table((f"{domain}: pairs, the first less the second", "all tokens", "far words"), pairs))
        tables.append(table((f"{domain}: from words to oracle, the lens", "all tokens", "far words"), gap_rows(part)))
    return tables


def gap_rows(part: dict[str, Any]) -> list[tuple[str, ...]]:
    """What share of the way from the words' choice of blocks to the oracle's the lens goes; below zero it chooses worse
    than words. Errors are those of the lens against the words, that of the whole way left out."""
    rows: list[tuple[str, ...]] = []
    for name, pair in part["pairs"].items():
        first, _, words = name.partition(" - ")
        oracle = first.replace("lens", "oracle")
        if words.startswith("lexical") and oracle in part["ways"]:
            shares = []
            for kind in ("all", "far"):
                whole = part["ways"][words][kind]["nats"] - part["ways"][oracle][kind]["nats"]
                nats, error = pair[kind]["nats"], pair[kind]["standard_error"]
                shares.append(f"{-nats / whole:+.2f} ± {error / whole:.2f}" if whole > 0 else "")
            rows.append((f"from {words}", *shares))
    return rows


def lens_tables(lens: dict[str, Any]) -> list[str]:
    """Whether a block of the evidence, and one in which the value stands, comes first or among the first four of 56."""
    rows = [
        (kind, scorer, *(percent(hits[name]) for name in ("within_1", "within_4", "told_1", "told_4")))
        for kind, scorers in lens["hits"].items()
        for scorer, hits in scorers.items()
    ]
    tables = [
        table(
            (
                "question",
                "who ranks",
                "a block of the evidence first",
                "within four",
                "one with the value first",
                "within four",
            ),
            rows,
        )
    ]
    for kind, by_level in lens["calibration"].items():
        for level, one in by_level.items():
            if one["correlation"] is None:
                continue
            bins = [(f"{part['blocks']:,}", f"{part['said']:.2f}", f"{part['saved']:.2f}") for part in one["bins"]]
            agree = f"correlation {one['correlation']:.2f}, agreement {percent(one['agreement'])}"
            tables.append(table((f"{kind}, {level}: {agree}; blocks", "said, nats", "saved, nats"), bins))
    return tables


def position_tables(positions: dict[str, Any]) -> list[str]:
    """What the residual stream says of an entry's index, and other sigmas."""
    errors = positions["index_errors"]
    head = ("index read from", *next(iter(errors.values())))
    tables = [table(head, [(name, *(f"{value:,.1f}" for value in one.values())) for name, one in errors.items()])]
    factors = positions["sigma_factors"]
    rows = [
        (factor, *(f"{one[factor]['nats']:+.4f} ± {one[factor]['standard_error']:.4f}" for one in factors.values()))
        for factor in next(iter(factors.values()))
    ]
    tables.append(table(("sigma times", *factors), rows))
    return tables


def run_table(run: dict[str, Any]) -> str:
    """How it was trained."""
    told = " and ".join(
        f"{one['minutes']:.0f}" + (f" (stages ended after {ends})" if ends else "")
        for one in run["runs"]
        for ends in [", ".join(f"{end['minutes']:.0f}" for end in one["stage_ends"])]
    )
    return table(
        ("training of core and GistNet", ""),
        [
            ("tokens of history seen", f"{run['tokens']:,}"),
            ("steps", f"{run['step']:,}"),
            ("minutes", f"{run['minutes']}: {told}"),
            ("machine", run["machine"]),
        ],
    )


def evaluation_tables(report: dict[str, Any]) -> list[str]:
    """All that `evaluate.py` has measured."""
    return [
        run_table(report["run"]),
        *base_tables(report),
        *recall_tables(report),
        *kind_tables(report),
        *ratio_tables(report),
        *(text_tables(report) if "text" in report else ()),
    ]


def _nats(one: dict[str, Any]) -> str:
    return f"{one['nats']:+.3f} ± {one['standard_error']:.3f}"


def main() -> None:
    """Rewrite what stands between the markers of the card."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="model folder with evaluation.json and README.md")
    args = parser.parse_args()
    path = args.model / "evaluation.json"
    report = read_figures(path, parts=PARTS, measure="recipes/core/evaluate.py --out RUN --model FOLDER")
    tables = tables_of(path, evaluation_tables, report)
    for name, lay_out in {"lens": lens_tables, "positions": position_tables}.items():
        path = args.model / f"{name}.json"
        if path.exists():
            figures = read_figures(path, measure=f"recipes/core/{name}.py --out RUN --model FOLDER")
            tables += tables_of(path, lay_out, figures)
    rewrite_figures(args.model / "README.md", "\n\n".join(tables), writer=WRITER)


if __name__ == "__main__":
    run_script(main)
