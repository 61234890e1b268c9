"""Whatever the Python surface is given either works or raises one line of ours, and then nothing has changed.

The table below names every argument of every public method; one that is missing here fails the first test. A call that
does not fit a method's signature (too many arguments, a keyword that is not there) is a TypeError as in any Python.
"""

from __future__ import annotations

import hashlib
import inspect
import os
from collections.abc import Iterator
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import megacontext as mc
from megacontext.bases.registry import load_codec
from megacontext.bases.tokenizers_codec import TokenizersCodec
from megacontext.errors import MemoryClosedError
from megacontext.focus.edits import Edits
from megacontext.focus.working_context import WorkingContext
from megacontext.runtime.events import RefocusEvent, RefocusReport
from megacontext.runtime.opened import OpenedMemory
from megacontext.runtime.session import Session
from megacontext.testing.fake_base import tiny_base
from megacontext.values import shown

BAD_VALUES = {
    "None": None,
    "text": "x",
    "digits": "100",
    "fraction": 1.5,
    "nan": float("nan"),
    "infinity": float("inf"),
    "negative": -1,
    "huge": 10**30,
    "True": True,
    "list": [],
    "mapping": {"a": 1},
    "object": object(),
    "class": int,
    "bytes": b"x",
    "array": np.array([1, 2]),
    "surrogate": "\ud83d",
    "zero byte": "a\0b",
    "long": "x" * 5000,
    "home": "~nobody-of-that-name/x",
}
WORDS = {"text", "digits", "zero byte", "long", "home"}


@dataclass(frozen=True)
class Argument:
    """What a good call gives (a function gets it from the world), which of BAD_VALUES are documented to work all the
    same, which say nothing here (a program's own function may raise what it likes), and by what word a refusal may
    speak of the argument instead of its name."""

    good: object
    works: frozenset[str] = frozenset()
    skipped: frozenset[str] = frozenset()
    word: str = ""

    def of(self, world):
        return self.good(world) if inspect.isfunction(self.good) else self.good


def argument(good, works=(), skipped=(), word=""):
    return Argument(good, frozenset(works), frozenset(skipped), word)


def whole(good, works=()):
    return argument(good, works)


TEXT = argument("some words", WORDS)
ROLE = argument("user", WORDS)
FLAG = argument(False, {"True"})
LABELS = argument({"team": "infra"}, {"None"})
QUESTION = argument("What is it?", WORDS - {"long"})  # which does not fit the window
TOKENS = argument([1, 2, 3], {"array"}, word="no token ids")
SAMPLING = {
    "max_new_tokens": whole(2),
    "temperature": argument(0.5, {"fraction", "huge"}),
    "top_p": argument(0.5),
    "seed": whole(3, {"None"}),
    "stop": argument(["\n"], {"list"}),
}
SHAPE = {
    "gister": argument("mean", {"None"}),
    "block_tokens": whole(8, {"None"}),
    "gist_width": whole(1, {"None"}),
}
SPAN = {"start": whole(8), "stop": whole(16)}
NOTHING: dict[str, Argument] = {}

