"""A learned lens in a session: it sees what it saw in training, it moves the cut, and it is refused where it is not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from megacontext.errors import BaseModelError
from megacontext.focus.lenses.features import feature_columns, word_features
from megacontext.focus.lenses.lensnet import LensNetLens
from megacontext.nets.lens_net import FEATURES
from megacontext.runtime import assembly
from megacontext.testing.fake_base import tiny_base
from megacontext.testing.fake_core import tiny_core_base
from megacontext.training.lens_labels import QUERY_TOKENS, Moment, label
from megacontext.training.lens_model import lens_logits, looked
from megacontext.training.windows import Window

TAIL = 96


class Watched(LensNetLens):
    """Keeps what it was asked."""

    def score(self, request):
        if request.learned is not None:
            self.request = request
            cut, ones = request.cut, np.ones(int((request.cut.levels == 1).sum()), dtype=np.int64)
            self.stakes = request.learned.stakes
            entries = np.flatnonzero(cut.levels == 1)
            features = feature_columns(
                FEATURES,
                levels_n=ones,
                widths_n=32 * ones,
                distances_n=int(cut.stops[-1]) - cut.stops[entries],
            )
            tokens = request.memory.tokens(0, 32 * len(entries)).reshape(-1, 32)
            words = word_features(tokens, request.learned.query_token_ids, num_before=0).words_nQ2
            self.by_state = request.learned.of_entries(entries, features, words)
            self.by_gist = request.learned.of_gists(request.memory.gists(1, 0, len(entries)), features, words)
        return super().score(request)


def test_it_sees_in_a_session_what_it_saw_in_training(tmp_path):
    base = tiny_core_base()
    tokens_T = np.random.default_rng(0).integers(97, 123, 512)
    end = 448
    row = Window(
        tokens_T=tokens_T, targets_T=np.roll(tokens_T, -1), weights_T=np.ones(512, dtype=np.float32), answers=()
    )
    moment = Moment(query=(end - QUERY_TOKENS, end), horizon=(end - 1, end + 8))
    tail = 512 - (end - TAIL)
    (sample,) = label(base._core, base._gist_net, [(row, [moment])], tail_tokens=tail, measured=False)
    seen = looked(sample)
    seen.features_NF[:, [FEATURES.index("lexical"), FEATURES.index("continues")]] = 0
    seen.words_NQ2[:] = torch.from_numpy(
        word_features(tokens_T[: end - TAIL].reshape(-1, 32), sample.query_ids_Q.numpy(), num_before=0).words_nQ2
    )
    lens = Watched()
    with assembly.open(tmp_path / "memory", base=base, create=True, gister="gistnet") as memory:
        memory.append(tokens_T[:end])
        num_closed = (end - TAIL) // 32
        with memory.session(budget_entries=TAIL + num_closed, lens=lens, sink_tokens=0, recent_tokens=TAIL) as session:
            session.refocus()
    assert lens.request.cut.levels.tolist() == [1] * num_closed + [0] * (TAIL // 32)
    assert lens.request.learned.query_token_ids.tolist() == tokens_T[end - QUERY_TOKENS : end].tolist()
    with torch.no_grad():
        queries, by_state = lens_logits(base._lens_net, sample, kind="hidden", seen=seen)
        _, by_gist = lens_logits(base._lens_net, sample, kind="gist", seen=seen)
    assert by_state.std() > 1e-5
    np.testing.assert_allclose(lens.by_state, by_state, rtol=0.02)
    np.testing.assert_allclose(lens.by_gist, by_gist, rtol=0.02)
    nothing, stakes = lens.stakes
    assert nothing == pytest.approx(float(queries.nothing), abs=0.02)
    np.testing.assert_allclose(stakes, queries.stakes_L, rtol=0.02)


def lexical_base():
    """Its lens was taught that words in common are all."""
    base = tiny_core_base()
    with torch.no_grad():
        lens = base._lens_net
        lens.match_weight.zero_()
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
