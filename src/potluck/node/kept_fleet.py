"""Keeps what a node was told of its coordinator's fleet, so that it finds another coordinator when it starts anew."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import msgspec

from potluck.errors import IdentityError, WireError
from potluck.types import Coordinator
from potluck.wire.fleet import check_fleet
from potluck.wire.identity import data_folder
from potluck.wire.origin import origin
from potluck.wire.private import make_folder, write_private

_decoder = msgspec.json.Decoder(tuple[Coordinator, ...])


def fleet_path(url: str) -> Path:
    """The file about the fleet of the coordinator at this URL, which all nodes of this machine share."""
    return data_folder() / "fleets" / f"{quote(origin(url), safe='')}.json"


def keep_fleet(url: str, coordinators: Sequence[Coordinator]) -> None:
    """Keep what the nodes that joined with this URL were told. Raises IdentityError when it cannot be kept."""
    path = fleet_path(url)
    try:
        make_folder(path.parent)
        write_private(path, msgspec.json.format(msgspec.json.encode(coordinators)))
    except OSError as error:
        raise IdentityError(f"The other coordinators cannot be kept in {path}: {error.strerror or error}.") from error


def drop_fleet(url: str) -> None:
    """Forget what was told at this URL."""
    fleet_path(url).unlink(missing_ok=True)


def kept_fleet(url: str) -> tuple[Coordinator, ...]:
    """What is kept for this URL. Raises IdentityError when the file cannot be read, or holds anything else."""
    path = fleet_path(url)
    try:
        coordinators = _decoder.decode(path.read_bytes()) if path.exists() else ()
        check_fleet(coordinators)
    except (OSError, ValueError, WireError) as error:  # msgspec's errors are ValueErrors
        raise IdentityError(f"The other coordinators in {path} cannot be read: {str(error).rstrip('.')}.") from error
    return coordinators
