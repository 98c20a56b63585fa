"""The endpoint: who may ask, what is asked of which version, and answers in OpenAI's shapes.

    GET  /health                 whether a version answers; without a key
    GET  /v1/models              what may be named as `model`
    POST /v1/chat/completions    a version that writes; also as server-sent events
    POST /v1/completions         the same for a text that goes on
    POST /v1/classify            a version that chooses labels

No text of a request or an answer is logged, unless serve.log_texts has it so. An error of llama.cpp is passed on with
its words; they are about tokens and lengths.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from yoriai.client.routing.opening import Routes
from yoriai.client.serving.api_key import ApiKey
from yoriai.client.serving.asked import (
    DONE,
    LARGEST_BODY_BYTES,
    ChatAsked,
    ClassifyAsked,
    CompletionAsked,
    as_chat,
    as_chat_chunk,
    error_body,
    event,
    read_asked,
)
from yoriai.client.serving.routed import route_rows
from yoriai.client.serving.version import BASE, Version
from yoriai.client.serving.versions import Versions
from yoriai.client.serving.writing import Writer
from yoriai.config import ServeSection
from yoriai.errors import RecordError, ServerError, YoriaiError
from yoriai.system.log import EventLog

_Handler = Callable[[Request], Awaitable[Response]]


class Front:
    """The routes over the versions of one site.

    Args:
        model: what clients call the version in use.
        key: without it nothing is answered.
        log: gets one line a request, with its length and time.
        routes: to a large model, for labels that are not sure; None where nothing leaves.
    """

    def __init__(
        self,
        versions: Versions,
        *,
        model: str,
        key: ApiKey,
        settings: ServeSection,
        log: EventLog,
        routes: Routes | None = None,
    ) -> None:
        self._versions, self._model, self._key, self._settings, self._log = versions, model, key, settings, log
        self._routes = routes
        self._choosing = asyncio.Lock()  # torch uses all of its threads for one batch.

    def app(self) -> FastAPI:
        """The application; it follows the link for as long as it is served, and closes what it opened."""
        app = FastAPI(title="Yoriai", openapi_url=None, lifespan=self._lifespan)
        app.add_api_route("/health", self._health, methods=["GET"])
        for path, method, handler in (
            ("/v1/models", "GET", self._models),
            ("/v1/chat/completions", "POST", self._chat),
            ("/v1/completions", "POST", self._completion),
            ("/v1/classify", "POST", self._classify),
        ):
            app.add_api_route(path, self._guarded(handler), methods=[method], response_model=None)
        return app

    @asynccontextmanager
    async def _lifespan(self, _app: FastAPI) -> AsyncIterator[None]:
        watching = asyncio.create_task(self._versions.watch())
        try:
            yield
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            await self._versions.close()

    def _guarded(self, handler: _Handler) -> _Handler:
        """The handler behind the key, with errors in OpenAI's shape. Nothing of a body is read without the key."""

        async def guarded(request: Request) -> Response:
            if not self._key.fits(request.headers.get("authorization", "")):
                return _refusal(401, "the API key is missing or wrong", "authentication_error", "invalid_api_key")
            try:
                return await handler(request)
            except _NoModel as error:
                return _refusal(404, str(error), "invalid_request_error", "model_not_found")
            except ServerError as error:
                return _refusal(503, str(error), "server_error")
            except YoriaiError as error:
                return _refusal(400, str(error), "invalid_request_error")
            except httpx.HTTPError as error:
                self._log.event("fault", what=type(error).__name__)
                return _refusal(503, "llama.cpp has ended; it is started again", "server_error")

        return guarded

    async def _health(self) -> Response:
        version = self._versions.current
        status = 200 if version.is_alive else 503
        return JSONResponse({"status": "ok" if status == 200 else "starting", "version": version.name}, status)

    async def _models(self, _request: Request) -> Response:
        version = self._versions.current
        names = [self._model, BASE] if version.writer is not None else [self._model]
        facts = {"object": "model", "created": 0, "owned_by": "yoriai", "version": version.name}
        return JSONResponse({"object": "list", "data": [{"id": name} | facts for name in names]})

    async def _chat(self, request: Request) -> Response:
        asked = read_asked(ChatAsked, await _body(request))
        async with self._lent(asked.model) as (version, stack):
            writer, adapted = _writer_of(version), asked.model != BASE
            ids = writer.chat_tokens(asked, adapted=adapted)
            return await self._written(asked, version, ids, stack, is_chat=True)

    async def _completion(self, request: Request) -> Response:
        asked = read_asked(CompletionAsked, await _body(request))
        async with self._lent(asked.model) as (version, stack):
            return await self._written(asked, version, _writer_of(version).text_tokens(asked), stack, is_chat=False)

    async def _classify(self, request: Request) -> Response:
        asked = read_asked(ClassifyAsked, await _body(request))
        began = time.monotonic()
        async with self._lent(asked.model) as (version, _stack):
            if (chooser := version.chooser) is None:
                raise _wrong_kind(version, "writes, and chooses no label", "/v1/chat/completions")
            async with self._choosing:
                rows = await asyncio.to_thread(chooser.probabilities, asked.texts)
            data = [
                {
                    "index": index,
                    "label": chooser.labels[int(row.argmax())],
                    "probabilities": dict(zip(chooser.labels, row.tolist(), strict=True)),
                }
                for index, row in enumerate(rows)
            ]
            if self._routes is not None and asked.route != "no":
                routed = await asyncio.to_thread(route_rows, self._routes, version, asked, rows.double().numpy())
                data = [one | told for one, told in zip(data, routed, strict=True)]
        said = json.dumps([asked.texts, [one["label"] for one in data]])
        self._told("classify", version, began, texts=len(data), said=said)
        return JSONResponse({"object": "list", "model": asked.model, "version": version.name, "data": data})

    @asynccontextmanager
    async def _lent(self, model: str) -> AsyncIterator[tuple[Version, AsyncExitStack]]:
        """The version in use, and what keeps it: a stream takes that over (`pop_all`) and closes it at its end."""
        async with AsyncExitStack() as stack:
            version = await stack.enter_async_context(self._versions.lease())
            known = {self._model} | ({BASE} if version.writer is not None else set())
            if model not in known:
                raise _NoModel("there is no such model", expected=" or ".join(sorted(known)))
            yield version, stack

    async def _written(
        self,
        asked: ChatAsked | CompletionAsked,
        version: Version,
        ids: list[int],
        stack: AsyncExitStack,
        *,
        is_chat: bool,
    ) -> Response:
        writer, began = _writer_of(version), time.monotonic()
        wanted = asked.to_engine(ids, writer.answer_tokens(asked), adapted=asked.model != BASE)
        sent = writer.client.stream("POST", "/v1/completions", json=wanted)
        answer = await stack.enter_async_context(sent)
        if answer.status_code != 200:
            return JSONResponse(json.loads(await answer.aread()), answer.status_code)
        if asked.stream:
            return _Stream(self._pieces(answer, asked, version, began, is_chat=is_chat), stack.pop_all())
        found = _said_by(json.loads(await answer.aread()), asked.model, version)
        tokens = found["usage"]["completion_tokens"]
        said = json.dumps([_said_to(asked), found["choices"][0]["text"]])
        self._told("write", version, began, prompt_tokens=len(ids), answer_tokens=tokens, said=said)
        return JSONResponse(as_chat(found) if is_chat else found)

    async def _pieces(
        self,
        answer: httpx.Response,
        asked: ChatAsked | CompletionAsked,
        version: Version,
        began: float,
        *,
        is_chat: bool,
    ) -> AsyncIterator[bytes]:
        """The stream, piece by piece."""
        texts: list[str] = []
        usage: dict[str, Any] = {}
        last: dict[str, Any] = {}
        async for line in answer.aiter_lines():
            if not line.startswith("data: {"):
                continue
            piece = _said_by(json.loads(line.removeprefix("data: ")), asked.model, version)
            usage = piece.pop("usage", None) or usage
            if not piece.get("choices"):
                continue
            last = as_chat_chunk(piece, first=not texts) if is_chat else piece
            yield event(last)
            texts.append(piece["choices"][0]["text"])
        if asked.stream_options.include_usage:
            yield event(last | {"choices": [], "usage": usage})
        yield DONE
        said = json.dumps([_said_to(asked), "".join(texts)])
        self._told("write", version, began, answer_tokens=usage.get("completion_tokens"), said=said)

    def _told(self, what: str, version: Version, began: float, *, said: str, **values: int | None) -> None:
        """One line of the log: sizes and time, and the texts only where the operator says so."""
        seconds = round(time.monotonic() - began, 3)
        shown = said if self._settings.log_texts else None
        self._log.event("served", what=what, version=version.name, seconds=seconds, said=shown, **values)


