"""Configuration files: what they may say, how they extend each other, and one clear line for everything else."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
from tests.training.conftest import TINY_MODEL

from megacontext.errors import InvalidValueError
from megacontext.nets.shapes import CoreConfig, GistNetConfig
from megacontext.training.base_gate import GateConfig
from megacontext.training.cotrained_lens import LensLearning
from megacontext.training.curriculum import BatchKind, Stage
from megacontext.training.gist_cuts import GistCut
from megacontext.training.loop import LoopConfig
from megacontext.training.memory_model import MemoryConfig
from megacontext.training.optim import OptimConfig
from megacontext.training.reference import ReferenceConfig
from megacontext.training.settings import read_settings

RECIPES = Path(__file__).parents[2] / "recipes"

GOOD = (
    TINY_MODEL
    + """max_positions = 256

[gist_net]
width = 32
num_layers = 1

[memory]
reconstruction = 0.5

[optim]
matrix_rate = 1

[loop]
num_steps = 10
seed = 1

[shares]
books = 1.0

[[stage]]
name = "dense"
gate = "short"
batches = [
    { name = "short", share = 1.0, rows = 2, length = 64, mix = { dense = 1.0 }, gists = { shapes = [[32, 1]], \
num_tail = 1 } },
]
"""
)


def read_everything(path: Path) -> tuple[object, ...]:
    """What a run reads of its file before anything else happens."""
    settings = read_settings(path)
    return (
        settings.vocab_size,
        settings.shares,
        settings.read("model", CoreConfig),
        settings.read("gist_net", GistNetConfig),
        settings.read("memory", MemoryConfig),
        settings.read("optim", OptimConfig),
        settings.read("loop", LoopConfig),
        settings.stages(),
    )


def test_tables_become_what_they_configure(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(GOOD)
    vocab_size, shares, model, gist_net, memory, optim, loop, stages = read_everything(path)
    assert (vocab_size, shares) == (512, {"books": 1.0})
    assert (model.width, gist_net.num_layers, memory.reconstruction) == (32, 1, 0.5)
    assert (optim.matrix_rate, optim.momentum, loop.num_steps) == (1.0, OptimConfig().momentum, 10)
    short = BatchKind(
        name="short", share=1.0, rows=2, length=64, mix={"dense": 1.0}, gists=GistCut(shapes=((32, 1),), num_tail=1)
    )
    assert stages == (Stage(name="dense", gate="short", batches=(short,)),)


BAD = {
    "no file": (None, None, "is no file"),
    "no TOML": ("[loop]", "[loop", "is not TOML: .*line 23"),
    "unknown table": (
        "[optim]",
        "[optimiser]",
        r"unknown table 'optimiser'; did you mean 'optim'\? known: extends, mod",
    ),
    "unknown key": ("num_steps", "num_step", r"\[loop\] has an unknown key 'num_step'; did you mean 'num_steps'"),
    "unknown key of a batch": ("share =", "part =", r"'dense' batches 'short' has an unknown key 'part'"),
    "unknown key of a cut": (
        "num_tail",
        "tail",
        r"batches 'short' gists has an unknown key 'tail'; did you mean 'num_t",
    ),
    "unknown domain": ("books =", "book =", r"\[shares\] has an unknown key 'book'; did you mean 'books'"),
    "unknown row kind": ("mix = { dense", "mix = { prose", r"unknown row kind 'prose' in mix; known: plain, "),
    "missing key": ("num_steps = 10", "", r"\[loop\] lacks num_steps; add it"),
    "missing table": ("[loop]\nnum_steps = 10\nseed = 1", "", r"has no table \[loop\]; add it"),
    "text for a number": ("num_steps = 10", 'num_steps = "10"', r"\[loop\] num_steps is '10'; write a whole number"),
    "fraction for a count": ("num_steps = 10", "num_steps = 1.5", "num_steps is 1.5; write a whole number"),
    "flag for a number": ("matrix_rate = 1", "matrix_rate = true", "matrix_rate is True; write a number"),
    "no steps": ("num_steps = 10", "num_steps = 0", r"\[loop\]: num_steps is 0; choose a whole number of at least 1"),
    "negative seed": ("seed = 1", "seed = -1", "seed is -1"),
    "negative rate": ("matrix_rate = 1", "matrix_rate = -1", r"\[optim\]: matrix_rate is -1.0; .* at least 0"),
    "endless rate": ("matrix_rate = 1", "matrix_rate = inf", "matrix_rate is inf; choose a finite number"),
    "no number": ("matrix_rate = 1", "matrix_rate = nan", "matrix_rate is nan; choose a finite number"),
    "no share": ("books = 1.0", "books = 0", r"\[shares\] are all zero"),
    "negative share": ("books = 1.0", "books = -1", r"\[shares\] books is -1"),
    "unknown gate": ('gate = "short"', 'gate = "long"', "gate is 'long'; choose one of its batches: short"),
    "no batches": ("batches = [", "batches = []\n[x]\ny = [", "unknown table 'x'"),
    "no width": ("width = 32\nnum_layers = 2", "width = 0\nnum_layers = 2", r"\[model\]: width is 0; choose"),
    "endless layers": (
        "width = 32\nnum_layers = 2",
        "width = 32\nnum_layers = 1_000_000_000",
        r"\[model\]: num_layers is 1000000000; choose a whole number from 1 to 1000",
    ),
    "uneven heads": ("num_kv_heads = 1", "num_kv_heads = 3", r"\[model\]: num_heads is 2; it must be a multiple"),
    "tiny vocabulary": ("vocab_size = 512", "vocab_size = 100", "vocab_size is 100; choose .* from 258"),
    "huge vocabulary": ("vocab_size = 512", "vocab_size = 100000", "vocab_size is 100000; .* to 65536"),
    "no rows": ("rows = 2", "rows = 0", "batch 'short': rows is 0"),
    "uncuttable length": ("length = 64", "length = 80", r"length is 80; choose a multiple of block_tokens \(32\)"),
    "no room for the tail": ("num_tail = 1", "num_tail = 3", "of more than 3 blocks"),
    "nothing left for a gist": (
        "num_tail = 1",
        "num_tail = 2",
        "of more than 2 blocks .* so that one is left for a gist",
    ),
    "long windows": ("length = 64", "length = 512", r"length 512, but \[model\] max_positions is 256"),
    "no longest window": ("max_positions = 256", 'max_positions = "all"', r"\[model\] max_positions is 'all'; write"),
    "no pair": ("[[32, 1]]", "[[32]]", r"shapes number 1 is \[32\]; write 2 values"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_is_one_line(case: str, tmp_path: Path) -> None:
    old, new, said = BAD[case]
    path = tmp_path / "run.toml"
    if old is not None:
        assert GOOD.count(old) == 1
        path.write_text(GOOD.replace(old, new))
    with pytest.raises(InvalidValueError, match=said) as caught:
        read_everything(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_the_model_leaves_out_is_its_default(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    less = GOOD.replace("vocab_size = 512\n", "").replace("max_positions = 256\n", "")
    path.write_text(less)
    settings = read_settings(path)
    assert (settings.vocab_size, settings.max_positions) == (CoreConfig().vocab_size, CoreConfig().max_positions)
    assert (settings.vocab_size, settings.max_positions) == (ReferenceConfig().vocab_size, 4096)
    path.write_text(GOOD.replace("max_positions = 256", 'max_positions = "all"'))
    with pytest.raises(InvalidValueError, match=r"\[model\] max_positions is 'all'; choose a whole number"):
        read_settings(path).stages()
    path.write_text(less.replace("length = 64", "length = 8192"))
    with pytest.raises(InvalidValueError, match=r"length 8192, but \[model\] max_positions is 4096"):
        read_settings(path).stages()


def test_memory_may_be_left_out(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(GOOD.replace("[memory]\nreconstruction = 0.5", ""))
    assert read_settings(path).read("memory", MemoryConfig) == MemoryConfig()


def test_rates_may_be_left_out(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(GOOD.replace("[optim]\nmatrix_rate = 1", ""))
    assert read_settings(path).read("optim", OptimConfig) == OptimConfig()


def test_a_file_extends_another_key_by_key(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(GOOD)
    (tmp_path / "sizes").mkdir()
    wide = tmp_path / "sizes" / "wide.toml"
    wide.write_text('extends = "../run.toml"\n[model]\nwidth = 64\n[shares]\ncode = 1.0\n')
    settings = read_settings(wide)
    model = settings.read("model", CoreConfig)
    assert (model.width, model.num_layers) == (64, 2)
    assert settings.shares == {"books": 1.0, "code": 1.0}
    assert settings.stages() == read_settings(tmp_path / "run.toml").stages()


@pytest.mark.parametrize(
    ("extends", "said"),
    [
        ('"run.toml"', "extends itself"),
        ('"gone.toml"', r"gone\.toml, which run\.toml extends, is no"),
        ("3", "is 3; give"),
    ],
)
def test_what_cannot_be_extended_is_said(extends: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(f"extends = {extends}\n{GOOD}")
    with pytest.raises(InvalidValueError, match=said):
        read_settings(tmp_path / "run.toml")


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*/*.toml")), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_the_shipped_recipes_name_only_what_exists(path: Path) -> None:
    settings = read_settings(path)
    config = settings.read("model", ReferenceConfig if path.parent.name == "reference" else CoreConfig)
    settings.read("loop", LoopConfig)
    settings.read("optim", OptimConfig)
    assert settings.vocab_size == 4096
    assert sum(settings.shares.values()) == pytest.approx(1)
    if "gist_net" in settings:
        assert settings.read("gist_net", GistNetConfig).width == config.width
        settings.read("memory", MemoryConfig)
    stages = settings.stages()
    for stage in stages:
        assert sum(batch.share for batch in stage.batches) == pytest.approx(1)
        for batch in stage.batches:
            assert sum(batch.mix.values()) == pytest.approx(1)
            assert batch.length % 32 == 0
    assert stages[-1].gate is None


DOCUMENTED = {
    "[model]": CoreConfig,
    "[gist_net]": GistNetConfig,
    "[memory]": MemoryConfig,
    "[lens]": LensLearning,
    "[optim]": OptimConfig,
    "[loop]": LoopConfig,
    "[gate]": GateConfig,
    "[[stage]]": Stage,
    "A kind of batch:": BatchKind,
    "`gists`:": GistCut,
}
NOT_IN_FILES = {"max_minutes"}  # an option of the command line
SHOWN = {None: "none", "peak_tflops": "measured", "joins": "none"}


@pytest.mark.parametrize("heading", DOCUMENTED)
def test_every_key_is_documented_with_its_default(heading: str) -> None:
    page = (RECIPES.parent / "docs" / "training.md").read_text()
    start = page.index(f"### `{heading}`\n" if heading.startswith("[") else f"\n{heading}\n")
    table = page[start : page.index("\n\n", page.index("|---|", start))]
    found = dict(re.findall(r"^\| `(\w+)` \| ([^|]+?) \|", table, re.MULTILINE))
    expected = {}
    for field in dataclasses.fields(DOCUMENTED[heading]):
        default = "required" if field.default is dataclasses.MISSING else field.default
        default = SHOWN.get(field.name, SHOWN[None] if default is None else default)
        expected[field.name] = str(default).lower() if isinstance(default, bool) else str(default)
    assert found == {name: default for name, default in expected.items() if name not in NOT_IN_FILES}
