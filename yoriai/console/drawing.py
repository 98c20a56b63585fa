"""Pages from templates: everything is escaped, a name that is missing is an error, and times and spans are in words."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined, pass_context
from jinja2.runtime import Context

import yoriai
from yoriai.alarms.alarm import Alarm
from yoriai.console.access import Role
from yoriai.console.pages import Console, Page
from yoriai.console.retelling import retold
from yoriai.console.words import LANGUAGES, Translate, translator

_MINUTE_S, _HOUR_S, _DAY_S = 60, 3600, 86_400


@dataclass(frozen=True)
class Viewer:
    """Who looks at a page.

    Attributes:
        language: in which it is said.
        role: what they may do; None before they have shown a link.
        form_key: of their forms; empty for who may not act.
    """

    language: str = "en"
    role: Role | None = None
    form_key: str = ""


class Drawer:
    """Draws the pages of a console.

    Args:
        console: whose pages they are.
    """

    def __init__(self, console: Console) -> None:
        self._console, self._templates = console, _environment(console)

    def page(self, page: Page, values: Mapping[str, Any], viewer: Viewer, address: str) -> str:
        """A whole page.

        Args:
            address: its path and query, which is drawn again while somebody looks.
        """
        live = self.live_part(page, values, viewer)
        shown = {"live": live, "digest": digest_of(live), "address": address if page.every_s else ""}
        template = self._templates.get_template(page.template)
        return template.render(self._everything(page, viewer, values) | shown)

    def live_part(self, page: Page, values: Mapping[str, Any], viewer: Viewer) -> str:
        """The part of a page that changes by itself."""
        template = self._templates.get_template(page.template)
        context = template.new_context(self._everything(page, viewer, values))
        return "".join(template.blocks["live"](context)).strip()

    def fault(self, viewer: Viewer, text: str) -> str:
        """What stands in place of a live part that cannot be read now."""
        return self._templates.get_template("fault.html.j2").render(t=translator(viewer.language), text=text)

    def note(self, viewer: Viewer, *, title: str, lines: tuple[str, ...], back: str = "", is_fault: bool = True) -> str:
        """A page that says one thing; the lines are English, as the command line says them."""
        page = Page("", title, "note.html.j2", lambda _: {}, every_s=0)
        values = {"lines": lines, "back": back, "is_fault": is_fault}
        return self.page(page, values, viewer, "")

    def _everything(self, page: Page, viewer: Viewer, values: Mapping[str, Any]) -> dict[str, Any]:
        """What a page's template knows: the page's own values, and what every page has.

        Raises:
            KeyError: a value of the page has the name of what every page has, and would stand in its place.
        """
        say = translator(viewer.language)
        common = {
            "t": say,
            "page": page,
            "title": say(page.title),
            "console": self._console,
            "viewer": viewer,
            "languages": LANGUAGES,
            "release": yoriai.__version__,
            "now": time.time(),
            "live": "",
            "digest": "",
            "address": "",
        }
        if taken := common.keys() & values.keys():
            raise KeyError(f"{page.path}: {', '.join(sorted(taken))}")
        return {**common, **values}


def digest_of(html: str) -> str:
    """By which two states of a page are told apart."""
    return sha256(html.encode()).hexdigest()[:16]


def _environment(console: Console) -> Environment:
    loader = ChoiceLoader([PackageLoader(console.package), PackageLoader("yoriai.console")])
    made = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.filters |= {
        "day": _day,
        "iso": _iso,
        "ago": _ago,
        "span": _span,
        "percent": lambda share: "" if share is None else f"{share:.0%}",
        "size": _size,
        "short": lambda digest: digest[:12],
    }
    made.filters |= console.filters
    made.globals["said"] = said
    made.globals["retold"] = retold
    made.globals["parts"] = made.get_template("parts.html.j2").module
    return made


def said(viewer: Viewer, alarm: Alarm) -> str:
    """An alarm in a language; a value too where it is the name of a paper, or a sentence that is known."""
    say = translator(viewer.language)

    def value_of(value: object) -> object:
        if not isinstance(value, str):
            return value
        told = say(value)
        return told if told != value else "".join(piece for piece, _ in retold(viewer.language, value))

    return say(alarm.text, **{name: value_of(value) for name, value in alarm.values.items()})


def _day(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M} UTC"


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")


def span_text(seconds: float, say: Translate) -> str:
    """A span in one unit, rounded down to whole minutes, so that a page does not change each second."""
    for unit_s, english in ((_DAY_S, "{n} d"), (_HOUR_S, "{n} h"), (_MINUTE_S, "{n} min")):
        if seconds >= 2 * unit_s or (unit_s == _MINUTE_S and seconds >= unit_s):
            return say(english, n=int(seconds // unit_s))
    return say("less than a minute")


def _size(size_bytes: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size_bytes < 1000:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.1f} TB"


@pass_context
def _ago(context: Context, at: float) -> str:
    return span_text(max(0.0, context["now"] - at), context["t"])


@pass_context
def _span(context: Context, seconds: float) -> str:
    return span_text(seconds, context["t"])
