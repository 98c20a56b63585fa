"""Lines on the terminal, and words of somebody else as they may stand there or in a log."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from rich import box
from rich.console import Console

from yoriai.system.heartbeat import Heartbeat

# Of a table: rules under the heading and above the total, nothing else.
RULED: Final = box.Box("    \n    \n ── \n    \n ── \n ── \n    \n    \n")
_LONGEST = 300
_console = Console()


def one_line(text: str) -> str:
    """The text without what could redraw a screen, control characters and line ends; no longer than a line bears."""
    return "".join(c if c.isprintable() else " " for c in text[:_LONGEST])


def say(text: str) -> None:
    """Print a line as it stands: no markup, no colours, and not broken, so that paths and commands can be copied."""
    _console.print(text, highlight=False, markup=False, soft_wrap=True)


def say_rows(rows: str) -> None:
    """Print the lines of a text, indented."""
    for row in rows.splitlines():
        say(f"  {row}")


@contextmanager
def say_while(what: str, *, first_s: float = 10.0) -> Iterator[Callable[[str], None]]:
    """Show that a long step is at work: turning on a terminal, in a log by a line after `first_s` and at times after.

    On standard error, because what a command prints may be read by another one. Yields what changes the words.
    """
    console = Console(stderr=True)
    if console.is_interactive:
        with console.status(what) as status:
            yield status.update
        return

    def still(what: str, seconds: float) -> None:
        console.print(f"{what}, {rough_time(seconds)} so far", highlight=False, markup=False, soft_wrap=True)

    with Heartbeat(still, first_s=first_s) as heartbeat:
        heartbeat.doing(what)
        yield heartbeat.doing


def rough_time(seconds: float) -> str:
    """A span in one unit: seconds below a hundred, minutes below a hundred, then hours."""
    if round(seconds) < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def count_of_sites(sites: int) -> str:
    """The number with its noun."""
    return "one site" if sites == 1 else f"{sites} sites"
