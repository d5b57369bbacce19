"""Potluck: everyone brings a few layers of a large language model; everyone eats.

    import potluck

    swarm = potluck.connect("http://192.168.1.5:8470")
    answer = swarm.chat([{"role": "user", "content": "What is a potluck?"}])

`__all__` is the public API. It is typed, and the changelog tells of every change to it.
"""

from __future__ import annotations

import os
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from potluck.errors import PotluckError

if TYPE_CHECKING:
    from potluck.client import Client

__all__ = ["Client", "PotluckError", "__version__", "connect"]

__version__ = version("potluck")


def connect(url: str, key: str = "") -> Client:
    """A client of the coordinator at this URL. key: an API key; the default is the one in `POTLUCK_KEY`.

    Raises PotluckError when the text is not a URL.
    """
    from potluck.client import Client  # whoever wants the version only need not wait for HTTP
    from potluck.network import checked_url

    return Client(checked_url(url), key or os.environ.get("POTLUCK_KEY", ""))


if not TYPE_CHECKING:  # a type checker would let every name pass

    def __getattr__(name: str) -> Any:
        """`Client`, once somebody names it."""
        if name == "Client":
            from potluck.client import Client

            return Client
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
