"""The gate of a base: does it use far context? A gist can only stand in for context that the base would have used.

Measured on held-out text when a run is over: the same last tokens after more and more of what stands before them, and
what words gain that were seen in the window but not lately. A base that misses it learns memory in vain, so a run may
be told to end with an error there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch

from megacontext.errors import InvalidValueError, TrainingError
from megacontext.training.held_out import JUDGED
from megacontext.training.scoring import WINDOW, Logits, far_copy, spread_windows, token_nlls
from megacontext.training.tokens import TokenStore
from megacontext.values import number, shown, whole_number

__all__ = ["CONTEXTS", "BaseGate", "GateConfig", "GateReport", "measure_gate"]

WhenMissed = Literal["warn", "stop"]
CONTEXTS = (128, 256, 512, 1024, WINDOW)
MISSED = "gate/missed"
SCORED = 64  # last tokens of a window, whatever stands before them


@dataclass(frozen=True, kw_only=True)
class GateConfig:
    """What a base has to reach on held-out books and on held-out code, and what happens if it does not.

    rows: windows of each; least_far_gain: nats that a token of a far word must gain from 2,048 tokens against the last
    512; most_rise: nats a token that twice the context may nearly cost instead of saving; when_missed: warn or stop.
    """

    rows: int = 32
    least_far_gain: float = 0.5
    most_rise: float = 0.0
    when_missed: str = "warn"

    def __post_init__(self) -> None:
        whole_number("rows", self.rows, least=1)
        number("least_far_gain", self.least_far_gain, least=0)
        number("most_rise", self.most_rise, least=0)
        if self.when_missed not in get_args(WhenMissed):
            raise InvalidValueError(
                f"when_missed is {shown(self.when_missed)}; choose one of {', '.join(get_args(WhenMissed))}"
            )


@dataclass(frozen=True)
class GateReport:
    """What was measured: figures for a log, in nats a token, and where the gate is missed, in words."""

    figures: Mapping[str, float]
    missed: tuple[str, ...]


def measure_gate(
    logits: Logits, stores: Mapping[str, TokenStore], pieces_V: Sequence[bytes], config: GateConfig
) -> GateReport:
    """Judge a base by held-out text of each domain in ``stores``, each longer than a window of 2,048 tokens.

    ``gate/DOMAIN/nats_T``: the last 64 tokens of windows of T tokens, from 128 up by doublings. ``gate/DOMAIN/
    far_gain``: what tokens of far words (five letters and more, seen in the window but not within its last 512 tokens)
    cost after 512 tokens less what they cost after 2,048. Where there are none, nothing shows that they are used.
    """
    figures: dict[str, float] = {}
    missed: list[str] = []
    for domain, store in stores.items():
        windows = [torch.from_numpy(ids)[None] for ids in spread_windows(store, config.rows, WINDOW)]
        nats = {
            length: float(np.mean([float(token_nlls(logits, ids[:, -length:])[0, -SCORED:].mean()) for ids in windows]))
            for length in CONTEXTS
        }
        figures |= {f"gate/{domain}/nats_{length}": round(value, 4) for length, value in nats.items()}
        missed += [
            f"{domain} cost {nats[longer]:.3f} nats a token after {longer:,} tokens, {nats[shorter]:.3f} after "
            f"{shorter:,}"
            for shorter, longer in pairwise(CONTEXTS)
            if not nats[longer] < nats[shorter] + config.most_rise  # written so that what is no number misses
        ]
        far = far_copy(logits, store, pieces_V, count=config.rows)
        gain = -far["far_words"]
        if far["far_word_tokens"]:
            figures[f"gate/{domain}/far_gain"] = gain
        if not (far["far_word_tokens"] and gain >= config.least_far_gain):
            missed.append(
                f"far words of {domain} gain {gain:.2f} nats from 2,048 tokens against 512, not "
                f"{config.least_far_gain:g}"
            )
    return GateReport({**figures, "gate/is_reached": float(not missed)}, tuple(missed))


@dataclass(frozen=True, kw_only=True)
class BaseGate:
    """The gate of one run, with the text to judge by. config: what to reach; stores: held-out text by domain."""

    config: GateConfig
    logits: Logits
    stores: Mapping[str, TokenStore]
    pieces_V: Sequence[bytes]  # noqa: N815 - shape suffix

    @classmethod
    def of(
        cls, config: GateConfig, logits: Logits, folder: Path, pieces_V: Sequence[bytes], *, is_asked_for: bool
    ) -> BaseGate | None:
        """With the held-out books and code of a run's token arrays. Where one of them is shorter than a window, raises
        InvalidValueError if the gate is asked for, before a run has taken its time, and is None otherwise."""
        stores = {}
        for domain in JUDGED:
            file = folder / f"{domain}_held_out.npz"
            store = TokenStore.load(file) if file.is_file() else None
            num_tokens = 0 if store is None else len(store.ids_N)
            if store is not None and num_tokens > WINDOW:
                stores[domain] = store
            elif is_asked_for:
                raise InvalidValueError(
                    f"[gate] judges by windows of {WINDOW:,} tokens, and {file} has {num_tokens:,}; give more text and "
                    "a new --out, or leave [gate] out"
                )
            else:
                return None
        return cls(config=config, logits=logits, stores=stores, pieces_V=pieces_V)

    def judge(self, out: Path, step: int) -> str | None:
        """Measure, add a line to the log of a run that is over, and say what is missed. A run that was judged at this
        step is not measured again.

        Raises TrainingError with that line where the configuration says to stop; checkpoint and log stay.
        """
        missed = _judged(out / "log.jsonl", step)
        if missed is None:
            with torch.compiler.set_stance("force_eager"):  # its few shapes are not worth compiling
                report = measure_gate(self.logits, self.stores, self.pieces_V, self.config)
            missed = list(report.missed)
            with (out / "log.jsonl").open("a") as log:
                log.write(json.dumps({"step": step, **report.figures, MISSED: missed}) + "\n")
        if not missed:
            return None
        line = f"this base does not use far context as [gate] asks: {'; '.join(missed)}"
        if self.config.when_missed == "stop":
            raise TrainingError(
                f"{line}. {out / 'checkpoint.pt'} is there to look at: train longer, or set when_missed = 'warn'"
            )
        return f"{line}. Gists of it will stand in for little"


def _judged(log: Path, step: int) -> list[str] | None:
    """What a log says that a run missed at this step; None if it was not judged then."""
    lines = log.read_bytes().splitlines() if log.is_file() else []
    for line in reversed(lines):
        with suppress(ValueError):
            said = json.loads(line)
            if said.get("step") == step and MISSED in said:
                return [str(one) for one in said[MISSED]]
    return None
