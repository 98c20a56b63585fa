"""What a console consists of: pages with the values that they show, files to take away, and what may be done."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

LIVE_EVERY_S: Final = 5.0


@dataclass(frozen=True)
class Asked:
    """What a request asks of a page.

    Attributes:
        path: the values of the places in the page's path.
        query: the last value of each name.
    """

    path: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Page:
    """One page.

    Attributes:
        path: with places in braces, such as "/jobs/{run:path}".
        title: in English; a key of the words.
        template: file in one of the console's packages.
        values: what the template shows; raises YoriaiError, of which ConfigError means that there is no such thing.
        every_s: how often it is drawn again while somebody looks; 0: it does not change by itself.
        in_menu: whether every page leads to it.
    """

    path: str
    title: str
    template: str
    values: Callable[[Asked], Mapping[str, Any]]
    every_s: float = LIVE_EVERY_S
    in_menu: bool = True


@dataclass(frozen=True)
class Download:
    """A file that may be taken away.

    Attributes:
        name: of the file.
        media: its type.
        content: the file; raises YoriaiError.
    """

    path: str
    name: str
    media: str
    content: Callable[[Asked], bytes]


@dataclass(frozen=True)
class Action:
    """What a form has done.

    Attributes:
        name: the last part of its path.
        title: in English; a key of the words.
        do: given the form's fields, does it with the checks of the command of that name, and says what it did in
            lines. Raises YoriaiError.
        back: the page to go on with.
    """

    name: str
    title: str
    do: Callable[[Mapping[str, str]], Sequence[str]]
    back: str = "/"


@dataclass(frozen=True)
class Console:
    """A console without the process that serves it.

    Attributes:
        kind: whose it is.
        name: of the server, the site or the run.
        package: whose folder `templates` has the pages' templates.
        pages: the first one is where a link leads to.
        filters: more of them for its templates, by name.
    """

    kind: Literal["server", "site", "simulation"]
    name: str
    package: str
    pages: Sequence[Page]
    downloads: Sequence[Download] = ()
    actions: Sequence[Action] = ()
    filters: Mapping[str, Callable[..., str]] = field(default_factory=dict)
