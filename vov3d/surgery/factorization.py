"""Splits 3D convolutions, in place, into a spatial and a temporal one, with the nearest weights.

A depthwise t x k x k kernel is, for each channel, a t x k^2 matrix. Its best approximation of rank r is a sum of r
products of a temporal and a spatial kernel (Eckart-Young), which two grouped convolutions compute: one from C channels
to r C, one back. Rank 1 is D(2+1)D of VoV3D (https://arxiv.org/abs/2012.00317, Table 1); rank min(t, k^2) is exact.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from numbers import Integral
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from vov3d.layers.conv import fast, keeps_layout
from vov3d.layers.norm_act import LayerType, create_norm
from vov3d.surgery.hooks import check_no_hooks
from vov3d.surgery.kinds import is_only
from vov3d.surgery.placing import check_takes_new_parameters, held_elsewhere, put
from vov3d.surgery.reach import attributes_read
from vov3d.surgery.tracing import with_own_state

ORDERS = ("d2plus1d", "d1plus2d")

_LOST = {"weight", "bias", "_conv_forward"}  # a pair of convolutions has none of these

Filter = str | Callable[[str, nn.Conv3d], bool]


@dataclass(frozen=True)
class FactorizedLayer:
    """A convolution that was split.

    Attributes:
        name: Its name in the model.
        shape: Shape of its kernel `(out_chs, in_chs / groups, t, k, k)`.
        rank1_energy: Share of the kernel's squared norm that the best rank-1 kernels keep; 1 if nothing is lost.
        energy: The same for the rank, or the middle width, that was used; 0 for random factors.
        params: Parameters before and after.
        macs: Multiply-adds before and after, for the example clip; None without one.
    """

    name: str
    shape: tuple[int, ...]
    rank1_energy: float
    energy: float
    params: tuple[int, int]
    macs: tuple[int, int] | None


@dataclass(frozen=True)
class Factorization:
    """The result of `factorize`; `print` shows it as a table.

    Attributes:
        layers: The convolutions that were split.
        left: The reason for each convolution with a 3D kernel that was not split, by its name.
    """

    layers: tuple[FactorizedLayer, ...]
    left: dict[str, str]

    def __str__(self) -> str:
        lines = [f"{'layer':<44} {'kernel':<22} rank 1   kept  params" + " " * 15 + "multiply-adds"]
        for layer in self.layers:
            shape = " x ".join(map(str, layer.shape))
            macs = "{:,} -> {:,}".format(*layer.macs) if layer.macs else ""
            params = "{:,} -> {:,}".format(*layer.params)
            lines.append(
                f"{layer.name:<44} {shape:<22} {layer.rank1_energy:6.1%} {layer.energy:6.1%}  {params:<20} {macs}"
            )
        return "\n".join(lines + [f"{name:<44} left: {reason}" for name, reason in self.left.items()])


class FactorizedConv3d(nn.Sequential):
    """A spatial and a temporal convolution that replace one 3D convolution; made by `factorize`.

    Args:
        conv_s: 1 x k x k.
        conv_t: t x 1 x 1.
        norm: Between the two; the identity for none.
        order: `"d2plus1d"`, spatial first, or `"d1plus2d"`.

    Shape:
        That of the one convolution.
    """

    def __init__(self, conv_s: nn.Conv3d, conv_t: nn.Conv3d, norm: nn.Module, order: str) -> None:
        spatial, temporal = ("conv_s", conv_s), ("conv_t", conv_t)
        first, second = (spatial, temporal) if order == "d2plus1d" else (temporal, spatial)
        super().__init__(OrderedDict([first, ("norm", norm), second]))
        # settings of the one convolution, which the code around may read
        self.in_channels, self.out_channels = first[1].in_channels, second[1].out_channels
        self.groups, self.padding_mode = first[1].groups, first[1].padding_mode
        self.kernel_size, self.stride, self.dilation = (
            (t[0], *s[1:])
            for s, t in (
                (conv_s.kernel_size, conv_t.kernel_size),
                (conv_s.stride, conv_t.stride),
                (conv_s.dilation, conv_t.dilation),
            )
        )
        whole = isinstance(conv_s.padding, str) or isinstance(conv_t.padding, str)
        self.padding = conv_s.padding if whole else (conv_t.padding[0], *conv_s.padding[1:])

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Convolves `(B, C, T, H, W)`."""
        return self._in_series(input)

    @keeps_layout
    def _in_series(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self:
            x = layer(x)
        return x


def factorize(
    model: nn.Module,
    init: str = "svd",
    order: str = "d2plus1d",
    filter: Filter | None = None,
    norm: LayerType | None = None,
    *,
    rank: int = 1,
    conv: str | None = None,
    clip: torch.Tensor | None = None,
) -> Factorization:
    """Splits every depthwise 3D convolution of a model, in place, into a spatial and a temporal one.

    This is D(2+1)D of VoV3D (https://arxiv.org/abs/2012.00317, Table 1) for existing networks. Strides, paddings,
    dilations, biases, dtypes and devices are kept. With `init="svd"` a model whose kernels have the given rank keeps
    its outputs; others are approximated as well as that rank allows, and should be trained a little further
    (`vov3d.recalibrate` alone restores the statistics of norms).

    Args:
        model: Any module that contains convolutions.
        init: `"svd"`, the nearest kernels, or `"random"`, fresh ones.
        order: `"d2plus1d"`, spatial first, or `"d1plus2d"`.
        filter: Selects convolutions: a wildcard for names, as in `"blocks.3*"`, or a function of name and convolution.
        norm: Norm between the two, a name or a class; it starts as the identity in evaluation.
        rank: Products of kernels that are summed for each channel.
        conv: `"r2plus1d"` splits full convolutions as well, with the middle width that keeps their number of
            parameters (R(2+1)D, https://arxiv.org/abs/1711.11248, section 3.5).
        clip: Example input of the model, to count multiply-adds.

    Returns:
        The split layers, and the others with the reason; `print` shows them as a table.

    Raises:
        ValueError: If an argument is not known, nothing can be split, a convolution has hooks, a kernel is not finite,
            or the model is wrapped for several processes. The model is unchanged after any error.
    """
    _check(model, init, order, rank, conv)
    chosen, left = _candidates(model, filter, conv)
    if not chosen:
        chosen_by = "" if filter is None else f" filter={filter!r}" if isinstance(filter, str) else " the filter"
        reasons = "; ".join(f"{name}: {why}" for name, why in left.items()) or (
            f"it has no 3D convolutions that fit{chosen_by}"
        )
        raise ValueError(f"nothing in {type(model).__name__} can be split: {reasons}")
    for name, module in chosen.items():
        check_no_hooks(name, module)
        if not module.weight.isfinite().all():
            raise ValueError(f"{name}.weight has values that are not finite; correct them, or exclude it with filter=")
    sizes = _output_sizes(model, chosen, clip) if clip is not None else {}
    made: dict[int, tuple[FactorizedConv3d, FactorizedLayer]] = {}
    for name, module in chosen.items():
        if id(module) not in made:
            new, rank1, energy = _split(module, init, order, rank, norm)
            macs = _macs(module, new, sizes[name]) if name in sizes else None
            params = (_count(module), _count(new))
            layer = FactorizedLayer(name, tuple(module.weight.shape), rank1, energy, params, macs)
            made[id(module)] = (new, layer)
    _keep_ties_and_flags([(module, made[id(module)][0]) for module in chosen.values()])
    put(model, {name: made[id(module)][0] for name, module in chosen.items()})
    return Factorization(tuple(layer for _, layer in made.values()), left)


def _check(model: nn.Module, init: str, order: str, rank: int, conv: str | None) -> None:
    for name, value, known in (
        ("init", init, ("svd", "random")),
        ("order", order, ORDERS),
        ("conv", conv, (None, "r2plus1d")),
    ):
        if value not in known:
            raise ValueError(f"{name}={value!r} is not known; use one of {', '.join(map(repr, known))}")
    given: Any = rank
    if not isinstance(given, Integral) or rank < 1:
        raise ValueError(f"rank must be at least 1, got {rank!r}; give a whole number")
    check_takes_new_parameters(model)
    if isinstance(model, nn.Conv3d):
        raise ValueError("the model is itself a convolution and cannot be split in place; wrap it in nn.Sequential")


def _candidates(
    model: nn.Module, filter: Filter | None, conv: str | None
) -> tuple[dict[str, nn.Conv3d], dict[str, str]]:
    """Returns the convolutions to split, by each of their names, and the reasons for others with 3D kernels."""
    chosen: dict[str, nn.Conv3d] = {}
    left: dict[str, str] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if not isinstance(module, nn.Conv3d) or not _is_wanted(name, module, filter):
            continue
        t, *space = module.kernel_size
        if t == 1 or space == [1, 1]:
            continue  # one factor already
        if reason := _reason_against(module, conv):
            left[name] = reason
        else:
            chosen[name] = module
    held, read = (held_elsewhere(model), attributes_read(model)) if chosen else (set(), {})
    for name, module in list(chosen.items()):
        if lost := sorted(_LOST & read.get(module, set())):
            left[name] = f"the model's code reads its {lost[0]}"
        elif module in held:
            left[name] = "the model's code holds it in an attribute, a list or a dictionary as well"
        else:
            continue
        del chosen[name]
    return chosen, left


def _is_wanted(name: str, module: nn.Conv3d, filter: Filter | None) -> bool:
    if filter is None:
        return True
    return fnmatchcase(name, filter) if isinstance(filter, str) else filter(name, module)


def _reason_against(module: nn.Conv3d, conv: str | None) -> str | None:
    if parametrize.is_parametrized(module) or any("weight" in vars(h) for h in module._forward_pre_hooks.values()):
        return "its weight is computed from others"
    if is_lazy(module.weight):
        return "its weight is not initialised yet; run the model once"
    if module.weight.is_meta:
        return "its weight is on the meta device, without values"
    if not is_only(module, nn.Conv3d):
        return f"this {type(module).__name__} may do more than a convolution"
    if _is_depthwise(module):
        return None
    if module.groups > 1:
        return f"{module.groups} groups of several channels"
    return None if conv == "r2plus1d" else "not depthwise (conv='r2plus1d' splits full convolutions)"


def _is_depthwise(module: nn.Conv3d) -> bool:
    return module.groups == module.in_channels and (module.groups > 1 or module.out_channels == 1)


# --- the two factors -------------------------------------------------------------------------------------------------


def _split(
    module: nn.Conv3d, init: str, order: str, rank: int, norm: LayerType | None
) -> tuple[FactorizedConv3d, float, float]:
    """Returns the pair, the share of energy that rank 1 keeps, and the share that the pair keeps."""
    depthwise = _is_depthwise(module)
    width = module.out_channels * rank if depthwise else _r2plus1d_width(module, order)
    conv_s, conv_t = _empty_pair(module, order, width)
    middle = nn.Identity() if norm is None else _identity_norm(norm, width, module.weight)
    matrix = _as_matrices(module, order)
    singular = torch.linalg.svdvals(matrix)
    kept = rank if depthwise else width
    with torch.no_grad():
        if init == "svd":
            _set_nearest(conv_s, conv_t, matrix, order, kept, depthwise)
        else:
            for conv in (conv_s, conv_t):
                fan_out = conv.out_channels // conv.groups * conv.weight[0, 0].numel()
                nn.init.normal_(conv.weight, std=(2.0 / fan_out) ** 0.5)
        last = conv_t if order == "d2plus1d" else conv_s
        if module.bias is not None and last.bias is not None:
            last.bias.copy_(module.bias)
    pair = FactorizedConv3d(conv_s, conv_t, middle, order).train(module.training)
    middle.requires_grad_(module.weight.requires_grad)
    energy = _energy(singular, kept) if init == "svd" else 0.0
    return pair, _energy(singular, 1), energy


def _keep_ties_and_flags(pairs: Iterable[tuple[nn.Conv3d, FactorizedConv3d]]) -> None:
    """Makes parameters of pairs require gradients, and be the same, where those of the convolutions do and are."""
    known: dict[tuple[Any, ...], nn.Parameter] = {}
    for module, pair in pairs:
        for part in ("conv_s", "conv_t"):
            conv = pair.get_submodule(part)
            for kind, own in list(conv.named_parameters()):
                source = module.get_parameter(kind)
                parameter = known.setdefault((id(source), part, own.shape), own)
                parameter.requires_grad = source.requires_grad
                conv.register_parameter(kind, parameter)


def _energy(singular: torch.Tensor, rank: int) -> float:
    total = singular.square().sum().item()
    return singular[..., :rank].square().sum().item() / total if total else 1.0


def _r2plus1d_width(module: nn.Conv3d, order: str) -> int:
    """Returns the middle width, rounded down, with which the pair has as many parameters as the whole."""
    t, h, w = module.kernel_size
    first, second = (h * w, t) if order == "d2plus1d" else (t, h * w)
    whole = t * h * w * module.in_channels * module.out_channels
    return max(1, whole // (first * module.in_channels + second * module.out_channels))


def _empty_pair(module: nn.Conv3d, order: str, width: int) -> tuple[nn.Conv3d, nn.Conv3d]:
    """Builds the spatial and the temporal convolution; the one that runs second has the bias."""
    (t, h, w), (st, sh, sw), (dt, dh, dw) = module.kernel_size, module.stride, module.dilation
    pt, ph, pw = (0, 0, 0) if isinstance(module.padding, str) else module.padding
    named = module.padding if isinstance(module.padding, str) else None
    spatial: dict[str, Any] = dict(
        kernel_size=(1, h, w), stride=(1, sh, sw), padding=named or (0, ph, pw), dilation=(1, dh, dw)
    )
    temporal: dict[str, Any] = dict(
        kernel_size=(t, 1, 1), stride=(st, 1, 1), padding=named or (pt, 0, 0), dilation=(dt, 1, 1)
    )
    depthwise = _is_depthwise(module)
    ends = ((module.in_channels, width), (width, module.out_channels))
    groups = (module.in_channels, module.out_channels) if depthwise else (1, 1)
    spatial_first = order == "d2plus1d"
    pair = []
    for i, settings in enumerate((spatial, temporal) if spatial_first else (temporal, spatial)):
        chs: Any = dict(zip(("in_channels", "out_channels"), ends[i], strict=True))
        bias = bool(i) and module.bias is not None
        conv = nn.Conv3d(
            **chs,
            **settings,
            groups=groups[i],
            bias=bias,
            padding_mode=module.padding_mode,
            device=module.weight.device,
            dtype=module.weight.dtype,
        )
        pair.append(fast(conv))
    return (pair[0], pair[1]) if spatial_first else (pair[1], pair[0])


def _identity_norm(norm: LayerType, chs: int, like: torch.Tensor) -> nn.Module:
    made: Any = create_norm(norm, chs, device=like.device, dtype=like.dtype)
    if getattr(made, "running_var", None) is not None and made.weight is not None:
        nn.init.constant_(made.weight, (1 + made.eps) ** 0.5)
    return made


def _as_matrices(module: nn.Conv3d, order: str) -> torch.Tensor:
    """Returns kernels in float64 as `(out_chs, t, h w)`, a matrix per channel; or as one matrix if not depthwise."""
    weight = module.weight.detach()
    weight = weight.to(torch.promote_types(weight.dtype, torch.float64))  # complex kernels stay complex
    if _is_depthwise(module):
        return weight.flatten(3).squeeze(1)
    # the first factor mixes input channels, the second output channels
    o, i, t, h, w = weight.shape
    if order == "d2plus1d":
        return weight.permute(1, 3, 4, 0, 2).reshape(i * h * w, o * t)
    return weight.permute(1, 2, 0, 3, 4).reshape(i * t, o * h * w)


def _set_nearest(
    conv_s: nn.Conv3d, conv_t: nn.Conv3d, matrix: torch.Tensor, order: str, kept: int, depthwise: bool
) -> None:
    """Sets both kernels to the best approximation of rank `kept`; each factor carries half of the scale."""
    left, singular, right = torch.linalg.svd(matrix, full_matrices=False)
    n = min(kept, singular.shape[-1])
    scale = singular[..., :n].sqrt()
    first, second = left[..., :n] * scale[..., None, :], right[..., :n, :] * scale[..., None]
    for conv in (conv_s, conv_t):
        conv.weight.zero_()
    if depthwise:
        # between the two convolutions, product j of channel o is channel o * rank + j
        temporal, spatial = first.transpose(1, 2), second
        if order == "d2plus1d":
            _put(conv_s.weight.unflatten(0, (-1, kept))[:, :n], spatial)
            _put(conv_t.weight[:, :n], temporal)
        else:
            _put(conv_t.weight.unflatten(0, (-1, kept))[:, :n], temporal)
            _put(conv_s.weight[:, :n], spatial)
    elif order == "d2plus1d":
        _put(conv_s.weight[:n], first.T)
        _put(conv_t.weight[:, :n], second.unflatten(1, (conv_t.out_channels, -1)).transpose(0, 1))
    else:
        _put(conv_t.weight[:n], first.T)
        _put(conv_s.weight[:, :n], second.unflatten(1, (conv_s.out_channels, -1)).transpose(0, 1))


def _put(target: torch.Tensor, values: torch.Tensor) -> None:
    target.copy_(values.reshape(target.shape))


# --- the report ------------------------------------------------------------------------------------------------------


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _output_sizes(
    model: nn.Module, chosen: dict[str, nn.Conv3d], clip: torch.Tensor
) -> dict[str, tuple[torch.Size, torch.Size]]:
    """Returns the shapes of input and output of each convolution for an example clip."""
    sizes: dict[str, tuple[torch.Size, torch.Size]] = {}
    model = with_own_state(model)
    for name in chosen:
        model.get_submodule(name).register_forward_hook(
            lambda _, args, out, name=name: sizes.update({name: (args[0].shape, out.shape)})
        )
    with torch.no_grad():
        model(clip)
    return sizes


def _macs(module: nn.Conv3d, new: FactorizedConv3d, sizes: tuple[torch.Size, torch.Size]) -> tuple[int, int]:
    (b, _, t_in, h_in, w_in), (_, _, t, h, w) = sizes
    pair = [conv for conv in new if isinstance(conv, nn.Conv3d)]
    first = (t_in, h, w) if pair[0] is new.conv_s else (t, h_in, w_in)
    before = b * t * h * w * module.weight.numel()
    weights = [conv.weight for conv in pair]
    after = sum(
        b * torch.Size(positions).numel() * weight.numel()
        for positions, weight in zip((first, (t, h, w)), weights, strict=True)
    )
    return before, after
