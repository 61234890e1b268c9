"""From text to token arrays: our byte-level BPE, and documents as one flat array a domain.

Digits are single tokens (a number is copied digit by digit, never through a lucky merge), there is no token for the
start of a text, and `<|endoftext|>` closes every document.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from megacontext.errors import CorruptionError, InvalidValueError
from megacontext.training.corpus import Document

__all__ = [
    "END_OF_TEXT",
    "PAD",
    "TOKENIZER",
    "TokenStore",
    "encode_documents",
    "first_line",
    "pieces",
    "read_tokenizer",
    "token_bytes",
    "token_pieces",
    "train_tokenizer",
]

PAD = "<|pad|>"
END_OF_TEXT = "<|endoftext|>"
SPECIAL_TOKENS = (PAD, END_OF_TEXT)
PIECE_CHARS = 8_000
TOKENIZER = "tokenizer.json"

_DAMAGE = (zipfile.BadZipFile, zlib.error, ValueError, LookupError, RuntimeError, EOFError, OSError)
"""What zip and numpy raise for a file that was cut or changed."""


def read_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a model, or of a run's `data/tokenizer`.

    Raises InvalidValueError if the folder holds none, CorruptionError if it is damaged.
    """
    path = folder / TOKENIZER
    if not path.is_file():
        raise InvalidValueError(f"{folder} holds no {TOKENIZER}; give the folder of a model, or of a tokenizer")
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library has one kind for everything
        raise CorruptionError(f"{path} is no tokenizer ({first_line(error)}); take another copy") from error


def train_tokenizer(texts: Iterable[str], *, vocab_size: int) -> Tokenizer:
    """Learn a byte-level BPE with single-digit tokens and our two special tokens (ids 0 and 1)."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def pieces(text: str) -> Iterator[str]:
    """Cut a long text at line ends into pieces that a batch encoder can spread over threads."""
    start = 0
    while start < len(text):
        stop = text.find("\n", start + PIECE_CHARS)
        stop = len(text) if stop < 0 else stop + 1
        yield text[start:stop]
        start = stop


@dataclass(frozen=True, kw_only=True)
class TokenStore:
    """The documents of one domain, end to end.

    `ids_N` uint16, `starts_D` int64 (first token of each document), `names` one a document.
    """

    ids_N: npt.NDArray[np.uint16]  # noqa: N815 - shape suffix
    starts_D: npt.NDArray[np.int64]  # noqa: N815 - shape suffix
    names: tuple[str, ...]

    def save(self, path: Path) -> None:
        """Write the three arrays to an uncompressed npz file."""
        np.savez(path, ids_N=self.ids_N, starts_D=self.starts_D, names=np.array(self.names))

    @classmethod
    def load(cls, path: Path) -> TokenStore:
        """Read what `save` wrote; every byte is verified, and CorruptionError says which file is damaged."""
        with path.open("rb") as file:
            try:
                damaged = zipfile.ZipFile(file).testzip()  # numpy itself notices only what it reads to the end
                if damaged is not None:
                    raise ValueError(f"{damaged} does not match its checksum")
                file.seek(0)
                with np.load(file) as arrays:
                    ids_N, starts_D, names_D = arrays["ids_N"], arrays["starts_D"], arrays["names"]
                if (ids_N.dtype, ids_N.ndim, starts_D.shape) != (np.uint16, 1, names_D.shape):
                    raise ValueError("its arrays are not those of a token store")
            except _DAMAGE as error:
                raise CorruptionError(
                    f"{path} is cut off or damaged ({first_line(error)}); remove it, and the next run prepares it again"
                ) from error
        return cls(ids_N=ids_N, starts_D=starts_D, names=tuple(names_D.tolist()))


def first_line(error: BaseException) -> str:
    """What a library says of damage, short enough for a message of ours."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def encode_documents(tokenizer: Tokenizer, documents: Iterable[Document]) -> TokenStore:
    """Encode documents in order, each closed by `<|endoftext|>`."""
    end = tokenizer.token_to_id(END_OF_TEXT)
    chunks = [np.empty(0, np.uint16)]
    starts: list[int] = []
    names: list[str] = []
    num_tokens = 0
    for document in documents:
        starts.append(num_tokens)
        names.append(document.name)
        encoded = tokenizer.encode_batch_fast(list(pieces(document.text)), add_special_tokens=False)
        for chunk in [*(np.array(piece.ids, dtype=np.uint16) for piece in encoded), np.array([end], np.uint16)]:
            chunks.append(chunk)
            num_tokens += len(chunk)
    return TokenStore(ids_N=np.concatenate(chunks), starts_D=np.array(starts, np.int64), names=tuple(names))


def token_bytes(tokenizer: Tokenizer) -> npt.NDArray[np.int64]:
    """Length of every token in bytes, [V] int64; special tokens count zero (they stand for no text)."""
    lengths = np.zeros(tokenizer.get_vocab_size(), np.int64)
    for token, index in tokenizer.get_vocab().items():
        lengths[index] = 0 if token in SPECIAL_TOKENS else len(token)
    return lengths


def token_pieces(tokenizer: Tokenizer) -> Sequence[bytes]:
    """The bytes of every token; characters that a token only begins are replaced, which no word match minds."""
    decoder = decoders.ByteLevel()
    return [
        decoder.decode([tokenizer.id_to_token(index) or ""]).encode() for index in range(tokenizer.get_vocab_size())
    ]
