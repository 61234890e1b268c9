"""What a run leaves beside its trials: results.json, report.html, report.png."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megacontext.evaluation.results.account import TaskAccount, account_json, account_of
from megacontext.evaluation.results.estimates import INTERVALS
from megacontext.evaluation.results.page import report_html
from megacontext.evaluation.runs.run import EvalRun

__all__ = ["Report", "write_report"]


@dataclass(frozen=True, kw_only=True)
class Report:
    """content: what results.json holds; files: to look at. Without matplotlib (extra ``figures``) there is no PNG."""

    content: dict[str, Any]
    accounts: Sequence[TaskAccount]
    files: list[Path]


def write_report(run: EvalRun) -> Report:
    """Write everything to the run's folder."""
    about, records, folder = run.folder.about, run.folder.records, run.folder.path
    accounts = [account_of(task, records, run.rows_of(task)) for task in run.tasks]
    content = {
        **about,
        "intervals": INTERVALS,
        "tasks": {account.task.name: account_json(account) for account in accounts},
    }
    results, page, picture = folder / "results.json", folder / "report.html", folder / "report.png"
    results.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    page.write_text(report_html(about, accounts, run.rows), encoding="utf-8")
    files = [page, results]
    if importlib.util.find_spec("matplotlib") is not None:
        from megacontext.evaluation.results.picture import draw_report

        draw_report(picture, about, accounts, run.rows)
        files.insert(1, picture)
    return Report(content=content, accounts=accounts, files=files)
