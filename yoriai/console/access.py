"""Who may see a console, and who may act on it: whoever was given a link, from this machine, on a page of its own.

Threat model. The operator's browser also shows pages of strangers. Those can have it send requests to loopback, by any
name that resolves there; they can neither read the link nor set headers such as Host and Origin. Other users of the
machine can connect to the port, and see the command line, not the terminal. So

- a link holds a random token; whoever opens it gets a cookie with another secret, which no script and no other site has
- a request that names another host than loopback is refused, so that no name of a stranger's can lead here
- what changes something is a POST with a secret of the page in it, and says that it comes from this very origin

Not covered: root, programs of the operator's own user, and a program on another port of 127.0.0.1 that the operator's
browser visits: browsers send a cookie to every port of a host. Stop a console that is not looked at.
"""

import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final, Literal

Role = Literal["read", "act"]
_HOSTS: Final = ("127.0.0.1", "localhost", "[::1]")
_SCHEME: Final = "http://"


def _hash(text: str) -> bytes:
    return sha256(text.encode("utf-8", "surrogateescape")).digest()


@dataclass(frozen=True, repr=False)
class _Key:
    """A link's token, as its hash, and the secret of the cookie that it is exchanged for."""

    role: Role
    token: bytes
    cookie: str = field(default_factory=lambda: secrets.token_urlsafe(32))


class Access:
    """The links of one console; they hold as long as it runs.

    Args:
        port: that it listens on; the cookies of two consoles on one machine have two names.
        may_act: whether there is a second link, with which one may act.
    """

    def __init__(self, port: int, *, may_act: bool) -> None:
        roles: tuple[Role, ...] = ("act", "read") if may_act else ("read",)
        tokens = {role: secrets.token_urlsafe(32) for role in roles}
        self._keys = [_Key(role, _hash(token)) for role, token in tokens.items()]
        self.cookie_name = f"yoriai-{port}"
        self.links: Mapping[Role, str] = {
            role: f"http://127.0.0.1:{port}/enter?token={token}" for role, token in tokens.items()
        }

    def __repr__(self) -> str:
        return "Access()"

    def enter(self, token: str) -> str | None:
        """The cookie for a link's token; None for any other. The time that it takes tells nothing of a guess."""
        shown = _hash(token)
        fitting = [key.cookie for key in self._keys if hmac.compare_digest(key.token, shown)]
        return fitting[0] if fitting else None

    def role_of(self, cookie: str) -> Role | None:
        """What the bearer of a cookie may do; None for one that this console has not given."""
        shown = _hash(cookie)
        fitting = [key.role for key in self._keys if hmac.compare_digest(_hash(key.cookie), shown)]
        return fitting[0] if fitting else None

    def form_key(self, cookie: str) -> str:
        """What a form of the cookie's bearer holds: it cannot be worked out without the cookie."""
        return hmac.digest(cookie.encode(), b"yoriai console form", "sha256").hex()

    def is_own_form(self, cookie: str, form_key: str) -> bool:
        """Whether a form came from a page that was made for the cookie's bearer."""
        return hmac.compare_digest(_hash(form_key), _hash(self.form_key(cookie)))


def is_own_host(host: str) -> bool:
    """Whether a Host header names this machine's loopback; any port, for it may be forwarded from another one."""
    name, separator, port = host.rpartition(":")
    if not separator or port.endswith("]"):
        name, port = host, ""
    return name.lower() in _HOSTS and (not port or port.isdecimal())


def is_own_origin(headers: Mapping[str, str]) -> bool:
    """Whether a request that is to change something comes from a page of the very origin that it goes to.

    A browser sends Origin with every POST; what sends none, such as a program with the cookie, sets no trap.
    """
    origin, site = headers.get("origin"), headers.get("sec-fetch-site", "same-origin")
    return site == "same-origin" and origin in (None, _SCHEME + headers.get("host", ""))
