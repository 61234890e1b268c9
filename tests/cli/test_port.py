"""``megacontext port`` and ``megacontext bases``: what they print, what they write, and how they refuse."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from megacontext.cli.main import run
from megacontext.evaluation.porting import measuring
from megacontext.testing.model_folder import write_model_folder

TOOL = Path(__file__).parents[2] / "tools" / "port_model.py"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model_folder(tmp_path_factory.mktemp("port") / "tiny")


@pytest.fixture(autouse=True)
def few_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "LEAST_TRIALS", 2)
    monkeypatch.setattr(measuring, "MOST_TRIALS", 2)
    monkeypatch.setattr(measuring, "QUICK_WINDOW", 128)


def test_port_writes_a_config_and_a_page_and_prints_one_document(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    code = run(["port", str(model), "--quick", "--device", "cpu", "--dtype", "float32", "--out", str(out), "--json"])
    said = capsys.readouterr()
    assert code == 0, said.err
    found = json.loads(said.out)
    assert sorted(path.name for path in out.iterdir()) == ["tiny.md", "tiny.toml"]
    assert found["files"] == [str(out / "tiny.md"), str(out / "tiny.toml")]
    assert found["defaults"]["budget_entries"] >= 1024
    assert {check["name"]: check["passed"] for check in found["checks"]}["tokens"]
    assert "measuring gists (about" in said.err


def test_bases_prints_a_row_for_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bases", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert run(["bases"]) == 0
    table = capsys.readouterr().out
    assert len(found) > 30
    for each in found:
        assert each["name"] in table
        assert each["sources"]


@pytest.mark.parametrize(
    ("base", "code", "said"),
    [
        ("no-such-model", 2, "unknown base 'no-such-model'"),
        ("./no/such/folder", 1, "no such folder"),
    ],
)
def test_bad_names_are_one_line(base: str, code: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["port", base]) == code
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("megacontext: ")
    assert said in error


def test_folders_that_lack_something_are_one_line(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for missing, said in (("*.safetensors", "has no weights"), ("config.json", "has no config.json")):
        folder = Path(shutil.copytree(model, tmp_path / missing.strip("*."), ignore=shutil.ignore_patterns(missing)))
        assert run(["port", str(folder), "--out", str(tmp_path / "out")]) == 1
        assert said in capsys.readouterr().err.splitlines()[-1]
    assert run(["port", str(model), "--dtype", "int3"]) == 2
    assert "dtype is 'int3'" in capsys.readouterr().err
    folder = Path(shutil.copytree(model, tmp_path / "other-tokenizer"))
    spec = json.loads((folder / "tokenizer.json").read_text())
    spec["added_tokens"].append({**spec["added_tokens"][0], "content": "<far>", "id": 9000})
    (folder / "tokenizer.json").write_text(json.dumps(spec))
    assert run(["port", str(folder)]) == 1
    assert "use the tokenizer that belongs to the weights" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_tool_is_the_verb() -> None:
    done = subprocess.run(
        [sys.executable, TOOL, "no-such-model"], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 2
    assert "unknown base" in done.stderr


def test_an_id_without_a_network_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    assert run(["port", "nobody/no-such-model", "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("megacontext: nobody/no-such-model: no such folder, not in the local cache")
    assert "go online or give a folder" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("place", ["file", "below/file", "/proc/none"])
def test_where_nothing_can_be_written_is_said_before_the_work(
    model: Path, tmp_path: Path, place: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("megacontext.bases.registry.BaseHandle.load", lambda handle: pytest.fail("it began to work"))
    (tmp_path / "file").touch()
    (tmp_path / "below").touch()
    assert run(["port", str(model), "--quick", "--out", str(tmp_path / place)]) != 0
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert any(str(there) in said for there in (tmp_path / "file", tmp_path / "below", "/proc"))
