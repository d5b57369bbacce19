"""The answer of `/fleet`: the coordinators that serve together, and what each of them serves."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from potluck import __version__
from potluck.coordinator.fleet.fleet import Fleet
from potluck.coordinator.fleet.records import ModelRecord
from potluck.wire.identity import fingerprint


class FleetModel(Struct, frozen=True):
    """A model at a coordinator. missing: the spans that no node serves there. waiting: requests. streams: answers."""

    names: list[str]
    covered: bool
    missing: list[str]
    waiting: int
    streams: int


class FleetMember(Struct, frozen=True):
    """A coordinator. key: the fingerprint of its key. here: whether it is the one that answers."""

    url: str
    key: str
    version: str
    here: bool
    models: list[FleetModel]


class FleetStatus(Struct, frozen=True):
    """The fleet as this coordinator sees it. key: the fingerprint of the fleet's key; empty if there is no fleet.

    fault: why it hears nothing of the others, as the end of a sentence; empty if it does.
    """

    key: str
    fault: str
    coordinators: list[FleetMember]


def fleet_status(fleet: Fleet | None) -> FleetStatus:
    if fleet is None:
        return FleetStatus("", "", [])
    own = _member(fleet.url, fleet.own, __version__, fleet.own_models, here=True)
    others = [_member(each.url, each.key, each.version, each.models) for each in fleet.others]
    return FleetStatus(fingerprint(fleet.key.public), fleet.bus.fault, [own, *others])


def _member(url: str, key: bytes, version: str, models: Iterable[ModelRecord], *, here: bool = False) -> FleetMember:
    return FleetMember(url, fingerprint(key), version, here, [_model(model) for model in models])


def _model(model: ModelRecord) -> FleetModel:
    missing = [str(span) for span in model.missing]
    return FleetModel(list(model.names), model.covered, missing, model.waiting, model.streams)
