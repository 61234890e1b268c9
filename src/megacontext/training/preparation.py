"""The step before training: read and clean the corpora, learn the tokenizer once, and keep token arrays on disk.

A prepared folder is never prepared again: what is in it stays as it is, by whatever rules it was made.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

from tokenizers import Tokenizer

from megacontext.errors import InvalidValueError
from megacontext.training.babi import BABI, has_stories, read_stories
from megacontext.training.card import read_figures
from megacontext.training.cleaning import ON_REPEATS, SAYS, Cleaned, clean, clean_held_out, report
from megacontext.training.corpus import (
    Document,
    join_projects,
    limit_projects,
    package_files,
    read_books,
    read_knowledge,
    readable,
    standard_library_files,
)
from megacontext.training.duplicates import WordRuns, refuse_without_packages
from megacontext.training.enough_text import check_records, origins, refuse_short
from megacontext.training.new_files import in_one_move
from megacontext.training.recall import TRAINING, draw_facts
from megacontext.training.source_files import note_sources
from megacontext.training.tokens import (
    END_OF_TEXT,
    PAD,
    TOKENIZER,
    TokenStore,
    encode_documents,
    pieces,
    read_tokenizer,
    train_tokenizer,
)
from megacontext.values import file_in_the_way, shown

__all__ = [
    "DOMAINS",
    "REPORT",
    "SIDES",
    "add_stories",
    "by_domain",
    "load_stores",
    "num_tokens",
    "prepare",
    "read_documents",
    "save_tokenizer",
    "tokenizer_sample",
]

DOMAINS = ("books", "code", "knowledge")
SIDES = ("held_out", "train")
REPORT = "preparation.json"
SAMPLE_CHARS = 2_000
SAMPLE_EVERY = 8
MOST_COUNTED_CHARS = 2_000_000


def read_documents(data: Path, packages: Sequence[Path], *, held_out: bool) -> Iterator[Document]:
    """Read the training or the validation side: books, files of code in their projects' order, and pages."""
    yield from read_books(data, "validation" if held_out else "train")
    yield from standard_library_files(held_out=held_out)
    yield from package_files(packages, held_out=held_out)
    yield from read_knowledge(data, held_out=held_out)


def by_domain(documents: Iterable[Document]) -> dict[str, list[Document]]:
    """Sort documents into domains; the files of a project become one document."""
    some = list(documents)
    sorted_ = {domain: [document for document in some if document.domain == domain] for domain in DOMAINS}
    return {**sorted_, "code": list(join_projects(sorted_["code"]))}


def tokenizer_sample(documents: dict[str, list[Document]]) -> Iterator[str]:
    """Yield the text the tokenizer learns from: every eighth piece of books and code, all knowledge, recall text."""
    for domain, texts in documents.items():
        step = SAMPLE_CHARS * (SAMPLE_EVERY if domain != "knowledge" else 2)
        for document in texts:
            for start in range(0, len(document.text), step):
                yield document.text[start : start + SAMPLE_CHARS]
    random = Random(0)
    for _ in range(2_000):
        facts = draw_facts(random, 4, TRAINING)
        yield " ".join(fact.statement(random) for fact in facts) + "".join(
            "".join(fact.question(random)) for fact in facts
        )


