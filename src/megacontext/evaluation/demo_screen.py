"""What a demo says while it runs: progress bars, the first answers live, and the account at the end."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from megacontext.evaluation.haystack import MEMORY_NAME, text_name
from megacontext.evaluation.report import Costs, comparison_grid, cost_grid, rich_table
from megacontext.evaluation.scores import Comparison, verdicts
from megacontext.memory.reports import IngestProgress, IngestReport, MemoryStats
from megacontext.units import format_bytes, format_count

__all__ = ["DemoScreen", "around"]

QUOTE_CHARS = 72


class DemoScreen:
    """``console`` for what is worth keeping, ``progress`` for what passes."""

    def __init__(self, console: Console, progress: Console) -> None:
        self.console = console
        self.progress = progress

    def begin(self, num_tokens: int, budget_entries: int, num_facts: int) -> None:
        self.console.print(
            f"[bold]{format_count(num_tokens)} tokens[/] of books and source code, [bold]{num_facts} facts[/] hidden "
            f"in them, a window of [bold]{budget_entries:,} entries[/]"
        )

    def say_cheap_gists(self, tokens_per_second: float, seconds: float) -> None:
        self.console.print(
            f"this machine scores {format_count(tokens_per_second)} tokens/s: extractive gists would take "
            f"{seconds:.0f} s, so gists are means here, which predict text a little worse and find facts as well",
            style="dim",
        )

    @contextmanager
    def reading(self, num_tokens: int) -> Iterator[Callable[[IngestProgress], None]]:
        """A bar over the tokens that are read."""
        with self._bar() as bar:
            task = bar.add_task("reading", total=num_tokens)

            def advance(done: IngestProgress) -> None:
                bar.update(task, completed=done.num_tokens, description=f"reading {text_name(done.uri)}")

            yield advance

    @contextmanager
    def working(self, what: str, total: int) -> Iterator[Callable[[], None]]:
        """A bar over steps of any kind."""
        with self._bar() as bar:
            task = bar.add_task(what, total=total)
            yield lambda: bar.advance(task)

    def read(self, report: IngestReport, stats: MemoryStats, num_texts: int) -> None:
        self.console.print(
            f"read {report.num_tokens:,} tokens of {num_texts} texts in {report.seconds:.0f} s: "
            f"{stats.num_levels} levels, {format_bytes(stats.num_bytes)} on disk"
        )

    def show_answer(self, sample: Mapping[str, Any], num_tokens: int) -> None:
        """A question, its answer, and where it came from, as ``ask`` shows them."""
        mark = "[green]right[/]" if sample["correct"] else f"[red]wrong[/], it is {sample['value']}"
        self.console.print(
            f"\n[bold]{escape(sample['question'])}[/]  [dim](hidden at {format_count(sample['depth'] * num_tokens)} of "
            f"{format_count(num_tokens)} tokens)[/]\n  {escape(sample['answer'])}  {mark}"
        )
        for span in sample["sources"]:
            quote = around(span["quote"], sample["value"])
            place = f"{span['uri']}:{span['line_start']}"
            self.console.print(f"  [cyan]{escape(place)}[/] [dim]{escape(quote)}[/]", no_wrap=True, overflow="ellipsis")

    def end(
        self,
        comparison: Comparison,
        short: Comparison,
        costs: Costs,
        files: Sequence[Path],
        seconds: float,
        samples: Sequence[Mapping[str, Any]],
    ) -> None:
        """The tables, the verdict, the files."""
        for table in (comparison_grid(comparison), comparison_grid(short), cost_grid(costs)):
            self.console.print()
            self.console.print(rich_table(table))
        self.console.print()
        for sentence in verdicts(comparison):
            self.console.print(f"[bold]{escape(sentence)}[/]")
        for sentence in verdicts(short):
            self.console.print(f"Short histories: {escape(sentence)}")
        self.console.print("± is one standard error; differences are paired.", style="dim")
        self.console.print(
            f"\n{seconds:.0f} s in all; look at {' and '.join(map(str, files))}", markup=False, soft_wrap=True
        )
        if samples:
            memory = files[0].parent / MEMORY_NAME
            ask = f'ask it yourself: megacontext ask {shlex.quote(str(memory))} "{samples[0]["question"]}"'
            self.console.print(ask, style="dim", markup=False, soft_wrap=True)

    def _bar(self) -> Progress:
        return Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            console=self.progress,
            transient=True,
        )


def around(quote: str, value: str) -> str:
    """One line of a quotation, cut so that ``value`` is in it if it is there at all.

    >>> around("It was late." + " Nobody came." * 9 + " The code for Alice Smith is 48213. He left.", "48213")
    '… Nobody came. Nobody came. The code for Alice Smith is 48213. He left.'
    """
    line = " ".join(quote.split())
    stop = min(len(line), max(QUOTE_CHARS, line.find(value) + len(value) + 10))
    start = max(0, stop - QUOTE_CHARS)
    if not start:
        return line[:stop]
    return f"… {line[line.index(' ', start) + 1 : stop] if ' ' in line[start:stop] else line[start:stop]}"
