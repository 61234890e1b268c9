"""The dry run: what it counts against what training holds, what it measures against what must hold of it."""

from __future__ import annotations

import ctypes
import gc
import mmap
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from tests.training.conftest import TINY_MODEL

from megacontext.bases.precision import working_dtype
from megacontext.errors import InvalidValueError, TrainingError
from megacontext.training.core_recipe import build_learner
from megacontext.training.dry_run import RunCost, run_cost
from megacontext.training.optim import MasterOptimizer, OptimConfig
from megacontext.training.recipe import Learner
from megacontext.training.resident import forget_peak, peak_bytes, resident_bytes
from megacontext.training.settings import Settings, read_settings
from megacontext.units import MIB

RECIPES = Path(__file__).parents[2] / "recipes" / "core"
BASE = (
    TINY_MODEL
    + """max_positions = 256
[optim]
[loop]
num_steps = 100
[shares]
books = 1.0
[[stage]]
name = "first"
min_steps = 10
batches = [{ name = "short", share = 1.0, rows = 2, length = 64, mix = { plain = 1.0 } }]
[[stage]]
name = "last"
batches = [
    { name = "again", share = 0.5, rows = 2, length = 64, mix = { dense = 1.0 } },
    { name = "long", share = 1.5, rows = 8, length = 64, mix = { plain = 1.0 } },
]
"""
)
MEMORY = """
extends = "base.toml"
[gist_net]
width = 32
num_layers = 1
num_heads = 2
mlp_width = 32
[memory]
reconstructor_width = 32
[[stage]]
name = "gists"
batches = [
    { name = "g", share = 1.0, rows = 4, length = 256, mix = { plain = 1.0 }, \
gists = { shapes = [[32, 1], [32, 4]], num_tail = 2, joins = [[0, 1], [1, 2]] } },
]
"""


@pytest.fixture
def configs(tmp_path: Path) -> tuple[Path, Path]:
    (tmp_path / "base.toml").write_text(BASE)
    (tmp_path / "memory.toml").write_text(MEMORY)
    return tmp_path / "base.toml", tmp_path / "memory.toml"


def build(settings: Settings, seed: int) -> Learner:
    return build_learner(settings, seed, compiled=False)


def cost_of(path: Path) -> RunCost:
    return run_cost(read_settings(path), build)


def test_counts_are_those_of_the_optimizer_that_trains(configs: tuple[Path, Path]) -> None:
    size = working_dtype(torch.device("cpu")).itemsize
    for path, parts in zip(configs, [{"core"}, {"core", "GistNet", "reconstructor"}], strict=True):
        cost = cost_of(path)
        optimizer = MasterOptimizer(build(read_settings(path), 0).weights, OptimConfig())
        num_trained = sum(weight.numel() for weight in optimizer.weights.values())
        assert set(cost.weights) == parts
        num_weights = sum(cost.weights.values())
        assert num_weights - num_trained == len(parts) // 2  # beside gists the factor on sigma is not trained
        assert cost.weight_bytes == size * num_weights
        assert cost.master_bytes == 4 * num_trained
        assert cost.gradient_bytes == {2: 2 + 4, 4: 4}[size] * num_trained
        # Muon keeps one moment of a matrix, AdamW two of everything else, and a count of steps
        matrices = sum(master.numel() for group in optimizer.optimizers[0].param_groups for master in group["params"])
        others = num_trained - matrices
        assert cost.optimizer_bytes == pytest.approx(4 * matrices + 8 * others, abs=1000)
        assert cost.total_bytes > cost.master_bytes + cost.kept_bytes


def test_nets_that_no_memory_holds_are_one_line(configs: tuple[Path, Path]) -> None:
    text = configs[0].read_text()
    assert "\nwidth = 32\n" in text
    configs[0].write_text(text.replace("\nwidth = 32\n", "\nwidth = 100_000_000_000\n", 1))
    with pytest.raises(TrainingError, match=r"base\.toml: out of memory on building its nets .*; lower width"):
        cost_of(configs[0])
    unlike = r"memory\.toml: \[gist_net\] width is 32, but \[model\] width 100000000000"
    with pytest.raises(InvalidValueError, match=unlike):
        cost_of(configs[1])


