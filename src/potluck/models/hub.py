"""Knows the Hugging Face hub: where it is, the token that this machine has for it, and what its refusals mean."""

from __future__ import annotations

import re

import httpx
from huggingface_hub import constants, get_token

from potluck.errors import ModelError
from potluck.models.redirects import is_local

_FILE = re.compile(r"/([\w.-]+/[\w.-]+)/resolve/[0-9a-f]{40,64}/.+\.(?:gguf|safetensors|bin)", re.ASCII)


def endpoint() -> str:
    """The URL of the hub: `HF_ENDPOINT`, or huggingface.co."""
    return constants.ENDPOINT


def authorization() -> dict[str, str]:
    """The header with this machine's token: `HF_TOKEN`, or the one that `hf auth login` has stored. Empty if there is
    none.
    """
    try:
        token = get_token()
    except NotADirectoryError:  # there is no home for a token either
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"The token for the hub cannot be read ({error}): set HF_TOKEN, or HF_HOME.") from error
    if not token:
        return {}
    if not (token.isascii() and token.isprintable()):
        raise ModelError("The token for the hub is none: set HF_TOKEN to one, or run hf auth login.")
    return {"Authorization": f"Bearer {token}"}


def repository_of(url: httpx.URL) -> str | None:
    """The repository, if this is the URL of weights on this machine's hub; a token may be sent there.

    A coordinator may redirect to it, so the connection must be encrypted. It must not learn, by the digests that it
    names and the node finds wrong or right, what short secrets in other files of the token's owner are.
    """
    hub = httpx.URL(endpoint())
    same = (url.scheme, url.host, url.port) == (hub.scheme, hub.host, hub.port)
    path = url.path.removeprefix(hub.path.rstrip("/")) if same and (url.scheme == "https" or is_local(url)) else ""
    match = _FILE.fullmatch(path)
    return match[1] if match and ".." not in path.split("/") else None


def refusal(repository: str, *, with_token: bool) -> ModelError:
    """What the hub's answers 401 and 403 mean for the person who wants a model."""
    page = f"{endpoint()}/{repository}"
    if with_token:
        return ModelError(
            f"The hub does not let this machine's token read {repository}: check the name, and accept the model's "
            f"conditions at {page} if it has any."
        )
    return ModelError(
        f"The hub shows {repository} to nobody without a token: check the name, accept the model's conditions at "
        f"{page} if it has any, and run hf auth login or set HF_TOKEN."
    )
