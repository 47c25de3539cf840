"""The networks in the form in which they were published: plain `nn.Conv3d` on contiguous clips.

`published_form(model)` gives the same numbers as the model of `vov3d` with the same weights, from plain modules as
PySlowFast has them: `Conv3d`, `BatchNorm3d`, and a swish of two operations that keeps its input and recomputes the
sigmoid in the backward pass. It is what the speed of everything else is compared with.

    python docs/measure/published_form.py    # compares the numbers of all models
"""

import copy
from typing import Any

import torch
from torch import nn

import vov3d


class _SwishFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        gate = torch.sigmoid(x)
        return grad * (gate * (1 + x * (1 - gate)))


class Swish(nn.Module):
    """x * sigmoid(x)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Activates."""
        return _SwishFunction.apply(x)


def _plain_conv(conv: Any) -> nn.Conv3d:
    bias = conv.bias is not None
    plain = nn.Conv3d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        conv.stride,
        conv.padding,
        conv.dilation,
        groups=conv.groups,
        bias=bias,
        device="meta",
    )
    plain.weight = conv.weight
    if bias:
        plain.bias = conv.bias
    return plain


def published_form(model: nn.Module) -> nn.Module:
    """Builds a copy of a model of `vov3d` from plain modules; the state dict keeps its names."""
    model = copy.deepcopy(model)
    for owner in list(model.modules()):
        for name, module in list(owner.named_children()):
            if type(module) is nn.Conv3d:
                setattr(owner, name, _plain_conv(module))
            elif isinstance(module, nn.SiLU):
                setattr(owner, name, Swish())
    return model


def main() -> None:
    """Prints the largest difference to the zoo's form, relative to the largest output."""
    for name in vov3d.list_models():
        model = vov3d.create_model(name).double().eval()
        clip = torch.randn(1, 3, 5, 72, 72, dtype=torch.float64)
        with torch.no_grad():
            ours, published = model(clip), published_form(model)(clip)
        print(f"{name:8} {((ours - published).abs().max() / ours.abs().max()).item():.1e}")


if __name__ == "__main__":
    main()
