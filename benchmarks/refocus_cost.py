"""What a refocus of four edits costs the model: patched, exact, and with the whole window computed anew.

Windows of 2,048 and 8,192 entries over a memory of random tokens, half of them opened blocks. Every refocus opens two
blocks and closes two, drawn at random, in the whole window or in its last third. Models have the shape of the reference
and four times its width, random weights in the precision that the machine is given (what they weigh changes no time);
rounds alternate, reading from the memory is part of each. python benchmarks/refocus_cost.py --out benchmarks/results
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, Qwen3Config

from megacontext.bases.huggingface import HuggingFaceBase
from megacontext.bases.precision import working_dtype
from megacontext.ports.base import BaseInfo
from megacontext.runtime.assembly import open as open_memory
from megacontext.runtime.decode import ModelWindow
from megacontext.runtime.opened import OpenedMemory
from megacontext.runtime.patching import Patching
from megacontext.runtime.window import WindowReader, WindowRows
from megacontext.testing.fake_base import BaseInMemory, byte_codec
from megacontext.tree.cuts import Cut
from record import parser, record, row

BLOCK = 32
NUM_EDITED = 2  # blocks that open, and as many that close
UNBOUND = 1e9  # random weights mix all that they read; what a refresh costs stands in the table by itself
PATCHED = Patching(drift_bound=UNBOUND)
BAREST = Patching(rerun_last=1, rerun_behind=0, num_probes=0, drift_bound=UNBOUND)


def main() -> None:
    arguments = parser(__doc__.splitlines()[0], asks_dtype=True)
    arguments.add_argument("--entries", type=int, nargs="+", default=[2048, 8192])
    arguments.add_argument("--widths", type=int, nargs="+", default=[256, 1024])
    arguments.add_argument("--rounds", type=int, default=5)
    given = arguments.parse_args()
    dtype = working_dtype(torch.device("cpu")) if given.dtype == "auto" else getattr(torch, given.dtype)
    rows: list[dict[str, object]] = []
    for width in given.widths:
        base = make_base(width, max(given.entries), dtype)
        with (
            tempfile.TemporaryDirectory() as folder,
            open_memory(Path(folder) / "m.mc", base=BaseInMemory(base), create=True, gister="mean") as memory,
        ):
            memory.append(np.random.default_rng(0).integers(0, 256, max(given.entries) * BLOCK))
            for num_entries in given.entries:
                rows += measure(base, memory, num_entries, width, given.rounds)
    record("refocus_cost", rows, given.out)


def make_base(width: int, max_positions: int, dtype: torch.dtype) -> HuggingFaceBase:
    """A Qwen3 decoder with the proportions of the reference model."""
    config = Qwen3Config(
        vocab_size=4096,
        hidden_size=width,
        intermediate_size=width * 11 // 4,
        num_hidden_layers=5,
        num_attention_heads=width // 64,
        num_key_value_heads=width // 128,
        head_dim=64,
        max_position_embeddings=max_positions,
        tie_word_embeddings=False,
        eos_token_id=None,
        bos_token_id=None,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    info = BaseInfo(
        name=f"qwen3 of width {width}",
        revision="0",
        fingerprint="0" * 64,
        dim=width,
        vocab_size=4096,
        max_positions=max_positions,
        dtype=str(dtype).removeprefix("torch."),
        device="cpu",
        question_template="{question}",
        stop_token_ids=(),
    )
    return HuggingFaceBase(model, byte_codec(), info)


class Refocused:
    """A window whose opened blocks change again and again. part: where in the window, as shares of its blocks."""

    def __init__(
        self,
        base: HuggingFaceBase,
        memory: OpenedMemory,
        num_entries: int,
        patching: Patching | None,
        part: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        self.num_opened = num_entries // (2 * BLOCK)
        self.num_blocks = num_entries - self.num_opened * (BLOCK - 1)
        self.random = np.random.default_rng(num_entries)
        self.opened = set(self.random.choice(self.num_blocks, self.num_opened, replace=False).tolist())
        self.part = range(int(part[0] * self.num_blocks), int(part[1] * self.num_blocks) - 1)
        reader = WindowReader(memory.tree, memory.reader, base, positions="window")
        self.window = ModelWindow(base, reader, capacity_entries=num_entries + BLOCK, patching=patching)
        self.show()

    def show(self) -> None:
        cut = Cut.of(
            (int(block not in self.opened), block * BLOCK, (block + 1) * BLOCK) for block in range(self.num_blocks)
        )
        self.window.show(WindowRows.of_cut(cut, 1), num_tokens=self.num_blocks * BLOCK)

    def refocus(self, *, anew: bool = False) -> tuple[float, int]:
        """Milliseconds, and entries that ran."""
        closing, opening = (sorted(set(self.part) & self.opened), sorted(set(self.part) - self.opened))
        self.opened -= set(self.random.choice(closing, NUM_EDITED, replace=False).tolist())
        self.opened |= set(self.random.choice(opening, NUM_EDITED, replace=False).tolist())
        if anew:
            self.window.show(WindowRows(np.zeros((0, 3), dtype=np.int64)), num_tokens=0)
        before, began = self.window.num_forwarded, time.perf_counter()
        self.show()
        return 1e3 * (time.perf_counter() - began), self.window.num_forwarded - before


def measure(
    base: HuggingFaceBase, memory: OpenedMemory, num_entries: int, width: int, num_rounds: int
) -> Iterator[dict[str, object]]:
    """One row for each way against the whole window."""
    ways = {
        "computed anew": Refocused(base, memory, num_entries, None),
        "exact, edits anywhere": Refocused(base, memory, num_entries, None),
        "exact, edits in the last third": Refocused(base, memory, num_entries, None, (2 / 3, 1.0)),
        "patch": Refocused(base, memory, num_entries, PATCHED),
        "patch, its edits alone": Refocused(base, memory, num_entries, BAREST),
    }
    targets = {"exact, edits in the last third": 3.0, "patch": 20.0}
    took: dict[str, list[tuple[float, int]]] = {name: [] for name in ways}
    for _ in range(num_rounds):
        for name, way in ways.items():
            for _ in range(5 if name.startswith("patch") else 1):
                took[name].append(way.refocus(anew=name == "computed anew"))
    whole = statistics.median(ms for ms, _ in took["computed anew"])
    for name, pairs in took.items():
        ms = statistics.median(ms for ms, _ in pairs)
        yield row(
            f"refocus of 4 edits, {num_entries:,} entries, width {width}: computed anew / {name}",
            whole / ms,
            "x",
            at_least=targets.get(name),
            ms=ms,
            whole_ms=whole,
            entries_run=statistics.mean(run for _, run in pairs),
            dtype=base.info.dtype,
            threads=torch.get_num_threads(),
        )


if __name__ == "__main__":
    main()
