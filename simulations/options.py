"""Options of the command line, turned into settings."""

from typing import Any

from yoriai.errors import ConfigError


def overrides(*, rule: str | None, epsilon: str | None, rounds: int | None) -> dict[str, object]:
    """Settings by dotted key from the options that were given.

    Raises:
        ConfigError: epsilon is neither a number nor "none".
    """
    settings: dict[str, Any] = {}
    if rule is not None:
        settings["federation.rule"] = rule
    if rounds is not None:
        settings["federation.rounds"] = rounds
    if epsilon is not None:
        wanted = epsilon_of(epsilon)
        private = {"privacy.noise": "local", "privacy.epsilon": wanted}
        settings |= {"privacy.noise": "none"} if wanted is None else private
    return settings


def epsilon_of(text: str) -> float | None:
    """An epsilon as it stands on the command line; None for "none". Raises ConfigError for anything else."""
    if text.lower() == "none":
        return None
    try:
        return float(text)
    except ValueError:
        raise ConfigError("--epsilon", found=text, expected='a number above 0, or "none"') from None
