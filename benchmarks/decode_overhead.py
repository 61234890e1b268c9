"""Milliseconds per decoded token: ours against transformers with the same entries in its cache, in two comparisons.

The adapter: both start from a window of the same tokens and decode greedily, the plain side by a bare ``model(...)``
call per token with transformers' own ``DynamicCache``. The product: ``session.complete`` over a long history, its
window full, without and with refocuses, against transformers' ``generate`` with as many tokens in its cache, dynamic or
static, whichever is faster; from the first new token to the last, so that nobody pays for prefill or start. All sides
are timed by turns, so that whatever else the machine does meets all of them; a ratio is the median over the turns'
ratios.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, DynamicCache, PreTrainedModel, StaticCache
from transformers.generation import BaseStreamer

from histories import make_history
from megacontext.bases.registry import BaseHandle
from megacontext.ports.base import Base
from megacontext.runtime.events import DoneEvent, TokenEvent
from megacontext.runtime.opened import OpenedMemory
from record import parser, record, row

DecodeRun = Callable[[], list[int]]
PROMPT = "\n"
INTERVALS = (0, 32, 8)  # tokens between refocuses: never, as by default, and a few words
SESSION_TOKENS = 65  # so that each of the 64 after the first pays its share of the refocuses


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


class TokenTimes(BaseStreamer):  # type: ignore[misc]  # transformers is not typed
    """Takes down when each token of a ``generate`` came; the first that it is given is the prompt."""

    def __init__(self) -> None:
        self.moments: list[float] = []

    def put(self, value: torch.Tensor) -> None:
        self.moments.append(time.perf_counter())

    def end(self) -> None:
        pass


def per_token_ms(moments: list[float]) -> float:
    return 1e3 * (moments[-1] - moments[0]) / (len(moments) - 1)


def generate_ms(model: PreTrainedModel, window: torch.Tensor, num_tokens: int, *, static: bool) -> float:
    """Milliseconds per token of transformers' ``generate`` behind a cache that holds the window."""
    size = len(window) + num_tokens + 1
    cache = StaticCache(config=model.config, max_cache_len=size) if static else DynamicCache(config=model.config)
    with torch.no_grad():
        model(input_ids=window[None, :-1], past_key_values=cache, use_cache=True, logits_to_keep=1)
    times = TokenTimes()
    model.generate(
        input_ids=window[None],
        attention_mask=torch.ones_like(window)[None],
        past_key_values=cache,
        max_new_tokens=num_tokens,
        min_new_tokens=num_tokens,
        do_sample=False,
        pad_token_id=0,
        streamer=times,
    )
    return per_token_ms(times.moments[1:])


def session_rows(
    model: PreTrainedModel, memory: OpenedMemory, num_entries: int, num_tokens: int, repeats: int
) -> list[dict[str, object]]:
    """Sessions whose windows hold ``num_entries`` entries when they begin to decode, against ``generate``."""
    window = torch.from_numpy(memory.tokens(0, num_entries).astype(np.int64)).to(model.device)
    room = num_entries + len(memory.codec.encode(PROMPT).token_ids) + num_tokens
    sessions = [memory.session(budget_entries=room, refocus_interval=interval) for interval in INTERVALS]

    def session_ms(number: int) -> float:
        moments, num_generated = [], 0
        for event in sessions[number].complete(PROMPT, max_new_tokens=num_tokens):
            if isinstance(event, TokenEvent):
                moments.append(time.perf_counter())
            elif isinstance(event, DoneEvent):
                num_generated = len(event.token_ids)
        assert num_generated == num_tokens, (
            f"the session stopped after {num_generated} of {num_tokens} tokens, and generate does not: take another "
            "--history, or a base that goes on"
        )
        return per_token_ms(moments[:num_tokens])  # what an answer ends with may come as an event of its own

    sides: dict[str, Callable[[], float]] = {
        "dynamic": lambda: generate_ms(model, window, num_tokens, static=False),
        "static": lambda: generate_ms(model, window, num_tokens, static=True),
        **{str(interval): partial(session_ms, number) for number, interval in enumerate(INTERVALS)},
    }
    took: dict[str, list[float]] = {name: [] for name in sides}
    for side in sides.values():
        side()  # warms up
    for _ in range(repeats):
        for name, side in sides.items():
            took[name].append(side())
    theirs = min(("dynamic", "static"), key=lambda name: statistics.median(took[name]))
    rows = []
    for session, interval in zip(sessions, INTERVALS, strict=True):
        ours = took[str(interval)]
        rows.append(
            row(
                f"session with {num_entries:,} entries in its window, refocus "
                f"{f'every {interval} tokens' if interval else 'never'} / generate of transformers",
                statistics.median(our / their for our, their in zip(ours, took[theirs], strict=True)),
                "x",
                at_most=None if interval == 8 else 1.05,
                ours_ms=statistics.median(ours),
                theirs_ms=statistics.median(took[theirs]),
                cache=theirs,
                entries=session.working_context.cost,
                history=memory.num_tokens,
                repeats=repeats,
            )
        )
        session.close()
    return rows


def main() -> None:
    arguments = parser(__doc__ or "")
    arguments.add_argument("--base", default="reference-plain", help="a model that transformers can run, too")
    arguments.add_argument("--device", default="auto")
    arguments.add_argument("--entries", type=int, nargs="+", default=[256, 1024, 2048])
    arguments.add_argument("--tokens", type=int, default=32)
    arguments.add_argument("--windows", type=int, nargs="+", default=[1024, 2048], help="of sessions")
    arguments.add_argument("--history", type=int, default=200_000, help="tokens of the sessions' memory")
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
    with (
        tempfile.TemporaryDirectory() as folder,
        make_history(Path(folder) / "history.mc", handle, options.history) as memory,
    ):
        for num_entries in options.windows:
            rows += session_rows(model, memory, num_entries, SESSION_TOKENS, options.repeats)
    record("decode_overhead", rows, options.out)


if __name__ == "__main__":
    main()
