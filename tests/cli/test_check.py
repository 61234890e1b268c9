"""``check`` and ``check --repair`` on what describes the arrays: any damage is named with its file, and made good."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from megacontext.cli.main import run
from megacontext.runtime import assembly
from megacontext.runtime.transfer import export_memory, import_memory
from megacontext.units import format_bytes

NUM_TOKENS = 70_000
PLACES = 4  # of a file that are flipped; the suite of the store takes every byte


@pytest.fixture(scope="module")
def sealed(tmp_path_factory, base_folder):
    """A memory with sealed shards of tokens and of several levels of gists."""
    folder = tmp_path_factory.mktemp("sealed") / "memory"
    assert run(["init", str(folder), "--base", str(base_folder), "--block-tokens", "8", "--gister", "mean"]) == 0
    with assembly.open(folder) as opened:
        opened.append(np.random.default_rng(2).integers(0, 90, NUM_TOKENS))
    return folder


@pytest.fixture
def memory(sealed, tmp_path):
    return shutil.copytree(sealed, tmp_path / "memory")


def layout(folder):
    """Every file below ``arrays/`` that is no shard."""
    files = [path for path in (folder / "arrays").rglob("*") if path.is_file()]
    return sorted(path for path in files if "c" not in path.relative_to(folder).parts)


def damages_of(content):
    """Contents that are not ``content``; None where the file is gone."""
    for place in np.linspace(0, len(content) - 1, PLACES).astype(int).tolist():
        yield content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :]
    yield content[: len(content) // 2]
    yield content[:-1]
    yield content + b" "
    yield b""
    yield None


def contents(folder):
    with assembly.open(folder, read_only=True) as opened:
        gists = [opened.gists(level, 0, opened.inspect().num_nodes[level]) for level in range(1, opened.num_levels)]
        return [opened.tokens(0, NUM_TOKENS).tobytes(), *(rows.tobytes() for rows in gists)]


def test_every_damage_of_what_describes_the_arrays(megacontext, memory):
    """One file alone, then all of them in every way: each is named, repair makes good the very bytes."""
    wanted = contents(memory)
    intact = {path.relative_to(memory).as_posix(): path.read_bytes() for path in layout(memory)}
    assert {*intact} == {f"arrays/{array}zarr.json" for array in ("", "lod0/", "lod1/", "meta1/")}
    rounds = [{name: next(damages_of(content))} for name, content in intact.items()]
    rounds += [dict(zip(intact, spoilt, strict=True)) for spoilt in zip(*map(damages_of, intact.values()), strict=True)]
    for spoilt in rounds:
        for name, content in spoilt.items():
            (memory / name).unlink()
            if content is not None:
                (memory / name).write_bytes(content)
        found = megacontext("check", memory, "--json")
        assert found.code == 1
        assert sorted(damage["object_name"] for damage in found.data["damages"]) == sorted(spoilt), spoilt
        assert all(0 == damage["token_start"] < damage["token_stop"] <= NUM_TOKENS for damage in found.data["damages"])
        mended = megacontext("check", memory, "--repair", "--json")
        assert mended.code == 0
        assert sorted(damage["object_name"] for damage in mended.data["repaired"]) == sorted(spoilt)
        assert {name: (memory / name).read_bytes() for name in intact} == intact
        assert contents(memory) == wanted


def test_a_shard_and_what_describes_it_damaged_at_once(megacontext, memory):
    """The one does not hide the other."""
    wanted = contents(memory)
    for array in ("lod0", "meta1"):
        (memory / "arrays" / array / "zarr.json").write_text("{}")
    shard = next(path for path in (memory / "arrays" / "lod0" / "c").rglob("*") if path.is_file())
    data = shard.read_bytes()
    shard.write_bytes(data[:1000] + bytes([data[1000] ^ 1]) + data[1001:])
    names = {"arrays/lod0/zarr.json", "arrays/meta1/zarr.json", shard.relative_to(memory).as_posix()}
    assert {damage["object_name"] for damage in megacontext("check", memory, "--json").data["damages"]} == names
    found = megacontext("check", memory)
    assert "can be rebuilt from the settings of the memory" in found.out
    assert megacontext("check", memory, "--repair").code == 0
    assert contents(memory) == wanted


def test_what_cannot_be_read_is_named_and_no_repair_is_promised(megacontext, memory):
    described = memory / "arrays" / "lod1" / "zarr.json"
    described.unlink()
    described.mkdir()
    for arguments in ((), ("--repair",)):
        done = megacontext("check", memory, *arguments)
        assert done.code == 1
        assert "lod1/zarr.json" in done.out
        assert "cannot be rebuilt" in done.out
        assert "journal" not in done.out


def test_a_check_without_repair_changes_nothing(megacontext, memory):
    (memory / "arrays" / "zarr.json").write_bytes(b"")
    (memory / "arrays" / "lod0" / "zarr.json").unlink()
    assert megacontext("check", memory).code == 1
    assert (memory / "arrays" / "zarr.json").read_bytes() == b""
    assert not (memory / "arrays" / "lod0" / "zarr.json").exists()


def test_a_repaired_memory_is_exported_and_read_by_zarr(megacontext, memory, tmp_path):
    zarr = pytest.importorskip("zarr")
    for path in layout(memory):
        path.write_bytes(b"?")
    assert megacontext("check", memory, "--repair").code == 0
    export_memory(memory, tmp_path / "memory.tar")
    import_memory(tmp_path / "memory.tar", tmp_path / "copy")
    assert json.loads((tmp_path / "copy" / "arrays" / "zarr.json").read_text())["node_type"] == "group"
    group = zarr.open_group(str(tmp_path / "copy" / "arrays"), mode="r")
    with assembly.open(memory, read_only=True) as opened:
        np.testing.assert_array_equal(group["lod0"][0:65_536], opened.tokens(0, 65_536))


def test_what_nothing_refers_to_is_named_and_removed(megacontext, memory):
    """As an ingest leaves it that was killed: no damage."""
    wanted = contents(memory)
    left = memory / "arrays" / "lod0" / "c" / "1"
    shutil.copy(left.with_name("0"), left)
    (memory / "raw" / ".tmp-stream-0").write_bytes(bytes(5000))
    num_bytes = left.stat().st_size + 5000
    found = megacontext("check", memory)
    assert (found.code, "all good" in found.out) == (0, True)
    assert f"{format_bytes(num_bytes)} are of an ingest that was interrupted, or goes on" in found.out
    assert megacontext("check", memory, "--json").data["unused_bytes"] == num_bytes
    assert left.exists()
    mended = megacontext("check", memory, "--repair")
    assert (mended.code, f"removed {format_bytes(num_bytes)} that nothing" in mended.out) == (0, True)
    assert not left.exists()
    data = megacontext("check", memory, "--json").data
    assert (data["ok"], data["unused_bytes"], data["removed_bytes"]) == (True, 0, 0)
    assert contents(memory) == wanted
