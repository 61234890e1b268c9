"""Measure a core and what it remembers, into `evaluation.json` of its model folder.

`python recipes/core/evaluate.py --out RUN --model FOLDER [--plain NAME] [--only plain] [--rows N]`

Beside it stands a plain model on the same text and the same questions: what the core was before, or could have been.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import torch
from tokenizers import Tokenizer

from megacontext.bases.core_folder import CoreNets, read_core_folder
from megacontext.bases.precision import working_dtype
from megacontext.bases.registry import BaseHandle
from megacontext.cli.failures import run_script
from megacontext.errors import InvalidValueError
from megacontext.training.card import read_figures, write_figures
from megacontext.training.checkpoint import read_checkpoint
from megacontext.training.held_out import (
    core_logits,
    device_option,
    held_out_source,
    nets_with_gists,
    plain_logits,
    processor,
    refuse_other_run,
    refuse_other_tokenizer,
    refuse_short_windows,
)
from megacontext.training.memory_scoring import recall_by_ratio, recall_in_windows
from megacontext.training.recall import Asking
from megacontext.training.recipe import training_device
from megacontext.training.rows import puzzle_row, recall_row
from megacontext.training.run_logs import last_start
from megacontext.training.scoring import Logits, bits_per_byte, far_copy, recall_report
from megacontext.training.settings import read_settings
from megacontext.training.text_scoring import (
    TextNets,
    pair_report,
    score_often,
    score_ways,
    share_report,
    text_rows,
)
from megacontext.training.tokens import read_tokenizer, token_bytes, token_pieces
from megacontext.training.windows import TextSource, Window
from megacontext.values import shown, whole_number

APART = "apart"
OFTEN = "often"
ALONE = ("plain", "ratios", "text", OFTEN)  # parts beside which no plain model stands
PLAIN = "reference-plain"
LENGTH = 2048
TOLD = {
    "step": (int,),
    "tokens": (int,),
    "tokens_by_row_kind": (dict,),
    "runs": (list,),
    "minutes": (int, float),
    "machine": (str,),
}
"""What figures say of the runs that made a model, and what that is."""
BUDGETS = (512, 256, 128)
WIDTHS = (16, 8, 4, 2, 1)  # vectors of a gist of 32 tokens


def measure_plain(logits: Logits, source: TextSource, tokenizer: Tokenizer, count: int) -> dict[str, Any]:
    """A plain decoder: text, far context, and recall in full windows."""
    pieces, bytes_v = token_pieces(tokenizer), token_bytes(tokenizer)
    return {
        "validation": {
            domain: bits_per_byte(logits, store, bytes_v, count=max(4, count // 2))
            for domain, store in source.stores.items()
        },
        "far_context": {
            domain: far_copy(logits, store, pieces, count=count) for domain, store in source.stores.items()
        },
        "recall": recall_report(logits, source, count=count),
    }


def puzzles(source: TextSource, count: int, *, in_unseen: bool = False) -> list[Window]:
    """Rows that ask about held-out names and numbers."""
    draws = (Random(f"7/{index}") for index in range(count))
    return [puzzle_row(source, random, LENGTH, test=True, in_unseen=in_unseen, product=True) for random in draws]


def asked_rows(source: TextSource, count: int) -> dict[str, list[Window]]:
    """What recall is judged by: rows of held-out codes, and of puzzles."""
    codes = Asking(test=True, key="code", product=True)
    return {
        "codes": [recall_row(source, Random(f"7/{index}"), LENGTH, codes) for index in range(count)],
        "puzzles": puzzles(source, count),
    }


def weights_of(folder: Path) -> dict[str, str]:
    """The SHA-256 of each weights file of a model."""
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.glob("*.safetensors"))}


def digest_of(rows: Mapping[str, Sequence[Window]]) -> str:
    """A name for these questions: figures of other ones cannot be compared with theirs."""
    found = hashlib.sha256()
    for kind, some in rows.items():
        found.update(kind.encode())
        for row in some:
            found.update(row.tokens_T.tobytes())
            found.update(repr([(answer.start, answer.stop, answer.evidence) for answer in row.answers]).encode())
    return found.hexdigest()


def measure_wordings(nets: CoreNets, plain: Logits, source: TextSource, count: int) -> dict[str, Any]:
    """The same puzzles asked in words that training has not; controls are those of the words that it has."""
    assert nets.gist_net is not None
    lens_net = nets.lens_net and nets.lens_net.float()
    rows = puzzles(source, count, in_unseen=True)
    return {
        "questions": digest_of({"puzzles": rows}),
        "puzzles in unseen words": recall_in_windows(
            nets.core,
            nets.gist_net,
            rows,
            budgets=BUDGETS,
            lens_net=lens_net,
            plain=plain,
            only=("gists", "lens"),
            controls=("real",),
        ),
    }


def measure_recall(nets: CoreNets, plain: Logits, source: TextSource, count: int) -> dict[str, Any]:
    """Exact recall of held-out names and values at three budgets, with controls."""
    assert nets.gist_net is not None
    lens_net = nets.lens_net and nets.lens_net.float()
    rows = asked_rows(source, count)
    return {
        kind: recall_in_windows(nets.core, nets.gist_net, some, budgets=BUDGETS, lens_net=lens_net, plain=plain)
        for kind, some in rows.items()
    } | {"questions": digest_of(rows)}


def measure_apart(nets: CoreNets, plain: Logits, source: TextSource, count: int) -> dict[str, Any]:
    """What gists alone close of what full context is worth to a plain model that was trained apart."""
    assert nets.gist_net is not None
    rows = asked_rows(source, count)
    found: dict[str, Any] = {
        kind: recall_in_windows(nets.core, nets.gist_net, some, budgets=BUDGETS, plain=plain, only=("gists",))
        for kind, some in rows.items()
    }
    return found | {"questions": digest_of(rows)}


def measure_ratios(nets: CoreNets, source: TextSource, count: int) -> dict[str, Any]:
    """Exact recall of held-out names and values from gists alone, at every ratio that GistNet was taught."""
    assert nets.gist_net is not None
    rows = asked_rows(source, count)
    found = {kind: recall_by_ratio(nets.core, nets.gist_net, some, widths=WIDTHS) for kind, some in rows.items()}
    return found | {"questions": digest_of(rows)}


def measure_text(nets: CoreNets, source: TextSource, tokenizer: Tokenizer, count: int) -> dict[str, Any]:
    """What opened blocks and gists bring back on real text, by domain."""
    assert nets.gist_net is not None
    pieces = token_pieces(tokenizer)
    report = {}
    for domain, store in source.stores.items():
        rows = text_rows(store, count)
        some = TextNets(core=nets.core, gist_net=nets.gist_net, lens_net=nets.lens_net and nets.lens_net.float())
        ways = score_ways(some, rows, pieces)
        report[domain] = {"ways": share_report(ways, rows, pieces), "pairs": pair_report(ways, rows, pieces)}
    return report


def measure_often(nets: CoreNets, source: TextSource, tokenizer: Tokenizer, count: int, every: int) -> dict[str, Any]:
    """What the lens's blocks bring back of text where they are chosen every so many tokens."""
    assert nets.gist_net is not None
    pieces = token_pieces(tokenizer)
    some = TextNets(core=nets.core, gist_net=nets.gist_net, lens_net=nets.lens_net and nets.lens_net.float())
    report: dict[str, Any] = {"every": every}
    for domain, store in source.stores.items():
        rows = text_rows(store, count)
        report[domain] = {"ways": share_report(score_often(some, rows, every=every), rows, pieces)}
    return report


