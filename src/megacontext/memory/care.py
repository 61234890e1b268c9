"""``check`` as users call it: look, repair if asked, look again, and tell the difference."""

from __future__ import annotations

import time
from contextlib import nullcontext

from megacontext.errors import CorruptionError
from megacontext.memory.check import Checker, Finding
from megacontext.memory.lock import RewriteLock
from megacontext.memory.orphans import Orphans
from megacontext.memory.parts import Parts
from megacontext.memory.reads import TreeReader
from megacontext.memory.repair import Repairer
from megacontext.memory.reports import CheckReport
from megacontext.memory.writing import Writer

__all__ = ["Caretaker"]


class Caretaker:
    """Checks and repairs one memory. lock: keeps a check from seeing half of what another process rewrites."""

    def __init__(self, parts: Parts, reader: TreeReader, writer: Writer, lock: RewriteLock) -> None:
        self._lock = lock
        self._parts = parts
        self._reader = reader
        self._writer = writer
        self._orphans = Orphans(parts, reader)

    def check(self, *, repair: bool, recompute_gists: bool) -> CheckReport:
        """Raises: MemoryLockedError if another process rewrites the memory, or, for a repair, writes or copies it;
        MemoryReadOnlyError if a repair is asked for and not possible."""
        started = time.perf_counter()
        if repair:
            self._writer.claim()
        checker = self._checker(recompute_gists)
        with nullcontext() if repair else self._lock.shared():
            before = after = list(checker.findings())
            unused = self._orphans.found() if not repair and _is_catalog_whole(before) else []
        if repair and before:
            with self._lock.alone():
                before = self._mend(before, recompute_gists)
            checker = self._checker(recompute_gists)  # the one that sees everything
            after = list(checker.findings())
        removed = self._orphans.remove() if repair and _is_catalog_whole([*before, *after]) else []
        left = {_place(finding) for finding in after}
        return CheckReport(
            damages=tuple(finding.damage for finding in after),
            repaired=tuple(finding.damage for finding in before if _place(finding) not in left),
            num_objects=checker.num_objects,
            num_tokens=self._num_tokens(),
            unused_bytes=sum(orphan.num_bytes for orphan in unused),
            removed_bytes=sum(orphan.num_bytes for orphan in removed),
            seconds=time.perf_counter() - started,
        )

    def _mend(self, before: list[Finding], recompute_gists: bool) -> list[Finding]:
        """Repair what can be; all that was found, with what the damages of the catalog had hidden."""
        self._writer.invalidate()
        repairer = Repairer(self._parts, self._reader)
        repairer.repair_catalog(before)
        now = list(self._checker(recompute_gists).findings())
        repairer.repair(now)
        return before + [finding for finding in now if finding not in before and finding.part != "catalog"]

    def _num_tokens(self) -> int:
        try:
            return self._reader.refresh()
        except CorruptionError:  # not even that can be said
            return 0

    def _checker(self, recompute_gists: bool) -> Checker:
        return Checker(self._parts, self._reader, recompute_gists=recompute_gists)


def _is_catalog_whole(findings: list[Finding]) -> bool:
    """Only then it can say what is in use; a catalog that was made again may lack what was last."""
    return not any(finding.part == "catalog" for finding in findings)


def _place(finding: Finding) -> tuple[str, int, int]:
    return finding.damage.object_name, finding.damage.token_start, finding.damage.token_stop