CALLS = {
    "memory.erase": {"source": argument(lambda world: world.new_source())},
    "mc.open": {
        "path": argument(lambda world: world.folder),
        "base": argument(lambda world: world.base, {"None"}),
        "create": FLAG,
        **SHAPE,
        "read_only": argument(True, {"True"}),
        "cache_bytes": whole(1 << 20),
        "read_timeout_s": argument(5.0, {"fraction", "huge"}),
        "dtype": argument("auto"),
        "device": argument("cpu"),
        "api_key": argument("some-key", WORDS - {"zero byte"} | {"None"}),
        "base_config": argument(None, {"None"}, word="TOML"),
    },
    "memory.append": {"token_ids": TOKENS, "source": TEXT, "role": ROLE},
    "memory.append_text": {
        "text": argument("Said.", WORDS | {"surrogate"}),  # which becomes U+FFFD
        "source": TEXT,
        "role": ROLE,
        "labels": LABELS,
    },
    "memory.check": {"repair": FLAG, "recompute_gists": FLAG},
    "memory.close": NOTHING,
    "memory.gists": {"level": whole(1), "start": whole(0), "stop": whole(2)},
    "memory.ingest": {
        "paths": argument((), word="a path"),
        "text": argument(lambda world: f"New words {world.count()}.", WORDS | {"surrogate"}, word="nothing to ingest"),
        "source": TEXT,
        "labels": LABELS,
        "role": ROLE,
        "author": ROLE,
        "licence": ROLE,
        "progress": argument(lambda world: lambda progress: None, {"None"}, {"class"}),
    },
    "memory.inspect": NOTHING,
    "memory.provenance": SPAN | {"whole_tokens": whole(8)},
    "memory.refresh": NOTHING,
    "memory.search": {"text": TEXT, "limit": whole(3)},
    "memory.search_hits": {"text": TEXT, "limit": whole(3)},
    "memory.restore_session": {
        "path": argument(lambda world: world.saved_session()),
        "lens": argument("recency", {"None"}),
        "allocator": argument("greedy", {"None"}),
    },
    "memory.session": {
        "budget_entries": whole(256, {"None"}),
        "lens": argument("recency"),
        "allocator": argument("greedy"),
        "kv": argument("exact"),
        "positions": argument("window"),
        "refocus_interval": whole(0),
        "sink_tokens": whole(4, {"None"}),
        "recent_tokens": whole(16),
        "gist_value": argument(0.25),
        "seed": whole(3, {"None"}),
    },
    "memory.sources": NOTHING,
    "memory.store_gists": NOTHING,
    "memory.text": SPAN,
    "memory.tokens": SPAN,
    "session.save": {
        "path": argument(lambda world: world.saved_session(), skipped={"text", "digits"}),  # files of such names
    },
    "session.close": NOTHING,
    "session.complete": {"prompt": QUESTION, **SAMPLING},
    "session.explain": {"limit": whole(3)},
    "session.generate": {"prompt": QUESTION, **SAMPLING, "stop": argument(["\n"], {"list", "None"})},
    "session.nll": {"token_ids": TOKENS},
    "session.pin": SPAN,
    "session.refocus": {
        "query": argument("What?", WORDS - {"long"} | {"None"}, word="question"),
        "reserve_entries": whole(4),
    },
    "session.resize": {"budget_entries": whole(256)},
    "session.reveal": SPAN,
    "session.unpin": SPAN,
    "wc.apply": {"target": argument(lambda world: world.wc.cut), "scores": argument(None, {"None"})},
    "wc.collapse": {"siblings": argument(lambda world: world.raw_block())},
    "wc.expand": {"entry": whole(lambda world: world.gist_entry())},
    "wc.extend": {"num_tokens": whole(4)},
    "wc.pin": SPAN,
    "wc.resize": {"budget_entries": whole(256)},
    "wc.reveal": SPAN,
    "wc.unpin": SPAN,
    "wc.view": NOTHING,
    "wc.window_offsets": NOTHING,
    "codec.decode": {"token_ids": argument(np.array([1, 2]), {"array"}, word="token ids")},
    "codec.encode": {"text": TEXT},
    "codec.encode_batch": {"texts": argument(["some", "words"], {"list"}, word="text is 1")},
}
OWNERS = {"memory": OpenedMemory, "session": Session, "wc": WorkingContext, "codec": TokenizersCodec}
# made for whoever adds a lens or a session, not documented for programs
INNER = {
    "codec.bytes_of",
    "codec.from_file",
    "codec.template_parts",
    "memory.reader",
    "memory.base",
    "memory.tree",
    "memory.info",
    "wc.tree",
    "wc.config",
    "wc.rows",
    "wc.become",
    "wc.close_rows",
}
CASES = [(call, name, bad) for call, names in CALLS.items() for name in names for bad in BAD_VALUES]


