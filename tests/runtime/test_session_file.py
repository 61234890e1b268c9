"""A session goes on from its file as if it had never stopped, or says in one line why not."""

from __future__ import annotations

import json
import shutil
import stat

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from megacontext.errors import (
    BaseMismatchError,
    BudgetError,
    CorruptionError,
    InvalidValueError,
    MemoryStateError,
)
from megacontext.focus.lenses.recency import RecencyLens
from megacontext.runtime import assembly
from megacontext.runtime.patching import Patching
from megacontext.runtime.regist import regist
from megacontext.runtime.session_file import DIGEST, HEADER, digest_of
from megacontext.testing.fake_base import tiny_base
from megacontext.testing.fake_core import tiny_core_base

RNG = np.random.default_rng(0)
TOKENS = RNG.integers(0, 256, 5000)
CONTINUATION = RNG.integers(0, 256, 12)
PATCHING = Patching(drift_bound=1e9)


def made(path, base, num_tokens=5000):
    memory = assembly.open(path, base=base, create=True, gister="mean")
    memory.append(TOKENS[:num_tokens], source="notes")
    return memory


def used(memory, kv="exact", **options):
    """A session that has moved, pinned and answered."""
    session = memory.session(budget_entries=700, kv=kv, **options)
    session.refocus("what")
    session.pin(1000, 1010)
    answer(session)
    session.reveal(2000, 2010)
    session.nll(CONTINUATION)
    return session


def answer(session):
    return list(session.generate("what?", max_new_tokens=6, stop=()))[-1].token_ids


def rewritten(path, change):
    """The file with its arrays or header changed, as somebody would who makes the checksum fit again."""
    with safe_open(path, framework="pt") as file:
        arrays, metadata = {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata())  # noqa: SIM118
    change(arrays, metadata)
    if DIGEST in metadata:
        metadata[DIGEST] = digest_of(metadata[HEADER], arrays)
    save_file(arrays, path, metadata)


def edit_part(metadata, part, **told):
    edit(metadata, **{part: {**json.loads(metadata[HEADER])[part], **told}})


def edit(metadata, **told):
    metadata[HEADER] = json.dumps({**json.loads(metadata[HEADER]), **told})


def test_a_copy_that_went_on_by_itself_gets_no_state_of_the_other(tmp_path):
    """The same age, base and number of erasures, but other tokens behind the first ones."""
    with made(tmp_path / "m.mc", tiny_base(), num_tokens=2000):
        pass
    shutil.copytree(tmp_path / "m.mc", tmp_path / "copy.mc")
    with assembly.open(tmp_path / "m.mc", base=tiny_base()) as memory:
        memory.append(TOKENS[2000:4000], source="more")
        with used(memory) as session:
            session.save(tmp_path / "s")
        with memory.restore_session(tmp_path / "s") as restored:
            before = restored.num_forwarded_entries
            own = restored.nll(CONTINUATION)
            assert restored.num_forwarded_entries - before < 100, "it goes on from the state"
    with assembly.open(tmp_path / "copy.mc", base=tiny_base()) as other:
        other.append(TOKENS[1000:3000], source="other")
        with other.restore_session(tmp_path / "s") as restored:
            before = restored.num_forwarded_entries
            theirs = restored.nll(CONTINUATION)
            assert restored.num_forwarded_entries - before > 300, "the window is made anew of the copy's own tokens"
    assert np.abs(own - theirs).max() > 1e-3


@pytest.mark.parametrize("make_base", [tiny_base, tiny_core_base])
@pytest.mark.parametrize("kv", ["exact", PATCHING])
def test_a_restored_session_goes_on_bit_for_bit(tmp_path, make_base, kv):
    with made(tmp_path / "m.mc", make_base()) as memory, used(memory, kv) as session:
        session.save(tmp_path / "s")
        forwarded = session.num_forwarded_entries
        with memory.restore_session(tmp_path / "s") as restored:
            assert restored.working_context.cut == session.working_context.cut
            assert restored.working_context.pins == session.working_context.pins
            assert (restored.working_context.ages == session.working_context.ages).all()
            assert restored.explain() == session.explain()
            assert (restored.nll(CONTINUATION) == session.nll(CONTINUATION)).all()
            assert restored.num_forwarded_entries == session.num_forwarded_entries
            assert restored.num_forwarded_entries - forwarded < 100, "the window is not computed again"
            for each in (session, restored):
                each.refocus()
            assert answer(restored) == answer(session)
            assert restored.working_context.cut == session.working_context.cut
            assert torch.equal(restored._engine.window.next_logits, session._engine.window.next_logits)


def test_saving_again_replaces_the_file_and_a_session_that_ran_nothing_is_saved_too(tmp_path, base):
    with made(tmp_path / "m.mc", base) as memory, memory.session(budget_entries=300) as session:
        session.save(tmp_path / "s")
        session.pin(100, 110)
        session.save(tmp_path / "s")
        assert [path.name for path in tmp_path.iterdir() if path.name != "m.mc"] == ["s"]
        with memory.restore_session(tmp_path / "s") as restored:
            assert restored.working_context.pins == ((100, 110),)


