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


_MAY_BE_AWAY = 5  # One site in so many.


def of_deployment(noise: str | None, sites: int | None, records: int | None) -> dict[str, object]:
    """Settings by dotted key of a deployment's job: with one site in five away a round still counts.

    Shared noise is sized for these numbers; without them each site would stand for ten records, and hardly any noise
    would be small enough.

    Args:
        sites: of the federation.
        records: that a site has on average, to train on.

    Raises:
        ConfigError: the noise is shared, and one of the numbers is missing.
    """
    if noise == "distributed" and (sites is None or records is None):
        missing = [option for option, value in (("--sites", sites), ("--records", records)) if value is None]
        raise ConfigError(
            "--noise distributed: each site's share is sized by how many there are, and how many records they have",
            found=f"no {' and no '.join(missing)}",
            remedy="add both, for instance --sites 5 --records 300; about right is right enough",
        )
    settings: dict[str, object] = {}
    if sites is not None:
        settings["federation.min_sites"] = max(2, sites - sites // _MAY_BE_AWAY)
    if records is not None and noise == "distributed":
        settings["training.records_per_weight"] = records
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
