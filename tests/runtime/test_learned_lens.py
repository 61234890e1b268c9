"""A learned lens in a session: it sees what it saw in training, it moves the cut, and it is refused where it is not."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from random import Random

import numpy as np
import pytest
import torch

from megacontext.errors import BaseModelError
from megacontext.focus.lenses.lensnet import LensNetLens
from megacontext.nets.shapes import FEATURES
from megacontext.ports.focus import LearnedEvidence
from megacontext.runtime import assembly
from megacontext.testing.fake_base import tiny_base
from megacontext.testing.fake_core import tiny_core_base
from megacontext.training.lens_labels import label
from megacontext.training.lens_model import lens_logits, looked
from megacontext.training.moments import moments_of
from megacontext.training.recall import Fact
from megacontext.training.windows import Strip, Window


@dataclass
class Told:
    """What a session hands to a lens, noting what it is asked."""

    inner: LearnedEvidence
    asked: list[tuple[np.ndarray, ...]] = field(default_factory=list)

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def of_blocks(self, *given):
        self.asked.append((*given, self.inner.of_blocks(*given)))
        return self.asked[-1][-1]


class Watched(LensNetLens):
    """Keeps what it asked, and of what."""

    def score(self, request):
        if request.learned is not None:
            self.told = Told(request.learned)
            request = replace(request, learned=self.told)
            self.request = request
        return super().score(request)


def asking_row() -> Window:
    """512 bytes: a code across the border of two blocks, and a question that the tail cannot answer."""
    letters, fact = Random(0), Fact(name="Ann Lee", key="code", value="48213")

    def filled(length):
        return [letters.choice(b"abcdefghij") for _ in range(length)]

    strip = Strip()
    strip.add_text(filled(110))
    strip.add_fact(list(b" The code for Ann Lee is 48213."), fact)
    strip.add_text(filled(250))
    answer = slice(1, 6)  # a bare space is no part of the value
    strip.add_question(list(b"\nQuestion: Ann Lee?\nAnswer:"), list(b" 48213.\n"), answer, fact, 6.0)
    strip.add_text(filled(512))
    return strip.window(512)


def test_a_session_feeds_it_what_training_did(tmp_path):
    """The same row, once as a sample for training and once as a memory that ends with its question: the same tokens
    ask, and all that the net is told is the same."""
    base, row = tiny_core_base(), asking_row()
    (moment,) = moments_of(row, tail_tokens=160, block_tokens=32)
    (sample,) = label(base._core, base._gist_encoder._net, [(row, [moment])], tail_tokens=160, measured=False)
    seen, asked = looked(sample), moment.query[1]
    assert bytes(row.tokens_T[:asked].astype(np.uint8)).endswith(b"Answer:")
    assert moment.evidence == (3, 4)
    assert moment.told == (4,)
    lens = Watched(num_passages=0, num_shortlisted=1000)
    with assembly.open(tmp_path / "memory", base=base, create=True, gister="gistnet") as memory:
        memory.append(row.tokens_T[:asked])
        recent = asked - 352
        with memory.session(budget_entries=11 + recent, lens=lens, sink_tokens=0, recent_tokens=recent) as session:
            session.refocus()
    told, cut = lens.told, lens.request.cut
    assert told.query_token_ids.tolist() == sample.query_ids_Q.tolist() == row.tokens_T[asked - 64 : asked].tolist()
    assert cut.levels[:11].tolist() == [1] * 11
    blocks, features, in_common, logits = told.asked[-1]
    words = in_common.by_token()
    assert blocks.tolist() == list(range(11))
    np.testing.assert_allclose(features, seen.features_NF, rtol=1e-5)
    np.testing.assert_allclose(words, seen.words_NQ4, rtol=1e-5)
    assert (words.reshape(-1, 4).max(0) > 0).all(), "words of all kinds were compared"
    with torch.no_grad():
        queries, expected = lens_logits(base._lens_net, sample, seen=seen)
    assert expected.std() > 1e-5
    np.testing.assert_allclose(logits, expected, rtol=0.02, atol=0.01)
    nothing, stakes = told.stakes
    assert nothing == pytest.approx(float(queries.nothing), abs=0.02)
    np.testing.assert_allclose(stakes, queries.stakes_L, rtol=0.02)


def lexical_base():
    """Its lens was taught that words in common are all."""
    base = tiny_core_base()
    with torch.no_grad():
        lens = base._lens_net
        lens.match_weight.zero_()
        lens.told_weight.zero_()
        lens.up.weight.zero_()
        lens.up.weight[0, FEATURES.index("lexical") - len(FEATURES)] = 20.0
        lens.down.weight.zero_()
        lens.down.weight[0, 0] = 1.0
    return base


@pytest.mark.parametrize("gist_width", [1, 2])
def test_it_opens_what_the_net_points_at(tmp_path, gist_width):
    token_ids = np.random.default_rng(0).integers(97, 107, 4000)  # a to j
    token_ids[1300:1308] = np.frombuffer(b"xyzxyzxy", dtype=np.uint8)
    with assembly.open(
        tmp_path / "memory", base=lexical_base(), create=True, gister="gistnet", block_tokens=8, gist_width=gist_width
    ) as memory:
        memory.append(token_ids)
        for lens in ("lensnet", LensNetLens(num_passages=0)):
            with memory.session(budget_entries=256, lens=lens, recent_tokens=8) as session:
                report = session.refocus("xyz")
                raw = session.working_context.starts[session.working_context.levels == 0]
                assert {1296, 1304} <= set(raw.tolist())
                assert report.num_expanded
                assert session.nll(np.arange(97, 100)).shape == (3,)
                assert list(session.generate("xyz", max_new_tokens=40, stop=()))


def test_a_base_or_a_memory_without_it_is_refused(tmp_path):
    with (
        assembly.open(tmp_path / "plain", base=tiny_base(), create=True, gister="mean") as memory,
        pytest.raises(BaseModelError, match=r"lens 'lensnet' is one that a base brings along, and .* has none"),
    ):
        memory.session(lens="lensnet")
    with (
        assembly.open(tmp_path / "mean", base=tiny_core_base(), create=True, gister="mean") as memory,
        pytest.raises(BaseModelError, match="reads learned gists, and those of this memory are 'mean'"),
    ):
        memory.session(lens="lensnet")


def test_an_empty_history_has_nothing_to_open(tmp_path):
    with assembly.open(tmp_path / "memory", base=tiny_core_base(), create=True, gister="gistnet") as memory:
        with memory.session(budget_entries=128, lens="lensnet") as session:
            assert session.refocus("anything").num_entries == 0
        memory.append(np.arange(97, 120))
        with memory.session(budget_entries=128, lens="lensnet") as session:
            assert session.refocus("anything").num_entries == 1


def test_a_base_that_lacks_a_part_of_its_lens_is_named(tmp_path, monkeypatch):
    base = tiny_core_base()
    with assembly.open(tmp_path / "memory", base=base, create=True, gister="gistnet") as memory:
        memory.append(np.arange(97, 120).repeat(20))
        monkeypatch.delattr(base, "lens_query_tokens")
        with (
            memory.session(budget_entries=256, lens="lensnet") as session,
            pytest.raises(BaseModelError, match=r"tiny-core says that it has a learned lens, but lacks a part"),
        ):
            session.refocus("anything")
