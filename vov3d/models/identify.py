"""Recognises the network of tensors by their names and shapes."""

import inspect
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from timm.layers import make_divisible

from vov3d.models.family import Family, families
from vov3d.models.network import is_pyslowfast
from vov3d.weights.state_dict import CLASSIFIER, STEM, StateDict, differences

_LEAST_OF_BLOCK = 6  # tensors of the smallest block
_SE_RATIOS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)


@dataclass(frozen=True)
class Identity:
    """A recognised network.

    Attributes:
        variants: Registered models of this network; X3D-XS, S and M are the same. Empty for other widths or depths.
        model_args: Arguments that differ from those of `base`, without classes and input channels.
        base: The first of `variants`, or the model to build it from.
        format: `"slowfast"`, `"pytorchvideo"` or `"vov3d"`.
        num_classes: Classes; 0 if there is no classifier.
        in_chans: Channels of the clip.
        stem_chs: Channels of the stem.
        depths: Blocks of each stage.
    """

    variants: tuple[str, ...]
    model_args: Mapping[str, Any]
    base: str
    format: str
    num_classes: int
    in_chans: int
    stem_chs: int
    depths: tuple[int, ...]

    @property
    def title(self) -> str:
        """The model with its arguments, such as `vov3d_m(conv='dw3d')`."""
        args = ", ".join(f"{k}={v!r}" for k, v in self.model_args.items())
        return f"{self.base}({args})" if args else self.base

    def __str__(self) -> str:
        depths = ", ".join(map(str, self.depths))
        return f"{self.title} ({self.stem_chs}-wide stem, stages of {depths} blocks)"


def identify(state_dict: StateDict) -> Identity | None:
    """Returns the network of the given tensors, in any of the known formats, or None.

    Widths, depths, kernels, squeeze-and-excitation and `conv=` are read from the shapes, and the network that results
    is compared with all tensors. D(1+2)D and D(2+1)D have the same tensors; D(2+1)D is returned, which the paper uses.
    """
    for family in families():
        try:
            state = family.filter_fn(dict(state_dict), _NO_MODEL)
            args = _arguments(state)
            model = family.model_cls(**args, device="meta")
        except Exception:  # tensors of other networks cause all kinds of errors
            continue
        if not differences(model, state):
            return _named(family, args, _format(state_dict, state))
    return None


_NO_MODEL: Any = None  # the filters of this package do not need the model


def _arguments(state: StateDict) -> dict[str, Any]:
    """Reads the arguments of the network from its tensors.

    Raises:
        KeyError: If a tensor is missing that every network has.
        ValueError: If there are fewer tensors than the named blocks would have.
    """
    depths = _counts(state, r"^stages\.(\d+)\.blocks\.(\d+)\.")
    tosa = "stages.0.blocks.0.conv_agg.weight" in state
    first = [f"stages.{i}.blocks.0.{'layers.0.' if tosa else ''}" for i in range(len(depths))]
    second = "layers.1.se." if tosa else "blocks.1.se."
    mid_chs = tuple(state[f"{p}conv_pw.weight"].shape[0] for p in first)
    last = "conv_agg" if tosa else "conv_pwl"
    conv, kernel = _middle(state, first[0])
    fc = state.get(CLASSIFIER[0])
    head = state["head.conv.weight"].shape[0]
    args = dict(
        in_chans=state[STEM].shape[1],
        num_classes=0 if fc is None else fc.shape[0],
        global_pool="catavgmax" if state["head.hidden.weight"].shape[1] == 2 * head else "avg",
        stem_chs=state[STEM].shape[0],
        mid_chs=mid_chs,
        out_chs=tuple(state[f"stages.{i}.blocks.0.{last}.weight"].shape[0] for i in range(len(depths))),
        depths=depths,
        output_stride=2 ** (len(depths) + 1),
        head_chs=head,
        hidden_chs=state["head.hidden.weight"].shape[0],
        temporal_kernel_size=kernel[0],
        kernel_size=kernel[1],
        stem_temporal_kernel_size=state["stem.conv_t.weight"].shape[2],
        se_ratio=_se_ratio(state, first, mid_chs),
        se_every_other=not any(second in name for name in state),
        conv=conv,
    )
    if tosa:
        args["num_blocks"] = _counts(state, r"^stages\.(0)\.blocks\.0\.layers\.(\d+)\.")[0]
    if sum(depths) * args.get("num_blocks", 1) * _LEAST_OF_BLOCK > len(state):
        raise ValueError("the names imply more blocks than there are")  # else they would be built
    return args


