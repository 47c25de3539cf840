"""The detector: a video backbone, pooled over time, cut out at boxes of the key frame, and a sigmoid for each action.

The layout is that of the AVA detectors of SlowFast (https://arxiv.org/abs/1812.03982, section 5) and X3D: the last
stage keeps its resolution by dilation, RoIAlign on the map that was averaged over time, maximum over the region.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn
from torchvision.ops import roi_align

import vov3d
from reference.saved import CONFIG, WEIGHTS, save_network


@dataclass(frozen=True)
class Settings:
    """Architecture of a detector, and the form of its clips.

    Attributes:
        backbone: Name of a model, with or without a tag.
        actions: Names of the actions in index order.
        ids: Their numbers in AVA's files.
        output_stride: Of the backbone.
        num_frames: Frames of a clip; the key frame is number `num_frames // 2`.
        interval: Seconds between two of them.
        size: Short side of the frames, in pixels.
        mean: Of each channel, that frames in [0, 1] are normalised by.
        std: Standard deviation of each channel that they are normalised by.
        roi_size: Rows and columns of a region.
        hidden_chs: Features of the hidden layer.
        backbone_args: Further arguments of the backbone.
    """

    backbone: str
    actions: tuple[str, ...]
    ids: tuple[int, ...]
    output_stride: int
    num_frames: int
    interval: float
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    roi_size: int = 4
    hidden_chs: int = 256
    backbone_args: dict[str, Any] = field(default_factory=dict)


class Detector(nn.Module):
    """Scores each action for each box.

    Args:
        settings: Its architecture and the form of its clips.
        backbone: A network `(B, 3, T, H, W)` to a list of maps, the last of them of `output_stride`.
        num_chs: Channels of that map.

    Shape:
        uint8 clips `(B, 3, T, H, W)` and boxes of each in pixels, `(N_i, 4)`, to logits `(sum of N_i, actions)`.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, settings: Settings, backbone: nn.Module, num_chs: int) -> None:
        super().__init__()
        self.settings, self.backbone = settings, backbone
        for name in ("mean", "std"):
            values = torch.tensor(getattr(settings, name)).view(3, 1, 1, 1)
            self.register_buffer(name, values, persistent=False)
        self.hidden = nn.Linear(num_chs, settings.hidden_chs)
        self.fc = nn.Linear(settings.hidden_chs, len(settings.actions))
        nn.init.normal_(self.fc.weight, std=0.01)
        nn.init.constant_(self.fc.bias, -2.0)  # few of the actions hold for a box

    def forward(self, clips: torch.Tensor, boxes: Sequence[torch.Tensor]) -> torch.Tensor:
        """Returns logits; boxes are left, top, right, bottom in the key frame."""
        x = self.backbone((clips / 255 - self.mean) / self.std)[-1].mean(2)
        scale = 1 / self.settings.output_stride
        regions = roi_align(x, list(boxes), self.settings.roi_size, scale, sampling_ratio=2, aligned=True)
        return self.fc(self.hidden(regions.amax((2, 3))).relu())

    def save(self, folder: Path) -> Path:
        """Writes weights and settings."""
        save_network(self, self.settings, folder)
        return folder


def build_detector(
    backbone: str,
    actions: Sequence[str],
    ids: Sequence[int] | None = None,
    *,
    pretrained: bool = True,
    output_stride: int | None = None,
    size: int | None = None,
    interval: float | None = None,
    checkpoint_path: Path | None = None,
    **backbone_args: Any,
) -> Detector:
    """Builds a detector on a backbone of the zoo, whose weights stay unchanged.

    Args:
        backbone: Name of a model, as `"vov3d_m.k400_f16"`.
        actions: Names of the actions.
        ids: Their numbers in AVA's files; from 1 on if None.
        pretrained: Loads the weights of the backbone's tag.
        output_stride: Stride of the map that boxes are cut out of; stages beyond it are dilated. Half of the backbone's
            own if None: 16 for four stages.
        size: Short side of the frames in pixels; the training crop of the backbone if None.
        interval: Seconds between two frames; as in the training of the backbone if None.
        checkpoint_path: Loads this file into the backbone instead.
        **backbone_args: Arguments of the backbone, such as `conv="dw3d"`.

    Raises:
        ValueError: If the backbone is not known, or its frames have no distance in time and none is given.
        vov3d.WeightsError: If weights cannot be found, read or loaded.
    """
    if output_stride is None:
        whole: Any = vov3d.create_model(backbone, device="meta")
        output_stride = int(whole.feature_info[-1]["reduction"] // 2)
    given = dict(pretrained=pretrained, checkpoint_path=checkpoint_path)
    model = _features(backbone, output_stride, **given, **backbone_args)
    cfg = model.pretrained_cfg
    if interval is None:
        if not cfg.get("frame_stride"):
            raise ValueError(
                f"{backbone} was trained on segments of whole videos: say how far apart frames are, in seconds"
            )
        interval = cfg["frame_stride"] / 30
    settings = Settings(
        backbone,
        tuple(actions),
        tuple(ids or range(1, len(actions) + 1)),
        output_stride,
        cfg["num_frames"],
        interval,
        size or cfg["input_size"][-1],
        tuple(cfg["mean"]),
        tuple(cfg["std"]),
        backbone_args=backbone_args,
    )
    return Detector(settings, model, model.feature_info.channels()[-1])


def _features(backbone: str, output_stride: int, **kwargs: Any) -> Any:
    return vov3d.create_model(backbone, features_only=True, out_indices=[-1], output_stride=output_stride, **kwargs)


def load_detector(folder: Path) -> Detector:
    """Loads a saved detector, in eval mode.

    Raises:
        FileNotFoundError: If the folder holds none.
        ValueError: If its files do not fit.
    """
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(f"{folder}: no detector there; train one with: detect.py train --output FOLDER")
    saved = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    try:
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in saved.items()}
        settings = Settings(**fields)
    except TypeError as error:
        raise ValueError(f"{folder / CONFIG} does not describe a detector ({error})") from error
    model = _features(settings.backbone, settings.output_stride, **settings.backbone_args)
    detector = Detector(settings, model, model.feature_info.channels()[-1])
    try:
        detector.load_state_dict(safetensors.torch.load_file(folder / WEIGHTS))
    except RuntimeError as error:
        raise ValueError(f"{folder / WEIGHTS} does not fit {CONFIG} beside it: {error}") from error
    return detector.eval()
