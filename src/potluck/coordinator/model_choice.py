"""Decides which engine runs a model, in which quantization, and what it weighs on nodes. Independent of the web."""

from __future__ import annotations

from potluck.errors import ModelError
from potluck.models.manifest import Manifest
from potluck.models.rope import rope_limit
from potluck.models.runnable import transformers_fault
from potluck.models.sizes import kept_by, part_sizes
from potluck.models.spans import cuts_of, engines_for, is_proved, plan_raw_span
from potluck.planning.cost import Footprint
from potluck.types import MOST_POSITIONS, Attention, EngineKind, Quantize, RowFormat, Span
from potluck.wire.rows import payload_size

DEFAULT_CONTEXT = 4096


_QUANTIZE = {
    EngineKind.LLAMACPP: (Quantize.Q8_0, Quantize.Q4_0, Quantize.F16, Quantize.BF16),
    EngineKind.TRANSFORMERS: (Quantize.NONE, Quantize.INT8, Quantize.INT4),
}
"""The types in which each engine can keep a Hugging Face model's weights; its default first."""


def choose_engine(
    manifest: Manifest, engine: EngineKind | None, quantize: Quantize | None, *, tries: bool = False
) -> tuple[EngineKind, Quantize]:
    """The engine and quantization asked for, or the first that can run the model. Raises ModelError for a misfit.

    tries: whether an architecture may be taken of which nobody knows how it can be cut.
    """
    able = engines_for(manifest)
    engine = engine or able[0]
    if engine is EngineKind.TRANSFORMERS and manifest.format == "huggingface":
        _check_transformers(manifest, able)
    elif engine not in able:
        raise ModelError(f"The {engine} engine cannot run {manifest.name} ({manifest.architecture}); {able[0]} can.")
    else:
        cuts_of(manifest)
        if not (tries or is_proved(manifest)):
            raise ModelError(
                f"{manifest.name} is of the architecture {manifest.architecture}, of which nobody has proved that its "
                "parts compute what the whole does: give --try to let a self-test decide."
            )
    if manifest.format == "gguf":
        if quantize is not None:
            raise ModelError(f"{manifest.name} is a GGUF file and keeps its own quantization: leave --quantize out.")
        return engine, Quantize.NONE
    quantize = quantize or _QUANTIZE[engine][0]
    if quantize not in _QUANTIZE[engine]:
        raise ModelError(f"The {engine} engine quantizes to {', '.join(_QUANTIZE[engine])}, not {quantize}.")
    return engine, quantize


def _check_transformers(manifest: Manifest, able: tuple[EngineKind, ...]) -> None:
    """Raises ModelError when nodes would find that the transformers engine cannot run the model."""
    fault = transformers_fault(manifest.metadata["config"])
    if fault is not None:
        other = "" if EngineKind.LLAMACPP not in able else "; the llamacpp engine can run it"
        raise ModelError(f"The transformers engine cannot run {manifest.name}: {fault}{other}.")
    plan_raw_span(manifest, Span(0, manifest.layers - 1))  # which knows types that cannot be carried


def _rope_limit(manifest: Manifest) -> tuple[str, int] | None:
    return rope_limit(manifest.metadata["config"]) if manifest.format == "huggingface" else None


def most_context(manifest: Manifest) -> int:
    """The most positions that a session of the model can have."""
    limit = _rope_limit(manifest)
    return min(manifest.context, MOST_POSITIONS, limit[1] if limit is not None else MOST_POSITIONS)


def choose_context(manifest: Manifest, asked: int | None) -> int:
    """The positions of a session: those asked for, or the usual ones, but no more than the model has or a node holds.

    Raises ModelError for more than the factors of its rope are good for, because sessions of one batch share them.
    """
    limit = _rope_limit(manifest)
    if limit is not None and asked is not None and asked > limit[1]:
        raise ModelError(
            f"{manifest.name} has {limit[0]} factors, which change for all sessions of a batch when one is longer than "
            f"{limit[1]} positions: use --context {limit[1]} or less."
        )
    return min(manifest.context, MOST_POSITIONS, asked or DEFAULT_CONTEXT)


def footprint(
    manifest: Manifest,
    engine: EngineKind,
    quantize: Quantize,
    context: int,
    rows: RowFormat = RowFormat.F32,
    attention: Attention = Attention.EXACT,
) -> Footprint:
    """The bytes of the model's parts on a node, with what one session of full length keeps, and on its link; and where
    it may be cut. Raises ModelError when it cannot be cut.
    """
    sizes = part_sizes(manifest, engine, quantize)
    cache = tuple(layer.of(context) for layer in kept_by(manifest, engine, attention))
    row = payload_size(1, manifest.hidden_size, rows)
    parts = sizes.layers, sizes.entry, sizes.head, sizes.active
    cut = cuts_of(manifest, engine)
    return Footprint(
        *parts,
        cache,
        sizes.staged,
        sizes.stub,
        sizes.middle,
        row=2 * row,
        cut=cut,
        experts=sizes.experts,
        offloads=engine is EngineKind.LLAMACPP,
    )


def usual_footprint(manifest: Manifest) -> Footprint:
    """The footprint with the engine, quantization and context that are chosen if nobody asks for others.

    Raises ModelError when no engine can run the model.
    """
    return footprint(manifest, *choose_engine(manifest, None, None), choose_context(manifest, None))