def test_files_are_private_and_links_are_written_through(tmp_path, base):
    with made(tmp_path / "m.mc", base) as memory, memory.session(budget_entries=300) as session:
        (tmp_path / "link").symlink_to(tmp_path / "s")
        session.save(tmp_path / "link")
        assert (tmp_path / "link").is_symlink()
        assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o600
        with pytest.raises(InvalidValueError, match="is a folder"):
            session.save(tmp_path)


def test_what_the_memory_gained_is_taken_in(tmp_path, base):
    with made(tmp_path / "m.mc", base) as memory, used(memory) as session:
        session.save(tmp_path / "s")
        memory.append(TOKENS[:40])
        with memory.restore_session(tmp_path / "s") as restored:
            np.testing.assert_allclose(restored.nll(CONTINUATION), session.nll(CONTINUATION), atol=1e-4)
            assert restored.working_context.num_tokens == len(TOKENS) + 40


def test_what_was_erased_since_does_not_come_back(tmp_path, base):
    with made(tmp_path / "m.mc", base) as memory:
        memory.append(TOKENS[:300], source="secret")
        with used(memory) as session:
            session.save(tmp_path / "s")
            memory.erase("secret")
            with memory.restore_session(tmp_path / "s") as restored:
                assert restored._engine.window is None
                np.testing.assert_allclose(restored.nll(CONTINUATION), session.nll(CONTINUATION), atol=1e-3)


def test_what_was_erased_is_not_saved(tmp_path, base):
    with made(tmp_path / "m.mc", base) as memory:
        memory.append(TOKENS[:300], source="secret")
        with used(memory) as session:
            memory.erase("secret")
            session.save(tmp_path / "s")
            with memory.restore_session(tmp_path / "s") as restored:
                assert restored._engine.window is None
                np.testing.assert_allclose(restored.nll(CONTINUATION), session.nll(CONTINUATION), atol=1e-3)


def test_a_memory_that_outgrew_its_window_is_saved_as_it_was_seen(tmp_path, base):
    tight = {"budget_entries": 60, "sink_tokens": 0, "recent_tokens": 0}
    with made(tmp_path / "m.mc", base) as memory, memory.session(**tight) as session:
        memory.append(np.resize(TOKENS, 32**3 - 1 - len(TOKENS)))  # 31 nodes of each level at least
        with pytest.raises(BudgetError):
            session.refocus()
        session.save(tmp_path / "s")
        with memory.restore_session(tmp_path / "s") as restored:
            restored.resize(700)
            assert restored.working_context.num_tokens == memory.num_tokens
            restored.save(tmp_path / "s")
        memory.restore_session(tmp_path / "s").close()


def test_another_memory_base_or_precision_is_refused(tmp_path, base):
    with made(tmp_path / "m.mc", base) as memory, used(memory) as session:
        session.save(tmp_path / "s")
    with made(tmp_path / "other.mc", base) as other, pytest.raises(BaseMismatchError, match="created_at"):
        other.restore_session(tmp_path / "s")
    with (
        assembly.open(tmp_path / "m.mc", base=tiny_base(dtype="float32", seed=0), read_only=True) as memory,
        memory.restore_session(tmp_path / "s") as restored,
    ):
        assert restored.nll(CONTINUATION).shape == (12,)


@pytest.mark.parametrize(("gister", "gist_width"), [("extractive", 1), ("mean", 2)])
def test_gists_of_another_kind_are_refused(tmp_path, base, gister, gist_width):
    """A move to other gists keeps the base, the blocks and the day that the memory was made."""
    with made(tmp_path / "m.mc", base) as memory, used(memory) as session:
        session.save(tmp_path / "s")
    regist(tmp_path / "m.mc", base=base, old_base=base, gister=gister, gist_width=gist_width, lossy_tokens=True)
    with (
        assembly.open(tmp_path / "m.mc", base=base, read_only=True) as moved,
        pytest.raises(BaseMismatchError, match=r"gister_name|gist_width"),
    ):
        moved.restore_session(tmp_path / "s")


def test_a_shorter_memory_is_refused(tmp_path, base):
    with made(tmp_path / "m.mc", base, 3000) as memory:
        with used(memory) as session:
            session.save(tmp_path / "s")
        rewritten(tmp_path / "s", lambda arrays, _: arrays["cut.stops"].__setitem__(-1, 3001))
        with pytest.raises(MemoryStateError, match="3001 tokens"):
            memory.restore_session(tmp_path / "s")


def test_lenses_that_were_objects_have_to_be_given_again(tmp_path, base):
    with made(tmp_path / "m.mc", base) as memory:
        with memory.session(budget_entries=300, lens=RecencyLens()) as session:
            session.save(tmp_path / "s")
        with pytest.raises(InvalidValueError, match="give lens="):
            memory.restore_session(tmp_path / "s")
        memory.restore_session(tmp_path / "s", lens="recency").close()


