"""What learned memory costs: making gists, asking the lens, and learning both together with the core.

The nets have the shape of recipes/core, size S, with random weights: time does not depend on what they know. The lens
is compared with one forward of the window that it looks at, joint training with plain language modelling on the same
tokens, both sides by turns.
"""

from __future__ import annotations

import hashlib
import statistics
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from megacontext.bases.native import NativeBase
from megacontext.bases.precision import working_dtype
from megacontext.bases.registry import BaseHandle
from megacontext.focus.lenses.features import TOKENS_BEFORE, feature_columns, word_features
from megacontext.nets.core import Core
from megacontext.nets.gist_net import GistNet
from megacontext.nets.lens_net import LensNet
from megacontext.nets.shapes import CoreConfig, GistNetConfig, LensNetConfig
from megacontext.ports.base import BaseInfo
from megacontext.training.core_model import compile_core, window_loss
from megacontext.training.curriculum import Batch, BatchKind
from megacontext.training.gist_cuts import GistCut, predicted
from megacontext.training.memory_model import MemoryConfig, MemoryLearner
from megacontext.training.mixed import mixed_windows
from megacontext.training.optim import MasterOptimizer, OptimConfig
from record import parser, record, row

RECIPE = Path(__file__).resolve().parent.parent / "recipes" / "core" / "memory.toml"
DTYPE = working_dtype(torch.device("cpu"))  # what a processor multiplies fast
BLOCK, SCRATCH = 32, 64
ROWS, LENGTH, NUM_TAIL, NUM_OPEN = 4, 2048, 4, 6


def median_seconds(action: Callable[[], object], repeats: int) -> float:
    """The first call warms up."""
    action()
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def made_base(settings: dict[str, Any]) -> NativeBase:
    """Random nets of the recipe's shape behind the port."""
    torch.manual_seed(0)
    core, gist_net = Core(CoreConfig(**settings["model"])), GistNet(GistNetConfig(**settings["gist_net"]))
    config = core.config
    info = BaseInfo(
        name="random core",
        revision="0",
        fingerprint=hashlib.sha256(b"random core").hexdigest(),
        dim=config.width,
        vocab_size=config.vocab_size,
        max_positions=config.max_positions,
        dtype=str(DTYPE).removeprefix("torch."),
        device="cpu",
        question_template="{question}",
        stop_token_ids=(),
        positions="timeline",
        gist_net="random",
        has_lens=True,
    )
    return NativeBase(
        core.to(DTYPE),
        BaseHandle("reference").codec,
        info,
        gist_net=gist_net.to(DTYPE),
        lens_net=LensNet(LensNetConfig(width=config.width)),
    )


