"""What a model's tokenizer does and does not do, found out by trying it: facts for whoever brings a base."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from megacontext.bases.prompting import ChatMarkers, Prompting, read_prompting
from megacontext.bases.tokenizers_codec import TokenizersCodec

__all__ = ["TokenizerFacts", "facts_of", "tokenizer_facts"]

# What a text may hold, and an example of each. A tokenizer that gives back another text loses that.
PROBES = {
    "spaces at either end": (" a ", "  a  "),
    "runs of spaces": ("a  b", "a    b"),
    "line ends": ("a\nb", "a\r\nb", "\n\na\n\n\n"),
    "tabs": ("a\tb", "\t\ta"),
    "case": ("The FOX",),
    "composed and decomposed letters": ("\u00e9 e\u0301",),
    "compatibility forms": ("\uff21 \u00bd \ufb01",),
    "control characters": ("a\x00b", "a\x01\x7fb", "a\u200b\u200db"),
    "letters of other scripts": ("Привет", "שלום", "日本語", "नमस्ते"),
    "emoji": ("\U0001f9d1\u200d\U0001f680", "\U0001f44b\U0001f3fd"),
    "the sign U+2581": ("a\u2581b",),
    "names of bytes": ("<0x41>",),
}


@dataclass(frozen=True, kw_only=True)
class TokenizerFacts:
    """kind: how its vocabulary is made; num_ids: ids that it gives or knows; num_added: added tokens, num_control of
    them never given for text; bos_token_id: what a window begins with, None for nothing; stop_token_ids: what ends a
    turn by its chat template; puts_space_first: whether it puts a space in front of a text (taken off here);
    has_byte_pieces: whether it writes bytes for what its vocabulary lacks; normalizers: what changes a text before;
    loses: what does not come back as it was, in words; has_token_bytes: whether tokens stand for bytes each by itself,
    so that any stretch of a memory reads as the whole does there; chat_markers: whether its chat template marks turns
    by control tokens, by text, or "" where it has none that serves; chat_problem: why not.
    """

    kind: str
    num_ids: int
    num_added: int
    num_control: int
    bos_token_id: int | None
    stop_token_ids: tuple[int, ...]
    puts_space_first: bool
    has_byte_pieces: bool
    normalizers: tuple[str, ...]
    loses: tuple[str, ...]
    has_token_bytes: bool
    chat_markers: ChatMarkers
    chat_problem: str

    @property
    def is_lossless(self) -> bool:
        """Whether every text that was tried came back byte for byte."""
        return not self.loses


def tokenizer_facts(folder: Path, codec: TokenizersCodec) -> TokenizerFacts:
    """Facts of the tokenizer in a model folder. Raises what ``read_prompting`` does."""
    return facts_of(codec, read_prompting(folder, codec))


def facts_of(codec: TokenizersCodec, prompting: Prompting) -> TokenizerFacts:
    """The same where both were read already."""
    habits = codec.habits
    return TokenizerFacts(
        kind=_kind(codec),
        num_ids=codec.vocab_size,
        num_added=habits.num_added,
        num_control=len(codec.control_ids),
        bos_token_id=prompting.bos_token_id,
        stop_token_ids=prompting.stop_token_ids,
        puts_space_first=habits.puts_space_first,
        has_byte_pieces=habits.has_byte_pieces,
        normalizers=habits.normalizers,
        loses=tuple(name for name, texts in PROBES.items() if not all(_comes_back(codec, text) for text in texts)),
        has_token_bytes=codec.has_bytes,
        chat_markers=prompting.chat_markers,
        chat_problem=prompting.problem,
    )


def _comes_back(codec: TokenizersCodec, text: str) -> bool:
    return codec.decode(codec.encode(text).token_ids) == text


def _kind(codec: TokenizersCodec) -> str:
    """As people call it."""
    if codec.habits.is_byte_level:
        return f"byte-level {codec.habits.model}"
    return f"SentencePiece {codec.habits.model}" if codec.habits.writes_spaces else codec.habits.model
