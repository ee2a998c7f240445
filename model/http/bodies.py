"""What clients may send, checked; unknown fields are ignored, null is a default."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, TypeVar

from aiohttp import web
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from model.http.errors import ApiError

MOST_CHOICES = 16
"""Answers to one request."""
MOST_TEXTS = 2048
"""Texts of one request for embeddings; OpenAI's own limit."""
MOST_STOPS = 4
_COLDEST = 1e-3
"""Below, float32 cannot divide by a temperature any more, and the likeliest token wins in any case."""


def _joined(value: Any) -> Any:
    """The text of a message: as it is, or the parts of a list; "" for null, as tools write it."""
    if value is None:
        return ""
    if not isinstance(value, list):
        return value
    parts = [part for part in value if isinstance(part, dict) and part.get("type") == "text"]
    texts = [text for part in parts if isinstance(text := part.get("text"), str)]
    if len(texts) < len(value):
        raise PydanticCustomError("text_expected", "must be a text or a list of text parts")
    return "".join(texts)


def _listed(value: Any) -> Any:
    """A single text as a list of one."""
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        message = "must be a text or a list of texts; numbers of tokens mean something to one tokenizer only"
        raise PydanticCustomError("text_expected", message)
    return texts


def _stops(value: Any) -> Any:
    """Stop strings; empty ones would stop nothing."""
    return value if value is None else [text for text in _listed(value) if text]


def _told(value: Any) -> Any:
    """None for what Python takes for false."""
    return value or None


def _warm(value: float) -> float:
    return value if value >= _COLDEST else 0.0


Texts = Annotated[list[str], BeforeValidator(_listed)]
Positive = Annotated[int, Field(ge=1)]
Round = Annotated[list[str], Field(min_length=2, max_length=2)]
"""A question and its answer."""
Share = Annotated[float, Field(ge=0, le=1)]


class Body(BaseModel):
    """A JSON object; its types are exact, but for whole numbers where others may stand."""

    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False, protected_namespaces=())

    @classmethod
    async def read(cls, request: web.Request) -> Self:
        """The body of a request, which says that it is JSON, or nothing.

        Raises ValidationError, ApiError, HTTPRequestEntityTooLarge.
        """
        said = request.headers.get("Content-Type")
        json = request.content_type == "application/json" and (request.charset or "utf-8").lower() == "utf-8"
        if said is not None and not json:
            raise ApiError(415, f"the body must be application/json in UTF-8, not {said}")
        return cls.model_validate_json(await request.read())


BodyT = TypeVar("BodyT", bound=Body)


class Message(Body):
    """One message of a talk."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, BeforeValidator(_joined)] = ""


class StreamOptions(Body):
    """What a stream tells besides text."""

    include_usage: bool | None = None


class Sampling(Body):
    """What all of OpenAI's questions have; top_k and repetition_penalty are vLLM's."""

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Positive | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Share | None = None
    top_k: Annotated[int, Field(ge=-1), AfterValidator(lambda k: max(k, 0))] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = None
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Annotated[Annotated[list[str], Field(max_length=MOST_STOPS)] | None, BeforeValidator(_stops)] = None
    user: Annotated[str, Field(max_length=512)] | None = None

    @property
    def most(self) -> int | None:
        """Tokens of an answer at most."""
        return self.max_tokens

    @property
    def usage_wanted(self) -> bool:
        """Whether a stream ends with its usage."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def heat(self) -> float | None:
        """The temperature, 0 where it is next to nothing."""
        return None if self.temperature is None else _warm(self.temperature)


class ChatBody(Sampling):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1, fail_fast=True)]
    max_completion_tokens: Positive | None = None

    @property
    def most(self) -> int | None:
        """Tokens of an answer at most, by the newer name first."""
        return self.max_completion_tokens or self.max_tokens


class CompletionBody(Sampling):
    """POST /v1/completions."""

    prompt: Annotated[Texts, Field(min_length=1, max_length=MOST_CHOICES)]


class EmbeddingBody(Body):
    """POST /v1/embeddings."""

    model: str
    input: Annotated[Texts, Field(min_length=1, max_length=MOST_TEXTS)]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Positive | None = None


class GlmBody(Body):
    """POST / of ChatGLM-6B's api.py; what is false there (0, null, an empty list or text) is a default."""

    prompt: str
    history: Annotated[Annotated[list[Round], Field(fail_fast=True)] | None, BeforeValidator(_told)] = None
    max_length: Annotated[Annotated[int, Field(ge=0)] | None, BeforeValidator(_told)] = None
    top_p: Annotated[Share | None, BeforeValidator(_told)] = None
    temperature: Annotated[Annotated[float, Field(ge=0)] | None, BeforeValidator(_told)] = None

    @classmethod
    async def read(cls, request: web.Request) -> Self:
        """The body of a request, whatever its type says: the server there does not ask."""
        return cls.model_validate_json(await request.read())

    @property
    def heat(self) -> float:
        """The temperature; 0 is 0.95 there."""
        return _warm(self.temperature or 0.95)
