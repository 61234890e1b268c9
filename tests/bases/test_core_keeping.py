"""A core is written again and nothing beside its weights is lost, and nothing else is ever replaced by one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from megacontext.bases.core_folder import CoreNets, read_core_folder, write_core_folder, write_lens
from megacontext.bases.core_keeping import outdated_figures
from megacontext.bases.registry import BaseHandle
from megacontext.errors import InvalidValueError
from megacontext.nets.core import Core
from megacontext.nets.gist_net import GistNet
from megacontext.nets.lens_net import LensNet
from megacontext.nets.shapes import LensNetConfig
from megacontext.testing.fake_core import TINY_CORE, TINY_GIST_NET

TOKENIZER = BaseHandle("reference").folder / "tokenizer.json"
FIGURES = ("evaluation.json", "lens.json", "positions.json")
KEPT = {"README.md": b"# Mine\n", "LICENSE": b"MIT\n", "picture.png": b"\x89PNG", "notes/one.txt": b"1\n"}


def lens_of(seed: int) -> LensNet:
    torch.manual_seed(seed)
    return LensNet(LensNetConfig(width=TINY_CORE.width))


@pytest.fixture
def nets() -> CoreNets:
    torch.manual_seed(0)
    core = Core(replace(TINY_CORE, vocab_size=4096))
    return CoreNets(core=core, gist_net=GistNet(TINY_GIST_NET))


def other(nets: CoreNets) -> CoreNets:
    torch.manual_seed(1)
    return replace(nets, core=Core(nets.core.config))


def write(folder: Path, nets: CoreNets, *more: Path) -> None:
    write_core_folder(folder, nets, [TOKENIZER, *more], eos_token_id=1)


@pytest.fixture
def folder(tmp_path: Path, nets: CoreNets) -> Path:
    """A core with a lens that was taught later, measured and described."""
    made = tmp_path / "core"
    write(made, nets)
    write_lens(made, lens_of(3))
    (made / "notes").mkdir()
    for name, content in KEPT.items():
        (made / name).write_bytes(content)
    (made / "card.md").symlink_to("README.md")
    for name in FIGURES:
        (made / name).write_text(json.dumps({"of": "first"}))
    return made


def opened(folder: Path) -> CoreNets:
    return read_core_folder(folder, dtype=torch.float32, device=torch.device("cpu"))


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def digests(folder: Path) -> dict[str, str]:
    found: dict[str, str] = json.loads((folder / "config.json").read_text())["weights"]
    return found


def check_kept(folder: Path) -> None:
    found = content(folder)
    assert {name: found[name] for name in KEPT} == KEPT
    assert (folder / "card.md").readlink() == Path("README.md")


def check_lens(folder: Path, lens: LensNet) -> None:
    found, wanted = opened(folder).lens_net, lens.state_dict()
    assert found is not None
    assert all(torch.equal(value, wanted[name]) for name, value in found.state_dict().items())


def test_the_same_nets_again_change_nothing(folder: Path, nets: CoreNets) -> None:
    before = content(folder)
    write(folder, nets)
    assert content(folder) == before
    check_lens(folder, lens_of(3))
    assert outdated_figures(folder) == []
    check_kept(folder)


def test_figures_of_weights_before_get_another_name(folder: Path, nets: CoreNets) -> None:
    write(folder, other(nets))
    check_kept(folder)
    assert outdated_figures(folder) == list(FIGURES)
    assert opened(folder).lens_net is None
    assert not (folder / "lens_net.safetensors").exists()
    for name in ("evaluation", "lens", "positions"):
        assert json.loads((folder / f"{name}.before.json").read_text()) == {"of": "first"}
        assert not (folder / f"{name}.json").exists()
    (folder / "evaluation.json").write_text(json.dumps({"of": "second"}))
    assert outdated_figures(folder) == ["lens.json", "positions.json"]
    write(folder, nets)
    assert json.loads((folder / "evaluation.before.json").read_text()) == {"of": "first"}
    assert json.loads((folder / "evaluation.before.2.json").read_text()) == {"of": "second"}
    assert sorted(path.name for path in folder.glob("*.json")) == [
        "config.json",
        "evaluation.before.2.json",
        "evaluation.before.json",
        "lens.before.json",
        "positions.before.json",
        "tokenizer.json",
    ]


def test_figures_that_ask_no_lens_outlive_it(folder: Path, nets: CoreNets) -> None:
    write(folder, replace(nets, lens_net=lens_of(4)))
    assert outdated_figures(folder) == ["evaluation.json", "lens.json"]
    assert (folder / "positions.json").exists()
    check_lens(folder, lens_of(4))


def test_a_lens_that_is_damaged_does_not_stay(folder: Path, nets: CoreNets) -> None:
    (folder / "lens_net.safetensors").write_bytes(b"cut")
    write(folder, nets)
    assert opened(folder).lens_net is None
    assert outdated_figures(folder) == ["evaluation.json", "lens.json"]


def test_logs_are_those_of_the_weights(folder: Path, nets: CoreNets, tmp_path: Path) -> None:
    stale = ("log.jsonl.gz", "log.1.jsonl", "log.12.jsonl.gz", "starts.jsonl", "starts.1.jsonl")
    kept = ("log.txt", "prolog.jsonl", "questions.jsonl")
    for name in (*stale, *kept):
        (folder / name).write_text("before")
    (tmp_path / "log.jsonl").write_text("now")
    write(folder, nets, tmp_path / "log.jsonl")
    names = {path.name for path in folder.iterdir()}
    assert (folder / "log.jsonl").read_text() == "now"
    assert names.isdisjoint(stale)
    assert names >= set(kept)


def test_a_run_is_never_replaced(folder: Path, nets: CoreNets, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for place in (run, folder):
        (place / "checkpoint.pt").write_bytes(b"weeks")
        before = content(place)
        with pytest.raises(InvalidValueError, match=rf"{place} holds checkpoint\.pt, so it is that of a run; give"):
            write(place, nets)
        assert content(place) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["core", "run"]


@pytest.mark.parametrize("config", [None, "{", "[]", '{"model_type": "llama"}'])
def test_a_folder_of_something_else_is_never_replaced(config: str | None, nets: CoreNets, tmp_path: Path) -> None:
    diary = tmp_path / "diary"
    diary.mkdir()
    (diary / "monday.txt").write_text("mine")
    if config is not None:
        (diary / "config.json").write_text(config)
    before = content(diary)
    with pytest.raises(InvalidValueError, match=r"diary is not empty and holds no core .*; give an empty one, or one"):
        write(diary, nets)
    for place in (diary / "monday.txt", diary / "monday.txt" / "below" / "model"):
        with pytest.raises(InvalidValueError, match=r"monday\.txt is a file; give the model a folder of its own"):
            write(place, nets)
    assert content(diary) == before
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty", nets)
    assert opened(tmp_path / "empty").gist_net is not None


def test_a_folder_is_replaced_where_a_link_to_it_leads(folder: Path, nets: CoreNets, tmp_path: Path) -> None:
    link = tmp_path / "newest"
    link.symlink_to("core")
    write(link, other(nets))
    assert link.readlink() == Path("core")
    check_kept(folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["core", "newest"]


class Killed(BaseException):
    """What no code catches."""


@contextmanager
def killed_after(moves: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The process ends when a file or folder is to be moved once more; what runs inside makes three moves."""
    real, done = Path.replace, []

    def dies(self: Path, target: Path) -> Path:
        if len(done) == moves:
            raise Killed
        done.append(target)
        return real(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", dies)
        try:
            yield
        except Killed:
            assert moves < 3


@pytest.mark.parametrize("moves", range(4))
def test_nothing_is_lost_wherever_an_export_is_killed(
    moves: int, folder: Path, nets: CoreNets, monkeypatch: pytest.MonkeyPatch
) -> None:
    with killed_after(moves, monkeypatch):  # the configuration, the folder before, the folder
        write(folder, other(nets))
    before = folder.with_name("core.before")
    if not folder.exists():
        with pytest.raises(
            InvalidValueError, match=rf"{before} is left of an export .*; rename it to core, then export"
        ):
            write(folder, other(nets))
        before.rename(folder)
    check_kept(folder)
    write(folder, other(nets))
    check_kept(folder)
    assert outdated_figures(folder) == list(FIGURES)
    assert [path.name for path in folder.parent.iterdir()] == ["core"]


def test_what_lies_where_the_folder_would_be_put_aside_is_not_removed(folder: Path, nets: CoreNets) -> None:
    aside = folder.with_name("core.before")
    aside.mkdir()
    (aside / "mine.txt").write_text("mine")
    link = folder.with_name("newest")
    link.symlink_to("core")
    for place in (folder, link):
        said = rf"{aside} is left of .*; remove it if {folder} is whole, then export"
        with pytest.raises(InvalidValueError, match=said):
            write(place, nets)
    assert (aside / "mine.txt").read_text() == "mine"
    assert not folder.with_name("core.partial").exists()


def test_a_lens_is_written_and_nothing_else_changes(folder: Path) -> None:
    before, config = content(folder), json.loads((folder / "config.json").read_text())
    write_lens(folder, lens_of(4))
    after = content(folder)
    assert before.keys() == after.keys()
    assert {name for name in after if after[name] != before[name]} == {"config.json", "lens_net.safetensors"}
    now = json.loads((folder / "config.json").read_text())
    assert now["weights"].pop("lens_net") != config["weights"].pop("lens_net")
    assert now == config
    check_lens(folder, lens_of(4))


@pytest.mark.parametrize("moves", range(4))
def test_a_folder_opens_wherever_the_writing_of_its_lens_is_killed(
    moves: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = digests(folder)
    with killed_after(moves, monkeypatch):  # the configuration without a lens, the lens, the configuration with it
        write_lens(folder, lens_of(4))
    assert (opened(folder).lens_net is None) == (moves in (1, 2))
    write_lens(folder, lens_of(4))
    check_lens(folder, lens_of(4))
    assert {name: digests(folder)[name] for name in ("core", "gist_net")} == {
        name: before[name] for name in ("core", "gist_net")
    }
    check_kept(folder)
