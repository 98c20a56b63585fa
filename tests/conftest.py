"""What holds for every test. The variables are set before anything imports torch, Flower or matplotlib."""

import gc
import os
import tempfile

_SETTINGS = {
    # One thread gives the same sums in the same order everywhere, and leaves the other cores to other workers.
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # No test asks a hub for anything; what a test needs it makes itself or takes from the cache of assets.
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "MPLBACKEND": "Agg",
}
os.environ.update(_SETTINGS)

# Flower writes keys and databases to its home; the user's own must stay as it was.
_FLOWER_HOME = tempfile.TemporaryDirectory(prefix="yoriai-flwr-")
os.environ["FLWR_HOME"] = _FLOWER_HOME.name

# What is imported and collected stays to the end. To look through all of it for garbage, again and again as it grows,
# took a third of the collection's processor time.
gc.disable()


def pytest_collection_finish() -> None:
    """From here on there is garbage, and what was made before is not looked through for it."""
    gc.freeze()
    gc.enable()
