"""What a run sees of held-out text: the figures are those of plain forwards, and looking changes nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from megacontext.nets.core import Core
from megacontext.nets.gist_net import GistNet
from megacontext.testing.fake_core import TINY_CORE, TINY_GIST_NET
from megacontext.training.core_recipe import memory_gauges
from megacontext.training.curriculum import BatchKind, Stage
from megacontext.training.gist_cuts import GistCut
from megacontext.training.gist_probe import ROW_TOKENS, probe_gists, probe_rows
from megacontext.training.loop import LoopConfig, TrainingLoop
from megacontext.training.memory_model import MemoryConfig, MemoryLearner
from megacontext.training.optim import MasterOptimizer, OptimConfig
from megacontext.training.tokens import TokenStore
from megacontext.training.windows import TextSource, Window

CUT = GistCut(shapes=((32, 1),), num_tail=2)
STAGE = Stage(
    name="gists", batches=(BatchKind(name="aligned", share=1, rows=2, length=192, mix={"aligned": 1.0}, gists=CUT),)
)
FAR = 16


def nats_after(core: Core, gist_net: GistNet, row: Window, level: int, *, gists_of: Window | None = None) -> float:
    """Of the last 64 tokens, entry by entry; level 0 is the text itself, and -1 shows nothing of the first blocks."""
    ids = torch.from_numpy(row.tokens_T)
    far_KD = core.embed(torch.from_numpy((gists_of or row).tokens_T)[: FAR * 32].view(FAR, 32))
    gists_1D = gist_net(far_KD, level=1, num_children=32, gist_width=1)[:, 0]
    if level == 1:
        shown, middles, width = gists_1D, 4.0 * torch.arange(FAR) + 1.5, 4 * FAR
    elif level == 2:
        shown = gist_net(gists_1D[None, :, None].flatten(1, 2), level=2, num_children=FAR, gist_width=1)[0]
        middles, width = torch.tensor([1.5]), 4
    elif level == -1:
        shown, middles, width = far_KD.flatten(0, 1)[:0], torch.zeros(0), 4 * FAR
    else:
        shown, middles, width = far_KD.flatten(0, 1), torch.arange(FAR * 32.0), FAR * 32
    tail = ids[FAR * 32 :]
    entries = torch.cat([shown, core.embed(tail)])[None]
    mu = torch.cat([middles.double(), width + torch.arange(len(tail)).double()])[None]
    sigma = torch.cat([torch.full((len(shown),), 4 * 12**-0.5 if level else 0.0), torch.zeros(len(tail))])[None]
    logits = core.logits(core(entries, mu, sigma).hidden_BTD)[0, -64:]
    return float(torch.nn.functional.cross_entropy(logits, torch.from_numpy(row.targets_T[-64:])))


@torch.no_grad()
def test_it_is_what_the_next_tokens_cost_after_gists(nets: tuple[Core, GistNet], stores: dict[str, TokenStore]) -> None:
    rows = probe_rows(stores)
    assert len(rows) == 8
    assert {len(row.tokens_T) for row in rows} == {ROW_TOKENS}
    figures = probe_gists(*nets, rows)
    raw, none = (sum(nats_after(*nets, row, level) for row in rows) / len(rows) for level in (0, -1))
    for level in (1, 2):
        real = sum(nats_after(*nets, row, level) for row in rows) / len(rows)
        shuffled = sum(nats_after(*nets, row, level, gists_of=rows[at - 1]) for at, row in enumerate(rows)) / len(rows)
        assert figures[f"delta_nll_64/level_{level}"] == pytest.approx(real - raw, abs=1e-4)
        for control, nats in (("none", none), ("shuffled", shuffled)):
            saved = figures[f"gists_save_64/level_{level}/of_{control}"]
            assert saved == pytest.approx(nats - real, abs=1e-5)
            assert abs(saved) > 1e-4, "the sign would not show"
    same = probe_gists(*nets, [rows[0]] * 2)
    assert same["gists_save_64/level_1/of_shuffled"] == same["gists_save_64/level_2/of_shuffled"] == 0


def test_little_text_is_not_looked_at(stores: dict[str, TokenStore]) -> None:
    short = {name: replace(store, ids_N=store.ids_N[:ROW_TOKENS]) for name, store in stores.items()}
    assert probe_rows(short) == []


def test_a_run_logs_it_and_learns_the_same(source: TextSource, stores: dict[str, TokenStore], tmp_path: Path) -> None:
    ends = []
    for out in ("watched", "alone"):
        torch.manual_seed(0)
        core = Core(replace(TINY_CORE, vocab_size=512))
        config = MemoryConfig(reconstructed_tokens=64, reconstructor_width=32)
        learner = MemoryLearner(core, GistNet(TINY_GIST_NET), config)
        rows = probe_rows(stores) if out == "watched" else []
        loop = TrainingLoop(
            loss=lambda batch, learner=learner: learner.loss(batch, compiled=False),  # type: ignore[misc]
            optimizer=MasterOptimizer(learner.learned_parameters(), OptimConfig()),
            source=source,
            stages=(STAGE,),
            config=LoopConfig(num_steps=4, warmup_steps=1, log_every=1, probe_every=2),
            out=tmp_path / out,
            gauges=memory_gauges(learner),
            judge=(lambda core=core, learner=learner, rows=rows: probe_gists(core, learner.gist_net, rows))  # type: ignore[misc]
            if rows
            else None,
        )
        loop.run()
        ends.append([weight.clone() for weight in learner.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))
    logs = [(tmp_path / out / "log.jsonl").read_text().splitlines() for out in ("watched", "alone")]
    lines = [[json.loads(line) for line in log] for log in logs]
    for watched, alone in zip(*lines, strict=True):
        assert ("delta_nll_64/level_2" in watched) == (watched["step"] % 2 == 0)
        assert watched["gist/norm"] == alone["gist/norm"], "of the rows that it learns from"
