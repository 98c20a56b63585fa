"""The consoles in a real browser: live, by keyboard, small, printed, without a script, and with hostile neighbours."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browsers import WIDTHS, browser, visit
from tests.client.books import terms
from tests.console.processes import console_process
from tests.console.stored import EVENT, HOSTILE, opened, stored_server, stored_site
from yoriai.client.console.console import console_of as site_console
from yoriai.client.folder.site_folder import SiteFolder
from yoriai.client.offer.job_book import JobBook
from yoriai.console.access import Access
from yoriai.privacy.dp.accounting import event_to_dict
from yoriai.server.console.console import console_of as server_console
from yoriai.server.folder.server_folder import ServerFolder
from yoriai.server.jobs.job_store import JobStore

pytestmark = pytest.mark.slow
LANGUAGES = {"en": "What needs you", "ja": "対応が必要なこと", "es": "Lo que requiere su atención"}


@pytest.fixture(scope="module")
def made() -> Iterator[Browser]:
    with browser() as found:
        yield found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ServerFolder:
    return stored_server(tmp_path_factory.mktemp("server-browser"))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> SiteFolder:
    return stored_site(tmp_path_factory.mktemp("site-browser"))


@pytest.fixture(scope="module")
def of_server(folder: ServerFolder) -> Iterator[Access]:
    with opened(server_console(folder, allow_actions=True)) as access:
        yield access


@pytest.fixture(scope="module")
def of_site(place: SiteFolder) -> Iterator[Access]:
    with opened(site_console(place, allow_actions=True)) as access:
        yield access


def pages_of(page: Page) -> list[str]:
    """Every page that the menu leads to, and the first job's."""
    paths = [str(link.get_attribute("href")) for link in page.locator("nav a").all()]
    page.goto(_at(page, "/jobs"))
    return [*paths, str(page.locator("tbody th a").first.get_attribute("href"))]


def _at(page: Page, path: str) -> str:
    return "/".join(page.url.split("/")[:3]) + path


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("whose", ["of_server", "of_site"])
def test_every_page_fits_its_width_in_each_language(
    made: Browser, request: pytest.FixtureRequest, whose: str, language: str, width: str
) -> None:
    access: Access = request.getfixturevalue(whose)
    size = {"width": WIDTHS[width], "height": 800}
    with visit(made, access.links["act"], viewport=size, locale=language) as page:
        expect(page.get_by_text(LANGUAGES[language])).to_be_visible()
        for path in pages_of(page):
            page.goto(_at(page, path), wait_until="load")
            assert page.evaluate("document.documentElement.scrollWidth") <= WIDTHS[width], path
            assert page.locator("html").get_attribute("lang") == language


