"""A key of an API: shown to its server, and to nobody else."""

from __future__ import annotations

from dataclasses import dataclass, field

from megacontext.errors import InvalidValueError
from megacontext.values import text

__all__ = ["ApiKey"]


@dataclass(frozen=True)
class ApiKey:
    """value: the key; origin: where it came from, for messages. It is no part of ``repr``."""

    value: str = field(repr=False)
    origin: str

    def __post_init__(self) -> None:
        try:
            is_fine = text("key", self.value).strip() != "" and self.value.isascii() and self.value.isprintable()
        except InvalidValueError:  # whose message would show it
            is_fine = False
        if not is_fine:
            raise InvalidValueError(
                f"the key from {self.origin} is empty or holds characters that no HTTP header can; copy it again"
            )
        object.__setattr__(self, "value", self.value.strip())

    def hidden_in(self, said: str) -> str:
        """A text of the server without the key."""
        return said.replace(self.value, "***")
