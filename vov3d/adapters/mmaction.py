"""A backbone for MMAction2's recognizers."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vov3d.models import create_model

__all__ = ["MMActionBackbone", "register_mmaction"]


class MMActionBackbone(nn.Module):
    """A model of this package as a backbone of `Recognizer3D`.

    Args:
        name: Model, or model.tag, of `vov3d.list_models`.
        pretrained: `init_weights` loads the weights of the tag, or this file.
        checkpoint_path: `init_weights` loads this file.
        out_indices: Indices of the maps: 0 is the stem, stages follow from 1, -1 is the last. Or one number, of maps
            from the last.
        frozen_stages: Freezes the stem and this many stages, norms included; 0 the stem alone, -1 nothing.
        norm_eval: Batch norms keep their statistics in training.
        init_cfg: A file in MMEngine's form: `dict(type="Pretrained", checkpoint="weights.pth")`.
        **kwargs: For `vov3d.create_model`.

    Attributes:
        out_channels: Channels of each map.

    Shape:
        `(B, C, T, H, W)` to `(B, out_channels[0], T, H / stride, W / stride)`; to a tuple of maps for several.

    Raises:
        ValueError: If weights are given twice, `init_cfg` has another form, or `frozen_stages` exceeds the number of
            stages.
        FileNotFoundError: If a given file does not exist.
    """

    def __init__(
        self,
        name: str,
        pretrained: bool | str | None = False,
        checkpoint_path: str | None = None,
        out_indices: tuple[int, ...] | int = (-1,),
        frozen_stages: int = -1,
        norm_eval: bool = False,
        init_cfg: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        self._weights = _weights(pretrained, checkpoint_path, init_cfg)
        levels = tuple(out_indices) if isinstance(out_indices, Iterable) else out_indices
        self._arguments: dict[str, Any] = dict(model_name=name, features_only=True, out_indices=levels, **kwargs)
        model: Any = create_model(**self._arguments)
        self.model = model
        self.out_channels: tuple[int, ...] = tuple(model.feature_info.channels())
        parts = list(model.children())  # the stem and the stages, in order
        if not -1 <= frozen_stages < len(parts):
            raise ValueError(
                f"frozen_stages is {frozen_stages}, but {name} has {len(parts) - 1} stages up to the last map"
            )
        self._frozen = parts[: frozen_stages + 1]
        self.norm_eval = norm_eval
        for part in self._frozen:
            part.requires_grad_(False)
        self.train()

    def init_weights(self) -> None:
        """Loads the requested weights; without any, the initial ones are kept.

        MMEngine calls it once before training, unless it loads a checkpoint of the whole recognizer.

        Raises:
            FileNotFoundError: If there is no such file.
            vov3d.WeightsError: If the weights cannot be found, read or fitted.
        """
        if self._weights:
            self.model.load_state_dict(create_model(**self._arguments, **self._weights).state_dict())

    def forward(self, x: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """Computes the map or a tuple of maps of clips `(B, C, T, H, W)`, with all views in one batch."""
        maps = tuple(self.model(x))
        return maps[0] if len(maps) == 1 else maps

    def train(self, mode: bool = True) -> "MMActionBackbone":
        """Sets the mode; frozen stages stay in eval mode, and so do norms with `norm_eval`."""
        super().train(mode)
        for part in self._frozen if mode else ():
            part.eval()
        for module in self.model.modules() if mode and self.norm_eval else ():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self


def _weights(
    pretrained: bool | str | None, checkpoint_path: str | None, init_cfg: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Returns the arguments of `create_model` for the weights, which are given in one of three ways."""
    given = {"pretrained": pretrained, "checkpoint_path": checkpoint_path, "init_cfg": init_cfg}
    named = [f"{name}={value!r}" for name, value in given.items() if value]
    if len(named) > 1:
        raise ValueError(f"{' and '.join(named)} all name weights; give one")
    form = isinstance(init_cfg, Mapping) and {key: bool(value) for key, value in init_cfg.items()}
    if init_cfg and (form != {"type": True, "checkpoint": True} or init_cfg["type"] != "Pretrained"):
        raise ValueError(
            f"init_cfg={init_cfg} is not supported; give dict(type='Pretrained', checkpoint='weights.pth'), or "
            "nothing: the network initialises itself"
        )
    if pretrained is True:
        return {"pretrained": True}
    file = checkpoint_path or pretrained or (init_cfg or {}).get("checkpoint")
    if not file:
        return {}
    if not Path(file).is_file():
        raise FileNotFoundError(f"{named[0]}: there is no such file; for a tag's weights use pretrained=True")
    return {"checkpoint_path": str(file)}


def register_mmaction() -> None:
    """Registers `MMActionBackbone` in MMEngine's registry `MODELS`; a second call does nothing.

    Configurations then use `backbone=dict(type="MMActionBackbone", name="vov3d_m", pretrained=True)`.

    Raises:
        ImportError: If MMEngine is not installed.
    """
    try:
        from mmengine.registry import MODELS
    except ImportError as error:
        raise ImportError("register_mmaction needs MMEngine: pip install mmengine") from error
    if MODELS.get(MMActionBackbone.__name__) is not MMActionBackbone:
        MODELS.register_module(module=MMActionBackbone)
