"""Where a site keeps a version's threshold: `route/calibration.json`, good for the files that it was found with."""

import hashlib
import json
import math
from dataclasses import asdict
from pathlib import Path

from yoriai.client.routing.threshold import NOTHING, Threshold
from yoriai.errors import ConfigError
from yoriai.system.files import PRIVATE, make_private_folder, write_atomically

NAME, SCHEMA = "calibration.json", 1
_OF_VERSION = ("task.json", "head.safetensors", "adapter_model.safetensors", "adapter_config.json")


def version_digest(folder: Path) -> str:
    """SHA-256 (hex) over what answers in a version's folder."""
    found = hashlib.sha256()
    for name in _OF_VERSION:
        path = folder / name
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        found.update(f"{name} {content}\n".encode())
    return found.hexdigest()


def write_calibration(folder: Path, version: str, threshold: Threshold) -> Path:
    """Keep it. Raises StorageError if it cannot be written."""
    kept = asdict(threshold) | {"margin": None if math.isinf(threshold.margin) else threshold.margin}
    data = json.dumps({"schema": SCHEMA, "version": version, **kept}, indent=1).encode()
    return write_atomically(make_private_folder(folder) / NAME, data, mode=PRIVATE)


def read_calibration(folder: Path, version: str, *, share: float, delta: float) -> Threshold:
    """The threshold that was found for this version and these settings.

    Raises:
        ConfigError: there is none, or it is of another version or other settings.
    """
    again = "calibrate it: yoriai site calibrate SITE"
    try:
        document = json.loads((folder / NAME).read_bytes())
        if document.pop("schema") != SCHEMA:
            raise ValueError
        found = document.pop("version")
        threshold = Threshold(**(document | {"margin": NOTHING if document["margin"] is None else document["margin"]}))
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigError("there is no threshold for the version in use", remedy=again) from None
    if found != version:
        raise ConfigError("the threshold is another version's", remedy=again)
    if (threshold.share, threshold.delta) != (share, delta):
        raise ConfigError(
            "the threshold is for another share or delta",
            found=f"{threshold.share:g}, {threshold.delta:g}",
            expected=f"{share:g}, {delta:g} of [route]",
            remedy=again,
        )
    return threshold
