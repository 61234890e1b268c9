"""Bases by name, wherever they run: on this machine, or behind an API.

``openai:MODEL@URL`` and ``vllm:MODEL@URL`` are models behind an API; an installed package may bring schemes of its own;
every other name is that of a model which is read from files here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from megacontext.bases.plugins import open_brought
from megacontext.bases.registry import BaseHandle
from megacontext.bases.remote.address import ApiAddress, scheme_of
from megacontext.bases.remote.api_key import ApiKey
from megacontext.ports.base import BaseSource

__all__ = ["FindKey", "base_handle", "is_behind_api"]

FindKey = Callable[[ApiAddress], ApiKey | None]


def _openai(address: ApiAddress, key: ApiKey | None, *, dtype: str, device: str) -> BaseSource:
    from megacontext.bases.remote.text_base import OpenAIHandle

    return OpenAIHandle(address, key=key)


def _vllm(address: ApiAddress, key: ApiKey | None, *, dtype: str, device: str) -> BaseSource:
    from megacontext.bases.remote.embeds_base import VllmHandle

    return VllmHandle(address, key=key, dtype=dtype, device=device)


HANDLES = {"openai": _openai, "vllm": _vllm}


def is_behind_api(name: str) -> bool:
    """Whether a base's name is that of a model behind an API.

    >>> is_behind_api("openai:qwen@http://localhost:8000/v1"), is_behind_api("reference")
    (True, False)
    """
    return scheme_of(name) is not None


def base_handle(
    name: str,
    *,
    dtype: str = "auto",
    device: str = "auto",
    profile: Path | None = None,
    find_key: FindKey = lambda address: None,
) -> BaseSource:
    """The handle of a base; nothing is loaded, and no server asked. profile: a config of a base that runs here;
    find_key: gives the key for an API.

    Raises: what ``BaseHandle``, ``open_brought`` and ``ApiAddress.parse`` raise.
    """
    if not is_behind_api(name):
        brought = open_brought(name, dtype=dtype, device=device)
        return BaseHandle(name, dtype=dtype, device=device, profile=profile) if brought is None else brought
    address = ApiAddress.parse(name)
    return HANDLES[address.scheme](address, find_key(address), dtype=dtype, device=device)