def _num_processes(run: Path) -> int:
    """How many trained the run when it was last started."""
    processes = last_start(run).get("processes", 1)
    if not isinstance(processes, int):
        raise InvalidValueError(f"{run / 'starts.jsonl'} says {processes!r} processes; give the --out of a run")
    return processes


def _told(earlier: Sequence[Path], run: Path) -> dict[str, Any]:
    """What training took, with the runs and models that this one went on from."""
    told = [_of_run(one) if (one / "checkpoint.pt").exists() else _of_model(one) for one in earlier]
    told.append(_of_run(run))
    by_kind: Counter[str] = Counter()
    for one in told:
        by_kind.update(one["tokens_by_row_kind"])
    return {
        "step": sum(one["step"] for one in told),
        "tokens": sum(one["tokens"] for one in told),
        "tokens_by_row_kind": dict(by_kind),
        "runs": [part for one in told for part in one["runs"]],
        "minutes": round(sum(one["minutes"] for one in told), 1),
        "machine": "; then ".join(dict.fromkeys(one["machine"] for one in told)),
    }


def _of_run(run: Path) -> dict[str, Any]:
    state = {"tokens_by_row_kind": {}, "stage_ends": [], **read_checkpoint(run / "checkpoint.pt")["state"]}
    minutes = round(state["seconds"] / 60, 1)
    return {
        **state,
        "minutes": minutes,
        "runs": [{"minutes": minutes, "stage_ends": state["stage_ends"]}],
        "machine": f"{_num_processes(run)} process(es) of one thread, {processor()}",
    }


