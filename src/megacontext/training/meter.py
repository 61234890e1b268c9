"""The figures of a run between two lines of its log: means of losses by batch and row kind, and speed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from torch import Tensor

from megacontext.training.curriculum import Batch
from megacontext.training.gauges import Gauges

__all__ = ["Meter", "label_of"]


def label_of(batch: Batch, row_kind: str) -> str:
    """What the log calls rows of a kind in batches of this shape."""
    label = f"{row_kind}_{batch.kind.length}"
    return label if batch.mixed is None else f"{label}_gists_{batch.mixed.block_tokens}_{batch.mixed.gist_width}"


class Meter:
    """Collects while steps go by; `means` gives what there is and begins anew."""

    def __init__(self, gauges: Gauges) -> None:
        self.gauges = gauges
        self.recent: dict[str, list[float]] = defaultdict(list)
        self._tokens, self._flops, self._seconds = 0, 0.0, 0.0

    def note(self, **figures: float) -> None:
        """Figures of one step."""
        for name, value in figures.items():
            self.recent[name].append(value)

    def measure(self, batch: Batch, losses_BT: Tensor) -> None:
        """Text and answer losses of a batch, together and by row kind."""
        answers_BT = batch.answers_BT
        text_BT = (batch.weights_BT > 0) & ~answers_BT
        if text_BT.any():
            self.recent["nll"].append(float(losses_BT[text_BT].mean()))
        for row, row_kind in enumerate(batch.row_kinds):
            label = label_of(batch, row_kind)
            if text_BT[row].any():
                self.recent[f"text/{label}"].append(float(losses_BT[row][text_BT[row]].mean()))
            if answers_BT[row].any():
                self.recent[f"answer/{label}"].append(float(losses_BT[row][answers_BT[row]].mean()))

    def count(self, batches: Sequence[Batch], seconds: float, *, num_processes: int = 1) -> None:
        """Work done in a time; utilisation is that of this process."""
        self._tokens += sum(batch.ids_BT.numel() for batch in batches) * num_processes
        self._seconds += seconds
        if self.gauges.flops is not None:
            self._flops += sum(map(self.gauges.flops, batches))

    def means(self) -> Mapping[str, float]:
        """Means since the last call, tokens a second, model FLOPs utilisation if the peak is known, and the probe."""
        figures = {name: sum(values) / len(values) for name, values in sorted(self.recent.items())}
        if self._seconds:
            figures["tokens_per_second"] = self._tokens / self._seconds
            if self._flops and self.gauges.peak_flops:
                figures["mfu"] = self._flops / self._seconds / self.gauges.peak_flops
        figures |= self.gauges.probe()
        self.recent.clear()
        self._tokens, self._flops, self._seconds = 0, 0.0, 0.0
        return figures
