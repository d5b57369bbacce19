"""Reads the list of the models that a coordinator offers without loading them: `potluck serve --offer LIST.toml`."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import msgspec
from msgspec import Meta, Struct

from potluck.errors import ModelError, PotluckError
from potluck.types import EngineKind, Quantize

if TYPE_CHECKING:
    from potluck.coordinator.app import ModelConfig
    from potluck.models.manifest import Manifest
    from potluck.models.sources import Found

_READERS = 8
"""The models that are looked up at the same time: on the hub, each takes a few requests."""


class Offer(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An entry of the list. model: a path, relative to the list, or a name on the hub. name, names: what it is called
    here, the name that answers say first. The other fields are as the options of `serve`.
    """

    model: str
    name: str = ""
    names: list[str] = []
    context: Annotated[int, Meta(ge=1)] | None = None
    engine: EngineKind | None = None
    quantize: Quantize | None = None
    audit: Annotated[float, Meta(ge=0, le=1)] | None = None

    @property
    def all_names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys([*([self.name] if self.name else []), *self.names]))


class _List(Struct, frozen=True, forbid_unknown_fields=True):
    model: list[Offer] = []


class Offered(NamedTuple):
    """The models of a list, and their outlines under the names that they have here."""

    models: tuple[ModelConfig, ...] = ()
    outlines: tuple[Manifest, ...] = ()


def read_list(path: Path) -> list[Offer]:
    """The entries of a list. Raises PotluckError, with the place, for one that makes no sense."""
    from potluck.models.vetting import is_name

    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PotluckError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from error
    try:
        listed = msgspec.convert(tomllib.loads(text), _List).model
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise PotluckError(f"{path} is no list of models: {str(error).replace('`$.', '`')}.") from error
    if not listed:
        raise PotluckError(f"{path} lists no model: it needs an entry [[model]] for each.")
    seen: dict[str, str] = {}
    for offer in listed:
        for name in offer.all_names:
            if not is_name(name):
                raise PotluckError(f"{path}: {offer.model} cannot have the name {name!r}.")
            if name in seen:
                raise PotluckError(f"{path}: {seen[name]} and {offer.model} have the same name {name}.")
            seen[name] = offer.model
    return listed


def offered(path: Path, usual: Callable[..., ModelConfig], taken: Sequence[str]) -> Offered:
    """The models of the list, of which no weights are read. usual: makes the choices about one, as
    far as the list leaves them open.

    taken: the names of other models. Raises PotluckError, with the place, when one cannot be offered.
    """
    listed = read_list(path)
    with ThreadPoolExecutor(_READERS) as readers:
        read = list(readers.map(lambda offer: _look(path, offer), listed))
    models: list[ModelConfig] = []
    outlines: list[Manifest] = []
    names = list(taken)
    for offer, (found, outline) in zip(listed, read, strict=True):
        first, *aliases = offer.all_names or (outline.name,)
        if any(found.path == other.model.path and found.file == other.model.file for other in models):
            raise PotluckError(f"{path} lists {offer.model} twice: give one entry several names instead.")
        for name in (first, *aliases):
            if name in names:
                raise PotluckError(f"{path}: another model has the name {name}: give {offer.model} another name.")
        names += [first, *aliases]
        models.append(_choices(path, offer, found, outline, usual, tuple(aliases)))
        outlines.append(msgspec.structs.replace(outline, name=first))
    return Offered(tuple(models), tuple(outlines))


def _look(path: Path, offer: Offer) -> tuple[Found, Manifest]:
    from potluck.models.sources import find_model

    beside = path.parent / offer.model
    try:
        found = find_model(str(beside) if beside.exists() else offer.model)
        return found, found.outline()
    except ModelError as error:
        raise PotluckError(f"{path}: {error}") from error


def _choices(
    path: Path,
    offer: Offer,
    found: Found,
    outline: Manifest,
    usual: Callable[..., ModelConfig],
    aliases: tuple[str, ...],
) -> ModelConfig:
    """The choices about a model. Raises PotluckError when it cannot be served so."""
    from potluck.coordinator.model_choice import choose_context, choose_engine

    audit = {} if offer.audit is None else {"audit": offer.audit}
    choices = usual(found, offer.engine, offer.quantize, context=offer.context, aliases=aliases, **audit)
    try:
        choose_engine(outline, choices.engine, choices.quantize)
        choose_context(outline, choices.context)
    except ModelError as error:
        raise PotluckError(f"{path}: {error}") from error
    return choices