@pytest.mark.parametrize(
    "change",
    [
        lambda arrays, _: arrays.pop("cut.ages"),
        lambda arrays, _: arrays["cut.levels"].__setitem__(0, 9),
        lambda arrays, _: arrays.pop("cache.values.1"),
        lambda arrays, _: arrays["cache.slots"].zero_(),
        lambda arrays, _: arrays.__setitem__("window.ran", torch.zeros(3)),
        lambda arrays, _: arrays.__setitem__("cut.ages", arrays["cut.ages"][:3]),
        lambda arrays, _: arrays["window.keys"].fill_(7000),
        lambda arrays, _: arrays["window.keys"].fill_(-5),
        lambda arrays, _: arrays.__setitem__("window.logits", arrays["window.logits"][:7]),
        lambda arrays, _: [arrays.pop(name) for name in list(arrays) if name.startswith("cache.")],
        lambda _, metadata: edit(metadata, memory=None),
        lambda _, metadata: edit(metadata, budgets=[256, 100_000]),
        lambda _, metadata: edit(metadata, budgets=[-5, -5]),
        lambda _, metadata: edit(metadata, detail=[[10**9, 10**9 + 5, 1.0, "focus"]]),
        lambda _, metadata: edit(metadata, budgets=[700.0, 600]),
        lambda _, metadata: edit(metadata, detail=[[0, 5, "much", "focus"]]),
        lambda _, metadata: edit(metadata, pins=[[-5, 3]]),
        lambda _, metadata: edit(metadata, pins=[[0.5, 3]]),
        lambda _, metadata: edit_part(metadata, "config", hysteresis={"max_edits": 10**30}),
        lambda _, metadata: edit_part(metadata, "config", hysteresis={"swap_margin": "x"}),
        lambda _, metadata: edit_part(metadata, "window", num_patches=10**30),
        lambda _, metadata: edit_part(metadata, "window", num_forwarded=-1),
        lambda _, metadata: edit_part(metadata, "window", num_refreshes=1.5),
        lambda _, metadata: edit_part(metadata, "window", next_position=float("nan")),
        lambda _, metadata: edit_part(metadata, "window", changes=[10**400]),
        lambda _, metadata: metadata.__setitem__(HEADER, '{"format": 9}'),
        lambda _, metadata: metadata.__setitem__(HEADER, '{"format": 2}'),
        lambda _, metadata: metadata.pop(DIGEST),
        lambda _, metadata: metadata.clear(),
    ],
)
def test_a_file_that_was_changed_is_one_clear_error(tmp_path, base, change):
    with made(tmp_path / "m.mc", base) as memory:
        with used(memory) as session:
            session.save(tmp_path / "s")
        rewritten(tmp_path / "s", change)
        with pytest.raises((CorruptionError, InvalidValueError, MemoryStateError)) as caught:
            memory.restore_session(tmp_path / "s")
        assert "\n" not in str(caught.value)
        assert str(tmp_path / "s") in str(caught.value)


@pytest.mark.parametrize("make_base", [tiny_base, lambda: tiny_base(dtype="bfloat16")])
def test_every_bit_of_a_file_counts(tmp_path, make_base):
    with made(tmp_path / "m.mc", make_base()) as memory, used(memory) as session:
        session.save(tmp_path / "s")
        whole = (tmp_path / "s").read_bytes()
        num_header = 8 + int.from_bytes(whole[:8], "little")
        for start, stop, expected in (
            (num_header, len(whole), CorruptionError),
            (0, num_header, (CorruptionError, InvalidValueError)),
        ):
            for place in np.linspace(start, stop - 1, 40).astype(int):
                flipped = bytearray(whole)
                flipped[place] ^= 1 << place % 8
                (tmp_path / "s").write_bytes(flipped)
                with pytest.raises(expected, match=str(tmp_path / "s")):
                    memory.restore_session(tmp_path / "s")


def test_a_file_of_before_is_refused(tmp_path, base):
    with made(tmp_path / "m.mc", base) as memory, used(memory) as session:
        session.save(tmp_path / "s")
        rewritten(tmp_path / "s", lambda _, metadata: (edit(metadata, format=1), metadata.pop(DIGEST)))
        with pytest.raises(InvalidValueError, match=r"another version \(format 1, this one reads 4\); save it again"):
            memory.restore_session(tmp_path / "s")


def test_files_that_are_no_sessions_are_named(tmp_path, base):
    with made(tmp_path / "m.mc", base) as memory, used(memory) as session:
        session.save(tmp_path / "s")
        whole = (tmp_path / "s").read_bytes()
        for content in (b"", b"hello", whole[: len(whole) // 2]):
            (tmp_path / "s").write_bytes(content)
            with pytest.raises(CorruptionError, match="damaged or no saved session"):
                memory.restore_session(tmp_path / "s")
        with pytest.raises(InvalidValueError, match="is no file"):
            memory.restore_session(tmp_path / "none")
        with pytest.raises(InvalidValueError, match="folder of"):
            session.save(tmp_path / "none" / "s")
