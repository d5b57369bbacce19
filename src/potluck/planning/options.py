"""All spans that a node may serve in one table, so that NumPy can judge them together. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from potluck.planning.cost import RESERVE_BYTES, Footprint
from potluck.planning.machine import Machine
from potluck.types import Cuts, Span

Floats = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


class Options:
    """Every span that can be cut out of a model by its number, in the order of its first and then of its last layer.

    first, last: its layers. memory, work: as in Footprint. All have the shape [options].
    covers: whether it contains a layer [options, layers].
    """

    def __init__(self, footprint: Footprint) -> None:
        self.layers = len(footprint.layers)
        self.first, self.last = _ends(footprint.cuts)
        is_first, is_last = self.first == 0, self.last == self.layers - 1
        ends = footprint.entry * is_first + footprint.head * is_last
        ends += footprint.stub * (is_first != is_last) + footprint.middle * ~(is_first | is_last)
        done = np.array(footprint.sums)
        self.work: Numbers = np.subtract(done[self.last + 1], done[self.first])
        kept = np.maximum(self._sums(footprint.cache or (0,) * self.layers), footprint.staged)
        self.memory: Numbers = RESERVE_BYTES + self._sums(footprint.layers) + ends + kept
        layers = np.arange(self.layers)
        self.covers: Flags = (self.first[:, None] <= layers) & (layers <= self.last[:, None])
        self._footprint = footprint

    def _sums(self, sizes: Sequence[int]) -> Numbers:
        """The sum of sizes by layer, in each option."""
        sums: Numbers = np.cumsum([0, *sizes])
        return np.subtract(sums[self.last + 1], sums[self.first])

    def span(self, option: int) -> Span:
        return Span(int(self.first[option]), int(self.last[option]))

    def numbers(self, spans: Sequence[Span]) -> Numbers:
        """The options that these spans are. All of them must be such that can be cut out."""
        numbers = np.full((self.layers, self.layers), len(self.first))  # whatever uses another one fails
        numbers[self.first, self.last] = np.arange(len(self.first))
        return np.array(numbers[[span.first for span in spans], [span.last for span in spans]])

    def fitting(self, machine: Machine) -> Numbers:
        """The options that fit into the machine's memory."""
        return np.flatnonzero(self.memory <= machine.memory)

    def rates(self, machine: Machine, chosen: Numbers) -> Floats:
        """The tokens/s of many streams together that the machine carries through each of these options."""
        return np.minimum(machine.bytes_per_s / self.work[chosen], machine.link_rate(self._footprint))

    def gains(self, machines: Sequence[Machine], chosen: Sequence[int] | Numbers) -> Floats:
        """The rate that each machine gives each layer with its option: [machines, layers] for chosen [machines]."""
        reading = np.array([machine.bytes_per_s for machine in machines]) / self.work[chosen]
        rates = np.minimum(reading, [machine.link_rate(self._footprint) for machine in machines])
        return rates[:, None] * self.covers[chosen]


def _ends(cuts: Cuts) -> tuple[Numbers, Numbers]:
    """The first and the last layers of all spans that can be cut out."""
    points = np.array(cuts.points)
    begin, end = np.triu_indices(len(points), 1)
    first, last = points[begin], points[end] - 1
    if not cuts.forbidden:
        return first, last
    length = last + 1 - first
    allowed = ~np.isin(length, [*cuts.forbidden]) | (length == cuts.layers)
    return first[allowed], last[allowed]
