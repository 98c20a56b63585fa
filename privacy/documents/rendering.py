"""How the pages' templates are filled: texts of others are escaped for HTML, or for Markdown by `plain`."""

import re
from importlib import resources
from typing import TYPE_CHECKING, Final

from yoriai.privacy.dp.wording import epsilon_text
from yoriai.terminal import one_line

if TYPE_CHECKING:
    from jinja2 import Template

_MARKUP: Final = re.compile(r"([\\`*_\[\]<>|~])")


def template(name: str) -> "Template":
    """A template of this room, with the filters `plain`, `small` and `epsilon`; one of HTML escapes all that it shows.

    Args:
        name: of a file in templates/, such as `certificate.html.j2`.
    """
    from jinja2 import Environment, StrictUndefined

    is_html = name.endswith(".html.j2")
    environment = Environment(autoescape=is_html, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"plain": plain, "small": small, "epsilon": epsilon_text}
    file = resources.files("yoriai.privacy.documents") / "templates" / name
    return environment.from_string(file.read_text(encoding="utf-8"))


def plain(text: str) -> str:
    """A text of somebody else on one line, with nothing that Markdown or HTML would take for its own."""
    return _MARKUP.sub(r"\\\1", one_line(text)).replace("&", "&amp;")


def small(value: float) -> str:
    """1e-5, not 1e-05."""
    return f"{value:g}".replace("e-0", "e-")
