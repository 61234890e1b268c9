"""What a run leaves beside its trials: results.json, report.html, report.png."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megacontext.evaluation.results.account import account_json, account_of
from megacontext.evaluation.runs.run import EvalRun

__all__ = ["Report", "write_report"]


@dataclass(frozen=True, kw_only=True)
class Report:
    """content: what results.json holds."""

    content: dict[str, Any]
    files: list[Path]


def write_report(run: EvalRun) -> Report:
    """Write everything to the run's folder."""
    records = run.folder.records
    accounts = [account_of(task, records, run.rows_of(task)) for task in run.tasks]
    content = {**run.folder.about, "tasks": {account.task.name: account_json(account) for account in accounts}}
    results = run.folder.path / "results.json"
    results.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return Report(content=content, files=[results])
