"""Metadata of an exported file."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from vov3d.hub.saving import known_cfg
from vov3d.labels import class_names

_LONGEST = 1 << 25  # characters of a field; 100,000 class names have 3 million


@dataclass(frozen=True)
class Metadata:
    """Fields of a file's metadata, each stored as JSON under its own name.

    Attributes:
        vov3d_version: Version that wrote the file.
        architecture: Name of the model.
        license: Licence of the weights, where it is known.
        pretrained_cfg: Clip settings and origin of the weights.
        class_names: Names in index order, where they are known.
        num_classes: Classes; 0 for features.
        in_chans: Channels of the clip.
        outputs: Names of the outputs, in order.
        dtype: `"fp32"`, `"fp16"`, `"bf16"` or `"int8"`.
        min_size: Smallest height and width in pixels.
        clip: Frames, height and width, where the file takes no others.
        stream: Delay, receptive field, window and state shapes of a stream; None for a network on clips.
        form: `"conv3d"`, or `"conv2d"` if all convolutions have two dimensions.
    """

    vov3d_version: str
    architecture: str
    license: str | None
    pretrained_cfg: dict[str, Any]
    class_names: list[str] | None
    num_classes: int
    in_chans: int
    outputs: list[str]
    dtype: str
    min_size: int
    clip: list[int] | None
    stream: dict[str, Any] | None = None
    form: str = "conv3d"

    def to_strings(self) -> dict[str, str]:
        """Returns every field as JSON."""
        return {f.name: json.dumps(getattr(self, f.name), ensure_ascii=False) for f in dataclasses.fields(self)}

    @classmethod
    def from_strings(cls, strings: Mapping[str, str]) -> "Metadata":
        """Reads what `to_strings` wrote; other keys are ignored.

        Raises:
            ValueError: If a field is missing, is not JSON, or has another type than `to_strings` writes.
        """
        fields = dataclasses.fields(cls)
        missing = [f.name for f in fields if f.name not in strings and f.default is dataclasses.MISSING]
        if missing:
            raise ValueError(f"it was not written by vov3d.export: it lacks {', '.join(missing)}")
        if (size := max(len(strings[f.name]) for f in fields if f.name in strings)) > _LONGEST:
            raise ValueError(f"its metadata has a field of {size:,} characters")
        found = cls(**{f.name: json.loads(strings[f.name]) for f in fields if f.name in strings})
        found._check()
        return found

    def _check(self) -> None:
        names, counts = self.class_names, (self.num_classes, self.in_chans, self.min_size)
        right = (
            all(
                isinstance(text, str)
                for text in (self.vov3d_version, self.architecture, self.license or "", self.dtype, self.form)
            )
            and all(type(count) is int and 0 <= count < 1 << 31 for count in counts)
            and isinstance(self.pretrained_cfg, dict)
            and (names is None or (_is_list(names, str) and len(names) == self.num_classes))
            and _is_list(self.outputs, str)
            and (self.clip is None or (_is_list(self.clip, int) and len(self.clip) == 3))
            and (self.stream is None or (self.clip is not None and _is_stream(self.stream)))
        )
        if not right or not self.outputs:
            raise ValueError("its metadata is not what vov3d.export writes")


def _is_list(value: Any, kind: type) -> bool:
    return isinstance(value, list) and all(type(one) is kind for one in value)


def _is_stream(value: Any) -> bool:
    if not isinstance(value, dict) or value.keys() != {"delay", "receptive_field", "window", "state"}:
        return False
    state = value["state"]
    counts = [count for key, count in value.items() if key != "state"]
    if not isinstance(state, dict) or not all(_is_list(shape, int) and len(shape) < 4 for shape in state.values()):
        return False
    counts += [size for shape in state.values() for size in shape]
    return all(type(count) is int and 0 <= count < 1 << 31 for count in counts) and "frames" in state


def describe(
    model: Any, frames: int, size: int, outputs: tuple[str, ...], dtype: str, min_size: int, fixed: bool
) -> Metadata:
    """Returns the metadata of a model exported for clips of `frames` x `size` x `size`.

    The clip size is stored in the configuration, so that `predict` gives the file such clips; if it differs from
    that of the weights, their published accuracy is left out.
    """
    names = class_names(model)
    cfg = known_cfg(model, names)
    clip = {"num_frames": frames, "test_input_size": (model.in_chans, size, size)}
    if any(cfg[key] != value for key, value in clip.items()):
        cfg = {k: v for k, v in cfg.items() if k not in ("top1", "top5", "gmacs_per_view")} | clip
    return Metadata(
        vov3d_version=version("vov3d"),
        architecture=model.pretrained_cfg["architecture"],
        license=cfg.get("license"),
        pretrained_cfg=cfg,
        class_names=names,
        num_classes=getattr(model, "num_classes", 0),
        in_chans=model.in_chans,
        outputs=list(outputs),
        dtype=dtype,
        min_size=min_size,
        clip=[frames, size, size] if fixed else None,
    )
