"""Does a core know where its entries stand, and does the sigma of gists fit? Into `positions.json` of its folder.

`python recipes/core/positions.py --out RUN --model FOLDER [--rows N]`
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from megacontext.cli.failures import run_script
from megacontext.training.card import write_figures
from megacontext.training.held_out import device_option, held_out_source, nets_with_gists, refuse_short_windows
from megacontext.training.position_probe import index_errors, scaled_sigma_nats
from megacontext.training.recipe import training_device
from megacontext.training.scoring import WINDOW
from megacontext.training.settings import read_settings
from megacontext.training.text_scoring import text_rows
from megacontext.training.tokens import read_tokenizer
from megacontext.values import whole_number

TAIL = 256
FACTORS = (1.0, 1e-3, 0.5, 2.0, 4.0, 8.0)


def main() -> None:
    """Probe every layer, then score with other sigmas; differences are paired by row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="where training wrote token arrays")
    parser.add_argument("--model", type=Path, required=True, help="model folder with a GistNet")
    parser.add_argument("--config", type=Path, default=Path(__file__).with_name("memory.toml"))
    parser.add_argument("--rows", type=int, default=64, help="rows of each domain")
    device_option(parser)
    args = parser.parse_args()
    whole_number("--rows", args.rows, least=2)
    nets = nets_with_gists(args.model, device=training_device(args.device))
    refuse_short_windows(nets.core, args.model, WINDOW)
    assert nets.gist_net is not None
    core, gist_net = nets.core.float(), nets.gist_net.float()
    tokenizer = read_tokenizer(args.model)
    source = held_out_source(args.out, tokenizer, read_settings(args.config).shares)
    rows = {domain: text_rows(store, args.rows) for domain, store in source.stores.items()}
    mixed = [row for pair in zip(*rows.values(), strict=True) for row in pair]
    errors = {
        f"layer {layer}": index_errors(core, gist_net, mixed, tail_tokens=TAIL, layer=layer)
        for layer in range(core.config.num_layers)
    }
    changes = {}
    for domain, some in rows.items():
        nats = scaled_sigma_nats(core, gist_net, some, tail_tokens=TAIL, factors=FACTORS)
        changes[domain] = {
            f"{factor:g}": {
                "nats": round(float((nats[factor] - nats[1.0]).mean()), 5),
                "standard_error": round(float(np.std(nats[factor] - nats[1.0]) / len(some) ** 0.5), 5),
            }
            for factor in FACTORS
        }
    report = {"index_errors": errors, "sigma_factors": changes, "rows": args.rows}
    write_figures(args.model / "positions.json", report, of=str(args.model))
    console = Console()
    table = Table("read from", *next(iter(errors.values())), title="index of an entry: root mean square error, tokens")
    for name, one in errors.items():
        table.add_row(name, *(f"{value:,.1f}" for value in one.values()))
    console.print(table)
    table = Table("sigma times", *changes, title="nats a token of the last 256, against sigma as it is")
    for factor in next(iter(changes.values())):
        table.add_row(
            factor, *(f"{one[factor]['nats']:+.4f} ± {one[factor]['standard_error']:.4f}" for one in changes.values())
        )
    console.print(table)


if __name__ == "__main__":
    run_script(main)
