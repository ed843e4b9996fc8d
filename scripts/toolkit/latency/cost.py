"""What one document costs on each way of renting a GPU.

A machine that is always on is billed every hour; a serverless worker from the start of loading to the end of its idle
time; a nightly batch for its run. Prices are the user's, seconds come from the predicted or calibrated latency.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

HOURS_A_MONTH = 730.0
NIGHTS_A_MONTH = 30.0


@dataclass(frozen=True)
class Load:
    """How documents come. peak: the busiest hour against the mean one; burst: documents between two pauses.

    start_seconds: from a sleeping worker to a warm model; idle_seconds: that a worker waits before it sleeps.
    """

    documents_a_month: float
    peak: float = 3.0
    burst: float = 20.0
    start_seconds: float = 180.0
    idle_seconds: float = 60.0


@dataclass(frozen=True)
class Cost:
    """One line of the table; `machines` is 0 where none waits."""

    option: str
    machines: int
    a_document: float
    a_month: float


def costs(seconds: float, load: Load, price: float, serverless: float, spot: float) -> list[Cost]:
    """The three ways for documents of `seconds` each, read one after another; prices are of a GPU an hour."""
    count = load.documents_a_month
    machines = max(1, math.ceil(load.peak * count * seconds / (HOURS_A_MONTH * 3600)))
    always = price * HOURS_A_MONTH * machines
    waking = (load.start_seconds + load.idle_seconds) / load.burst
    asleep = serverless * count * (seconds + waking) / 3600
    night = spot * (count * seconds + NIGHTS_A_MONTH * load.start_seconds) / 3600
    lines = (("always on", machines, always), ("serverless", 0, asleep), ("nightly batch", 0, night))
    return [Cost(option, number, total / count, total) for option, number, total in lines]
