"""A console's requests: first who asks and from where, then a page, a file, an action, or a stream of changes.

    GET  /enter?token=…   the link: gives the cookie, and leads to the first page
    GET  /static/…        style and script; the only paths without a cookie, and without anything of anybody's
    GET  <page>           a page, whole and without a script
    GET  /events?page=…   server-sent events: the live part of a page, whenever it has become another one
    GET  <download>       a file
    POST /do/<action>     an action; only where the console offers them, from a page of its own, by who may

What is read runs in a thread, so that a slow disk holds nobody else up. A page that nobody looks at is not drawn.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from importlib import resources
from typing import Any, Final
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, StreamingResponse

from yoriai.console.access import Access, is_own_host, is_own_origin
from yoriai.console.drawing import Drawer, Viewer
from yoriai.console.pages import Action, Asked, Console, Download, Page
from yoriai.console.streams import Streams
from yoriai.console.words import LANGUAGES, language_of
from yoriai.errors import ConfigError, YoriaiError

_LARGEST_FORM_BYTES: Final = 64 * 1024
_LANGUAGE: Final = "yoriai-language"
_OPEN: Final = ("/enter", "/static/")
_STATIC: Final = {"console.css": "text/css; charset=utf-8", "console.js": "text/javascript; charset=utf-8"}
HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",  # With none a browser would send "Origin: null" with the console's own forms.
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_SHIELD: Final = {name.lower().encode(): value.encode() for name, value in HEADERS.items()}
_Asgi = Callable[..., Awaitable[None]]


def front(console: Console, access: Access) -> _Asgi:
    """The application of a console, behind the one gate that every request passes."""
    app = FastAPI(title="Yoriai", openapi_url=None, docs_url=None, redoc_url=None)
    _Front(console, access).mount(app)
    return Gate(app, access, Drawer(console))


class Gate:
    """Lets in who has a cookie and asks by a name of loopback, and puts the same headers on every answer."""

    def __init__(self, app: _Asgi, access: Access, drawer: Drawer) -> None:
        self._app, self._access, self._drawer = app, access, drawer

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """As ASGI has it; nothing but HTTP and the server's own start and end is served."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return

        async def sent(message: Any) -> None:
            if message["type"] == "http.response.start":
                own = [(name, value) for name, value in message["headers"] if name.lower() not in _SHIELD]
                message = {**message, "headers": [*own, *_SHIELD.items()]}
            await send(message)

        refusal = self._refusal(Request(scope))
        await (refusal or self._app)(scope, receive, sent)

    def _refusal(self, request: Request) -> Response | None:
        if not is_own_host(request.headers.get("host", "")):
            return Response("this is no name of this machine's loopback\n", 421, media_type="text/plain")
        if request.scope["path"].startswith(_OPEN):  # What is routed; an address loses its control characters.
            return None
        if self._access.role_of(request.cookies.get(self._access.cookie_name, "")) is None:
            page = self._drawer.note(
                _stranger(request),
                title="Not opened yet",
                lines=("Open the link that the command has printed; it holds as long as the console runs.",),
            )
            return HTMLResponse(page, 403)
        return None


