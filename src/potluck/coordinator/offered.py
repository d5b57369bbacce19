"""A model that is offered: its swarm is there from the start, and the rest is made when somebody first asks for it."""

from __future__ import annotations

from collections.abc import Callable

from potluck.coordinator.compose import ModelService, SwarmService, is_proved_by
from potluck.coordinator.gateway.guessing import Guessers
from potluck.coordinator.text.encoder import Encoder
from potluck.models.manifest import Manifest

Run = Callable[[Guessers | None], SwarmService]


class OfferedModel:
    """An offered model. outline: its manifest, without any hashes. running: what runs its swarm.

    read: returns the manifest, for which all weights are read the first time. encode: starts the children that read
    texts. compose: makes everything of both. These three block.
    """

    def __init__(
        self,
        outline: Manifest,
        running: SwarmService,
        read: Callable[[], Manifest],
        encode: Callable[[], Encoder],
        compose: Callable[[Manifest, Encoder, Run], ModelService],
    ) -> None:
        self.outline = outline
        self.running = running
        self._read = read
        self._encode = encode
        self._compose = compose
        self._made: ModelService | None = None
        self._guessers: Guessers | None = None
        self._encoder: Encoder | None = None
        self._closed = False

    def make(self) -> ModelService:
        """Everything about the model, which is made only once. This call blocks. Raises ModelError when it cannot be
        served.
        """
        if self._made is None:
            manifest = self._read()
            self._encoder = self._encoder or self._encode()
            self._made = self._compose(manifest, self._encoder, self._run)
        if self._closed:
            self.close()
        return self._made

    def _run(self, guessers: Guessers | None) -> SwarmService:
        self._guessers = guessers
        return self.running

    def identify(self, model: ModelService) -> None:
        """Let nodes be called for the model, now that its weights are known."""
        self.running.gate.identify(model.manifest.digest, self._guessers)

    def status(self, may_see: Callable[[str], bool] = lambda _: False) -> bytes:
        """The answer of `/status`, as `ModelService.status` tells it."""
        if self._made is not None:
            return self._made.status(may_see)
        proved = is_proved_by(self.running.terms.engine, self.outline)
        return self.running.status(self.outline.name, may_see, proved=proved)

    def close(self) -> None:
        """End what reads texts, even if it is only being started."""
        self._closed = True
        if self._encoder is not None:
            self._encoder.close()
