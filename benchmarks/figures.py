"""From times to what the tables show: medians, quartiles, and ratios of the same round."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """A median with its quartiles.

    :ivar median: the middle value.
    :ivar low: a quarter of the values is below it.
    :ivar high: a quarter of the values is above it.
    """

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of one value or more.

        :raises ValueError: without a value.
        """
        if not values:
            raise ValueError("No value was measured.")
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)

    def as_dict(self) -> dict[str, float]:
        return {"median": self.median, "low": self.low, "high": self.high}


Rounds = Sequence[float | None]
"""One value for each round; None where there is none: a timeout, or nothing to measure."""


def spread(values: Rounds) -> Spread | None:
    """Return the spread of the rounds that have a value; None if one of them has none."""
    found = [value for value in values if value is not None]
    return Spread.of(found) if found and len(found) == len(values) else None


def ratios(values: Rounds, base: Rounds) -> list[float | None]:
    """Divide each round's value by the same round's of ``base``.

    What disturbs the machine disturbs neighbours in time alike, so that the ratio is steadier than
    either value.
    """
    return [
        value / other if value is not None and other else None
        for value, other in zip(values, base, strict=False)
    ]


def ratio(measured: Mapping[str, Rounds], name: str, base: str | None) -> Spread | None:
    """Return the spread of a contestant's ratios to another's; None if one was not measured."""
    if base is None or name not in measured or base not in measured:
        return None
    return spread(ratios(measured[name], measured[base]))
