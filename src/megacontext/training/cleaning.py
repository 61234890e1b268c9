"""From what was read to what is trained on: rules, then duplicates, then held-out text that training would see.

Nothing is removed silently: every removal has a rule, and a report counts documents and tokens of each.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from megacontext.training.corpus import Document, limit_projects, unreadable_because
from megacontext.training.duplicates import LEAST_JACCARD, WordRuns, digest, share_within, twins
from megacontext.training.quality import RULES, broken_rule, licence_header

__all__ = ["ON_REPEATS", "SAYS", "Cleaned", "Removal", "clean", "clean_held_out", "report"]

MOST_LEAKED = 0.5
FEWEST_SAME_HEADERS = 3
MOST_EXAMPLES = 8

BEYOND_LIMIT, SAME, NEAR, LEAKED, HEADER = (
    "project limit",
    "duplicate",
    "near-duplicate",
    "in training text",
    "licence header",
)
SAYS = {name: rule.says for name, rule in RULES.items()} | {
    BEYOND_LIMIT: "files of a package beyond its 4,000,000 characters",
    SAME: "the same text as an earlier document, white space aside",
    NEAR: f"at least {LEAST_JACCARD:.0%} of the runs of 5 words that it or an earlier document has are in both",
    LEAKED: f"held out, but at least {MOST_LEAKED:.0%} of its runs of 13 words stand in the training text",
    HEADER: f"opening comments on licence or copyright in {FEWEST_SAME_HEADERS} or more files, but for the first",
}
ON_REPEATS = (SAME, NEAR)


@dataclass(frozen=True)
class Removal:
    """What a rule took away: a whole document or, of `licence header`, its top; `because` names the evidence."""

    rule: str
    name: str
    domain: str
    text: str
    because: str = ""


@dataclass
class Cleaned:
    """The documents that stay, in order, and what was removed."""

    kept: list[Document]
    removals: list[Removal] = field(default_factory=list)


def clean(documents: Iterable[Document], runs: WordRuns, *, keeps_repeats: bool = False) -> Cleaned:
    """Apply all rules to one side, or all but those on repeated text; documents of projects stand together."""
    cleaned = Cleaned([])
    for document in documents:
        rule = broken_rule(document)
        if rule is None:
            cleaned.kept.append(document)
        else:
            cleaned.removals.append(_removal(rule, document))
    _trim_headers(cleaned)
    _drop_beyond_limit(cleaned)
    if not keeps_repeats:
        _drop_same(cleaned)
        _drop_near(cleaned, runs)
    return cleaned


def clean_held_out(
    documents: Iterable[Document], train: Sequence[Document], runs: WordRuns, *, keeps_repeats: bool = False
) -> Cleaned:
    """Apply all rules to the held-out side, and remove what stands in the training text."""
    cleaned = clean(documents, runs, keeps_repeats=keeps_repeats)
    trained_on = {digest(document.text) for document in train}
    shares = share_within(cleaned.kept, train, runs)
    before, cleaned.kept = cleaned.kept, []
    for document, share in zip(before, shares, strict=True):
        if share >= MOST_LEAKED or digest(document.text) in trained_on:
            cleaned.removals.append(_removal(LEAKED, document, f"{share:.0%}"))
        else:
            cleaned.kept.append(document)
    return cleaned


def _removal(rule: str, document: Document, because: str = "") -> Removal:
    return Removal(rule, document.name, document.domain, document.text, because)


def _drop_beyond_limit(cleaned: Cleaned) -> None:
    code = [document for document in cleaned.kept if document.project]
    within = {id(document) for document in limit_projects(code)}
    cleaned.removals += [_removal(BEYOND_LIMIT, document) for document in code if id(document) not in within]
    cleaned.kept = [document for document in cleaned.kept if not document.project or id(document) in within]


def _drop_same(cleaned: Cleaned) -> None:
    first: dict[bytes, str] = {}
    kept = []
    for document in cleaned.kept:
        key = digest(document.text)
        if key in first:
            cleaned.removals.append(_removal(SAME, document, first[key]))
        else:
            first[key] = document.name
            kept.append(document)
    cleaned.kept = kept


def _drop_near(cleaned: Cleaned, runs: WordRuns) -> None:
    found = {twin.repeated: twin for twin in twins(cleaned.kept, runs)}
    before = cleaned.kept
    cleaned.kept = [document for place, document in enumerate(before) if place not in found]
    cleaned.removals += [
        _removal(NEAR, before[place], f"{before[twin.of].name} ({twin.jaccard:.2f})") for place, twin in found.items()
    ]


def _trim_headers(cleaned: Cleaned) -> None:
    """Cut licence headers that differ in years alone, but for the first; a file that was little else goes."""
    headers = [licence_header(document.text) if document.project else "" for document in cleaned.kept]
    keys = [re.sub(r"[\s\d]+", "", header) for header in headers]
    counts = Counter(key for key in keys if key)
    seen: set[str] = set()
    before, cleaned.kept = cleaned.kept, []
    for document, header, key in zip(before, headers, keys, strict=True):
        if counts[key] < FEWEST_SAME_HEADERS or key not in seen:
            cleaned.kept.append(document)
            seen.add(key)
            continue
        cleaned.removals.append(Removal(HEADER, document.name, document.domain, header))
        trimmed = replace(document, text=document.text.replace(header, "", 1).lstrip("\n"))
        if (reason := unreadable_because(trimmed)) is None:
            cleaned.kept.append(trimmed)
        else:
            cleaned.removals.append(_removal(reason, trimmed))


def report(
    cleaned: Cleaned, kept_tokens: Mapping[str, int], count_tokens: Callable[[Sequence[str]], int]
) -> dict[str, Any]:
    """What stayed and what each rule removed, by domain, in documents and tokens, with a few names.

    Args:
        cleaned: one side.
        kept_tokens: tokens of each domain of it, as stored.
        count_tokens: about how many tokens some texts are together.
    """
    domains: dict[str, dict[str, Any]] = defaultdict(dict)
    num_kept = Counter(document.domain for document in cleaned.kept)
    for domain in sorted({*num_kept, *(removal.domain for removal in cleaned.removals)}):
        domains[domain]["kept"] = {"documents": num_kept[domain], "tokens": kept_tokens[domain]}
        removed: dict[str, Any] = {}
        for rule in SAYS:
            some = [removal for removal in cleaned.removals if (removal.rule, removal.domain) == (rule, domain)]
            if some:
                largest = sorted(some, key=lambda removal: -len(removal.text))
                spread = largest[:: max(1, len(largest) // MOST_EXAMPLES)][:MOST_EXAMPLES]
                removed[rule] = {
                    "documents": len(some),
                    "tokens": count_tokens([removal.text for removal in some]),
                    "examples": [f"{one.name}: {one.because}" if one.because else one.name for one in spread],
                }
        domains[domain]["removed"] = removed
    return dict(domains)
