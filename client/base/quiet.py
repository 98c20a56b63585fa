"""Keeps the libraries' own bars and known harmless warnings off a command's screen; all else still shows."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

_HARMLESS = (
    # transformers warns about its own attribute while PEFT copies the model.
    (r"`is_gradient_checkpointing` is deprecated", FutureWarning),
    # The grid of orders is fixed; its end still gives a valid, slightly larger epsilon.
    (r"Optimal order is the (largest|smallest) alpha", UserWarning),
)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Hide transformers' bars and notices and the warnings above, for as long as the block runs."""
    from transformers import modeling_gguf_pytorch_utils as gguf
    from transformers.utils import logging as notices

    verbosity, bars = notices.get_verbosity(), notices.is_progress_bar_enabled()
    notices.set_verbosity(logging.ERROR)
    notices.disable_progress_bar()  # type: ignore[no-untyped-call]
    # This bar asks for no setting.
    bar_of_gguf, gguf.tqdm = gguf.tqdm, partial(gguf.tqdm, disable=True)  # type: ignore[attr-defined]
    try:
        with warnings.catch_warnings():
            for message, category in _HARMLESS:
                warnings.filterwarnings("ignore", message, category)
            yield
    finally:
        gguf.tqdm = bar_of_gguf  # type: ignore[attr-defined]
        notices.set_verbosity(verbosity)
        if bars:
            notices.enable_progress_bar()  # type: ignore[no-untyped-call]
