"""Keeps the invite of a node that starts at login until it is admitted, where only its owner can read it."""

from __future__ import annotations

from potluck.errors import IdentityError
from potluck.wire.identity import node_invite
from potluck.wire.origin import origin
from potluck.wire.private import make_folder, write_private


def keep_invite(name: str, url: str, invite: str) -> None:
    """Keep an invite for the node of this name, to be shown to the coordinator at this URL alone.

    Raises IdentityError when it cannot be kept.
    """
    path = node_invite(name)
    try:
        make_folder(path.parent)
        write_private(path, f"{origin(url)}#{invite}\n".encode())
    except OSError as error:
        raise IdentityError(f"The invite cannot be kept in {path}: {error.strerror or error}.") from error


def kept_invite(name: str, url: str) -> str:
    """The invite that is kept for this node and this coordinator, or ""."""
    path = node_invite(name)
    try:
        kept, _, invite = path.read_text("utf-8").strip().partition("#") if path.exists() else ("", "", "")
    except (OSError, UnicodeDecodeError) as error:
        raise IdentityError(f"The invite in {path} cannot be read: {error}.") from error
    return invite if kept == origin(url) else ""


def drop_invite(name: str, url: str) -> None:
    """Forget this node's invite for this coordinator, which knows the node from now on."""
    if kept_invite(name, url):
        node_invite(name).unlink(missing_ok=True)