class World:
    """A memory, a session over it, a working context and a codec, and what calls need of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.base = tiny_base()
        self.memory = mc.open(folder, base=self.base, create=True, gister="mean", block_tokens=8)
        self.memory.append(np.random.default_rng(0).integers(97, 123, 1500))
        self.memory.append_text("The code for Kolibri is 48213.", source="fact")
        self.session = self.memory.session(budget_entries=256)
        self.wc = WorkingContext(self.memory.tree, num_tokens=4000)
        self.wc.resize(300)
        self.codec = load_codec("reference")
        self.mc = mc
        self._count = 0

    def count(self):
        self._count += 1
        return self._count

    def new_source(self):
        name = f"new {self.count()}"
        self.memory.append_text("to be forgotten", source=name)
        return name

    def saved_session(self):
        path = self.folder.parent / "saved.session"
        self.session.save(path)
        return path

    def raw_block(self):
        """A block that may collapse."""
        self.wc.reveal(800, 808)
        row = int(np.flatnonzero(self.wc.starts == 800)[0])
        return range(row, row + 1)

    def gist_entry(self):
        """A gist whose children there is room for."""
        self.wc.resize(400)
        return int(np.flatnonzero(self.wc.levels == 1)[0])

    def snapshot(self):
        """What a failed call must not change."""
        self.session._engine.follow_memory()
        memory, wc = self.memory, self.session.working_context
        tokens = memory.tokens(0, memory.num_tokens).tobytes()
        files = sorted(str(path.relative_to(self.folder.parent)) for path in self.folder.parent.rglob("*"))
        return (
            memory.num_tokens,
            memory.sources(),
            hashlib.sha256(tokens).hexdigest(),
            (wc.cut.rows(), wc.pins, wc.config, self.session._engine._budget_entries, self.session._engine.turn),
            (self.wc.cut.rows(), self.wc.pins, self.wc.config),
            [name for name in files if not name.endswith(("-wal", "-shm"))],
        )

    def function(self, call):
        owner, _, name = call.partition(".")
        return getattr(getattr(self, owner), name)

    def good(self, call):
        return {name: given.of(self) for name, given in CALLS[call].items()}

    def run(self, call, arguments):
        """The result, streams and memories run to their ends."""
        result = self.function(call)(**arguments)
        if isinstance(result, Iterator):
            return list(result)
        if isinstance(result, OpenedMemory | Session):
            result.close()
        return result


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    made = World(tmp_path_factory.mktemp("surface") / "notes.mc")
    before = Path.cwd()
    os.chdir(made.folder.parent)
    yield made
    os.chdir(before)
    made.memory.close()


@pytest.fixture(scope="module")
def unused_world(tmp_path_factory):
    made = World(tmp_path_factory.mktemp("unused") / "notes.mc")
    yield made
    made.memory.close()


def methods(owner):
    for name, member in inspect.getmembers_static(OWNERS[owner]):
        if not name.startswith("_") and not isinstance(member, property) and f"{owner}.{name}" not in INNER:
            parameters = inspect.signature(getattr(OWNERS[owner], name)).parameters
            yield f"{owner}.{name}", {*parameters} - {"self"}


def test_the_table_names_every_argument_of_every_public_method():
    surface = {"mc.open": {*inspect.signature(mc.open).parameters}}
    for owner in OWNERS:
        surface.update(methods(owner))
    assert surface == {call: {*names} for call, names in CALLS.items()}


def test_what_the_package_exports_is_covered_or_is_given_to_nobody():
    reported = {name for name in mc.__all__ if is_dataclass(getattr(mc, name))}  # ours to make
    assert {*mc.__all__} - reported == {"MegaContextError", "__version__", "open", "together"}


def test_objects_that_are_handed_out_are_covered_too(world):
    covered = {"memory.codec", "session.working_context"}
    for owner, kind in OWNERS.items():
        for name, member in inspect.getmembers_static(kind):
            if isinstance(member, property) and not name.startswith("_"):
                value = getattr(getattr(world, owner), name)
                plain = isinstance(value, int | float | str | tuple | np.ndarray) or type(value).__name__ == "Cut"
                assert plain or f"{owner}.{name}" in covered | INNER


@pytest.mark.parametrize(("call", "name", "bad"), CASES, ids=["-".join(case) for case in CASES])
def test_a_value_works_or_is_refused_in_one_line_and_nothing_has_changed(request, world, call, name, bad):
    if call == "memory.erase":  # other calls use the bad values as names of sources, in whatever order they come
        world = request.getfixturevalue("unused_world")
    given = CALLS[call][name]
    if bad in given.skipped:
        return
    arguments = {**world.good(call), name: BAD_VALUES[bad]}
    if call == "memory.ingest" and name == "paths":
        arguments["text"] = None
    if bad in given.works:
        world.run(call, arguments)
        return
    before = world.snapshot()
    with pytest.raises(mc.MegaContextError) as caught:
        world.function(call)(**arguments)
    message = str(caught.value)
    assert "\n" not in message
    named = [name, shown(BAD_VALUES[bad]), str(BAD_VALUES[bad]), *filter(None, [given.word])]
    assert any(word in message for word in named), message[:400]
    assert world.snapshot() == before


WHOLE_NUMBERS = [
    (call, name)
    for call, names in CALLS.items()
    for name, given in names.items()
    if (isinstance(given.good, int) and not isinstance(given.good, bool)) or (call, name) == ("wc.expand", "entry")
]


def told(world, call, arguments):
    """What a call says that is the same however often it is made; numbers of NumPy in it would show."""
    num_tokens = world.wc.num_tokens
    result = world.run(call, arguments)
    match result:
        case OpenedMemory():
            says = result.tree
        case Session():
            says = result.working_context.config
        case Edits() | RefocusReport():
            says = type(result), {type(value) for value in vars(result).values()}, world.wc.config
        case [RefocusEvent(), *_]:
            says = result[-1].__class__  # how many tokens come first depends on what the memory holds by now
        case _:
            says = result
    return repr((says, world.wc.num_tokens - num_tokens))


@pytest.mark.parametrize("kind", [np.int64, np.uint32, np.int16, np.asarray])
@pytest.mark.parametrize(("call", "name"), WHOLE_NUMBERS)
def test_integers_of_numpy_serve_as_well(world, call, name, kind):
    plain = {"cache_bytes": 1 << 14} if name == "cache_bytes" else {}  # the usual size is no int16
    expected = told(world, call, {**world.good(call), **plain})
    arguments = {**world.good(call), **plain}
    assert told(world, call, {**arguments, name: kind(arguments[name])}) == expected


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int64])
def test_numbers_of_numpy_serve_as_well(world, kind):
    for call, numbers in (("session.complete", {"temperature": 1, "top_p": 1}), ("memory.session", {"gist_value": 0})):
        plain = told(world, call, {**world.good(call), **numbers})
        of_numpy = told(world, call, {**world.good(call), **{name: kind(value) for name, value in numbers.items()}})
        assert of_numpy == plain


@pytest.mark.parametrize("kind", [str, Path])
def test_paths_are_text_or_pathlib(world, kind, tmp_path):
    page = tmp_path / "page.txt"
    page.write_text("A page of its own.")
    assert world.memory.ingest(kind(page)).num_sources + world.memory.ingest([kind(page)]).num_unchanged >= 1
    with mc.open(kind(tmp_path / "new.mc"), base=world.base, create=True) as memory:
        assert memory.num_tokens == 0
    with pytest.raises(mc.MegaContextError, match="no such folder"):
        mc.open(tmp_path / "other.mc", base=kind(tmp_path / "model"), create=True)


def test_a_closed_memory_or_session_says_so(world, tmp_path):
    calls = {call: world.good(call) for call in CALLS if call.partition(".")[0] in ("memory", "session")}
    memory = mc.open(tmp_path / "closed.mc", base=world.base, create=True, gister="mean")
    memory.append([1, 2, 3])
    closed = SimpleNamespace(memory=memory, session=memory.session(budget_entries=256))
    closed.session.close()
    memory.close()
    for call, arguments in calls.items():
        owner, _, name = call.partition(".")
        if name == "close":
            continue
        with pytest.raises(MemoryClosedError):
            getattr(getattr(closed, owner), name)(**arguments)
