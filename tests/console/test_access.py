"""Who gets into a console: whoever has its link, from this machine, and acts only from a page of its own."""

import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.commands import server
from tests.console.processes import console_process
from tests.console.stored import Visitor, opened
from yoriai.console.access import Access, is_own_host
from yoriai.console.front import HEADERS
from yoriai.console.pages import Action, Asked, Console, Download, Page
from yoriai.errors import ConfigError, StorageError

SECRET = "swordfish"


def console(done: list[dict[str, str]] | None = None) -> Console:
    """A console of one page, a file and a page that cannot be read; with actions if there is where to note them."""

    def values(_asked: Asked) -> dict[str, object]:
        return {"lines": (SECRET,), "back": "", "is_fault": False}

    def broken(_asked: Asked) -> dict[str, object]:
        raise StorageError("the file is damaged")

    def act(form: dict[str, str]) -> list[str]:
        if form.get("name") == "wrong":
            raise ConfigError("there is no such name")
        assert done is not None
        done.append(dict(form))
        return ["it is done"]

    pages = (
        Page("/", "Overview", "note.html.j2", values),
        Page("/broken", "Log", "note.html.j2", broken),
    )
    files = (Download("/export/log.jsonl", "log.jsonl", "application/x-ndjson", lambda _: SECRET.encode()),)
    actions = (Action("act", "Approved", act),) if done is not None else ()
    return Console("server", "office", "yoriai.console", pages, files, actions)


@pytest.fixture(scope="module")
def done() -> list[dict[str, str]]:
    """What was acted."""
    return []


@pytest.fixture(scope="module")
def access(done: list[dict[str, str]]) -> Iterator[Access]:
    with opened(console(done)) as found:
        yield found


@pytest.fixture
def origin(access: Access) -> str:
    return access.links["read"].partition("/enter")[0]


@pytest.mark.parametrize("path", ["/", "/broken", "/events?page=/", "/export/log.jsonl", "/nothing", "/%09enter"])
def test_without_the_link_nothing_is_shown(origin: str, path: str) -> None:
    answer = httpx.get(origin + path)
    assert answer.status_code == 403
    assert SECRET not in answer.text
    assert "Open the link" in answer.text


@pytest.mark.parametrize("token", ["", "x", "x" * 43, "é", "%00"])
def test_a_wrong_token_opens_nothing(origin: str, token: str) -> None:
    answer = httpx.get(f"{origin}/enter", params={"token": token})
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers


def test_a_made_up_cookie_opens_nothing(access: Access, origin: str) -> None:
    answer = httpx.get(origin, cookies={access.cookie_name: "x" * 43})
    assert answer.status_code == 403


def test_the_link_gives_a_cookie_that_no_script_and_no_other_site_gets_and_that_is_not_the_token(
    access: Access,
) -> None:
    link = access.links["read"]
    answer = httpx.get(link)
    cookie = answer.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= {part.strip() for part in cookie.split(";")}
    assert link.partition("token=")[2] not in cookie
    assert answer.headers["refresh"] == "0; url=/"
    assert SECRET in Visitor(access).page("/")


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "10.0.0.1:8021", "", "[::1].evil:1"])
def test_a_name_of_somebody_else_that_leads_to_loopback_is_refused(access: Access, host: str) -> None:
    answer = Visitor(access).client.get("/", headers={"Host": host})
    assert answer.status_code in (400, 421)
    assert SECRET not in answer.text


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:8021", "localhost:99", "LOCALHOST", "[::1]", "[::1]:8021"])
def test_loopback_by_any_of_its_names_and_ports_is_its_own(host: str) -> None:
    assert is_own_host(host)


@pytest.mark.parametrize(
    "path", ["/", "/broken", "/nothing", "/enter?token=x", "/static/console.css", "/export/log.jsonl"]
)
def test_every_answer_forbids_scripts_frames_and_requests_of_others(access: Access, path: str) -> None:
    for client in (Visitor(access).client, httpx.Client(base_url=Visitor(access).origin)):
        found = client.get(path).headers
        assert {name: found[name] for name in HEADERS} == HEADERS
        assert "unsafe" not in found["content-security-policy"]


def test_no_page_holds_a_script_or_a_style_of_its_own_or_leads_elsewhere(access: Access) -> None:
    html = Visitor(access, "act").page("/")
    assert not re.search(r"<script(?! src=\"/static/console\.js\")|<style| style=| on[a-z]+=|https?://", html)


def act(visitor: Visitor, headers: dict[str, str] | None = None, **fields: str) -> httpx.Response:
    given = {"form_key": _key(visitor), **fields}
    return visitor.client.post("/do/act", data=given, headers=headers or {"Origin": visitor.origin})


def _key(visitor: Visitor) -> str:
    """What a page's form would hold; this console's page has none."""
    return visitor.access.form_key(visitor.client.cookies[visitor.access.cookie_name])