def prepare(
    data: Path,
    packages: Sequence[Path],
    out: Path,
    *,
    vocab_size: int,
    cleaned: bool = True,
    keeps_repeats: bool = False,
    tokenizer: Path | None = None,
    least_tokens: Mapping[str, int] | None = None,
) -> None:
    """Write `tokenizer/`, one token store a domain and side (`train`, `held_out`) and `preparation.json` below `out`.

    What exists is left alone, so that a run can go on from a folder that other rules made. bAbI stories are a store,
    too, where the data folder has them; the tokenizer does not learn from them. What is missing comes in one move:
    where reading fails, ``out`` is as it was.

    Args:
        data: folder with `books/`, `knowledge/` and, if it has it, `babi/`.
        packages: `site-packages` folders.
        out: the prepared folder.
        vocab_size: tokens of the tokenizer, if one has to be learnt.
        cleaned: whether the rules of `quality` and the search for duplicates apply; else only unreadable files are
            left out.
        keeps_repeats: whether text that repeats earlier text stays, though the other rules apply.
        tokenizer: folder of the one to use instead of learning one. Raises InvalidValueError if it holds none, or if
            ``out`` has another one already.
        least_tokens: how many each domain has to have to train on; raises InvalidValueError where it has fewer.

    Raises UsageError if text is to be cleaned and a package for it is not installed.
    """
    if (file := file_in_the_way(out)) is not None:
        raise InvalidValueError(f"{file} is a file; give a folder for token arrays, new or empty, with --out")
    used = _tokenizer_of(out, tokenizer)
    stores = [out / f"{domain}_{side}.npz" for domain in DOMAINS for side in SIDES]
    if (out / "tokenizer" / TOKENIZER).exists() and all(path.exists() for path in stores):
        return
    if any(path.exists() for path in stores):
        if used is None:
            raise InvalidValueError(
                f"{out} has token arrays, but lacks tokenizer/{TOKENIZER}, which they were made with; put it back, or "
                "give a new --out"
            )
        cleaned = cleaned and (out / REPORT).exists()  # or the others of this folder were not cleaned
        keeps_repeats = cleaned and not set(ON_REPEATS) & set(_rules_of(out))
    if cleaned:
        refuse_without_packages()
    for folder in packages:
        if not folder.is_dir():
            raise InvalidValueError(f"{folder} is no folder; give one with packages to read code from")
    with in_one_move(out) as partial:
        if used is not None:
            save_tokenizer(used, partial / "tokenizer")
        _write_stores(
            data,
            packages,
            partial,
            vocab_size=vocab_size,
            cleaned=cleaned,
            keeps_repeats=keeps_repeats,
            least_tokens=least_tokens or {},
        )


def _rules_of(out: Path) -> dict[str, str]:
    """The rules that the folder was cleaned by."""
    rules = read_figures(out / REPORT, parts=["rules"], measure="recipes/core/prepare.py")["rules"]
    if not isinstance(rules, dict):
        raise InvalidValueError(
            f"{out / REPORT}: rules is {shown(rules)}, no table of the rules that text was cleaned by; give a new --out"
        )
    return rules


def _tokenizer_of(out: Path, given: Path | None) -> Tokenizer | None:
    """The tokenizer that ``out`` has or, if it has none yet, the given one; None if there is neither."""
    own = read_tokenizer(out / "tokenizer") if (out / "tokenizer" / TOKENIZER).exists() else None
    if given is None:
        return own
    adopted = read_tokenizer(given)
    if own is not None and own.get_vocab() != adopted.get_vocab():
        raise InvalidValueError(f"{out / 'tokenizer'} holds another tokenizer than {given}; give a new --out")
    return adopted


def add_stories(data: Path, out: Path) -> None:
    """Write token stores of bAbI stories into a folder that has a tokenizer, if the data folder has stories and they
    are not there yet. `prepare` does so for new folders only: a run that is resumed must find its data unchanged."""
    if not has_stories(data):
        return
    tokenizer = read_tokenizer(out / "tokenizer")
    for side, split in (("held_out", "test"), ("train", "train")):
        path = out / f"{BABI}_{side}.npz"
        if not path.exists():
            encode_documents(tokenizer, read_stories(data, split)).save(path)