class _Stream(StreamingResponse):
    """A stream that keeps its version, and the engine's answer, to its end; that may be the client's going."""

    def __init__(self, pieces: AsyncIterator[bytes], kept: AsyncExitStack) -> None:
        super().__init__(pieces, media_type="text/event-stream", headers={"Cache-Control": "no-store"})
        self._kept = kept

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async with self._kept:
            await super().__call__(scope, receive, send)


class _NoModel(YoriaiError):
    """The client names a model that is not here."""


def _wrong_kind(version: Version, does: str, path: str) -> YoriaiError:
    return RecordError(f"version {version.name} {does}", remedy=f"ask {path}")


def _writer_of(version: Version) -> Writer:
    if version.writer is None:
        raise _wrong_kind(version, "chooses labels, and writes nothing", "/v1/classify")
    return version.writer


def _said_by(found: dict[str, Any], model: str, version: Version) -> dict[str, Any]:
    """An answer with the model as the client named it, and which version it is of."""
    found.pop("timings", None)
    return found | {"model": model, "system_fingerprint": version.name}


def _said_to(asked: ChatAsked | CompletionAsked) -> Any:
    return asked.prompt if isinstance(asked, CompletionAsked) else [message.turn for message in asked.messages]


def _refusal(status: int, message: str, kind: str, code: str | None = None) -> Response:
    return JSONResponse(error_body(message, kind, code), status)


async def _body(request: Request) -> bytes:
    """The body, as far as it may be long. Raises RecordError for one that is longer."""
    found = bytearray()
    async for piece in request.stream():
        found += piece
        if len(found) > LARGEST_BODY_BYTES:
            raise RecordError("the request is too long", expected=f"at most {LARGEST_BODY_BYTES} bytes")
    return bytes(found)