def _counts(state: StateDict, pattern: str) -> tuple[int, ...]:
    """Counts the different second numbers in names with each first number, from 0 on.

    Raises:
        ValueError: If a first number is missing.
    """
    pairs = {(m[1], m[2]) for name in state if (m := re.match(pattern, name))}
    counts = Counter(int(i) for i, _ in pairs)
    if sorted(counts) != list(range(len(counts))):
        raise ValueError("a stage is missing")
    return tuple(counts[i] for i in range(len(counts)))


def _middle(state: StateDict, block: str) -> tuple[str, tuple[int, int]]:
    """Returns `conv=` and the (temporal, spatial) kernel of a bottleneck."""
    whole = state.get(f"{block}conv_st.weight")
    if whole is not None:
        return "dw3d" if whole.shape[1] == 1 else "3d", (whole.shape[2], whole.shape[3])
    spatial, temporal = state[f"{block}conv_s.weight"], state[f"{block}conv_t.weight"]
    return "d2plus1d" if spatial.shape[1] == 1 else "r2plus1d", (temporal.shape[2], spatial.shape[3])


def _se_ratio(state: StateDict, blocks: list[str], mid_chs: tuple[int, ...]) -> float:
    """Returns the ratio that gives the widths found, 0 if there is no squeeze-and-excitation."""
    if f"{blocks[0]}se.fc1.weight" not in state:
        return 0
    widths = [state[f"{p}se.fc1.weight"].shape[0] for p in blocks]
    ratios = (*_SE_RATIOS, widths[-1] / mid_chs[-1])
    fitting = (r for r in ratios if [make_divisible(mid * r, 8) for mid in mid_chs] == widths)
    return next(fitting, _SE_RATIOS[0])


def _named(family: Family, args: Mapping[str, Any], format: str) -> Identity:
    """Returns the registered model of the arguments, or the nearest one with the arguments that differ."""
    own = ("in_chans", "num_classes", "output_stride")
    found = {k: v for k, v in args.items() if k not in own}
    over = {name: _over(family, name, found) for name in family.variants}
    fewest = min(over.values(), key=len)
    same = tuple(name for name, differing in over.items() if differing == fewest)
    # x3d_xs, s and m are one network; published files that do not name it are most likely M's.
    base = next((name for name in same if name.endswith("_m")), same[0])
    return Identity(
        variants=same if set(fewest) <= {"conv"} else (),
        model_args=fewest,
        base=base,
        format=format,
        num_classes=args["num_classes"],
        in_chans=args["in_chans"],
        stem_chs=args["stem_chs"],
        depths=args["depths"],
    )


def _over(family: Family, variant: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arguments that differ from a variant, with the output stride of another number of stages."""
    parameters = inspect.signature(family.model_cls).parameters
    usual = {**{k: parameters[k].default for k in found}, **family.variants[variant]}
    differing = {k: v for k, v in found.items() if usual[k] != v}
    stages = len(found["depths"])
    return differing | ({"output_stride": 2 ** (stages + 1)} if stages != len(usual["depths"]) else {})


def _format(given: StateDict, own: StateDict) -> str:
    if is_pyslowfast(given):
        return "slowfast"
    return "vov3d" if given.keys() == own.keys() else "pytorchvideo"