def _write_stores(
    data: Path,
    packages: Sequence[Path],
    out: Path,
    *,
    vocab_size: int,
    cleaned: bool,
    keeps_repeats: bool,
    least_tokens: Mapping[str, int],
) -> None:
    check_records(data, least_tokens)
    read = {side: read_documents(data, packages, held_out=side == "held_out") for side in SIDES}
    if cleaned:
        runs = WordRuns()
        train = clean(read["train"], runs, keeps_repeats=keeps_repeats)
        held_out = clean_held_out(read["held_out"], train.kept, runs, keeps_repeats=keeps_repeats)
        sides = {"held_out": held_out, "train": train}
        texts = {side: by_domain(one.kept) for side, one in sides.items()}
    else:
        texts = {side: by_domain(_uncleaned(documents)) for side, documents in read.items()}
    folder = out / "tokenizer"
    if not (folder / TOKENIZER).exists():
        save_tokenizer(train_tokenizer(tokenizer_sample(texts["train"]), vocab_size=vocab_size), folder)
    add_stories(data, out)
    tokenizer = read_tokenizer(folder)
    stores = {
        side: {domain: encode_documents(tokenizer, some) for domain, some in texts[side].items()} for side in SIDES
    }
    num_tokens = {domain: len(store.ids_N) for domain, store in stores["train"].items()}
    removed = Counter(removal.domain for removal in sides["train"].removals) if cleaned else Counter()
    refuse_short(num_tokens, least_tokens, where=origins(data), removed=removed)
    if cleaned:
        counted = {side: _counted(tokenizer, one, stores[side]) for side, one in sides.items()}
        rules = {name: says for name, says in SAYS.items() if not (keeps_repeats and name in ON_REPEATS)}
        _write_report(out, {"rules": rules, **counted})
    note_sources(data, packages, out)
    for side in SIDES:
        for domain in DOMAINS:
            stores[side][domain].save(out / f"{domain}_{side}.npz")


def _uncleaned(documents: Iterable[Document]) -> Iterator[Document]:
    """All that can be read, up to the limit of each project."""
    some = list(documents)
    yield from (document for document in some if not document.project)
    yield from limit_projects(readable(document for document in some if document.project))


def _counted(tokenizer: Tokenizer, side: Cleaned, stores: Mapping[str, TokenStore]) -> dict[str, Any]:
    """What cleaning did to a side; kept tokens are those of its stores."""

    def count_tokens(texts: Sequence[str]) -> int:
        return num_tokens(tokenizer, texts)

    return report(side, {domain: len(store.ids_N) for domain, store in stores.items()}, count_tokens)


def num_tokens(tokenizer: Tokenizer, texts: Sequence[str]) -> int:
    """How many tokens some texts are together: of much text, evenly spaced pieces are encoded and the rest follows
    from its length, as what was removed can be more than what was kept."""
    cut = [piece for text in texts for piece in pieces(text)]
    chosen = cut[:: max(1, -(-sum(map(len, cut)) // MOST_COUNTED_CHARS))]
    counted = sum(len(encoded.ids) for encoded in tokenizer.encode_batch_fast(chosen, add_special_tokens=False))
    return round(counted * sum(map(len, cut)) / max(1, sum(map(len, chosen))))


def _write_report(out: Path, content: dict[str, Any]) -> None:
    (out / REPORT).write_text(json.dumps(content, indent=2) + "\n")


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json` so that `AutoTokenizer` of any release reads the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "clean_up_tokenization_spaces": False,
        "eos_token": END_OF_TEXT,
        "model_max_length": 4096,
        "pad_token": PAD,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def load_stores(out: Path, side: str) -> dict[str, TokenStore]:
    """Load the token stores that `prepare` wrote for `train` or `held_out`; bAbI stories only if there are any.

    Raises InvalidValueError if one was never written.
    """
    domains = [*DOMAINS, BABI] if (out / f"{BABI}_{side}.npz").exists() else DOMAINS
    for domain in domains:
        if not (out / f"{domain}_{side}.npz").is_file():
            raise InvalidValueError(
                f"{out} holds no {domain}_{side}.npz; give the --out of a run, or prepare one there"
            )
    return {domain: TokenStore.load(out / f"{domain}_{side}.npz") for domain in domains}
