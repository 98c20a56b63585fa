"""Words of somebody else, as they may stand on a terminal or in a log."""

_LONGEST = 300


def one_line(text: str) -> str:
    """The text without what could redraw a screen, control characters and line ends; no longer than a line bears."""
    return "".join(c if c.isprintable() else " " for c in text[:_LONGEST])