def test_an_action_from_a_page_of_the_acting_link_is_done(access: Access, done: list[dict[str, str]]) -> None:
    answer = act(Visitor(access, "act"), name="north")
    assert answer.status_code == 200
    assert "it is done" in answer.text
    assert done[-1] == {"name": "north"}


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "https://127.0.0.1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_a_request_from_a_page_of_somebody_else_does_nothing_even_with_cookie_and_key(
    access: Access, done: list[dict[str, str]], headers: dict[str, str]
) -> None:
    before = list(done)
    assert act(Visitor(access, "act"), headers).status_code == 403
    assert done == before


@pytest.mark.parametrize("form_key", ["", "x", "00" * 32])
def test_a_form_without_the_pages_key_does_nothing(access: Access, done: list[dict[str, str]], form_key: str) -> None:
    before = list(done)
    assert act(Visitor(access, "act"), form_key=form_key).status_code == 403
    assert done == before


def test_who_may_look_alone_does_nothing(access: Access, done: list[dict[str, str]]) -> None:
    before = list(done)
    assert act(Visitor(access, "read")).status_code == 403
    assert done == before


def test_an_action_by_get_a_file_or_a_body_without_end_does_nothing(access: Access, done: list[dict[str, str]]) -> None:
    before, visitor = list(done), Visitor(access, "act")
    own = {"Origin": visitor.origin}
    assert visitor.client.get(f"/do/act?form_key={_key(visitor)}").status_code == 404
    assert visitor.client.post("/do/act", files={"form_key": _key(visitor)}, headers=own).status_code == 403
    long = {"form_key": _key(visitor), "name": "x" * 70_000}
    assert visitor.client.post("/do/act", data=long, headers=own).status_code == 403
    assert done == before


def test_what_an_action_refuses_is_said_with_its_words(access: Access) -> None:
    answer = act(Visitor(access, "act"), name="wrong")
    assert answer.status_code == 409
    assert "there is no such name" in answer.text


def test_without_the_flag_there_is_no_second_link_and_no_action() -> None:
    with opened(console()) as access:
        assert list(access.links) == ["read"]
        visitor = Visitor(access)
        assert act(visitor).status_code == 404


@pytest.mark.parametrize(
    "path",
    [
        "/?" + "&".join(f"a{number}=1" for number in range(100)),
        "/?language=%FF%FE",
        "/events?page=http://[",
        "/events?page=%00",
        "/events?page=" + "x" * 5000,
        "/jobs/%2E%2E%2F%2E%2E%2Fetc%2Fpasswd",
        "/static/..%2Faccess.py",
        "/static/%2e%2e/access.py",
        "/do/act",
        "//evil.example/",
    ],
)
def test_an_odd_request_is_answered_without_a_fault_and_with_nothing_of_the_disk(access: Access, path: str) -> None:
    answer = Visitor(access, "act").client.get(path)
    assert answer.status_code in (200, 404)
    assert "root:" not in answer.text
    assert "class Access" not in answer.text


def test_what_cannot_be_read_is_said_and_the_other_pages_stay(access: Access) -> None:
    answer = Visitor(access).client.get("/broken")
    assert answer.status_code == 503
    assert "the file is damaged" in answer.text


def test_a_page_is_in_the_language_of_the_browser_or_in_the_one_that_was_chosen(access: Access) -> None:
    visitor = Visitor(access)
    assert '<html lang="es">' in visitor.page("/", **{"Accept-Language": "es-MX,es;q=0.9,en;q=0.8"})
    assert '<html lang="en">' in visitor.page("/", **{"Accept-Language": "tlh"})
    assert '<html lang="ja">' in visitor.page("/?language=ja", **{"Accept-Language": "es"})
    assert '<html lang="ja">' in visitor.page("/", **{"Accept-Language": "es"})
    assert '<html lang="es">' in visitor.page("/?language=../x", **{"Accept-Language": "es"})


def test_the_command_listens_on_loopback_alone_prints_its_link_once_and_ends_by_a_signal(tmp_path: Path) -> None:
    with console_process("server", "console", server(tmp_path / "s")) as (process, link):
        port = int(link.split(":")[2].partition("/")[0])
        assert [row[1] for row in _sockets(process.pid)] == [f"0100007F:{port:04X}"]
        assert link not in Path(f"/proc/{process.pid}/cmdline").read_text()
        assert httpx.get(link, timeout=60).status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) in (0, -signal.SIGTERM)
        assert process.stdout is not None
        assert "token=" not in process.stdout.read()


@pytest.mark.slow
def test_an_idle_console_takes_less_than_a_hundredth_of_a_core_and_has_no_connection(tmp_path: Path) -> None:
    with console_process("server", "console", server(tmp_path / "s")) as (process, link):
        with httpx.Client(timeout=60) as client:
            assert client.get(link).status_code == 200
            assert client.get(link.partition("/enter")[0]).status_code == 200
        before, began = _cpu_s(process.pid), time.monotonic()
        time.sleep(20)
        assert (_cpu_s(process.pid) - before) / (time.monotonic() - began) < 0.01
        assert [row[3] for row in _sockets(process.pid)] == ["0A"]  # It listens, and no more.


def _sockets(pid: int) -> list[list[str]]:
    """The TCP sockets of a process, as the kernel lists them."""
    own = {os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()}
    rows = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    return [row for row in rows if f"socket:[{row[9]}]" in own]


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
