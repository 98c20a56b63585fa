"""What a form has to say before it does anything: the box that stands for a command's question, and a known choice."""

from collections.abc import Collection, Mapping

from yoriai.errors import ConfigError


def must_agree(form: Mapping[str, str]) -> None:
    """Raise ConfigError unless the box is ticked that stands for the command's question."""
    if form.get("agreed") != "yes":
        raise ConfigError("the box that says so is not ticked", remedy="tick it; nothing was changed")


def chosen(form: Mapping[str, str], name: str, among: Collection[str]) -> str:
    """A field that names one of a few. Raises ConfigError for another one."""
    found = form.get(name, "")
    if found not in among:
        raise ConfigError(f"no such {name}", found=found[:40], expected=" or ".join(among))
    return found
