"""The types that settings are made of: names, digests, lists without repetition, and the table they stand in."""

import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from yoriai.base_digest import PATTERN
from yoriai.config.faults import Expected

_PROMPT = "{prompt}"
_ADDRESS = re.compile(
    r"(?:(?P<name>[A-Za-z0-9][A-Za-z0-9.-]{0,252})|\[(?P<six>[0-9A-Fa-f:.]{2,45})\]):(?P<port>[0-9]{1,5})"
)


def _whole(value: object) -> object:
    """In Python 1, 1.0 and True are equal, and so all of them would pass for the literal 1."""
    if type(value) is not int:
        raise ValueError("is not a whole number")
    return value


def tuple_from_list(value: object) -> object:
    """TOML knows lists only; strict pydantic would refuse them for a tuple."""
    return tuple(value) if isinstance(value, list) else value


def distinct(values: tuple[str, ...]) -> tuple[str, ...]:
    """The values, if none stands twice."""
    if len(set(values)) < len(values):
        raise ValueError("names the same thing twice")
    return values


def _server_address(text: str) -> str:
    if text:
        host_and_port(text)
    return text


def host_and_port(address: str) -> tuple[str, int]:
    """The two parts of HOST:PORT; an IPv6 address stands in brackets, which are taken off.

    Raises:
        ValueError: it is no such text.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None or not 1 <= int(match["port"]) <= 65535:
        raise ValueError("is not HOST:PORT")
    return match["name"] or match["six"], int(match["port"])


def _proxy(text: str) -> str:
    if text:
        if not text.startswith("http://"):
            raise ValueError("does not begin with http://")
        host_and_port(text.removeprefix("http://").removesuffix("/"))
    return text


def _low_rank(layers: object) -> object:
    """Layers that are to train as a whole are refused with the reason; see docs/decisions/0038."""
    if isinstance(layers, str) and "dense" in layers:
        raise ValueError(
            "asks for dense layers: an update would have each entry of a map, hundreds of times what a low-rank one "
            "has, and at the same epsilon the noise in it would be some twenty times as large"
        )
    return layers


def _endpoint(url: str) -> str:
    """Who reads along on the way is another party: beyond loopback only TLS will do."""
    if url:
        parts = urlsplit(url)
        is_here = parts.hostname in ("127.0.0.1", "::1", "localhost")
        if parts.scheme != "https" and not (parts.scheme == "http" and is_here):
            raise ValueError("is neither https:// nor http:// of this machine")
        if not parts.hostname or parts.username or parts.query or parts.fragment:
            raise ValueError("is no plain address")
    return url


def _regular(patterns: tuple[str, ...]) -> tuple[str, ...]:
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error:
            raise ValueError("is no regular expression") from None
    return patterns


def is_text_encoding(name: str) -> bool:
    """Whether Python knows an encoding of texts by this name."""
    try:
        return isinstance(b"a".decode(name), str)
    except UnicodeError:  # There is one; it has no such text.
        return name.lower() != "undefined"
    except (LookupError, ValueError):
        return False


def _encoding(name: str) -> str:
    if name and not is_text_encoding(name):
        raise ValueError("is no encoding that Python knows")
    return name


def _one_prompt(template: str) -> str:
    if template.count(_PROMPT) != 1:
        raise ValueError(f"must hold {_PROMPT} exactly once, and holds it {template.count(_PROMPT)} times")
    return template


Name = Annotated[
    str,
    Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"),
    Expected("1 to 64 letters, digits, dots, dashes or underscores, beginning with a letter or digit"),
]
Digest = Annotated[
    str,
    Field(pattern=PATTERN),
    Expected("128 lower-case hexadecimal digits (two SHA-256), or the first 64 of them for the weights alone"),
]
AdapterDigest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$"), Expected("64 lower-case hexadecimal digits")]
Template = Annotated[str, AfterValidator(_one_prompt), Expected(f"a text that holds {_PROMPT} exactly once")]
Layers = Annotated[
    str,
    Field(pattern=r"^(all|last:[1-9][0-9]*)$"),
    BeforeValidator(_low_rank),
    Expected('"all" or "last:K", K at least 1'),
]
Device = Annotated[str, Field(pattern=r"^(auto|cpu|cuda:[0-9]+)$"), Expected('"auto", "cpu" or "cuda:N"')]
# TOML's whole numbers have 64 bits; Python's would go beyond what a file can hold.
Whole = Annotated[int, Field(ge=0, lt=2**63), Expected("a whole number of at least 0 and below 2^63")]
Count = Annotated[int, Field(ge=1, lt=2**63), Expected("a whole number of at least 1 and below 2^63")]
Seconds = Annotated[float, Field(ge=1e-3, le=1e7)]
MetricsPort = Annotated[int, Field(ge=0, le=65535)]
NonEmpty = Annotated[str, Field(min_length=1), Expected("a text that is not empty")]
Address = Annotated[str, AfterValidator(_server_address), Expected("HOST:PORT, or an empty text")]
Proxy = Annotated[str, AfterValidator(_proxy), Expected("http://HOST:PORT without a password, or an empty text")]
EndpointUrl = Annotated[
    str, AfterValidator(_endpoint), Expected("https://HOST/v1, http://127.0.0.1:PORT/v1, or an empty text")
]
Encoding = Annotated[str, AfterValidator(_encoding), Expected("a text encoding such as cp932, or an empty text")]
Version = Annotated[Literal[1], BeforeValidator(_whole)]
_LISTED = (BeforeValidator(tuple_from_list), AfterValidator(distinct), Field(json_schema_extra={"uniqueItems": True}))
Texts = Annotated[tuple[NonEmpty, ...], *_LISTED, Expected("a list of texts, none of them empty, none twice")]
SomeTexts = Annotated[
    Texts, Field(min_length=1), Expected("a list of one or more texts, none of them empty, none twice")
]
State = Annotated[str, Field(pattern=r"^(last|mean|mean:[1-9][0-9]{0,3})$")]
States = Annotated[
    tuple[State, ...],
    *_LISTED,
    Field(min_length=1, max_length=8),
    Expected('a list of one to eight of "last", "mean" and "mean:K", none twice'),
]
Kinds = Annotated[
    tuple[Literal["lm", "instruct", "classify"], ...],
    *_LISTED,
    Expected('a list of "lm", "instruct", "classify", none twice'),
]
Patterns = Annotated[
    tuple[NonEmpty, ...], *_LISTED, AfterValidator(_regular), Expected("a list of regular expressions, none twice")
]
Languages = Annotated[
    tuple[Literal["en", "es", "ja"], ...],
    *_LISTED,
    Field(min_length=1),
    Expected('a list of one or more of "en", "es", "ja", none twice'),
]
Digests = Annotated[tuple[Digest, ...], *_LISTED, Expected("a list of digests in hexadecimal, none twice")]


class Table(BaseModel):
    """A table of a file: frozen, strict, and without room for unknown keys."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)
