"""Yoriai: sites adapt one base language model together, with differential privacy, without showing a record.

Importing this package loads nothing heavy. `simulate`, `load` and `__version__` are looked up when they are
first asked for.
"""

from typing import TYPE_CHECKING

__all__ = ["__version__", "load", "simulate"]

if TYPE_CHECKING:
    from yoriai.client.session.loading import load
    from yoriai.simulations.run.api import simulate

    __version__: str
else:

    def __getattr__(name: str) -> object:
        """Load the public names on demand, so that neither torch nor flwr is imported with the package."""
        if name == "simulate":
            from yoriai.simulations.run.api import simulate

            value = simulate
        elif name == "load":
            from yoriai.client.session.loading import load

            value = load
        elif name == "__version__":
            value = _installed_version()
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value
        return value

    def _installed_version() -> str:
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("yoriai")
        except PackageNotFoundError:  # A checkout on PYTHONPATH that was never installed.
            return "0+uninstalled"
