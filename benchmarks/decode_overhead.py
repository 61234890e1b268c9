"""Milliseconds per decoded token: our adapter against plain transformers with the same entries in its cache.

Both start from a window of the same tokens and decode greedily. The two are timed alternately, token run by token run,
so that whatever else the machine does meets both; the ratio is the median over the runs' ratios. The plain side is a
bare ``model(...)`` call per token with transformers' own ``DynamicCache``, which is faster than ``generate``.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from transformers import AutoModelForCausalLM, DynamicCache, PreTrainedModel

from megacontext.bases.registry import BaseHandle
from megacontext.ports.base import Base
from record import parser, record, row

DecodeRun = Callable[[], list[int]]


def plain_run(model: PreTrainedModel, window: torch.Tensor, num_tokens: int) -> DecodeRun:
    """Decodes ``num_tokens`` after the window, each time from the same state."""
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(input_ids=window[None, :-1], past_key_values=cache, use_cache=True, logits_to_keep=1)
    num_cached = len(window) - 1

    def run() -> list[int]:
        token, produced = int(window[-1]), []
        with torch.no_grad():
            for _ in range(num_tokens):
                ids = torch.tensor([[token]], device=window.device)
                logits = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[0]
                token = int(logits.argmax())
                produced.append(token)
        cache.crop(num_cached - cache.get_seq_length())
        return produced

    return run


def our_run(base: Base, window: torch.Tensor, num_tokens: int) -> DecodeRun:
    """The same through the ``Base`` port: embeddings at explicit positions, our cache."""
    ids = window.cpu().numpy().astype(np.uint32)
    num_cached = len(ids) - 1
    cache = base.new_cache(len(ids) + num_tokens)
    base.forward(base.embed(ids[:-1]), np.arange(num_cached, dtype=np.float64), cache)

    def run() -> list[int]:
        token, produced = int(ids[-1]), []
        for step in range(num_tokens):
            inputs_TD = base.embed(np.array([token], dtype=np.uint32))
            logits = base.forward(inputs_TD, np.array([float(num_cached + step)]), cache)
            token = int(logits.argmax())
            produced.append(token)
        cache.truncate(num_cached)
        return produced

    return run


def measure(runs: tuple[DecodeRun, DecodeRun], repeats: int) -> list[tuple[float, float]]:
    """Seconds of (plain, ours), alternately; the first round only warms up."""
    seconds = []
    for repeat in range(repeats + 1):
        pair = [0.0, 0.0]
        for side in (0, 1) if repeat % 2 else (1, 0):
            begin = time.perf_counter()
            runs[side]()
            pair[side] = time.perf_counter() - begin
        seconds.append((pair[0], pair[1]))
    return seconds[1:]


def main() -> None:
    arguments = parser(__doc__ or "")
    arguments.add_argument("--base", default="reference-plain", help="a model that transformers can run, too")
    arguments.add_argument("--device", default="auto")
    arguments.add_argument("--entries", type=int, nargs="+", default=[256, 1024, 2048])
    arguments.add_argument("--tokens", type=int, default=32)
    arguments.add_argument("--repeats", type=int, default=15)
    options = arguments.parse_args()

    handle = BaseHandle(options.base, device=options.device)
    base = handle.load()
    dtype = getattr(torch, base.info.dtype)
    model = AutoModelForCausalLM.from_pretrained(handle.folder, dtype=dtype).to(base.info.device).eval()
    rows = []
    for num_entries in options.entries:
        generator = torch.Generator().manual_seed(num_entries)
        window = torch.randint(handle.codec.vocab_size, (num_entries,), generator=generator).to(base.info.device)
        runs = (plain_run(model, window, options.tokens), our_run(base, window, options.tokens))
        same = runs[0]() == runs[1]()
        seconds = measure(runs, options.repeats)
        plain, ours = (statistics.median(side) * 1000 / options.tokens for side in zip(*seconds, strict=True))
        ratio = statistics.median(our / their for their, our in seconds)
        rows.append(
            row(
                f"decode with {num_entries:,} entries in the cache, ours / plain",
                ratio,
                "x",
                at_most=1.10,
                plain_ms=plain,
                ours_ms=ours,
                same_tokens=same,
                repeats=options.repeats,
                dtype=base.info.dtype,
                device=base.info.device,
            )
        )
    record("decode_overhead", rows, options.out)


if __name__ == "__main__":
    main()
