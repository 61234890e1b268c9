"""Moves to another base that cannot be: one error each, and nothing lost."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from tests.runtime.regist.memories import contents

from megacontext.errors import (
    BaseMismatchError,
    BaseModelError,
    CorruptionError,
    InvalidTokensError,
    InvalidValueError,
    MemoryLockedError,
    MemoryMovedError,
    MemoryNotFoundError,
    SchemaVersionError,
    UnknownNameError,
)
from megacontext.runtime import assembly
from megacontext.runtime.regist import drop_old, regist


def test_tokens_that_no_text_gives_are_refused_before_anything_is_written(folder, bases):
    with assembly.open(folder) as memory:
        letters = [memory.codec.encode(letter).token_ids for letter in "quick"]
        memory.append(np.concatenate(letters), source="raw ids")
    with pytest.raises(InvalidTokensError, match=r"5 of raw ids; .*--lossy-tokens"):
        regist(folder, base=bases[1])
    assert not (folder / "generations").exists()
    regist(folder, base=bases[1], lossy_tokens=True)
    with assembly.open(folder) as memory:
        last = memory.sources()[-1]
        assert (last.uri, memory.text(last.token_start, last.token_stop)) == ("raw ids", "quick")
        assert memory.check(recompute_gists=True).ok


def test_an_unfinished_move_to_another_base_is_named(folder, bases):
    with assembly.open(folder, base=bases[0]) as writer:
        writer.append_text("one", source="one")
        with pytest.raises(MemoryLockedError):
            regist(folder, base=bases[1])
    with pytest.raises(BaseMismatchError) as caught:
        regist(folder, base=bases[1], gister="extractive")
    assert "mean gists" in str(caught.value)
    assert "extractive gists" in str(caught.value)
    assert "--restart" in str(caught.value)
    assert "--keep-old" not in str(caught.value)
    assert regist(folder, base=bases[1], gister="extractive", restart=True).info.gister_name == "extractive"


def test_the_error_of_another_base_names_this_command(folder, bases):
    with pytest.raises(BaseMismatchError) as caught:
        assembly.open(folder, base=bases[1])
    assert f"`megacontext regist {folder} --base {bases[1]}`" in str(caught.value)


def test_a_lost_text_names_its_source_and_nothing_is_lost(folder, bases):
    before = contents(folder)
    with assembly.open(folder) as memory:
        page = next(source for source in memory.sources() if source.uri.endswith("page.html"))
    lost = folder / "raw" / page.text_digest[:2] / f"{page.text_digest}.zst"
    kept = lost.read_bytes()
    for damage in (lost.unlink, lambda: lost.write_bytes(kept[:-9])):
        damage()
        with pytest.raises(CorruptionError, match=r"page\.html cannot be read.*check --repair"):
            regist(folder, base=bases[1])
    with assembly.open(folder) as memory:
        assert memory.check(repair=True).ok
    assert contents(folder) == before
    regist(folder, base=bases[1])


def test_a_base_that_cannot_be_loaded_is_refused_before_anything_is_written(folder, bases, tmp_path):
    """Mean gists need its embedding table alone."""
    before = contents(folder)
    broken = shutil.copytree(bases[1], tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BaseModelError, match="weights are missing"):
        regist(folder, base=str(broken), gister="mean")
    assert not (folder / "generations").exists()
    assert contents(folder) == before


def test_bad_input(folder, bases, tmp_path):
    before = contents(folder)
    with pytest.raises(MemoryNotFoundError):
        regist(tmp_path / "none", base=bases[1])
    with pytest.raises(MemoryNotFoundError):
        drop_old(tmp_path / "none")
    with pytest.raises((BaseModelError, UnknownNameError, InvalidValueError)):
        regist(folder, base=str(tmp_path / "no-model"))
    with pytest.raises(InvalidValueError, match="nothing to do"):
        regist(folder, base=bases[0])
    with pytest.raises(UnknownNameError):
        regist(folder, base=bases[1], gister="none")
    with pytest.raises(InvalidValueError):
        regist(folder, base=bases[1], block_tokens=8, gist_width=8)
    assert not (folder / "generations").exists()
    assert contents(folder) == before


def test_a_newer_schema_is_refused(folder, bases):
    import sqlite3

    connection = sqlite3.connect(folder / "catalog.sqlite")
    connection.execute("PRAGMA user_version = 99")
    connection.execute("UPDATE alembic_version SET version_num = '0099'")
    connection.commit()
    connection.close()
    with pytest.raises(SchemaVersionError, match="upgrade megacontext"):
        regist(folder, base=bases[1])


def test_one_move_at_a_time(folder, bases):
    seen = []

    def again(progress):
        if not seen:
            with pytest.raises(MemoryLockedError, match="moved to another base") as caught:
                regist(folder, base=bases[1])
            seen.append(str(caught.value))

    regist(folder, base=bases[1], progress=again)
    assert seen


def test_a_move_that_was_decided_before_another_ended_is_refused(folder, bases, monkeypatch):
    """It would take the generation that counts for what an earlier run left."""
    from megacontext.runtime import regist as module

    look = module.refuse_lost_commits

    def meanwhile(place):
        monkeypatch.setattr(module, "refuse_lost_commits", look)
        regist(folder, base=bases[1])
        return look(place)

    monkeypatch.setattr(module, "refuse_lost_commits", meanwhile)
    with pytest.raises(MemoryMovedError, match="just now"):
        regist(folder, base=bases[1], gister="extractive", restart=True)
    with assembly.open(folder) as memory:
        assert (memory.info.base_name, memory.info.gister_name) == (bases[1], "mean")
        assert memory.check().ok
    regist(folder, base=bases[1], gister="extractive")
