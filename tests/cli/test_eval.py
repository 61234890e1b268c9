"""``megacontext eval``: tables and files of a small run, and one clear line for what is wrong."""

from __future__ import annotations

import json

import pytest


@pytest.fixture
def small(base_folder, tmp_path):
    """Arguments of a run of seconds."""
    return [
        *("eval", "--base", base_folder, "--task", "distance", "--samples", "2", "--lengths", "1k", "--budget", "400"),
        *("--methods", "recency,full,auto", "--out", tmp_path / "out"),
    ]


def test_a_run_shows_tables_and_leaves_a_report(megacontext, small, tmp_path):
    done = megacontext(*small)
    assert done.code == 0, done.err
    for word in ("distance, stated in the answer", "nats per token", "recency", "full context", "lens auto", "closure"):
        assert word in done.out
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {
        *("run.json", "trials.jsonl", "results.json", "report.html"),
    }
    page = (tmp_path / "out" / "report.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "")  # works offline

    again = megacontext(*small)
    assert (again.code, again.err.count("\n")) == (1, 1)
    assert "--resume" in again.err
    resumed = megacontext(*small, "--resume", "--json")
    assert resumed.code == 0
    assert resumed.data == json.loads((tmp_path / "out" / "results.json").read_text())


def test_an_interrupted_run_says_how_to_go_on(megacontext, small, tmp_path, monkeypatch):
    from megacontext.evaluation.runs import run

    calls = []

    def interrupted(method, item, evidence):
        calls.append(item)
        if len(calls) > 5:
            raise KeyboardInterrupt
        return run_item(method, item, evidence)

    run_item = run.run_item
    monkeypatch.setattr(run, "run_item", interrupted)
    stopped = megacontext(*small)
    assert stopped.code == 130
    assert "--resume" in stopped.err
    monkeypatch.setattr(run, "run_item", run_item)
    assert megacontext(*small, "--resume").code == 0
    assert not (tmp_path / "out" / "work").exists()


def test_the_list_shows_tasks_data_and_what_a_base_lacks(megacontext, base_folder):
    listed = megacontext("eval", "--list", "--base", base_folder)
    for word in ("needle", "babi/babi_en_1k.jsonl.xz", "recency", "no learned gists"):
        assert word in listed.out
    data = megacontext("eval", "--list", "--json", "--base", base_folder).data
    assert {"gap", "needle", "babi"} <= {task["name"] for task in data["tasks"]}
    tasks = {row["name"]: row["tasks"] for row in data["methods"]}
    assert tasks["full"] == [task["name"] for task in data["tasks"]]
    assert tasks["level-2-shuffled"] == ["levels"]
    assert tasks["mean-closed"] == ["boundary", "surprise", "way"]
    assert "gap" in tasks["mean-shuffled"]
    assert "levels" not in tasks["mean-shuffled"]
    assert (data["tasks"][0]["name"], data["tasks"][0]["reads"]) == ("gap", ["books/books_test.jsonl.xz"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["--task", ""], ["--list"]),
        (["--task", "needl"], ["unknown task 'needl'", "needle"]),
        (["--methods", "recancy"], ["unknown method 'recancy'", "recency"]),
        (["--base", "nowhere"], ["nowhere"]),
        (["--task", "babi"], ["babi/babi_en_1k.jsonl.xz", "--data"]),
        (["--data", "/nowhere"], ["/nowhere", "no folder"]),
        (["--lengths", "2x"], ["'2x'", "8k"]),
        (["--lengths", "12"], ["12", "1024"]),
        (["--lengths", "99999M"], ["length is 104856551424", "from 1024 to 16777216"]),
        (["--lengths", "9" * 5000], ["is no length", "8k"]),
        (["--block-tokens", "5"], ["block_tokens", "5"]),
        (["--gist-width", "0"], ["gist_width", "0"]),
        (["--budget", "30"], ["30", "budget of at least"]),
        (["--budget", "99999"], ["99999", "at most"]),
        (["--samples", "-1"], ["-1"]),
    ],
)
def test_wrong_usage_is_one_line(megacontext, small, changes, words):
    done = megacontext(*small, *changes)
    assert done.code == 2, done.err
    assert done.err.count("\n") == 1
    for word in words:
        assert word in done.err
