"""Reads the URLs that people give, and goes out to the network through the proxies that the machine's settings name."""

from __future__ import annotations

import re
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx

from potluck.errors import PotluckError, ProxyFault

_API = re.compile(r"(?<=[^/:])/+v1(/+(chat/+completions|completions|models|responses|messages|embeddings))?$")
"""What people copy with a base URL."""
_WRITTEN_AS = {"": "http", "ws": "http", "wss": "https"}

_HERE = ("localhost", "127.0.0.1", "::1")
"""This very machine, for which no proxy is asked, whether `no_proxy` names it or not."""
_SCHEMES = {"http": ("http", "all"), "https": ("https", "all"), "ws": ("http", "all"), "wss": ("https", "all")}
"""For each scheme those whose proxy is taken, the first that is named."""
_SOCKS = "{}_proxy names a SOCKS proxy, for which a package is missing: run pip install 'potluck[socks]', or unset it."


def checked_url(text: str) -> str:
    """The coordinator's URL without a trailing slash, and without the path of OpenAI's API, which may follow it.

    `http://` is added if there is no scheme. `ws://` and `wss://` are replaced by the schemes that they run on. Raises
    PotluckError when the text is not such a URL.
    """
    scheme, _, rest = text.rpartition("://")
    url = _API.sub("", f"{_WRITTEN_AS.get(scheme, scheme)}://{rest}".rstrip("/"))
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets that do not match, a port that is no number
        usable = False
    if not usable:
        raise PotluckError(f"{text!r} is not a coordinator's URL: write it as http://192.168.1.5:8470.")
    return url


def http_client(*, base_url: str = "", **options: Any) -> httpx.Client:
    """A client of httpx, with these options. Raises ProxyFault when a proxy cannot be used that may be needed."""
    fault = _fault_of(getproxies())
    if fault is not None and urlsplit(base_url).hostname not in _HERE:
        raise fault
    direct = {f"all://{f'[{host}]' if ':' in host else host}": None for host in _HERE}
    return httpx.Client(base_url=base_url, mounts=direct, trust_env=fault is None, **options)


def is_here(url: str) -> bool:
    """Whether the URL names this very machine."""
    return urlsplit(url).hostname in _HERE


def proxy_for(url: str) -> tuple[str, str] | None:
    """The proxy on the way to this URL: the name of the setting, and the proxy's own URL. None if there is none."""
    parts = urlsplit(url)
    host, found = parts.hostname or "", getproxies()
    if host in _HERE or proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    return next(
        ((f"{one}_proxy", _whole(found[one])) for one in _SCHEMES.get(parts.scheme, ()) if found.get(one)), None
    )


def socket_proxy(url: str) -> str | None:
    """The proxy for a web-socket to this URL, None if there is none. Raises ProxyFault when it cannot be used."""
    found = proxy_for(url)
    if found is None:
        return None
    setting, proxy = found
    if fault := _fault_of({setting.removesuffix("_proxy"): proxy}):
        raise fault
    if proxy.startswith("socks") and find_spec("python_socks") is None:  # websockets needs it, httpx another one
        raise ProxyFault(_SOCKS.format(setting.removesuffix("_proxy")))
    parts = urlsplit(proxy)
    user, at, place = parts.netloc.rpartition("@")
    # websockets wants a password beside each name, and nothing after the port.
    return f"{parts.scheme}://{user}{':' if at and ':' not in user else ''}{at}{place}"


def way_to(url: str) -> str:
    """The URL, and the proxy through which this machine asks for it if there is one: for messages."""
    found = proxy_for(url)
    return url if found is None else f"{url} through the proxy of {found[0]}"


def tls_fault(error: Exception) -> str:
    """What to do about an address where TLS is spoken on one side only, or by a stranger; empty if it is not that."""
    text = str(error)
    if "CERTIFICATE_VERIFY_FAILED" in text:
        reason = text.rpartition("failed: ")[2].partition(" (_ssl")[0].rstrip(".")
        return f"its certificate is not trusted here ({reason}): SSL_CERT_FILE may name the file of its authority"
    if re.search("wrong.version.number|record.layer.failure|packet.length.too.long", text, re.IGNORECASE):
        return "TLS is not spoken there, so write http:// instead of https://"
    if "without sending a response" in text:  # in the words of httpx
        return "the server there says nothing; if it speaks TLS, write https:// instead of http://"
    return ""


def _fault_of(proxies: dict[str, str]) -> ProxyFault | None:
    """What is wrong with one of the proxies, whose password is not repeated. None if nothing is."""
    for scheme in ("http", "https", "all"):
        if url := proxies.get(scheme):
            try:
                parts = urlsplit(_whole(url))
                if not parts.hostname or parts.port == 0:
                    raise ValueError("no host, or no port")
                httpx.HTTPTransport(proxy=httpx.Proxy(_whole(url)), verify=False).close()
            except ImportError:
                return ProxyFault(_SOCKS.format(scheme))
            except (ValueError, httpx.InvalidURL):
                return ProxyFault(f"{scheme}_proxy is not the URL of a proxy: correct or unset it.")
    return None


def _whole(url: str) -> str:
    return url if "://" in url else f"http://{url}"
