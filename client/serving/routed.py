"""Labels of one request after routing: each with where its answer comes from, and what would leave where none did."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from yoriai.client.routing.opening import Routes
from yoriai.client.routing.router import Local
from yoriai.client.routing.threshold import margins_of
from yoriai.client.serving.asked import ClassifyAsked
from yoriai.client.serving.version import Version
from yoriai.errors import ConfigError, StorageError


def route_rows(
    routes: Routes, version: Version, asked: ClassifyAsked, probabilities: NDArray[np.float64]
) -> list[dict[str, Any]]:
    """What each text's answer gets: its label, and `route` with where and why.

    A version without a threshold of its own, as after a pull, and a log that cannot be written route nothing: the local
    answers stand, and say so.

    Args:
        probabilities: (texts, labels) of the local answers.
    """
    labels = version.task["labels"]
    chosen = [labels[int(row.argmax())] for row in probabilities]
    allowed = routes.settings.mode == "auto" or asked.route == "yes"
    try:
        router = routes.router(version.folder, labels)
    except ConfigError as error:
        return [{"route": {"where": "held", "why": error.what}} for _ in chosen]
    told: list[dict[str, Any]] = []
    for text, label, margin in zip(asked.texts, chosen, margins_of(probabilities), strict=True):
        try:
            one = router.route(text, Local(label, float(margin)), allow=lambda _message: allowed)
        except StorageError as error:
            told.append({"route": {"where": "held", "why": error.what}})
            continue
        way: dict[str, Any] = {"where": one.where, "why": one.why}
        if one.where == "held":
            way["would_leave"] = one.would_leave
        told.append({"label": one.label, "route": way})
    return told
