"""Making a memory again for another base: source by source, out of what the memory itself keeps of them.

Both memories are open. Every source becomes one of the same number, so that how many the new memory has says how far
the work is, and whoever was stopped goes on there. What is added to the old memory meanwhile is made at the end, when
its writer's lock is held.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from megacontext.documents.document import name_of
from megacontext.errors import InvalidTokensError, InvariantError, StorageError
from megacontext.memory.arrivals import GROUP_DRAFTS, GROUP_SEGMENTS, Group, LongSource
from megacontext.memory.ingest import Ingestor
from megacontext.memory.lock import WriterLock
from megacontext.memory.parts import Parts
from megacontext.memory.reads import TreeReader
from megacontext.memory.reports import IngestProgress
from megacontext.memory.retokenizing import Retokenizer, is_erased, is_tokens
from megacontext.memory.sealing import GistKeeper
from megacontext.memory.tally import IngestTally
from megacontext.memory.writing import Draft, Writer
from megacontext.ports.catalog import Source
from megacontext.ports.text import TextCodec

__all__ = ["Regist", "require_text"]


def require_text(old: Parts, codec: TextCodec) -> None:
    """Before anything is written: every source of a memory has a text, or tokens that a text gives again. codec: of the
    memory that is to be made.

    Raises: InvalidTokensError naming the sources that have none.
    """
    _require_text(Retokenizer(old, TreeReader(old), codec), old.catalog.sources())


def _require_text(retokenizer: Retokenizer, sources: Sequence[Source]) -> None:
    lossy = [source for source in sources if retokenizer.is_lossy(source)]
    if lossy:
        counts = [f"{source.token_stop - source.token_start:,} of {name_of(source.uri)}" for source in lossy]
        more = f" and of {len(counts) - 3:,} more sources" if len(counts) > 3 else ""
        raise InvalidTokensError(
            f"tokens that were appended without a text are others once they were text: {', '.join(counts[:3])}{more}; "
            "take what they decode to with --lossy-tokens (lossy_tokens=True), or erase them"
        )


class Regist:
    """Fills one memory with the sources of another.

    old: only read; new: empty, or what an earlier run left of it. progress: told now and then; lossy_tokens: take the
    text of tokens that were appended as such also where it does not give the same tokens again.
    """

    def __init__(
        self,
        old: Parts,
        new: Parts,
        *,
        lossy_tokens: bool = False,
        progress: Callable[[IngestProgress], None] | None = None,
    ) -> None:
        self._old, self._new = old, new
        self._old_reader, self._reader = TreeReader(old), TreeReader(new)
        self._retokenizer = Retokenizer(old, self._old_reader, new.codec)
        self._lossy_tokens = lossy_tokens
        self._progress = progress
        writer = Writer(new, self._reader, WriterLock(None), read_only=False)
        self._keeper = GistKeeper(new, self._reader)
        self._ingestor = Ingestor(new, self._reader, writer, self._keeper)
        self._num_copied = 0

    @property
    def num_copied(self) -> int:
        """Sources that this run made."""
        return self._num_copied

    @property
    def num_tokens(self) -> int:
        return self._reader.num_tokens

    def can_go_on(self) -> bool:
        """Whether what an earlier run left is the beginning of what is to be made.

        It is not if a source was erased in one of the two alone, or if tokens were appended to the last one since.
        """
        made = self._new.catalog.sources()
        sources = self._sources()
        if len(made) > len(sources) or any(map(_differ, sources, made)):
            return False
        if not made or not is_tokens(made[-1]) or is_erased(made[-1]):
            return True
        draft = self._retokenizer.drafted(sources[len(made) - 1])
        assert isinstance(draft, Draft)
        stored = self._reader.tokens(made[-1].token_start, made[-1].token_stop)
        return np.array_equal(draft.token_ids, stored)

    def copy(self, *, is_last: bool = False) -> None:
        """Make every source that is not there yet, with its gists.

        is_last: nobody adds anything to the old memory any more; else a last source of tokens is left out, since it
        may still be continued.
        """
        while missing := self._missing(is_last=is_last):
            if not self._lossy_tokens:
                _require_text(self._retokenizer, missing)
            num_bytes = sum(source.num_bytes for source in missing)
            tally = IngestTally(self._progress, num_bytes=num_bytes)
            report = self._ingestor.made(self._groups(missing), tally)
            self._num_copied += report.num_sources
            if report.deferred:
                raise StorageError(f"gists cannot be stored ({report.deferred}); run the same command again")

    def finish(self) -> None:
        """The last step: labels, roles, authors and licences of meanwhile, every gist; and a look whether all is there.

        Raises: InvariantError, with the evidence.
        """
        self.copy(is_last=True)
        pairs = list(zip(self._sources(), self._new.catalog.sources(), strict=True))
        changed = [
            (made.source_id, key, value)
            for source, made in pairs
            for key, value in source.labels.items()
            if made.labels.get(key) != value
        ]
        described = [(made.source_id, source) for source, made in pairs if _origin(source) != _origin(made)]
        if changed or described:
            with self._new.catalog.write() as writer:
                for source_id, key, value in changed:
                    writer.set_label(source_id, key, value)
                for source_id, source in described:
                    writer.describe_source(source_id, **_origin(source))
        self._reader.refresh()
        self._keeper.keep_all()
        for source, made in pairs:
            if _differ(source, made):
                raise InvariantError(f"source {source.source_id} became {made}, of {source}; nothing was switched")

    # --- what is to be made ---------------------------------------------------------------------------------------

    def _sources(self) -> list[Source]:
        self._old_reader.refresh()
        return self._old.catalog.sources()

    def _missing(self, *, is_last: bool = True) -> list[Source]:
        sources = self._sources()
        missing = sources[self._new.catalog.state().num_sources :]
        if missing and not is_last and is_tokens(missing[-1]) and not is_erased(missing[-1]):
            missing.pop()
        return missing

    def _groups(self, sources: list[Source]) -> Iterator[Group]:
        """Drafts in groups that are worth a transaction."""
        group: list[Draft] = []
        num_tokens = 0
        for source in sources:
            drafted = self._retokenizer.drafted(source)
            is_long = isinstance(drafted, LongSource)
            if isinstance(drafted, Draft):
                group.append(drafted)
                num_tokens += len(drafted.token_ids)
            is_full = num_tokens >= GROUP_SEGMENTS * self._new.info.segment_tokens or len(group) >= GROUP_DRAFTS
            if group and (is_full or is_long):
                yield group
                group, num_tokens = [], 0
            if isinstance(drafted, LongSource):
                yield drafted
        if group:
            yield group


def _origin(source: Source) -> dict[str, str]:
    """What may be said anew of a source that is there."""
    return {"role": source.role, "author": source.author, "licence": source.licence}


def _differ(source: Source, made: Source) -> bool:
    """Whether they are not one source, apart from its tokens, its labels and what may be said anew of it."""
    num_bytes = made.num_bytes if is_tokens(source) else source.num_bytes
    placed = dataclasses.replace(
        source,
        role=made.role,
        author=made.author,
        licence=made.licence,
        token_start=made.token_start,
        token_stop=made.token_stop,
        num_bytes=num_bytes,
        labels=made.labels,
    )
    return placed != made
