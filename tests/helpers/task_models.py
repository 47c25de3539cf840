"""Small networks for every task, with names for what they give."""

from typing import Any

import torch

import vov3d

NAMES = {
    "single": ["left", "right", "up"],
    "multilabel": ["left", "right", "up"],
    "regression": ["speed (m/s)", "angle"],
    "multihead": ["open", "close", "door", "cup", "box"],
}
HEADS = {"verb": 2, "noun": 3}
CLIP = dict(num_frames=4, frame_stride=2, sampling="dense", input_size=(3, 32, 32), test_input_size=(3, 32, 32))


def task_model(task: str, **kwargs: Any) -> Any:
    """A network of some thousand parameters whose outputs are far apart, in eval mode."""
    torch.manual_seed(0)
    small = dict(depths=(1,), mid_chs=(4,), out_chs=(4,), stem_chs=4, head_chs=8, hidden_chs=8, output_stride=4)
    overlay = dict(CLIP, pool_size=(8, 8), label_names=NAMES[task])
    given: dict[str, Any] = {} if task == "single" else {"task": task}
    given |= {"heads": HEADS} if task == "multihead" else {}
    model: Any = vov3d.create_model(
        "x3d_xs", num_classes=len(NAMES[task]), pretrained_cfg_overlay=overlay, **small, **given, **kwargs
    )
    torch.nn.init.normal_(model.head.fc.weight, std=2)
    torch.nn.init.normal_(model.head.fc.bias, std=1)
    return model.eval()