class _Front:
    """The routes behind the gate."""

    def __init__(self, console: Console, access: Access) -> None:
        self._console, self._access = console, access
        self._drawer, self._streams = Drawer(console), Streams(console)
        self._patterns = [(_pattern(page.path), page) for page in console.pages]

    def mount(self, app: FastAPI) -> None:
        routes: list[tuple[str, str, Callable[[Request], Awaitable[Response]]]] = [
            ("GET", "/enter", self._enter),
            ("GET", "/static/{name}", self._static),
            ("GET", "/events", self._events),
        ]
        routes += [("GET", page.path, self._page(page)) for page in self._console.pages]
        routes += [("GET", download.path, self._download(download)) for download in self._console.downloads]
        routes += [("POST", f"/do/{action.name}", self._action(action)) for action in self._console.actions]
        for method, path, handler in routes:
            app.add_api_route(path, handler, methods=[method], response_model=None)
        app.add_exception_handler(404, self._missing)
        app.add_exception_handler(405, self._missing)

    async def _enter(self, request: Request) -> Response:
        """A page that leads on, rather than a redirect: what follows then comes from a page of this origin's own."""
        cookie = self._access.enter(request.query_params.get("token", ""))
        if cookie is None:
            fault = ("This link is not this console's, or is one of an earlier start.",)
            return HTMLResponse(self._drawer.note(_stranger(request), title="Not opened", lines=fault), 403)
        lines = ("The console is open in this browser.",)
        page = self._drawer.note(_stranger(request), title="Open", lines=lines, back="/", is_fault=False)
        answer = HTMLResponse(page, headers={"Refresh": "0; url=/"})
        answer.set_cookie(self._access.cookie_name, cookie, httponly=True, samesite="strict", path="/")
        return answer

    async def _static(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in _STATIC:
            return await self._missing(request, None)
        data = (resources.files("yoriai.console") / "static" / name).read_bytes()
        return Response(data, media_type=_STATIC[name])

    def _page(self, page: Page) -> Callable[[Request], Awaitable[Response]]:
        async def shown(request: Request) -> Response:
            viewer, asked = self._viewer(request), _asked(request.path_params, request.url.query)
            status, html = await asyncio.to_thread(self._drawn, page, asked, viewer, _address(request))
            answer = HTMLResponse(html, status)
            if asked.query.get("language") in LANGUAGES:
                answer.set_cookie(_LANGUAGE, asked.query["language"], httponly=True, samesite="strict", path="/")
            return answer

        return shown

    def _drawn(self, page: Page, asked: Asked, viewer: Viewer, address: str) -> tuple[int, str]:
        try:
            return 200, self._drawer.page(page, page.values(asked), viewer, address)
        except YoriaiError as error:
            status = 404 if isinstance(error, ConfigError) else 503
            return status, self._drawer.note(viewer, title="Cannot be shown", lines=(str(error),), back="/")

    def _download(self, download: Download) -> Callable[[Request], Awaitable[Response]]:
        async def taken(request: Request) -> Response:
            asked = _asked(request.path_params, request.url.query)
            try:
                data = await asyncio.to_thread(download.content, asked)
            except YoriaiError as error:
                return self._told(request, "Cannot be shown", (str(error),), "/", 503)
            headers = {"Content-Disposition": f'attachment; filename="{download.name}"'}
            return Response(data, media_type=download.media, headers=headers)

        return taken

    def _action(self, action: Action) -> Callable[[Request], Awaitable[Response]]:
        async def done(request: Request) -> Response:
            form, cookie = await _form(request), self._cookie(request)
            lines: tuple[str, ...]
            is_ours = is_own_origin(request.headers) and self._access.is_own_form(cookie, form.pop("form_key", ""))
            if not is_ours or self._access.role_of(cookie) != "act":
                lines = ("This link may not act, or the form is not of a page of this console. Nothing was changed.",)
                return self._told(request, "Refused", lines, action.back, 403)
            try:
                lines = tuple(await asyncio.to_thread(action.do, form))
            except YoriaiError as error:
                return self._told(request, "Not done", (str(error),), action.back, 409)
            return self._told(request, action.title, lines, action.back, 200)

        return done

    def _told(self, request: Request, title: str, lines: tuple[str, ...], back: str, status: int) -> Response:
        page = self._drawer.note(self._viewer(request), title=title, lines=lines, back=back, is_fault=status != 200)
        return HTMLResponse(page, status)

    async def _missing(self, request: Request, _error: Any) -> Response:
        lines = ("There is no such page.",)
        return HTMLResponse(self._drawer.note(self._viewer(request), title="Not found", lines=lines, back="/"), 404)

    async def _events(self, request: Request) -> Response:
        page, asked = self._page_at(request.query_params.get("page", ""))
        if page is None or not page.every_s:
            return await self._missing(request, None)
        if self._streams.are_full:
            return Response("too many pages are open\n", 503, media_type="text/plain")
        known, viewer = request.query_params.get("known", ""), self._viewer(request)
        return StreamingResponse(self._streams.changes(page, asked, viewer, known), media_type="text/event-stream")

    def _page_at(self, address: str) -> tuple[Page | None, Asked]:
        """The page at an address of this console, and what is asked of it."""
        try:
            parts = urlsplit(address)
        except ValueError:
            return None, Asked()
        if parts.netloc:
            return None, Asked()
        for pattern, page in self._patterns:
            if found := pattern.fullmatch(unquote(parts.path)):
                return page, _asked(found.groupdict(), parts.query)
        return None, Asked()

    def _cookie(self, request: Request) -> str:
        return request.cookies.get(self._access.cookie_name, "")

    def _viewer(self, request: Request) -> Viewer:
        cookie = self._cookie(request)
        role = self._access.role_of(cookie)
        return Viewer(_language(request), role, self._access.form_key(cookie) if role == "act" else "")


def _pattern(path: str) -> re.Pattern[str]:
    """What the paths of a page look like; a place in it takes slashes too, for a run's name may have them."""
    return re.compile(re.sub(r"\{(\w+):path\}", r"(?P<\1>.+)", path))


def _stranger(request: Request) -> Viewer:
    return Viewer(_language(request))


def _language(request: Request) -> str:
    chosen = request.query_params.get("language") or request.cookies.get(_LANGUAGE, "")
    return language_of(chosen, request.headers.get("accept-language", ""))


def _address(request: Request) -> str:
    return quote(request.scope["path"]) + (f"?{request.url.query}" if request.url.query else "")


def _asked(path: Mapping[str, Any], query: str) -> Asked:
    """What is asked of a page; nothing of a query that is too long."""
    values: dict[str, str] = {}
    with suppress(ValueError):
        values = dict(parse_qsl(query, max_num_fields=32))
    return Asked({name: str(value) for name, value in path.items()}, values)


async def _form(request: Request) -> dict[str, str]:
    """The fields of a form; none of one that is too long, or of another kind."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > _LARGEST_FORM_BYTES:
            return {}
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/x-www-form-urlencoded":
        return {}
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=64))
    except ValueError:
        return {}
