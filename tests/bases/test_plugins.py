"""Bases that installed packages bring: the example of docs/adding-a-base.md, installed, and broken ones."""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import megacontext
from megacontext.bases.plugins import is_brought, known_plugins, open_brought
from megacontext.bases.registry import BaseHandle, load_base
from megacontext.errors import BaseModelError, MegaContextError, UnknownNameError
from megacontext.ports.base import Base
from megacontext.testing.base_suite import BaseSuite
from megacontext.testing.model_folder import tiny_tokenizer

PAGE = Path(__file__).parents[2] / "docs" / "adding-a-base.md"
Install = Callable[..., None]


def example() -> str:
    """The block of the page that is the whole package."""
    (source,) = (
        block for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL) if "DecayBase" in block
    )
    return source


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Packages as pip leaves them: a module, and a dist-info with entry points."""
    site = tmp_path / "site"
    modules = []

    def installed(source: str, *, name: str = "acme_decay", module: str = "acme_base") -> None:
        info = site / f"{module}-1.0.dist-info"
        info.mkdir(parents=True)
        (site / f"{module}.py").write_text(source)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module.replace('_', '-')}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[megacontext.bases]\n{name} = {module}\n")
        modules.append(module)
        monkeypatch.syspath_prepend(site)
        importlib.invalidate_caches()

    yield installed
    for module in modules:
        sys.modules.pop(module, None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    path.mkdir()
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: 0.3 * torch.randn(512, 16, generator=generator) for name in ("embed_tokens.weight", "output.weight")
    }
    save_file(weights, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps({"model_type": "acme_decay", "max_position_embeddings": 4096}))
    tiny_tokenizer().save(str(path / "tokenizer.json"))
    return path


def refused(folder: Path, match: str) -> None:
    with pytest.raises(BaseModelError, match=match) as raised:
        load_base(str(folder), device="cpu")
    assert "\n" not in str(raised.value)


class TestExample(BaseSuite):
    """The page's base keeps the promises that it makes, opened as a user would."""

    @pytest.fixture(autouse=True)
    def _installed(self, install: Install, folder: Path) -> None:
        install(example())
        self.folder = folder

    def make(self) -> Base:
        return load_base(str(self.folder), device="cpu")


@pytest.mark.parametrize("prefix", ["", "acme_decay:"])
def test_a_memory_lives_with_a_base_that_a_package_brings(
    prefix: str, install: Install, folder: Path, tmp_path: Path
) -> None:
    install(example())
    path = tmp_path / "notes.mc"
    text = "The quick brown fox jumps over the lazy dog. " * 40
    with megacontext.open(path, base=f"{prefix}{folder}", device="cpu", gister="mean", create=True) as memory:
        memory.append_text(text)
    with megacontext.open(path, base=f"{prefix}{folder}", device="cpu") as memory:
        assert memory.text(0, memory.num_tokens) == text
        session = memory.session(budget_entries=256, lens="recency")
        assert list(session.generate("What jumps?", max_new_tokens=3))
        assert np.isfinite(session.nll(memory.codec.encode("the lazy dog").token_ids)).all()


def test_packages_are_listed_without_importing_them(install: Install, folder: Path) -> None:
    install("raise RuntimeError('imported')")
    assert "acme_decay" in known_plugins()
    assert is_brought("acme_decay")
    assert not is_brought("llama")
    assert BaseHandle(str(folder)).info.dim == 16
    assert "acme_base" not in sys.modules


def test_a_package_may_bring_what_we_refuse_but_not_what_we_have(
    install: Install, folder: Path, model_folder: Path
) -> None:
    config = folder / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "layer_types": ["linear_attention"]}))
    refused(folder, "has layers of linear_attention")
    install(example())
    assert isinstance(load_base(str(folder), device="cpu"), Base)
    install("raise RuntimeError('imported')", name="qwen3", module="other_qwen")
    assert load_base(str(model_folder), device="cpu").info.dim == 32
    assert "other_qwen" not in sys.modules


@pytest.mark.parametrize(
    ("source", "match"),
    [
        (
            "import nonesuch",
            r"acme-base, which brings bases of acme_decay, cannot be imported \(ModuleNotFoundError: No mod",
        ),
        ("x = 1", "acme-base, .* has no load_folder, which reads folders; update or uninstall it"),
        (
            "def load_folder(folder, codec, info, *, stored): raise KeyError('a\\nb')",
            r"cannot read .*model \(KeyError: .*\); update or uninstall it",
        ),
        ("def load_folder(folder, codec, info, *, stored): return 3", "gave 3, not a Base"),
    ],
    ids=["import", "function", "error", "result"],
)
def test_a_broken_package_is_named_in_one_line(install: Install, folder: Path, source: str, match: str) -> None:
    install(source)
    refused(folder, match)


def test_embeddings_that_are_not_the_tables_are_refused(install: Install, folder: Path) -> None:
    install(example().replace('weights["embed_tokens.weight"].float(),', '2 * weights["embed_tokens.weight"].float(),'))
    refused(folder, "reads tokens as something else than the rows of its embedding table")


def test_two_packages_for_one_name_are_both_named(install: Install, folder: Path) -> None:
    install(example())
    install(example(), module="other_base")
    refused(folder, "bases of acme_decay are brought by acme-base and other-base; uninstall all but one")


def test_without_a_package_the_name_is_unknown(folder: Path, tmp_path: Path) -> None:
    refused(folder, "transformers cannot load it as a causal language model .*acme_decay")
    assert open_brought(f"acme_decay:{folder}", dtype="auto", device="cpu") is None
    with pytest.raises(MegaContextError, match=r"no such folder|unknown base"):
        megacontext.open(tmp_path / "notes.mc", base=f"acme_decay:{folder}", create=True)


def test_an_address_that_fails_is_one_line(install: Install, tmp_path: Path) -> None:
    install("def open_address(rest, *, dtype, device): raise OSError('server ' + rest + ' is away')")
    with pytest.raises(BaseModelError, match=r"cannot open acme_decay:here \(OSError: server here is away\)"):
        megacontext.open(tmp_path / "notes.mc", base="acme_decay:here", create=True)
    with pytest.raises(UnknownNameError):
        megacontext.open(tmp_path / "notes.mc", base="acme-decay", create=True)
