"""Understands what people call a model on the hub, and chooses the GGUF file that they mean among a repository's."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import unquote

from potluck.errors import ModelError
from potluck.models.files import is_plain, shown
from potluck.models.shards import name_of, parts_of

_NAME = re.compile(
    r"([\w-][\w.-]*/[\w-][\w.-]*)"  # OWNER/REPO
    r"(?:/(?:(?:blob|resolve|tree)/([^/]+)/?)?(.*))?",  # the rest of the hub's URL of a file, or a path
    re.ASCII,
)
_HUB = re.compile(r"(?:hf:(?://)?|(?:https?://)?(?:www\.)?(?:hf\.co|huggingface\.co)/)+", re.IGNORECASE)

_TAG = re.compile(r"[\w.-]*", re.ASCII)

_QUANTIZATION = re.compile(
    r"(?:^|(?<=[-._]))((?:UD-|i1-)?(?:I?Q\d\w*|TQ\d\w*|B?F16|FP?16|FP?32|(?:MX|NV)FP4\w*))(?=[-.]|$)", re.IGNORECASE
)
"""A quantization in the name of a file or folder, such as `Q4_K_M`, `iq3_xxs`, `UD-Q4_K_XL` or `mxfp4`."""

_BESIDE = ("mmproj", "imatrix", "mtp-", "eagle3-", "dflash-", "dspark-")
"""In the names of GGUF files that are no models but parts beside one, as llama.cpp knows them."""

_WHOLE = ("model.safetensors", "pytorch_model.bin")


class HubName(NamedTuple):
    """A model on the hub, as somebody calls it. quantization, file: empty if it is left open. revision: likewise."""

    repository: str
    quantization: str = ""
    file: str = ""
    revision: str = ""


class Variant(NamedTuple):
    """One of the GGUF models in a repository. file: the first of its files. nbytes: of all of them."""

    quantization: str
    file: str
    nbytes: int


def hub_name(text: str) -> HubName | None:
    """What the text says about a model on the hub; None if it can only be a path. Raises ModelError for half a name.

    It may begin with `hf:`, with the hub's host or with its URL, and end with a quantization after a colon, or with the
    path of a file.
    """
    marked = _HUB.match(text)
    rest, _, quantization = text[marked.end() if marked else 0 :].partition("?")[0].rstrip("/").partition(":")
    match = _NAME.fullmatch(rest)
    if match is None or not _TAG.fullmatch(quantization):
        if marked:
            raise ModelError(f"{shown(text)} names no model on the hub: write it as hf:OWNER/REPO:Q4_K_M.")
        return None
    repository, revision, file = match[1], unquote(match[2] or ""), match[3] or ""
    if match[3] is not None and not marked:  # a path with folders is one of this machine
        return None
    if quantization.lower().endswith(".gguf"):
        quantization, file = "", quantization
    return HubName(repository, quantization, file, revision)


def chosen_file(name: HubName, sizes: Mapping[str, int]) -> str | None:
    """The GGUF file that is meant, the first of several; None for a model in Hugging Face's own format.

    sizes: those of all files in the repository. Raises ModelError, with the choices, when it is not clear.
    """
    variants = _variants(sizes)
    if name.file:
        return _named(name, variants)
    if name.quantization:
        return _only(name, _matching(variants, name.quantization), variants)
    if not variants or ("config.json" in sizes and any(_is_weights(file) for file in sizes)):
        return None
    return _only(name, variants, variants)


def _is_weights(file: str) -> bool:
    return file in _WHOLE or file.removesuffix(".index.json") in _WHOLE


def _variants(sizes: Mapping[str, int]) -> list[Variant]:
    """The models in GGUF, the smallest first."""
    models = {_files(file) for file in sizes if _is_model(file)}
    found = [Variant(_quantization(files[0]), files[0], sum(sizes.get(each, 0) for each in files)) for files in models]
    return sorted(found, key=lambda variant: (variant.nbytes, variant.file))


def _files(file: str) -> tuple[str, ...]:
    """The files of a model, in order, even those that are missing."""
    folder, slash, name = file.rpartition("/")
    return tuple(f"{folder}{slash}{part}" for part in parts_of(name))


def _is_model(file: str) -> bool:
    name = file.rpartition("/")[2]
    is_gguf = name.lower().endswith(".gguf") and all(map(is_plain, file.split("/")))
    return is_gguf and not any(part in name for part in _BESIDE)


def _quantization(file: str) -> str:
    """The quantization by the name of the file, or of the innermost folder that names one; else the file's own name."""
    *folders, name = file.split("/")
    for part in (name_of(name), *reversed(folders)):
        if told := _QUANTIZATION.findall(part):
            return str(told[-1])
    return name_of(name)


def _named(name: HubName, variants: list[Variant]) -> str:
    wanted = _files(name.file)[0]
    if wanted in (variant.file for variant in variants):
        return wanted
    raise ModelError(f"{name.repository} has no GGUF file {shown(name.file)}{_choices(name, variants)}.")


def _matching(variants: list[Variant], quantization: str) -> list[Variant]:
    """The variants with this quantization, or else those of which it is the last part, as in UD-Q4_K_XL."""
    wanted = quantization.lower()
    exact = [variant for variant in variants if variant.quantization.lower() == wanted]
    return exact or [variant for variant in variants if variant.quantization.lower().endswith(f"-{wanted}")]


def _only(name: HubName, found: list[Variant], variants: list[Variant]) -> str:
    if len(found) == 1:
        return found[0].file
    if not found:
        raise ModelError(f"{name.repository} has no {shown(name.quantization)} in GGUF{_choices(name, variants)}.")
    if len({variant.quantization for variant in found}) == len(found):
        what = "several quantizations"
    else:
        what = "several GGUF files" + (f" in {shown(name.quantization)}" if name.quantization else "")
    raise ModelError(f"{name.repository} has {what}{_choices(name, found)}.")


def _choices(name: HubName, variants: list[Variant]) -> str:
    """The end of a sentence that tells what there is, and how to ask for the first of it."""
    if not variants:
        return ", nor any other model in this format"
    times = Counter(variant.quantization.lower() for variant in variants)
    labels = [each.quantization if times[each.quantization.lower()] == 1 else each.file for each in variants]
    told = ", ".join(f"{shown(label)} ({_size(each.nbytes)})" for label, each in zip(labels, variants, strict=True))
    mark = "/" if labels[0] == variants[0].file else ":"
    return f": choose from {told}, as in hf:{name.repository}{mark}{shown(labels[0])}"


def _size(nbytes: int) -> str:
    return f"{nbytes / 1e9:.1f} GB" if nbytes >= 1e8 else f"{nbytes / 1e6:.1f} MB"
