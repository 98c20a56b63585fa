"""Flower's SuperLink, with more patience for its database than Flower gives it.

Payloads lie in one SQLite file, which one request at a time may write. Those of a few sites with tens of millions of
parameters keep the others waiting for longer than the 5 s of Flower 1.41, and whoever has waited so long gets HTTP 500.

    python superlink.py ARGUMENTS    as `flower-superlink ARGUMENTS`
"""

from flwr.supercore import constant

_LOCKED_MS = 120_000

# Set on every connection in this order, so the last one counts. What uses it takes it when it is first imported.
constant.SQLITE_PRAGMAS = (*constant.SQLITE_PRAGMAS, ("busy_timeout", str(_LOCKED_MS)))  # type: ignore[assignment]

from flwr.superlink.cli import flower_superlink  # noqa: E402

if __name__ == "__main__":
    flower_superlink()
