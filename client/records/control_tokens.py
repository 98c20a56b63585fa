"""A control token's name inside a record's own text is text: only a template opens and ends turns.

A tokenizer takes `<|im_start|>` or `</s>` for the token of that name, wherever it stands. So a record's text could open
a turn, or end one. Names are therefore hidden while a template is filled in, which may trim a text or look at it, and
then become the tokens of their letters. All other text meets the template as it always has.

Which tokens control is the tokenizer's own word: those that it calls special. Other added ones (`<think>`, runs of
blanks) are text that the base has learnt to read so, and stay that.
"""

import re
from typing import Any, Final, Protocol

_MARK: Final = "\ue000"  # For private use, and so no letter of any script; one that a text holds is hidden as well.
_HIDDEN = re.compile(f"{_MARK}([0-9]+){_MARK}")
_BEFORE: Final = "\n"  # Hardly a tokenizer joins it to what follows.


class Tokenizer(Protocol):
    """The part of a transformers tokenizer that encoding needs."""

    @property
    def bos_token_id(self) -> Any: ...

    @property
    def eos_token_id(self) -> Any: ...

    @property
    def all_special_tokens(self) -> Any: ...

    @property
    def added_tokens_decoder(self) -> Any: ...

    def convert_tokens_to_ids(self, tokens: str) -> Any: ...

    def encode(self, text: str, *, add_special_tokens: bool, split_special_tokens: bool = False) -> list[int]: ...

    def apply_chat_template(
        self, conversation: list[dict[str, str]], *, tokenize: bool, add_generation_prompt: bool
    ) -> Any: ...


class TextEncoder:
    """From text to tokens, in which a template's control tokens are such and a record's are letters.

    Args:
        tokenizer: of transformers.

    Attributes:
        tokenizer: the same.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        added = (token for token in tokenizer.added_tokens_decoder.values() if token.special)
        names = {str(name) for name in (*tokenizer.all_special_tokens, *added, _MARK)} - {""}
        self._names = sorted(names, key=lambda name: (-len(name), name))  # As a tokenizer does, the longest first.
        self._place = {name: place for place, name in enumerate(self._names)}
        self._search = re.compile("|".join(map(re.escape, self._names)))

    def hidden(self, text: str) -> str:
        """A record's text as a template may take it in: without the name of a control token."""
        return self._search.sub(lambda found: f"{_MARK}{self._place[found[0]]}{_MARK}", text)

    def encode(self, filled: str) -> list[int]:
        """The tokens of a template into which hidden texts were filled, or of a part of it."""
        ids: list[int] = []
        for number, piece in enumerate(_HIDDEN.split(filled)):
            if number % 2:
                ids += self._letters(self._names[int(piece)], behind=bool(ids))
            elif piece:
                ids += self._encode(piece, behind=bool(ids))
        return ids

    def encode_text(self, text: str) -> list[int]:
        """The tokens of a record's text by itself."""
        return self.encode(self.hidden(text))

    def _letters(self, name: str, *, behind: bool) -> list[int]:
        whole = self._encode(name, behind=behind, split=True)
        if self.tokenizer.convert_tokens_to_ids(name) not in whole:
            return whole
        # Some vocabularies hold the name itself, as if it were a word.
        return [token for letter in name for token in self._encode(letter, behind=True, split=True)]

    def _encode(self, text: str, *, behind: bool, split: bool = False) -> list[int]:
        """Tokens of a text; behind others without the blank that some tokenizers put before what they are given."""
        if behind:
            before = self.tokenizer.encode(_BEFORE, add_special_tokens=False)
            both = self.tokenizer.encode(_BEFORE + text, add_special_tokens=False, split_special_tokens=split)
            if both[: len(before)] == before:
                return both[len(before) :]
        return self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=split)
