"""Which rows of a window to keep, and which to run, when another window is to be shown: O(edit) instead of O(window).

Rows that stand in both windows keep their keys and values; what is new runs at its own place. Some rows run again
though they are in both: the last ones, because the next token is predicted from them and they should have read what
was opened; those right behind an edit, whose nearest neighbours changed; and some *probes*, the rows that edits before
them have made out of date for the longest. What a probe's run changes tells how far the window has drifted (for
prefixes, Yao et al. 2024, "CacheBlend", recompute the rows that differ most).

Shape legend: O rows of the old window, W of the new one, k kept, R to run, p probes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from megacontext.runtime.placement import SCRATCH
from megacontext.runtime.window import WindowRows, common_prefix
from megacontext.values import number, whole_number

__all__ = ["Patch", "Patching", "plan_patch"]


@dataclass(frozen=True, kw_only=True)
class Patching:
    """How a window is patched, and how far before it is computed anew.

    rerun_last: last rows of the window that run again whenever something before them changed.
    rerun_behind: rows that run again behind each edit.
    num_probes: rows out of date that run again at each patch, those of the longest standing.
    drift_bound: the window is computed anew when running probes changes their values by more than this, relative to
        the values and to the share of rows out of date; see ``ModelWindow.drift``.
    refresh_share: it is computed anew, too, where more than this share of its rows would run.
    """

    rerun_last: int = 16
    rerun_behind: int = 2
    num_probes: int = 8
    drift_bound: float = 0.5
    refresh_share: float = 0.5

    def __post_init__(self) -> None:
        whole_number("rerun_last", self.rerun_last, least=1, of="rows")
        whole_number("rerun_behind", self.rerun_behind, of="rows")
        whole_number("num_probes", self.num_probes, of="rows")
        number("drift_bound", self.drift_bound, least=0)
        number("refresh_share", self.refresh_share, above=0, most=1)


@dataclass(frozen=True, kw_only=True)
class Patch:
    """Places in windows, all ascending.

    kept_old_k, kept_new_k: rows that are kept, in the old window and in the new one.
    run_R: rows of the new one to run; probes_old_p, probes_new_p: those of them that run for their drift.
    is_stale_W: rows of the new window that are kept from before an edit which stands before them.
    """

    kept_old_k: npt.NDArray[np.int64]
    kept_new_k: npt.NDArray[np.int64]
    run_R: npt.NDArray[np.int64]  # noqa: N815 - shape suffix
    probes_old_p: npt.NDArray[np.int64]
    probes_new_p: npt.NDArray[np.int64]
    is_stale_W: npt.NDArray[np.bool_]  # noqa: N815 - shape suffix


def plan_patch(
    old: WindowRows,
    new: WindowRows,
    patching: Patching,
    *,
    is_stale_O: npt.NDArray[np.bool_],
    ran_O: npt.NDArray[np.int64],
) -> Patch:
    """What of ``old`` serves ``new``. ``is_stale_O``: old rows that are out of date; ``ran_O``: when each ran."""
    in_old, in_new = _shared(old, new)
    num_rows = len(new)
    is_kept_W = np.zeros(num_rows, dtype=np.bool_)
    is_kept_W[in_new] = True
    first_edit = _first_edit(in_old, in_new, len(old), num_rows)
    is_kept_W &= ~_behind_edits(in_old, in_new, num_rows, patching.rerun_behind)
    if first_edit < num_rows:
        is_kept_W[max(first_edit, num_rows - patching.rerun_last) :] = False
    is_kept_W[num_rows - 1 :] = False  # the next token is predicted from its output
    kept = is_kept_W[in_new]
    kept_old, kept_new = in_old[kept], in_new[kept]
    stale = is_stale_O[kept_old] | (kept_new >= first_edit)
    candidates = np.flatnonzero(stale)
    oldest = candidates[np.argsort(ran_O[kept_old[candidates]], kind="stable")[: patching.num_probes]]
    oldest.sort()
    is_probe = np.zeros(len(kept_old), dtype=np.bool_)
    is_probe[oldest] = True
    is_stale_W = np.zeros(num_rows, dtype=np.bool_)
    is_stale_W[kept_new[stale & ~is_probe]] = True
    is_kept_W[kept_new[is_probe]] = False
    return Patch(
        kept_old_k=kept_old[~is_probe],
        kept_new_k=kept_new[~is_probe],
        run_R=np.flatnonzero(~is_kept_W),
        probes_old_p=kept_old[is_probe],
        probes_new_p=kept_new[is_probe],
        is_stale_W=is_stale_W,
    )


def _shared(old: WindowRows, new: WindowRows) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Places of the same rows in both: those up to the end of the history, and as much of the scratch as begins the
    same."""
    num_old, num_new = (int(np.count_nonzero(rows.keys[:, 0] != SCRATCH)) for rows in (old, new))
    # rows that lead the history have a negative level, so their codes stand first; they are the same in both windows
    codes = [(keys[:, 1] << 12) | (keys[:, 0] << 8) | keys[:, 2] for keys in (old.keys[:num_old], new.keys[:num_new])]
    _, in_old, in_new = np.intersect1d(codes[0], codes[1], assume_unique=True, return_indices=True)
    num_scratch = common_prefix(WindowRows(old.keys[num_old:]), WindowRows(new.keys[num_new:]))
    scratch = np.arange(num_scratch)
    return np.concatenate([in_old, num_old + scratch]), np.concatenate([in_new, num_new + scratch])


def _first_edit(in_old: npt.NDArray[np.int64], in_new: npt.NDArray[np.int64], num_old: int, num_new: int) -> int:
    """The first place of the new window where the two differ. Where one only goes on behind the other's end, nothing
    that is kept is touched: there is none."""
    broken = np.flatnonzero((in_old != np.arange(len(in_old))) | (in_new != np.arange(len(in_new))))
    first = int(broken[0]) if len(broken) else len(in_new)
    return num_new if first in (num_old, num_new) else first


def _behind_edits(
    in_old: npt.NDArray[np.int64], in_new: npt.NDArray[np.int64], num_rows: int, reach: int
) -> npt.NDArray[np.bool_]:
    """Rows of the new window [W] that stand at most ``reach`` places behind one that was not right before them."""
    behind_W = np.zeros(num_rows, dtype=np.bool_)
    if not len(in_new) or not reach:
        return behind_W
    begins_both = in_old[0] == in_new[0] == 0
    broken = np.flatnonzero((np.diff(in_old) != 1) | (np.diff(in_new) != 1)) + 1
    heads = in_new[broken] if begins_both else np.concatenate([in_new[:1], in_new[broken]])
    for distance in range(reach):
        behind_W[np.minimum(heads + distance, num_rows - 1)] = True
    return behind_W