def test_equal_batches_are_measured_once_and_larger_ones_keep_more(configs: tuple[Path, Path]) -> None:
    heard: list[str] = []
    cost = run_cost(read_settings(configs[0]), build, tell=heard.append)
    short, long = cost.batches
    assert (short.name, short.rows, long.name, long.rows) == ("short", 2, "long", 8)
    assert [line.rpartition(": ")[2] for line in heard] == ["2 x 64 tokens", "8 x 64 tokens"]
    # tables of positions and of weights do not grow; what belongs to a row does
    assert 3 * short.kept_bytes < long.kept_bytes < 4.2 * short.kept_bytes
    assert cost.kept_bytes == long.kept_bytes
    assert all(batch.seconds > 0 for batch in cost.batches)


@pytest.fixture
def trimmed() -> None:
    """Without memory that earlier tests freed and the allocator kept: taking it again would not be counted."""
    gc.collect()
    with suppress(OSError, AttributeError):  # glibc has it
        ctypes.CDLL(None).malloc_trim(0)


@pytest.mark.usefixtures("trimmed")
def test_the_peak_is_what_the_process_holds_on_top() -> None:
    if not forget_peak():
        pytest.skip("nobody counts it here")
    before = resident_bytes()
    with mmap.mmap(-1, 64 * MIB) as taken:  # of the kernel itself: an allocator may keep what is freed
        for _ in range(64):
            taken.write(bytes([1]) * MIB)
    peak = peak_bytes()
    assert before is not None
    assert peak is not None
    assert 63 * MIB < peak - before < 80 * MIB
    assert forget_peak()
    after = peak_bytes()
    assert after is not None
    assert after < peak - 32 * MIB


@pytest.mark.usefixtures("trimmed")
def test_the_peak_of_a_step_holds_what_it_keeps(configs: tuple[Path, Path], tmp_path: Path) -> None:
    if not forget_peak():
        pytest.skip("nobody counts it here")
    (tmp_path / "base.toml").write_text(BASE.replace("rows = 8", "rows = 512"))
    cost = cost_of(tmp_path / "base.toml")
    assert cost.peak_bytes is not None
    assert cost.kept_bytes > 64 * MIB
    assert cost.kept_bytes < cost.peak_bytes < 8 * cost.kept_bytes


def test_a_run_is_its_steps(configs: tuple[Path, Path]) -> None:
    cost = cost_of(configs[0])
    short, long = cost.batches
    assert cost.num_steps == 100
    # 10 short steps; of the other 90 a quarter is short
    assert cost.run_seconds == pytest.approx(32.5 * short.seconds + 67.5 * long.seconds)
    assert cost.run_busy_seconds == pytest.approx(32.5 * short.busy_seconds + 67.5 * long.busy_seconds)
    assert cost.run_tokens == pytest.approx(32.5 * 2 * 64 + 67.5 * 8 * 64)


def test_the_largest_shape_of_windows_with_gists_is_measured(configs: tuple[Path, Path], tmp_path: Path) -> None:
    wide = tmp_path / "wide.toml"
    wide.write_text(MEMORY.replace("[[32, 1], [32, 4]]", "[[32, 4]]").replace("[[0, 1], [1, 2]]", "[[0, 1]]"))
    narrow = tmp_path / "narrow.toml"
    narrow.write_text(MEMORY.replace("[[32, 1], [32, 4]]", "[[32, 1]]"))
    both, four, one = (cost_of(path).batches for path in (configs[1], wide, narrow))
    assert both[0].shows_gists
    assert both[0].kept_bytes == four[0].kept_bytes > one[0].kept_bytes


def test_a_batch_that_does_not_fit_is_named(configs: tuple[Path, Path]) -> None:
    def hungry(settings: Settings, seed: int) -> Learner:
        learner = build(settings, seed)

        def loss(batch):  # type: ignore[no-untyped-def]
            if len(batch.ids_BT) > 4:
                torch.empty(1 << 50, dtype=torch.uint8)
            return learner.loss(batch)

        return Learner(learner.weights, loss, learner.shape, parts=learner.parts)

    with pytest.raises(TrainingError, match=r"base.toml: 8 rows of 64 tokens \(batch 'long'\) do not fit into memory"):
        run_cost(read_settings(configs[0]), hungry)


@pytest.mark.parametrize(
    ("size", "millions"), [("base", 5.92), ("base_m", 25.4), ("base_l", 101.9)], ids=["S", "M", "L"]
)
def test_sizes_are_what_their_names_say(size: str, millions: float) -> None:
    from megacontext.nets.core import Core
    from megacontext.nets.shapes import CoreConfig

    for kind in (size, size.replace("base", "memory")):
        settings = read_settings(RECIPES / f"{kind}.toml")
        with torch.device("meta"):
            core = Core(settings.read("model", CoreConfig))
        assert sum(weight.numel() for weight in core.parameters()) / 1e6 == pytest.approx(millions, abs=0.1)
