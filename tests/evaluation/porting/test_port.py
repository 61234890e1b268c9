"""A model is ported: real checks, real measurements, a page and a config that the program reads back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import megacontext as mc
from megacontext.bases.huggingface import HuggingFaceBase
from megacontext.bases.profiles import read_profile
from megacontext.bases.registry import BaseHandle
from megacontext.errors import BaseModelError, InvalidValueError, UnknownNameError
from megacontext.evaluation.porting import measuring
from megacontext.evaluation.porting.checks import CheckResult
from megacontext.evaluation.porting.port import PortConfig, port
from megacontext.evaluation.porting.room import LEAST_WINDOW
from megacontext.ports.base import BaseDefaults


@pytest.fixture(autouse=True)
def few_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "LEAST_TRIALS", 2)
    monkeypatch.setattr(measuring, "MOST_TRIALS", 2)
    monkeypatch.setattr(measuring, "QUICK_WINDOW", 128)


def ported(base: Path | str, out: Path, **options: Any) -> Any:
    steps: list[str] = []
    config = PortConfig(base=str(base), out=out, is_quick=True, device="cpu", **options)
    found = port(config, on_step=lambda what, number, total: steps.append(what))
    assert {step.partition(" (")[0] for step in steps} >= {"loading", "checking", "measuring speed"}
    return found


def test_a_config_that_cannot_be_read_is_no_obstacle_to_another(model_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(model_folder, tmp_path / "model"))
    (folder / "megacontext.toml").write_text("format = 99\n")
    with pytest.raises(BaseModelError, match="write it again with `megacontext port`"):
        _ = BaseHandle(str(folder)).info
    again = BaseHandle(str(folder), own_profile=False)
    assert again.profile is None
    assert again.info.defaults == BaseDefaults()


def test_a_model_gets_a_config_that_is_read_back_and_a_page(model_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(model_folder, tmp_path / "model"))
    found = ported(folder, tmp_path / "out", dtype="bfloat16", installs=True)
    assert not found.failed
    assert [check.name for check in found.checks][-1] == "precision"
    assert found.checks[-1].error is not None
    assert found.measured is not None
    assert all(
        len(nats) == 2 for nats in [found.measured.recency, found.measured.full, *found.measured.shapes.values()]
    )
    assert {shape.positions for shape in found.measured.shapes} == {"window", "timeline", "global"}
    assert {shape.sink_tokens for shape in found.measured.shapes} == {0, 4}
    profile = read_profile(tmp_path / "out" / "model.toml")
    assert profile.defaults == found.choices.defaults
    assert profile.traits == found.traits
    assert profile.fingerprint == found.info.fingerprint
    page = (tmp_path / "out" / "model.md").read_text()
    for reason in found.choices.reasons.values():
        assert reason.partition(": ")[2] in page
    for check in found.checks:
        assert f"| {check.name} | passed |" in page
    assert BaseHandle(str(folder)).info.defaults == profile.defaults
    with (
        mc.open(tmp_path / "one.mc", base=folder, create=True) as memory,
        memory.session() as session,
    ):
        assert memory.info.gister_name == profile.defaults.gister
        assert session.working_context.config.budget_entries == profile.defaults.budget_entries


def test_a_model_of_small_windows_is_ported_with_gists_that_they_hold(model_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(model_folder, tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())

    def with_positions(number: int) -> None:
        (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": number}))

    with_positions(LEAST_WINDOW)
    found = ported(folder, tmp_path / "out")
    assert not found.failed
    assert found.choices.defaults.block_tokens == 16
    assert found.choices.defaults.budget_entries == LEAST_WINDOW
    with_positions(LEAST_WINDOW - 1)
    with pytest.raises(BaseModelError, match=r"for windows of 127 entries, but .* at least 128: port a model that"):
        port(PortConfig(base=str(folder), out=tmp_path / "out"), on_step=lambda *told: pytest.fail("was loaded"))


def test_a_base_with_learned_gists_is_ported(tmp_path: Path) -> None:
    found = ported("reference", tmp_path)
    assert not found.failed
    assert found.traits.model_type == "megacontext_core"
    assert "gistnet" in {shape.gister for shape in found.measured.shapes}
    assert found.cost.entry_bytes == found.traits.kv_bytes_per_entry(found.info.dtype)
    with pytest.raises(InvalidValueError, match="leave out --install"):
        ported("reference", tmp_path, installs=True)


def test_a_model_that_fails_a_check_gets_a_page_and_no_config(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = HuggingFaceBase.decode_batch
    monkeypatch.setattr(HuggingFaceBase, "decode_batch", lambda *given: run(*given) * 1.5)
    found = ported(model_folder, tmp_path)
    assert found.failed == ["batch"]
    assert found.choices is None
    assert [file.suffix for file in found.files] == [".md"]
    assert not list(tmp_path.glob("*.toml"))
    assert "**batch failed**" in found.files[0].read_text()


def test_a_precision_that_is_too_coarse_is_replaced(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "megacontext.evaluation.porting.port.compare_precision",
        lambda probe, exact: CheckResult(name="precision", passed=False, error=0.4, limit=0.15, detail="too coarse"),
    )
    found = ported(model_folder, tmp_path, dtype="bfloat16")
    assert not found.failed
    assert found.choices.defaults.dtype == "float32"
    assert "bfloat16 is too coarse for this model" in found.files[0].read_text()


def test_what_cannot_be_ported_is_said_in_one_line(model_folder: Path, tmp_path: Path) -> None:
    empty = tmp_path / "no-weights"
    shutil.copytree(model_folder, empty, ignore=shutil.ignore_patterns("*.safetensors"))
    with pytest.raises(BaseModelError, match="has no weights"):
        ported(empty, tmp_path / "out")
    with pytest.raises(UnknownNameError, match="unknown base 'no-such-model'"):
        ported("no-such-model", tmp_path / "out")
    with pytest.raises(InvalidValueError, match="dtype is 'int3'"):
        ported(model_folder, tmp_path / "out", dtype="int3")
    assert not (tmp_path / "out").exists()


def test_the_memory_of_windows_is_that_of_their_entries(model_folder: Path, tmp_path: Path) -> None:
    found = ported(model_folder, tmp_path)
    assert found.cost.windows[-1].num_entries == found.info.max_positions
    assert found.cost.windows[0].cache_bytes == 1024 * found.cost.entry_bytes
