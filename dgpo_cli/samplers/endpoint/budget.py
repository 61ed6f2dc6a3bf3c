"""A hard limit on what the requests of a command may cost."""

from __future__ import annotations

from dataclasses import dataclass

from dgpo_cli.core.types import Price


@dataclass(slots=True)
class Budget:
    """A hard limit on the cost. Changed by one thread at a time.

    spent: by answers, stored ones too, and by what may be billed without one.
    held: the worst case of all requests in flight.
    """

    price: Price
    most: float
    spent: float = 0.0
    held: float = 0.0

    def fits(self, worst: float) -> bool:
        """Whether a request may be sent that costs `worst` at most."""
        return self.spent + self.held + worst <= self.most
