"""The states of the frozen base that a head reads: of each text one vector from one or several places of the model."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from yoriai.client.base.base_model import BaseModel
from yoriai.client.base.layers import backbone_of, slice_backbone, uniform_layers
from yoriai.errors import BaseModelError

_DEEP = 0.8  # "mean": after four fifths of the layers; see docs/benchmarks/heads.md.


@dataclass(frozen=True)
class Place:
    """Where a state is read.

    Attributes:
        name: as the job calls it: `last`, `mean` or `mean:K`.
        layer: the layer after which it is read, counted from 1.
        mean: the mean over all positions; the last position alone otherwise, after the model's last norm.
    """

    name: str
    layer: int
    mean: bool


def places(names: Sequence[str], layer_count: int) -> tuple[Place, ...]:
    """The places that a job names, in a base of so many layers. Raises BaseModelError if it has fewer."""
    found = []
    for name in names:
        kind, _, layer = name.partition(":")
        depth = int(layer) if layer else round(_DEEP * layer_count) if kind == "mean" else layer_count
        if not 1 <= depth <= layer_count:
            raise BaseModelError(
                "head.states asks for a layer that the base does not have",
                found=name,
                expected=f"mean:1 to mean:{layer_count}",
                remedy='lower it, or write "mean"',
            )
        found.append(Place(name, depth, kind == "mean"))
    return tuple(found)


class FrozenStates:
    """Reads the states of texts at some places of a base, in one pass that ends with the last layer needed.

    Args:
        base: frozen; nothing is attached to it.
        places: one at least.

    Attributes:
        width: entries of all places' states together.
    """

    def __init__(self, base: BaseModel, places: Sequence[Place]) -> None:
        self._places = tuple(places)
        self.width = base.width * len(self._places)
        backbone: Any = backbone_of(base)
        count = int(base.model.config.num_hidden_layers)
        deepest = max(place.layer for place in self._places)
        if all(place.mean for place in self._places) and uniform_layers(base.model.config):
            backbone = slice_backbone(backbone, 0, deepest, keep_norm=False)
        elif not any(place.mean for place in self._places):
            count = 0  # No layer's own output is asked for.
        self._backbone: Any = backbone
        self._layers: dict[int, Any] = {p.layer: backbone.layers[p.layer - 1] for p in self._places if p.mean and count}

    @torch.no_grad()
    def __call__(self, token_ids: Tensor, lengths: Tensor) -> Tensor:
        """Each row's states, one place after another.

        Args:
            token_ids: (B, T) int64, padded at the end.
            lengths: (B,) int64 tokens of each row, at least 1.

        Returns:
            (B, width) float32.
        """
        with _outputs(self._layers) as kept:
            final: Tensor = self._backbone(input_ids=token_ids, use_cache=False).last_hidden_state
        inside = (torch.arange(token_ids.shape[1], device=token_ids.device) < lengths[:, None])[..., None]  # (B, T, 1)
        rows = torch.arange(len(lengths), device=token_ids.device)

        def read(place: Place) -> Tensor:
            if not place.mean:
                return final[rows, lengths - 1].float()
            return (kept[place.layer].float() * inside).sum(1) / lengths[:, None]

        return torch.cat([read(place) for place in self._places], 1)


@contextmanager
def _outputs(layers: dict[int, Any]) -> Iterator[dict[int, Tensor]]:
    """What each of these layers gives in passes of this thread inside the context."""
    kept: dict[int, Tensor] = {}
    own = threading.get_ident()  # Of several threads whose passes share the layers.

    def keeper(number: int) -> Any:
        def keep(_module: object, _inputs: object, output: Any) -> None:
            if threading.get_ident() != own:
                return
            kept[number] = output[0] if isinstance(output, tuple) else output

        return keep

    hooks = [layer.register_forward_hook(keeper(number)) for number, layer in layers.items()]
    try:
        yield kept
    finally:
        for hook in hooks:
            hook.remove()
