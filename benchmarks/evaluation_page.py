"""What `megacontext eval` measured of the bundled base, as a page: ``docs/evaluation-results.md``.

Everything is read from the committed ``results.json`` of each run, so that the page can say nothing that was not
measured; the tests compare the two. python benchmarks/evaluation_page.py [--add NAME RUN]
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from megacontext.bases.registry import BaseHandle
from megacontext.evaluation.methods.contenders import rows_for
from record import RESULTS

__all__ = ["is_level", "page", "read_runs", "report_of", "separates_nothing"]

RUNS = RESULTS / "evaluation"
DOCS = Path(__file__).resolve().parents[1] / "docs"
HEAD = """# What evaluation says

Every task of [`megacontext eval`](evaluation.md) on the bundled `reference`, all methods side by side at equal budgets.
Made by `python benchmarks/evaluation_page.py` from `benchmarks/results/evaluation/`; how to read rows, intervals (95 %,
over histories), controls and stars stands on [the page before](evaluation.md). Few histories of each kind: what
their intervals do not separate is not told apart. `score` and `right` are shares, `answer nats` nats a token of
the answer, the other losses nats a token. The reports of the runs (closures, paired differences, every part of a task)
are {reports}.

Read them so: the tables pool window sizes (`gap`), distances and domains; "part by part" shows them apart.
{positions}
{silent}{level}{older}
"""


POSITIONS = """The bundled core learned windows of {learned:,} positions, so full context of a longer history (4 k) is
beyond what it learned, and no ceiling; windows of the budget stay within.{within}"""
OLDER = """
**An earlier model**: {names} measured the bundled core of before its last training, with its own gists and lens, not
the one that is bundled now."""
LEVEL = """
In {names} perfect focus is nowhere told apart from recency in what is right: what is measured there is what
the core can do, whatever it is shown."""
SILENT = """{names} score 0 for every method, perfect focus included, at every length: the core
answers none of them, and they separate nothing here but in nats, where those are given."""


def read_runs(folder: Path = RUNS) -> dict[str, dict[str, Any]]:
    """Contents of the runs' results by the name of their folder, in order."""
    files = sorted(folder.glob("*/results.json"))
    return {path.parent.name: json.loads(path.read_text(encoding="utf-8")) for path in files}


def report_of(name: str) -> Path:
    """The page that ``megacontext eval`` made of a run."""
    return DOCS / f"evaluation-{name}.html"


def page(runs: dict[str, dict[str, Any]]) -> str:
    """The whole page in Markdown."""
    reports = ", ".join(f"[{name}]({report_of(name).name})" for name in runs)
    learned = BaseHandle("reference").info.learned_positions
    tasks = [(name, task) for run in runs.values() for name, task in run["tasks"].items()]
    silent = _once(name for name, task in tasks if separates_nothing(task))
    level = _once(name for name, task in tasks if not separates_nothing(task) and is_level(task))
    short = [f"`{name}`" for name, run in runs.items() if max(run["settings"]["lengths"]) <= learned]
    within = f" Histories within that are those of {', '.join(short)}." if short else ""
    made_by = BaseHandle("reference").info.gist_net
    older = [f"`{name}`" for name, run in runs.items() if run["settings"]["gist_net"] != made_by]
    remarks = {
        "positions": POSITIONS.format(learned=learned, within=within),
        "silent": SILENT.format(names=_named(silent)) if silent else "",
        "level": LEVEL.format(names=_named(level)) if level else "",
        "older": OLDER.format(names=_named(older)) if older else "",
    }
    parts = [HEAD.format(reports=reports, **remarks)]
    for run_name, run in runs.items():
        parts += [f"## Run `{run_name}`\n", _measured(run)]
        for name, task in run["tasks"].items():
            parts += [f"### {name}\n", f"{task['summary']}. {task['histories']} histories.\n", _table(name, task)]
            parts += filter(None, [_by_part(name, task)])
    return "\n".join(parts)


def _measured(run: dict[str, Any]) -> str:
    """When, where and how."""
    settings, machine = run["settings"], run["machine"]
    command = (
        f"megacontext eval --base {settings['base']} --task {','.join(settings['tasks'])} "
        f"--lengths {','.join(map(str, settings['lengths']))} --samples {settings['num_samples']} "
        f"--budget {settings['budget_entries']} --seed {settings['seed']} --data DATA"
    )
    if settings["methods"]:
        command += f" --methods {','.join(settings['methods'])}"
    return (
        f"Measured {run['date'][:10]} on {machine['num_cores']} cores {machine['processor']} "
        f"({machine['matrix_units']}), commit `{run['commit']}`: `{command}`.\n"
    )


