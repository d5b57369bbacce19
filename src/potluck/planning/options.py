"""All spans that a node may serve in one table, so that NumPy can judge them together. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from potluck.planning.cost import Footprint
from potluck.planning.machine import Machine
from potluck.planning.offload import Numbers
from potluck.types import Cuts, Span

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


class Options:
    """Every span that can be cut out of a model by its number, in the order of its first and then of its last layer.

    first, last: its layers. memory: what it needs without a graphics card. work: as in Footprint. All have the shape
    [options].
    covers: whether it contains a layer [options, layers].
    """

    def __init__(self, footprint: Footprint) -> None:
        self.layers = len(footprint.layers)
        self.first, self.last = _ends(footprint.cuts)
        done = np.array(footprint.sums)
        self.work: Numbers = np.subtract(done[self.last + 1], done[self.first])
        self._footprint = footprint
        self._beside: dict[int, Numbers] = {}
        self.memory = self.beside(0)
        layers = np.arange(self.layers)
        self.covers: Flags = (self.first[:, None] <= layers) & (layers <= self.last[:, None])

    def beside(self, card: int) -> Numbers:
        """The memory that a machine with a graphics card of so many bytes needs besides it, in each option."""
        if card not in self._beside:
            self._beside[card] = self._footprint.all_beside(card, self.first, self.last)
        return self._beside[card]

    def span(self, option: int) -> Span:
        return Span(int(self.first[option]), int(self.last[option]))

    def numbers(self, spans: Sequence[Span]) -> Numbers:
        """The options that these spans are. All of them must be such that can be cut out."""
        numbers = np.full((self.layers, self.layers), len(self.first))  # whatever uses another one fails
        numbers[self.first, self.last] = np.arange(len(self.first))
        return np.array(numbers[[span.first for span in spans], [span.last for span in spans]])

    def fitting(self, machine: Machine) -> Numbers:
        """The options that fit into the machine's memory and its card."""
        return np.flatnonzero(self.beside(machine.card) <= machine.memory)

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
