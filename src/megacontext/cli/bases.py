"""``megacontext bases``."""

from __future__ import annotations

from megacontext.cli.options import JsonOption
from megacontext.cli.screen import output_console, print_json
from megacontext.cli.tables import print_table

__all__ = ["bases"]


def bases(json: JsonOption = False) -> None:
    """Show the models that are known to serve as a base. Others serve too, if `port` takes them."""
    from megacontext.bases.profiles import published_profiles
    from megacontext.bases.supported import COLUMNS, NUMBER_COLUMNS, rows

    if json:
        print_json(
            [
                {
                    "name": profile.name,
                    "family": profile.family,
                    "num_parameters": profile.num_parameters,
                    "kv": profile.kv,
                    "kv_bytes_per_entry": profile.traits.kv_bytes_per_entry("bfloat16"),
                    "traits": profile.traits,
                    "note": profile.note,
                    "sources": profile.sources,
                    "is_verified": profile.is_verified,
                }
                for profile in published_profiles()
            ]
        )
        return
    print_table(output_console(), COLUMNS, rows(), right=NUMBER_COLUMNS, title="checkpoint")
