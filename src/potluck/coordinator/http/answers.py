"""The answers of the HTTP API as types, by which `openapi` describes them. `replies` makes the JSON itself."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType

from potluck.coordinator.members.invites import Invite
from potluck.coordinator.members.keys import Key
from potluck.coordinator.members.members import Member
from potluck.coordinator.relay.batches import Fullness
from potluck.coordinator.relay.foresight import Foresight
from potluck.coordinator.sessions.demand import ModelState


class ErrorBody(Struct, frozen=True):
    """The body of an error. param: the field at fault. code: a short name. choices: the parts of an answer that broke
    off.
    """

    message: str
    type: Literal["invalid_request_error", "rate_limit_error", "server_error"]
    param: str | None
    code: str | None
    choices: list[dict[str, Any]] = []


class Error(Struct, frozen=True):
    error: ErrorBody


class Model(Struct, frozen=True):
    """A model. created: Unix time. state: whether all its layers are covered (ready), nodes load what is lacking
    (loading), nobody does (incomplete), or it is offered and is loaded when somebody asks (offered).
    """

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    state: ModelState


class Models(Struct, frozen=True):
    object: Literal["list"]
    data: list[Model]


class PromptDetails(Struct, frozen=True):
    """Details of the prompt. cached_tokens: those that the nodes already held."""

    cached_tokens: int


class CompletionDetails(Struct, frozen=True):
    """Details of the answers. reasoning_tokens: those that were thinking.

    accepted_prediction_tokens, rejected_prediction_tokens: those of the request's prediction that were fed to the nodes
    ahead, and did or did not come.
    """

    reasoning_tokens: int
    accepted_prediction_tokens: int
    rejected_prediction_tokens: int


class GuessCounts(Struct, frozen=True):
    """The tokens that were fed to the nodes before they were known: the right ones came, in place of the wrong ones
    others came, and the void ones followed a wrong one.
    """

    right: int
    wrong: int
    void: int


class UsageReport(Struct, frozen=True):
    """The tokens of one request, over all its choices. Our own fields are `nodes`, those that computed them, with their
    layers, and `guesses`, which is missing if there were none.
    """

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails
    nodes: list[str]
    guesses: GuessCounts | UnsetType = UNSET


Finish = Literal["stop", "length"]
ChatFinish = Literal["stop", "length", "tool_calls"]


class TokenLogprob(Struct, frozen=True):
    token: str
    logprob: float
    bytes: list[int]


class ChosenLogprob(TokenLogprob, frozen=True):
    top_logprobs: list[TokenLogprob]


class ChatLogprobs(Struct, frozen=True):
    content: list[ChosenLogprob]
    refusal: None


class FunctionCall(Struct, frozen=True):
    """The function of a call. arguments: a JSON object, as text."""

    name: str
    arguments: str


class Call(Struct, frozen=True):
    id: str
    type: Literal["function"]
    function: FunctionCall


class FunctionPiece(Struct, frozen=True):
    """A part of a function's call. arguments: more of the JSON. name: in a call's first piece."""

    arguments: str
    name: str = ""


class ToolCallDelta(Struct, frozen=True):
    """A piece of a streamed call. index: its place. id, type: in its first piece."""

    index: int
    function: FunctionPiece
    id: str = ""
    type: Literal["function"] = "function"


class ChatMessage(Struct, frozen=True):
    """The answer to a chat. reasoning_content: what the model thought before; missing if it did not."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    reasoning_content: str = ""
    tool_calls: list[Call] = []


class ChatChoice(Struct, frozen=True):
    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: ChatFinish


class ChatCompletion(Struct, frozen=True):
    """A chat's answer. sessions: the numbers by which `/trace` knows the sessions of the choices."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: UsageReport
    sessions: list[int]


class PromptProgress(Struct, frozen=True):
    """The progress in tokens, as in llama.cpp's server: the nodes held `cache` of them before, and `processed` are
    done.

    loading: the share of an offered model's layers that nodes have loaded, while the prompt waits for them.
    """

    total: int
    cache: int
    processed: int
    time_ms: int
    loading: float | UnsetType = UNSET


class ChatDelta(Struct, frozen=True):
    role: Literal["assistant"] = "assistant"
    reasoning_content: str = ""
    content: str = ""
    tool_calls: list[ToolCallDelta] = []


class ChatChunkChoice(Struct, frozen=True):
    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None
    finish_reason: ChatFinish | None


class ChatChunk(Struct, frozen=True):
    """One event of a streamed chat. usage, sessions: in the last one, if usage was asked for.

    prompt_progress: before the choice's first token, if it was asked for.
    """

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: UsageReport | None = None
    sessions: list[int] = []
    prompt_progress: PromptProgress | None = None


class CompletionLogprobs(Struct, frozen=True):
    """Log-probabilities of a completion, in lists of one length. A prompt's first token has no probability."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(Struct, frozen=True):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Finish | None


class Completion(Struct, frozen=True):
    """A whole completion, or one event of a streamed one, whose last one has usage and sessions if usage was asked for.

    sessions: as for chats. prompt_progress: as for chats, for streamed ones.
    """

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: UsageReport | None = None
    sessions: list[int] = []
    prompt_progress: PromptProgress | None = None


class Embedding(Struct, frozen=True):
    """The vector of the input with this index: numbers, or their float32 bytes in base64."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class PromptUsage(Struct, frozen=True):
    prompt_tokens: int
    total_tokens: int


class Embeddings(Struct, frozen=True):
    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: PromptUsage


class TokenPiece(Struct, frozen=True):
    """A token and its text. piece: the token's text, or its bytes if these are not whole characters."""

    id: int
    piece: str | list[int]


class Tokens(Struct, frozen=True):
    tokens: list[int | TokenPiece]


class Text(Struct, frozen=True):
    """The text of tokens under two names: llama.cpp's server's and vLLM's."""

    content: str
    prompt: str


class TokenizerInfo(Struct, frozen=True):
    """The tokens that begin and end a sequence, as text, and the Jinja source of chats; null if there is none."""

    bos_token: str | None
    eos_token: str | None
    chat_template: str | None


class Timeline(Struct, frozen=True, rename={"events": "traceEvents", "unit": "displayTimeUnit"}):
    """A timeline in Perfetto's trace event format, with a few sentences, and the number of all hops so far.

    batches: how full the batches of generated tokens were; null if there were none. guesses: null if there were none.
    """

    summary: str
    batches: Fullness | None
    guesses: Foresight | None
    count: int
    events: list[dict[str, Any]]
    unit: Literal["ms"]


class Health(Struct, frozen=True):
    status: Literal["ok"]


class InviteList(Struct, frozen=True):
    invites: list[Invite]


class KeyList(Struct, frozen=True):
    keys: list[Key]


class NodeList(Struct, frozen=True):
    nodes: list[Member]
