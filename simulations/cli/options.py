"""Options of the command line, turned into settings."""

from typing import Any

from yoriai.errors import ConfigError

_NOISY = ("local", "distributed")


def overrides(
    *, rule: str | None, epsilon: str | None, rounds: int | None, noise: str | None = None
) -> dict[str, object]:
    """Settings by dotted key from the options that were given.

    Raises:
        ConfigError: epsilon is neither a number nor "none", or the noise is no mode or does not go with it.
    """
    settings: dict[str, Any] = {}
    if rule is not None:
        settings["federation.rule"] = rule
    if rounds is not None:
        settings["federation.rounds"] = rounds
    if epsilon is not None:
        wanted = epsilon_of(epsilon)
        settings |= {"privacy.noise": "none"} if wanted is None else {"privacy.epsilon": wanted}
    if noise is not None:
        if settings.get("privacy.noise") == "none":
            raise ConfigError("--noise with --epsilon none: there is none to share", remedy="leave one of them out")
        settings["privacy.noise"] = mode_of(noise)
    return settings


def mode_of(noise: str) -> str:
    """A mode of noise as it stands on the command line.

    Raises:
        ConfigError: there is none of that name.
    """
    if noise not in _NOISY:
        raise ConfigError("--noise", found=noise, expected=" or ".join(_NOISY))
    return noise


def epsilon_of(text: str) -> float | None:
    """An epsilon as it stands on the command line; None for "none". Raises ConfigError for anything else."""
    if text.lower() == "none":
        return None
    try:
        return float(text)
    except ValueError:
        raise ConfigError("--epsilon", found=text, expected='a number above 0, or "none"') from None
