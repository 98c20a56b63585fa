"""What a client may ask, in OpenAI's shapes, and how llama.cpp's answer to tokens becomes an answer to a chat.

A prompt goes to llama.cpp as tokens, made here as training makes them: the adapter reads what it has learnt to read,
and the name of a control token in somebody's text is letters (`records/control_tokens.py`). llama.cpp's own way from a
chat to tokens would let a message end its turn and open another one.
"""

import json
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from yoriai.errors import ConfigError

LARGEST_BODY_BYTES = 1024 * 1024
_MOST_TEXTS = 256
# What llama.cpp takes as OpenAI does, and is passed on as it was asked.
_PASSED_ON = ("temperature", "top_p", "seed", "stop", "frequency_penalty", "presence_penalty", "stream")


class _Asked(BaseModel):
    """Fields that are not known are left alone, as OpenAI's servers do; those that would be lost are refused."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    model: str


class _Options(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    include_usage: bool = False


class _Writing(_Asked):
    """What chat and completion have in common."""

    max_tokens: int | None = Field(default=None, ge=1)
    temperature: float = Field(default=0.0, ge=0, le=2)  # The likeliest answer: what was measured.
    top_p: float | None = Field(default=None, gt=0, le=1)
    seed: int | None = None
    stop: str | list[str] | None = None
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    n: Literal[1] = 1
    stream: bool = False
    stream_options: _Options = _Options()

    @property
    def most_tokens(self) -> int | None:
        """Of the answer, where the client says so."""
        return self.max_tokens

    @property
    def likeliest(self) -> int:
        """Of how many tokens a place the probabilities are asked for."""
        return 0

    def to_engine(self, ids: list[int], most_tokens: int, *, adapted: bool) -> dict[str, Any]:
        """The request to llama.cpp for these tokens."""
        found = {name: value for name in _PASSED_ON if (value := getattr(self, name)) is not None}
        if self.likeliest:
            found["logprobs"] = self.likeliest
        if self.stream:
            found["stream_options"] = {"include_usage": True}
        # Without its cache no request's time tells what others have asked.
        return found | {
            "prompt": ids,
            "max_tokens": most_tokens,
            "cache_prompt": False,
            "lora": [{"id": 0, "scale": 1.0 if adapted else 0.0}],
        }


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    type: Literal["text"]
    text: str


class Message(BaseModel):
    """One turn."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[_Part]

    @property
    def turn(self) -> tuple[str, str]:
        """Role and text, as records have them."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return ("system" if self.role == "developer" else self.role), text


class _Text(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    type: Literal["text"]


class _Named(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_: dict[str, Any] = Field(alias="schema")


class _Schema(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    type: Literal["json_schema"]
    json_schema: _Named


class ChatAsked(_Writing):
    """`/v1/chat/completions`."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=1000)]
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool = False
    top_logprobs: int = Field(default=0, ge=0, le=20)
    tools: Annotated[list[Any], Field(max_length=0)] | None = None
    response_format: _Text | _Schema | None = Field(default=None, discriminator="type")

    def to_engine(self, ids: list[int], most_tokens: int, *, adapted: bool) -> dict[str, Any]:
        """With the schema that the answer is to keep to, if one was asked for."""
        found = super().to_engine(ids, most_tokens, adapted=adapted)
        form = self.response_format
        return found | {"json_schema": form.json_schema.schema_} if isinstance(form, _Schema) else found

    @property
    def most_tokens(self) -> int | None:
        """By either of its names."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def likeliest(self) -> int:
        """At least the one that was chosen."""
        return max(1, self.top_logprobs) if self.logprobs else 0


class CompletionAsked(_Writing):
    """`/v1/completions`: the text goes on as it stands, without a template."""

    prompt: str
    logprobs: int | None = Field(default=None, ge=0, le=20)

    @property
    def likeliest(self) -> int:
        """At least the one that was chosen."""
        return 0 if self.logprobs is None else max(1, self.logprobs)


class ClassifyAsked(_Asked):
    """`/v1/classify`: the label of each text.

    `route` is what the client says to a text that is not sure here: yes, it may leave where route.mode is ask; no, it
    may not, whatever the mode. Without it the mode decides, and ask means that nothing leaves.
    """

    route: Literal["yes", "no"] | None = None
    input: str | Annotated[list[str], Field(min_length=1, max_length=_MOST_TEXTS)]

    @property
    def texts(self) -> list[str]:
        """All of them."""
        return [self.input] if isinstance(self.input, str) else self.input


_Kind = TypeVar("_Kind", bound=_Asked)


def read_asked(kind: type[_Kind], body: bytes) -> _Kind:
    """A request from its body.

    Raises:
        ConfigError: it is no such request. The fields are named, and nothing that stood in them.
    """
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        faults = [
            f"{'.'.join(map(str, fault['loc'])) or 'the body'}: {fault['msg']}"
            for fault in error.errors(include_input=False, include_url=False, include_context=False)
        ]
        raise ConfigError("the request is not understood", found="; ".join(faults[:5])) from None


def as_chat(completion: dict[str, Any]) -> dict[str, Any]:
    """llama.cpp's completion as the answer to a chat."""
    choices = [
        {
            "index": 0,
            "message": {"role": "assistant", "content": choice["text"]},
            "logprobs": choice.get("logprobs"),
            "finish_reason": choice["finish_reason"],
        }
        for choice in completion["choices"]
    ]
    return completion | {"object": "chat.completion", "choices": choices}


def as_chat_chunk(chunk: dict[str, Any], *, first: bool) -> dict[str, Any]:
    """A piece of llama.cpp's stream as a piece of a chat's; the first one says who speaks."""
    choices = [
        {
            "index": 0,
            "delta": ({"role": "assistant"} if first else {}) | ({"content": choice["text"]} if choice["text"] else {}),
            "logprobs": choice.get("logprobs"),
            "finish_reason": choice["finish_reason"],
        }
        for choice in chunk["choices"]
    ]
    return chunk | {"object": "chat.completion.chunk", "choices": choices}


def event(piece: dict[str, Any]) -> bytes:
    """A piece as one server-sent event."""
    return b"data: " + json.dumps(piece, ensure_ascii=False).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"


def error_body(message: str, kind: str, code: str | None = None) -> dict[str, Any]:
    """An error in OpenAI's shape."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}