_CONTRAST = """() => {
  const part = c => { c /= 255; return c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; };
  const rgb = text => text.match(/[\\d.]+/g).map(Number);
  const light = c => 0.2126 * part(c[0]) + 0.7152 * part(c[1]) + 0.0722 * part(c[2]);
  const ground = e => { for (; e; e = e.parentElement) {
    const c = rgb(getComputedStyle(e).backgroundColor);
    if (c.length < 4 || c[3] > 0) return c; } return [255, 255, 255]; };
  const poor = [];
  for (const e of document.querySelectorAll("body *")) {
    if (![...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim())) continue;
    if (!e.getClientRects().length || e.closest("option")) continue;
    const [a, b] = [light(rgb(getComputedStyle(e).color)), light(ground(e))].sort((x, y) => y - x);
    const found = (a + 0.05) / (b + 0.05);
    if (found < 4.5) poor.push([e.tagName, e.className, found.toFixed(2), e.textContent.slice(0, 30)].join(" "));
  }
  return poor;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("whose", ["of_server", "of_site"])
def test_all_text_stands_out_from_its_ground_in_both_schemes(
    made: Browser, request: pytest.FixtureRequest, whose: str, scheme: str
) -> None:
    access: Access = request.getfixturevalue(whose)
    with visit(made, access.links["act"], color_scheme=scheme) as page:
        for path in pages_of(page):
            page.goto(_at(page, path), wait_until="load")
            assert page.evaluate(_CONTRAST) == [], path


def test_without_a_script_every_page_is_whole_and_is_loaded_again_by_itself(made: Browser, of_server: Access) -> None:
    with visit(made, of_server.links["read"], java_script_enabled=False) as page:
        assert 'http-equiv="refresh" content="30"' in page.content()
        for path in ("/sites", "/jobs", "/versions", "/log", "/officer"):
            page.goto(_at(page, path), wait_until="load")
            assert page.locator("h1").is_visible()
            assert page.locator("table tbody tr").count() > 0, path
        assert not page.get_by_text("Changes appear by themselves").is_visible()


def test_a_printed_page_has_its_content_and_neither_menu_nor_forms(made: Browser, of_server: Access) -> None:
    with visit(made, of_server.links["act"]) as page:
        page.emulate_media(media="print")
        for path, parts in (("/versions", ("nav", "form", ".actions", ".languages", ".told")), ("/log", ("form",))):
            page.goto(_at(page, path), wait_until="load")
            assert page.locator("table").first.is_visible()
            for part in parts:
                assert not page.locator(part).first.is_visible(), part


def test_by_keyboard_one_comes_to_the_content_and_to_every_link_and_sees_where_one_is(
    made: Browser, of_server: Access
) -> None:
    with visit(made, of_server.links["read"]) as page:
        page.wait_for_load_state("load")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        wanted = page.locator("a[href], button, input, select, [tabindex]").count()
        reached = set()
        for _ in range(wanted):
            reached.add(page.evaluate("document.activeElement.outerHTML"))
            outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            assert outline == "solid"
            page.keyboard.press("Tab")
        assert len(reached) == wanted


def test_a_change_appears_without_a_reload_and_the_focus_stays(
    made: Browser, of_server: Access, folder: ServerFolder
) -> None:
    job = JobStore(folder.jobs).jobs()[-1]
    with visit(made, of_server.links["read"]) as page:
        page.goto(_at(page, "/jobs"), wait_until="load")
        expect(page.get_by_role("status")).to_have_text("Changes appear by themselves")
        link = page.get_by_role("link", name=job.run_id)
        link.focus()
        page.evaluate("window.same = true")
        job.change(error="the disk is full")
        try:
            expect(page.get_by_text("the disk is full")).to_be_visible()
            assert page.evaluate("window.same") is True
            expect(link).to_be_focused()
        finally:
            job.change(error="")


def test_a_console_that_has_ended_is_told_and_what_is_shown_stays(made: Browser, folder: ServerFolder) -> None:
    with console_process("server", "console", folder.path) as (process, link), visit(made, link) as page:
        expect(page.get_by_role("status")).to_have_text("Changes appear by themselves")
        process.terminate()
        process.wait(60)
        expect(page.get_by_role("status")).to_contain_text("No connection to the console")
        assert page.get_by_text("Free disk").is_visible()


def test_a_job_is_approved_in_the_browser_by_keyboard_alone(made: Browser, of_site: Access, place: SiteFolder) -> None:
    book = JobBook(place.jobs)
    book.consider(terms("lathes-1", event=event_to_dict(EVENT)), rounds_done=0)
    with visit(made, of_site.links["act"]) as page:
        page.goto(_at(page, "/jobs/lathes-1"), wait_until="load")
        page.get_by_label("Why; kept with your name, for good").first.focus()
        page.keyboard.type("agreed by telephone")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")  # Without the tick the browser itself does not send it.
        assert JobBook(place.jobs).find("lathes-1").state == "waiting"
        page.keyboard.press("Space")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        expect(page.get_by_text("approved run lathes-1")).to_be_visible()
    assert JobBook(place.jobs).find("lathes-1").state == "approved"


def test_who_looks_alone_sees_no_form(made: Browser, of_site: Access) -> None:
    with visit(made, of_site.links["read"]) as page:
        for path in ("/jobs/pumps-3", "/adapters"):
            page.goto(_at(page, path), wait_until="load")
            assert page.locator("form[method=post]").count() == 0


def test_a_script_in_a_name_runs_nowhere_and_nothing_outside_is_asked(
    made: Browser, of_site: Access, of_server: Access, place: SiteFolder, folder: ServerFolder
) -> None:
    job = {**terms().job, "purpose": HOSTILE}
    JobBook(place.jobs).consider(terms(HOSTILE, job=job, weights={HOSTILE: 1}))
    failed = JobStore(folder.jobs).jobs()[-1]
    failed.change(error=HOSTILE)
    try:
        for access in (of_site, of_server):
            with visit(made, access.links["act"]) as page:
                asked, said = [], []
                page.on("request", lambda request, asked=asked: asked.append(request.url))
                page.on("dialog", lambda dialog, said=said: said.append(dialog.message))
                for path in [*pages_of(page), "/jobs"]:
                    page.goto(_at(page, path), wait_until="load")
                    assert page.title() != "taken"
                    assert page.locator("img").count() == 0
                origin = _at(page, "/")
                assert [url for url in asked if not url.startswith(origin)] == []
                assert said == []
    finally:
        failed.change(error="")
        book = JobBook(place.jobs)
        book.decide(book.find(HOSTILE), "refused", by="hana")


def test_a_wrong_link_shows_nothing(made: Browser, of_server: Access) -> None:
    with made.new_context() as context:
        page = context.new_page()
        page.goto(of_server.links["read"][:-4] + "xxxx")
        assert page.get_by_text("This link is not this console's").is_visible()
        page.goto(_at(page, "/sites"))
        assert page.get_by_text("Open the link that the command has printed").is_visible()
        assert page.locator("table").count() == 0


@contextmanager
def stranger(target: str, run: str, form_key: str) -> Iterator[str]:
    """The port of a page of somebody else, which sends a form to a console as soon as it is shown."""
    fields = {"run": run, "agreed": "yes", "form_key": form_key}
    inputs = "".join(f'<input name="{name}" value="{value}">' for name, value in fields.items())
    page = f'<form id="f" method="post" action="{target}">{inputs}</form><script>f.submit()</script>'.encode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield str(listening.server_address[1])
        listening.shutdown()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_page_of_a_stranger_on_this_very_machine_cannot_cancel_a_job_even_if_it_knew_the_forms_key(
    made: Browser, of_server: Access, folder: ServerFolder, host: str
) -> None:
    """From 127.0.0.1 the browser sends the cookie along: another port is the same site to it."""
    job = next(job for job, state in JobStore(folder.jobs).states().items() if state.phase == "queued")
    with visit(made, of_server.links["act"]) as page:
        page.goto(_at(page, f"/jobs/{job.run_id}"), wait_until="load")
        key = re.findall(r'name="form_key" value="(\w+)"', page.content())[0]
        with stranger(_at(page, "/do/cancel"), job.run_id, key) as port:
            page.goto(f"http://{host}:{port}/")
            page.wait_for_url("**/do/cancel")
            expect(page.locator(".fault")).to_be_visible()
    assert job.state().phase == "queued"
