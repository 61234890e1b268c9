"""Names and values that no training run has seen, decided by a stable hash.

The rule is the one that training draws its facts by (`megacontext.training.names.is_test`; a test pins that the two
agree): one name in ten belongs to the test side, on every machine and in every process.
"""

from __future__ import annotations

import hashlib

__all__ = ["TEST_SHARE", "is_held_out"]

TEST_SHARE = 0.1


def is_held_out(text: str) -> bool:
    """Whether this name or value is on the test side.

    >>> is_held_out("Alice Green"), is_held_out("Alice Smith")
    (True, False)
    """
    digest = hashlib.sha256(f"recall:{text}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48 < TEST_SHARE