def gist_rows(base: NativeBase, num_tokens: int, repeats: int) -> list[dict[str, object]]:
    """Tokens a second through GistNet, and gists of gists."""
    ids_NK = np.random.default_rng(0).integers(0, base.info.vocab_size, (num_tokens // BLOCK, BLOCK)).astype(np.uint32)
    seconds = median_seconds(lambda: base.gists_of_tokens(ids_NK, gist_width=1), repeats)
    return [
        row(
            f"learned gists, 32 to 1, d = {base.info.dim}, {torch.get_num_threads()} threads",
            num_tokens / seconds,
            "tokens/s",
            at_least=100_000,
            tokens=num_tokens,
        )
    ]


def lens_rows(base: NativeBase, num_entries: int, num_scanned: int, repeats: int) -> list[dict[str, object]]:
    """The lens on a window of gists against one forward of that window, and on gists elsewhere."""
    random = np.random.default_rng(0)
    vectors = random.normal(size=(num_entries - SCRATCH, base.info.dim)).astype(np.float32)
    inputs = torch.cat(
        [torch.from_numpy(vectors).bfloat16(), base.embed(np.arange(SCRATCH, dtype=np.uint32))],
    )
    positions = 4 * np.arange(num_entries, dtype=np.float64)
    spreads = np.full(num_entries, 1.15, dtype=np.float32)
    spreads[-SCRATCH:] = 0
    positions[-SCRATCH:] = positions[-SCRATCH] + np.arange(SCRATCH)
    cache = base.new_cache(num_entries)
    base.forward(inputs, positions, cache, spreads_T=spreads)
    ones = np.ones(num_entries - SCRATCH, dtype=np.int64)
    stored = base.lens_keys(random.normal(size=(num_entries - SCRATCH, 1, base.info.dim)).astype(np.float16))
    scanned = base.lens_keys(random.normal(size=(num_scanned, 1, base.info.dim)).astype(np.float16))
    scan_features = random.random((num_scanned, len(base.lens_features))).astype(np.float32)

    def forward() -> object:
        return base.forward(inputs, positions, base.new_cache(num_entries), spreads_T=spreads)

    often_V = 1 / (np.arange(base.info.vocab_size) + 2.7)  # words are as common as in text (Zipf, Mandelbrot)
    often_V /= often_V.sum()
    blocks = random.choice(base.info.vocab_size, (len(stored), TOKENS_BEFORE + BLOCK), p=often_V)
    asked = random.choice(base.info.vocab_size, SCRATCH, p=often_V)

    def look() -> object:
        common = word_features(blocks, asked)
        features = feature_columns(
            base.lens_features,
            levels_n=ones,
            widths_n=BLOCK * ones,
            distances_n=BLOCK * (len(ones) - np.arange(len(ones))),
            in_common=common,
        )
        query = base.lens_query(cache, num_queries=SCRATCH)
        return query.evidence(stored, features, common.words), query.stakes

    pairs = [(median_seconds(look, 3), median_seconds(forward, 1)) for _ in range(repeats)]
    window = statistics.median(seconds for _, seconds in pairs)
    query = base.lens_query(cache, num_queries=SCRATCH)
    scan = median_seconds(lambda: query.evidence(scanned, scan_features), 3)
    return [
        row(
            f"lens on all {len(stored)} gists of a window of {num_entries} / one forward of the window",
            statistics.median(look_seconds / seconds for look_seconds, seconds in pairs),
            "x",
            at_most=0.03,
            forward_ms=1e3 * window,
            lens_ms=1e3 * statistics.median(seconds for seconds, _ in pairs),
        ),
        row(f"scan of {num_scanned} stored gists / one forward of the window", scan / window, "x", scan_ms=1e3 * scan),
    ]


def made_batch(vocab_size: int) -> Batch:
    """Rows of random tokens in windows of the recipe's usual shape."""
    random = np.random.default_rng(0)
    ids_BT = torch.from_numpy(random.integers(0, vocab_size, (ROWS, LENGTH)))
    is_open_BN = np.zeros((ROWS, LENGTH // BLOCK), dtype=np.bool_)
    is_open_BN[:, -NUM_TAIL:] = True
    for is_open_N in is_open_BN:
        is_open_N[random.choice(LENGTH // BLOCK - NUM_TAIL, NUM_OPEN, replace=False)] = True
    cut = GistCut(shapes=((BLOCK, 1),), num_tail=NUM_TAIL, num_open=NUM_OPEN)
    return Batch(
        kind=BatchKind(name="mixed", share=1.0, rows=ROWS, length=LENGTH, mix={"plain": 1.0}, gists=cut),
        row_kinds=("plain",) * ROWS,
        ids_BT=ids_BT,
        targets_BT=ids_BT.roll(-1, 1),
        weights_BT=torch.from_numpy(predicted(is_open_BN, block_tokens=BLOCK).astype(np.float32)),
        mixed=mixed_windows(is_open_BN, block_tokens=BLOCK, gist_width=1),
    )


def step_rows(settings: dict[str, Any], repeats: int) -> list[dict[str, object]]:
    """A joint step, reconstruction and optimiser included, against a plain step on the same history tokens."""
    torch.manual_seed(0)
    batch = made_batch(settings["model"]["vocab_size"])
    learner = MemoryLearner(
        Core(CoreConfig(**settings["model"])).to(DTYPE),
        GistNet(GistNetConfig(**settings["gist_net"])).to(DTYPE),
        MemoryConfig(**settings["memory"]),
    )
    learner.compile_parts()
    plain = Core(CoreConfig(**settings["model"])).to(DTYPE)
    compile_core(plain)
    config = OptimConfig(**settings["optim"])
    joint_optimizer = MasterOptimizer(learner.learned_parameters(), config)
    plain_optimizer = MasterOptimizer(plain.named_parameters(), config)

    def joint_step() -> None:
        learner.loss(batch)[0].backward()  # type: ignore[no-untyped-call]
        joint_optimizer.step(1.0)

    def plain_step() -> None:
        weights_BT = torch.ones_like(batch.weights_BT)
        window_loss(plain, batch.ids_BT, batch.targets_BT, weights_BT)[0].backward()  # type: ignore[no-untyped-call]
        plain_optimizer.step(1.0)

    pairs = [(median_seconds(joint_step, 1), median_seconds(plain_step, 1)) for _ in range(repeats)]
    return [
        row(
            f"joint training step / plain step, {ROWS} x {LENGTH} tokens",
            statistics.median(joint / alone for joint, alone in pairs),
            "x",
            at_most=1.5,
            joint_ms=1e3 * statistics.median(joint for joint, _ in pairs),
            plain_ms=1e3 * statistics.median(alone for _, alone in pairs),
        )
    ]


def main() -> None:
    arguments = parser(__doc__ or "")
    arguments.add_argument("--entries", type=int, default=1024)
    arguments.add_argument("--scanned", type=int, default=32_768)
    arguments.add_argument("--tokens", type=int, default=131_072)
    arguments.add_argument("--repeats", type=int, default=7)
    arguments.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    settings = tomllib.loads(RECIPE.read_text(encoding="utf-8"))
    base = made_base(settings)
    rows = gist_rows(base, options.tokens, options.repeats)
    rows += lens_rows(base, options.entries, options.scanned, options.repeats)
    torch.set_num_threads(1)  # as in training
    rows += step_rows(settings, options.repeats)
    record("learned_memory", rows, options.out)


if __name__ == "__main__":
    main()
