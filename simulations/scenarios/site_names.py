"""Names of sites: what the user calls them, in any script, and what ledgers, keys, rosters and folders call them."""

from collections.abc import Iterable
from typing import Final

from yoriai.client.records.likeness import twins
from yoriai.errors import RecordError

_LONGEST: Final = 64


def identifier(text: str) -> str:
    """A name as jobs and sites have it, made from any text; empty if it has no letter or digit of ASCII."""
    name = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in text).strip("._-")
    return name[:_LONGEST]


def site_names(given: Iterable[str]) -> dict[str, tuple[str, str]]:
    """For each name that a user gave: the site's identifier, and the name as it is shown.

    An identifier is the given name itself where that will do, or its letters and digits of ASCII; where these are none,
    or another site's too, it is `site-NUMBER`, by the order of the given names.

    Raises:
        RecordError: two names differ only in case, Unicode form, spaces or characters that are not seen.
    """
    names = sorted(given)
    if pairs := twins(names):
        raise RecordError(
            "two sites have the same name but for case, spaces or hidden characters",
            found=" and ".join(shown(name) for name in pairs[0]),
            remedy="write the name of one site in one way",
        )
    made = [identifier(name).lower() for name in names]
    width = len(str(len(names)))
    taken = {name for name in made if name and made.count(name) == 1}
    found: dict[str, tuple[str, str]] = {}
    for number, (name, plain) in enumerate(zip(names, made, strict=True), start=1):
        inside = identifier(name) if plain in taken else f"site-{number:0{width}}"
        while plain not in taken and inside in taken:
            inside += "-x"
        taken.add(inside)
        found[name] = (inside, shown(name))
    repeated = [view for _, view in found.values()]
    return {n: (i, v if repeated.count(v) == 1 else f"{v} ({i})") for n, (i, v) in found.items()}


def shown(name: str) -> str:
    """A name on one line: what a screen cannot show is escaped, and a long one is cut."""
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name)
    return line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…"
