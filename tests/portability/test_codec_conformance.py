"""The suite that others run over codecs of their own, over ours."""

from __future__ import annotations

from functools import cache

import pytest

from megacontext.bases.registry import load_codec
from megacontext.bases.tokenizers_codec import TokenizersCodec
from megacontext.ports.text import TextCodec
from megacontext.testing.fake_base import byte_codec
from megacontext.testing.text_codec_suite import TextCodecSuite
from megacontext.testing.tokenizer_kinds import tokenizer_spec

pytestmark = pytest.mark.portability


@cache
def codec_of(kind: str) -> TokenizersCodec:
    return TokenizersCodec(tokenizer_spec(kind))


@cache
def bundled() -> TokenizersCodec:
    return load_codec("reference")


class OfKind(TextCodecSuite):
    kind: str

    @property
    def control_texts(self) -> tuple[str, ...]:  # type: ignore[override]
        return (*codec_of(self.kind).control_ids, *TextCodecSuite.control_texts)

    @property
    def control_ids(self) -> frozenset[int]:  # type: ignore[override]
        return frozenset(codec_of(self.kind).control_ids.values())

    def make(self) -> TextCodec:
        return codec_of(self.kind)


class TestLlama2(OfKind):
    kind = "llama-2"


class TestGemma(OfKind):
    kind = "gemma"


class TestLlama3(OfKind):
    kind = "llama-3"


class TestUnigram(OfKind):
    kind = "unigram-bytes"


class TestBytes(TextCodecSuite):
    def make(self) -> TextCodec:
        return byte_codec()


class TestBundled(TextCodecSuite):
    def make(self) -> TextCodec:
        return bundled()
