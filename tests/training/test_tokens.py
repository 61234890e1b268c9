"""Token stores on disk: what was saved comes back, and no changed byte is trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from megacontext.errors import CorruptionError, InvalidValueError
from megacontext.training.tokens import TokenStore, read_tokenizer

STORE = TokenStore(
    ids_N=np.arange(40, dtype=np.uint16), starts_D=np.array([0, 25], np.int64), names=("one page", "another")
)


def same(one: TokenStore, other: TokenStore) -> bool:
    return (
        np.array_equal(one.ids_N, other.ids_N)
        and np.array_equal(one.starts_D, other.starts_D)
        and one.names == other.names
    )


def test_a_store_comes_back(tmp_path: Path) -> None:
    STORE.save(tmp_path / "books_train.npz")
    assert same(TokenStore.load(tmp_path / "books_train.npz"), STORE)
    empty = TokenStore(ids_N=np.empty(0, np.uint16), starts_D=np.empty(0, np.int64), names=())
    empty.save(tmp_path / "empty.npz")
    assert same(TokenStore.load(tmp_path / "empty.npz"), empty)


def test_no_changed_byte_goes_unnoticed(tmp_path: Path) -> None:
    """Every byte once: an error that names the file, or (where a zip file says things twice) what was saved."""
    path = tmp_path / "books_train.npz"
    STORE.save(path)
    content = path.read_bytes()
    said = []
    for place in range(len(content)):
        for flip in (1, 0x80):
            path.write_bytes(content[:place] + bytes([content[place] ^ flip]) + content[place + 1 :])
            try:
                assert same(TokenStore.load(path), STORE), place
            except CorruptionError as error:
                said.append(str(error))
    assert len(said) > len(content)
    for line in said:
        assert line.startswith(f"{path} is cut off or damaged (")
        assert line.endswith("; remove it, and the next run prepares it again")
        assert "\n" not in line


def test_no_cut_goes_unnoticed(tmp_path: Path) -> None:
    path = tmp_path / "books_train.npz"
    STORE.save(path)
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(CorruptionError, match=r"books_train\.npz is cut off or damaged"):
            TokenStore.load(path)


@pytest.mark.parametrize(
    "arrays",
    [
        {"ids_N": STORE.ids_N.astype(np.int64), "starts_D": STORE.starts_D, "names": np.array(STORE.names)},
        {"ids_N": STORE.ids_N, "starts_D": STORE.starts_D[:1], "names": np.array(STORE.names)},
        {"ids_N": STORE.ids_N},
    ],
)
def test_other_arrays_are_no_store(arrays: dict[str, np.ndarray], tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", **arrays)
    with pytest.raises(CorruptionError, match=r"other\.npz is cut off or damaged"):
        TokenStore.load(tmp_path / "other.npz")


def test_a_tokenizer_is_read_or_named(tokenizer: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match=r"holds no tokenizer\.json; give the folder of a model"):
        read_tokenizer(tmp_path)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert read_tokenizer(tmp_path).get_vocab() == tokenizer.get_vocab()
    (tmp_path / "tokenizer.json").write_text('{"version": ')
    with pytest.raises(CorruptionError, match=r"tokenizer\.json is no tokenizer \(.*\); take another copy"):
        read_tokenizer(tmp_path)
