"""Potluck: everyone brings a few layers of a large language model; everyone eats."""

from __future__ import annotations

import os
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from potluck.client import Client

__version__ = version("potluck")


def connect(url: str, key: str = "") -> Client:
    """A client of the coordinator at this URL. key: an API key; the default is the one in `POTLUCK_KEY`.

    Raises PotluckError when the text is not a URL.
    """
    from potluck.client import Client, checked_url  # whoever wants the version only need not wait for HTTP

    return Client(checked_url(url), key or os.environ.get("POTLUCK_KEY", ""))
