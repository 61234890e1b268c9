"""What a server says of its model: how long a window may be, and how many tokens a text has.

OpenAI's API says neither. vLLM has ``max_model_len`` in its list of models (others call it otherwise) and POST
/tokenize, llama.cpp ``n_ctx`` in /props and another POST /tokenize. Where a server has none, counts are estimates from
what its answers cost.
https://docs.vllm.ai/en/latest/serving/openai_compatible_server/
https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md
"""

from __future__ import annotations

import threading
from typing import Any

from megacontext.bases.remote.http import ApiClient
from megacontext.ports.text import TextCodec

__all__ = ["ServerFacts", "TokenMeter"]

# How lists of models call the window: vLLM, OpenRouter, Groq, Mistral.
WINDOW_FIELDS = ("max_model_len", "context_length", "context_window", "max_context_length")
# An estimate is taken this much higher, so that a prompt that was never counted fits as well.
MARGIN = 1.1
LEARNED_MARGIN = 1.05
# Shorter prompts are mostly template and say little; fewer tokens than this per byte no tokenizer needs.
LEAST_LEARNED_TOKENS = 64
MOST_BYTES_PER_TOKEN = 16


class ServerFacts:
    """Asked once, when first needed. Raises: ServerError where the server does not answer."""

    def __init__(self, client: ApiClient) -> None:
        self._client = client
        self._address = client.address
        self._asking = threading.Lock()
        self._window_tokens: int | None = client.address.window_tokens or None
        self._last_count: tuple[str, int | None] = ("", 0)
        self._tokenize_form: str | None = None  # "prompt" (vLLM), "content" (llama.cpp), "" for none

    @property
    def window_tokens(self) -> int:
        """Most tokens of prompt and answer together; 0 where nobody knows."""
        with self._asking:
            if self._window_tokens is None:
                self._window_tokens = self._listed_window() or self._props_window()
            return self._window_tokens

    def learn_window(self, window_tokens: int) -> None:
        """A refusal told the limit."""
        with self._asking:
            known = self._window_tokens
            self._window_tokens = min(known, window_tokens) if known else window_tokens

    def count(self, text: str) -> int | None:
        """Tokens of a text, None where the server does not count."""
        with self._asking:
            if self._tokenize_form is None:
                forms = ("prompt", "content")
                self._tokenize_form = next((form for form in forms if self._tokenized(form, "a b") is not None), "")
            if self._last_count[0] != text:  # what was sent is counted again when its answer says what it cost
                found = self._tokenized(self._tokenize_form, text) if self._tokenize_form else None
                self._last_count = (text, found)
            return self._last_count[1]

    def _tokenized(self, form: str, text: str) -> int | None:
        body = {"model": self._address.served_model, form: text}
        found = self._client.post_optional(f"{self._address.root}/tokenize", body)
        tokens = found.get("tokens") if isinstance(found, dict) else None
        return len(tokens) if isinstance(tokens, list) and tokens else None

    def _listed_window(self) -> int:
        found = self._client.get(f"{self._address.url}/models")
        listed = found.get("data") if isinstance(found, dict) else None
        for model in listed if isinstance(listed, list) else ():
            if isinstance(model, dict) and model.get("id") == self._address.served_model:
                return next(filter(None, (_whole(model.get(name)) for name in WINDOW_FIELDS)), 0)
        return 0

    def _props_window(self) -> int:
        found = self._client.get(f"{self._address.root}/props")
        settings = found.get("default_generation_settings") if isinstance(found, dict) else None
        return _whole(settings.get("n_ctx")) if isinstance(settings, dict) else 0


class TokenMeter:
    """Tokens of texts as the server counts them: by asking it, else by the memory's own tokenizer and what its answers
    say that a prompt had (``usage.prompt_tokens``)."""

    def __init__(self, facts: ServerFacts, codec: TextCodec) -> None:
        self._facts = facts
        self._codec = codec
        self._per_own_token = MARGIN
        self._template_tokens = 0  # what a chat template adds

    def count(self, text: str) -> int:
        """Tokens of a prompt, its template included as far as it is known; rather too many than too few."""
        counted = self._facts.count(text)
        if counted is None:
            counted = int(len(self._codec.encode(text).token_ids) * self._per_own_token) + 1
        return counted + self._template_tokens

    def learn(self, text: str, num_prompt_tokens: int) -> None:
        """An answer said how many tokens its prompt had. Servers that count cached ones out, or cut what is too long in
        silence, say less than there are: what no tokenizer could do is passed over."""
        if num_prompt_tokens < max(LEAST_LEARNED_TOKENS, len(text.encode()) // MOST_BYTES_PER_TOKEN):
            return
        counted = self._facts.count(text)
        if counted is not None:
            self._template_tokens = max(self._template_tokens, num_prompt_tokens - counted)
            return
        num_own = max(1, len(self._codec.encode(text).token_ids))
        self._per_own_token = LEARNED_MARGIN * num_prompt_tokens / num_own


def _whole(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
