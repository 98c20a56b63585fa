"""What the server last said to a site's SuperNode, by what Flower (1.41) wrote of it. Pure but for reading the file.

Whatever else is written into the same file might be these very words. That is no loss: who keeps a SuperNode is taken
at its word for nothing but a line on its own operator's screen.
"""

from dataclasses import dataclass
from pathlib import Path

_LAST_BYTES = 64 * 1024
_TAKEN = "SuperNode ID:"
# By the words of Flower that mean it.
_REFUSED = {
    "Failed to activate SuperNode": "it knows no member by this node's key: not enrolled there, or revoked",
    "401 Unauthorized": "it does not take this node's signature: this machine's clock is off, or it was revoked",
}
_FAILED = "Failed to initialize the connection to the SuperLink"


@dataclass(frozen=True)
class Word:
    """Whether the server takes the node (None: it was not heard), and why not."""

    accepted: bool | None = None
    text: str = ""


def last_word(path: Path) -> Word:
    """The server's last word in a SuperNode's log; no word where there is none yet."""
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - _LAST_BYTES))
            return word_of(stream.read().decode(errors="replace"))
    except OSError:
        return Word()


def word_of(text: str) -> Word:
    """The server's last word in what Flower wrote."""
    taken, failed = text.rfind(_TAKEN), text.rfind(_FAILED)
    if taken < 0 and failed < 0:
        return Word()
    if taken > failed:
        return Word(accepted=True)
    for words, meaning in _REFUSED.items():
        if words in text[failed:]:
            return Word(accepted=False, text=meaning)
    return Word(text="it could not be reached: see node/supernode.log")
