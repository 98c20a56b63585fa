"""Lines on the terminal, and words of somebody else as they may stand there or in a log."""

from rich.console import Console

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


def count_of_sites(sites: int) -> str:
    """The number with its noun."""
    return "one site" if sites == 1 else f"{sites} sites"