def separates_nothing(task: dict[str, Any]) -> bool:
    """Whether all methods, the oracle too, score 0 in every table of what is right."""
    right = [table for table in task["tables"] if not table["lower_is_better"]]
    found = [
        part["estimate"]["value"] for table in right for method in table["methods"].values() for part in method.values()
    ]
    return bool(found) and not any(found)


def is_level(task: dict[str, Any]) -> bool:
    """Whether the oracle lies within recency's interval wherever answers are right or wrong."""
    right = [table["methods"] for table in task["tables"] if not table["lower_is_better"]]
    pairs = [(_whole(methods["recency"]), _whole(methods["oracle"])) for methods in right if "oracle" in methods]
    return bool(pairs) and all(
        recency["estimate"]["low"] <= oracle["estimate"]["value"] <= recency["estimate"]["high"]
        for recency, oracle in pairs
    )


def _whole(parts: dict[str, Any]) -> dict[str, Any]:
    """A measure over all of its parts; a single part is the whole."""
    found: dict[str, Any] = parts["all"] if "all" in parts else next(iter(parts.values()))
    return found


def _once(names: Iterable[str]) -> list[str]:
    return [f"`{name}`" for name in dict.fromkeys(names)]


def _named(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _by_part(name: str, task: dict[str, Any]) -> str:
    """Folded tables of the parts of every measure that has several, without intervals: the reports have these. Nothing
    where none has."""
    labels, told = _labels(), []
    for table in task["tables"]:
        found = dict.fromkeys(part for one in table["methods"].values() for part in one)
        parts = [part for part in found if part != "all"]
        values = [part["estimate"]["value"] for one in table["methods"].values() for part in one.values()]
        if len(parts) < 2 or table["metric"] == "answer nats" or not any(values):
            continue
        digits = 3 if table["lower_is_better"] else 2
        told += [f"{_head(name, table)}\n", f"| method | {' | '.join(parts)} |", f"|{' --- |' * (len(parts) + 1)}"]
        for method, one in table["methods"].items():
            cells = [f"{one[part]['estimate']['value']:.{digits}f}" if part in one else "" for part in parts]
            told.append(f"| {labels[method]} | {' | '.join(cells)} |")
        told.append("")
    return "\n".join(["<details><summary>part by part</summary>\n", *told, "</details>\n"]) if told else ""


def _labels() -> dict[str, str]:
    info = BaseHandle("reference").info
    return {row.name: row.label for kind in ("all", "levels", "closed") for row in rows_for(kind, info)}


def _head(name: str, table: dict[str, Any]) -> str:
    """What a table measures, and of which histories."""
    of = f"{table['title'].removeprefix(name).strip(', ')}, {table['metric']} ".lstrip(", ")
    return f"{of}({'less' if table['lower_is_better'] else 'more'} is better)"


def _table(name: str, task: dict[str, Any]) -> str:
    labels, tables = _labels(), task["tables"]
    heads = [_head(name, table) for table in tables]
    methods = list(dict.fromkeys(method for table in tables for method in table["methods"]))
    rows = [[labels[method], *(_figure(table, method) for table in tables)] for method in methods]
    lines = [["method", *heads], ["---"] * (len(heads) + 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _figure(table: dict[str, Any], method: str) -> str:
    if method not in table["methods"]:
        return ""
    one = _whole(table["methods"][method])["estimate"]
    is_partial = one["count"] < max(_whole(other)["estimate"]["count"] for other in table["methods"].values())
    is_share = not table["lower_is_better"]
    value, low, high = one["value"], one["low"], one["high"]
    digits = 2 if is_share else 3
    return f"{value:.{digits}f} ({low:.{digits}f} to {high:.{digits}f}){'*' if is_partial else ''}"


def main() -> None:
    """Take over a finished run, if one is given, and write the page."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--add", nargs=2, metavar=("NAME", "RUN"), help="take over what is in the --out of a run")
    given = arguments.parse_args()
    if given.add:
        name, run = given.add
        (RUNS / name).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(Path(run) / "results.json", RUNS / name / "results.json")
        shutil.copyfile(Path(run) / "report.html", report_of(name))
    (DOCS / "evaluation-results.md").write_text(page(read_runs()), encoding="utf-8")


if __name__ == "__main__":
    main()
