"""Two bases whose tokenizers differ, and a memory of every kind of source."""

from __future__ import annotations

import pytest
from tests.runtime.regist.memories import UNICODE

from megacontext.runtime import assembly
from megacontext.testing.model_folder import tiny_tokenizer, write_model_folder

CHAT = (
    '{"role": "user", "content": "Where is the fox?", "time": 10}\n'
    '{"role": "assistant", "content": "The fox jumps over the lazy dog.", "time": 11}\n'
)
PAGE = "<html><head><title>Foxes</title></head><body><h1>Foxes</h1><p>The dog did not bark.</p></body></html>"


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """Two model folders whose tokenizers cut the same text into different tokens."""
    folder = tmp_path_factory.mktemp("bases")
    first = write_model_folder(folder / "a", seed=1)
    second = write_model_folder(folder / "b", "llama", seed=2)
    tiny_tokenizer(270).save(str(second / "tokenizer.json"))
    return str(first), str(second)


@pytest.fixture
def folder(tmp_path, bases):
    """Every kind of source: files of all formats, versions, turns, tokens, something erased."""
    files = tmp_path / "files"
    files.mkdir()
    for number in range(12):
        (files / f"{number:02}.txt").write_text(f"file {number}: the quick brown fox, {UNICODE}" * 40)
    (files / "chat.jsonl").write_text(CHAT)
    (files / "page.html").write_text(PAGE)
    (files / "code.py").write_text("def answer(question: str) -> str:\n    return question.strip()\n" * 30)
    with assembly.open(tmp_path / "m", base=bases[0], create=True, gister="mean", block_tokens=8) as memory:
        memory.ingest(files, labels={"team": "infra"}, role="user", author="Ada", licence="MIT")
        (files / "00.txt").write_text("file 0 has changed; the lazy dog has not.\n" * 50)
        memory.ingest(files / "00.txt")
        memory.append_text("What did the fox do?", source="talk", role="user", labels={"turn": "1"})
        memory.append_text("It jumped over the dog.", source="talk", role="assistant")
        memory.append(memory.codec.encode("appended as tokens only").token_ids, source="ids", role="tool")
        memory.append_text("the secret is mauve", source="secret")
        memory.append_text("the end", source="end")
        memory.erase("secret")
    return tmp_path / "m"