def _of_model(model: Path) -> dict[str, Any]:
    """What a model that was measured says of the runs that made it."""
    path = model / "evaluation.json"
    told = read_figures(path, parts=("run",), measure="recipes/core/evaluate.py")["run"]
    run = dict(told) if isinstance(told, Mapping) else {}
    for name, kinds in TOLD.items():
        some = run.get(name)
        if type(some) not in kinds or (
            isinstance(some, dict) and any(type(count) is not int for count in some.values())
        ):
            raise InvalidValueError(
                f"{path} does not say what made the model ({name} of run is {shown(some)}); measure it again with the "
                "--out of its run, or leave it out of --earlier"
            )
    return run


def _figures_before(path: Path) -> dict[str, Any]:
    """What was measured before; null where that is NaN, which files of before say where nothing was asked."""
    figures = read_figures(path, measure="recipes/core/evaluate.py")
    return dict(json.loads(json.dumps(figures), parse_constant=lambda _: None))


def _arguments() -> argparse.Namespace:
    """Those of the command line, checked as far as they stand alone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="where training wrote token arrays and checkpoint, or prepare.py arrays alone",
    )
    parser.add_argument("--model", type=Path, required=True, help="model folder to measure")
    parser.add_argument("--earlier", type=Path, nargs="*", default=(), help="runs, or a model, that --out went on from")
    parser.add_argument("--config", type=Path, default=Path(__file__).with_name("memory.toml"))
    parser.add_argument("--plain", help=f"bundled model, or folder, to stand beside it (default: {PLAIN})")
    parser.add_argument(
        "--only",
        choices=("plain", "before", "recall", "wordings", "ratios", "text", APART, OFTEN),
        help="one of the parts; apart: gists alone against --plain, a model that the core did not begin as; "
        "often: text with blocks chosen every --every tokens",
    )
    parser.add_argument("--rows", type=int, default=160, help="windows of each kind")
    parser.add_argument("--every", type=int, default=4, help="tokens between two choices, of part often")
    parser.add_argument("--threads", type=int, default=2)
    device_option(parser)
    args = parser.parse_args()
    whole_number("--rows", args.rows, least=2)  # gists of another row are one of the controls
    whole_number("--threads", args.threads, least=1)
    if args.only == APART and args.plain is None:
        raise InvalidValueError(f"--only {APART} needs --plain: a plain model that the core did not begin as")
    return args


def main() -> None:
    """Run the measurements that the folder's nets allow."""
    args = _arguments()
    plain = BaseHandle(args.plain or PLAIN).folder
    torch.set_num_threads(args.threads)
    device = training_device(args.device)
    count = args.rows
    if args.only == "plain":
        nets = read_core_folder(args.model, dtype=working_dtype(device), device=device)
    else:
        nets = nets_with_gists(args.model, device=device)
    refuse_short_windows(nets.core, args.model, LENGTH)
    tokenizer = read_tokenizer(args.model)
    if args.only not in ALONE:
        refuse_other_tokenizer(plain, tokenizer, fix="give --plain a model that reads the same tokens")
    source = held_out_source(args.out, tokenizer, read_settings(args.config).shares)
    beside = plain_logits(plain, device)
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "plain": lambda: measure_plain(core_logits(nets.core), source, tokenizer, count),
        "before": lambda: measure_plain(beside, source, tokenizer, count),
        "recall": lambda: measure_recall(nets, beside, source, count),
        "wordings": lambda: measure_wordings(nets, beside, source, count),
        "ratios": lambda: measure_ratios(nets, source, count),
        APART: lambda: measure_apart(nets, beside, source, count) | {"against": weights_of(plain)},
        "text": lambda: measure_text(nets, source, tokenizer, count),
        OFTEN: lambda: measure_often(nets, source, tokenizer, count, args.every),
    }
    path = args.model / "evaluation.json"
    report = _figures_before(path) if path.exists() else {}
    if (args.out / "checkpoint.pt").exists():
        refuse_other_run(args.out, args.model, nets)
    if (args.out / "checkpoint.pt").exists() or "run" not in report:
        report["run"] = _told(args.earlier, args.out)  # else that of the run which made the folder stays
    for name, measure in parts.items():
        if args.only == name or (args.only is None and name not in (APART, OFTEN)):
            began = time.monotonic()
            report[name] = {**measure(), "rows": count}
            write_figures(path, report, of=str(plain if name == "before" else args.model))
            print(f"{name}: {time.monotonic() - began:.0f} seconds\n{json.dumps(report[name], indent=2)}")


if __name__ == "__main__":
    run_script(main)
