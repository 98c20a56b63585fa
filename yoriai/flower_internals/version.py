"""The one version of Flower that Yoriai reaches into."""

from importlib import metadata
from typing import Any, Final

from yoriai.errors import ConfigError

VERSION: Final = "1.41.0"


def check_version() -> None:
    """Raise ConfigError unless Flower is the version that this package was written for."""
    found = metadata.version("flwr")
    if found != VERSION:
        raise ConfigError(
            "Yoriai reaches into Flower's own modules, which differ from version to version",
            found=f"flwr {found}",
            expected=f"flwr {VERSION}",
            remedy=f"pip install flwr=={VERSION}",
        )


def replace(place: Any, name: str, value: object) -> Any:
    """Set what is there already, and return it."""
    found = getattr(place, name)
    setattr(place, name, value)
    return found
