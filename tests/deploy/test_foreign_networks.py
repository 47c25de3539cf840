"""Networks of other packages after optimize_for_inference and factorize: they still run everywhere."""

import copy
import io
import itertools
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import vmap

import vov3d
from vov3d.deploy._gpu import ChosenConvolution


class C3D(nn.Module):
    """As the widespread C3D: convolutions, pooling, `.view()`."""

    def __init__(self, chans: int, groups: int, where: str) -> None:
        super().__init__()
        self.first, self.second = nn.Conv3d(chans, 8, 3, padding=1), nn.Conv3d(8, 8, 3, padding=1, groups=groups)
        self.third = nn.Conv3d(8, 8, 1, (1, 2, 2))
        self.where = where

    def forward(self, x):
        x = self.second(self.first(x).relu())
        if self.where == "inside":
            x = x.view(len(x), 4, -1).view(x.shape)
        x = self.third(x)
        return x.view(len(x), -1) if self.where == "at the end" else x


FORMS = {
    "optimized": lambda m: vov3d.optimize_for_inference(m),
    "factorized": lambda m: (vov3d.factorize(m, rank=3), m)[1],
}
CASES = list(itertools.product(FORMS, (1, 3), ("inside", "at the end", "behind")))


def both(form: str, chans: int, where: str) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    model = C3D(chans, 8, where).eval().requires_grad_(form == "factorized")
    return copy.deepcopy(model), FORMS[form](model)


@pytest.mark.parametrize(("form", "chans", "where"), CASES)
def test_views_of_maps(form, chans, where):
    model, changed = both(form, chans, where)
    for _, x in itertools.product(range(2), (torch.randn(2, chans, 3, 8, 8), torch.randn(1, chans, 1, 7, 5))):
        out = changed(x)
        torch.testing.assert_close(out, model(x), rtol=1e-4, atol=1e-5)
        assert out.view(-1).shape == (out.numel(),)


@pytest.mark.parametrize("form", FORMS)
def test_clips_without_a_batch_and_batches_without_a_clip(form):
    model, changed = both(form, 3, "behind")
    for x in (torch.randn(3, 3, 8, 8), torch.empty(0, 3, 3, 8, 8)):
        torch.testing.assert_close(changed(x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_tracers_exporters_and_torch_func(form):
    model, changed = both(form, 3, "behind")
    x = torch.randn(2, 3, 3, 8, 8)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(changed, x)
        torch.onnx.export(changed, (x,), io.BytesIO(), dynamo=False)
        exported = torch.export.export(changed, (x,)).module()
        found = [traced(x), exported(x), vmap(lambda x: changed(x[None])[0])(x)]
        for out in found:
            torch.testing.assert_close(out, model(x), rtol=1e-4, atol=1e-5)


def test_a_factorized_network_is_scripted_as_before():
    model, changed = both("factorized", 3, "behind")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(nn.Sequential(changed.first, changed.second))
    x = torch.randn(2, 3, 3, 8, 8)
    torch.testing.assert_close(scripted(x), model.second(model.first(x)), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_an_optimized_model_of_ours_is_traced_and_exported():
    model = vov3d.create_model("vov3d_n", num_classes=3, depths=(1, 1, 1)).eval()
    fast, x = vov3d.optimize_for_inference(model), torch.randn(1, 3, 2, 32, 32)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        for form in (torch.jit.trace(fast, x), torch.export.export(fast, (x,)).module()):
            torch.testing.assert_close(form(x), model(x), rtol=1e-4, atol=1e-5)


class Stream(nn.Module):
    """Keeps frames, and needs contiguous maps after that."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.calls = nn.Conv3d(3, 4, (1, 3, 3), padding=(0, 1, 1)), []
        self.register_buffer("past", torch.zeros(1, 4, 2, 8, 8))

    def forward(self, x):
        y = self.conv(x)
        both = torch.cat([self.past, y], 2)
        self.past.copy_(both[:, :, -2:])
        self.calls.append(1)
        return (both.contiguous() * len(self.calls)).mean() + y.view(len(y), -1)


def test_a_state_is_as_before_when_a_layout_was_tried():
    model = Stream().eval()
    fast = vov3d.optimize_for_inference(model)
    with torch.no_grad():
        for x in torch.randn(4, 1, 3, 1, 8, 8):
            torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-5)


class SharedActivation(nn.Module):
    """Runs one activation in a part and beside it, on its input."""

    def __init__(self) -> None:
        super().__init__()
        act = nn.Hardswish()
        self.part, self.act = nn.Sequential(nn.Conv3d(3, 3, 3, padding=1), act), act

    def forward(self, x):
        x = 2 * x
        return self.act(x) + x + (self.part(x) if x.sum() > 0 else self.part(-x))


def test_an_activation_shared_with_other_code_keeps_its_input():
    model, x = SharedActivation().eval(), torch.randn(1, 3, 3, 8, 8)
    torch.testing.assert_close(vov3d.optimize_for_inference(model)(x), model(x), rtol=1e-4, atol=1e-5)


class Spectral(nn.Module):
    """As a Fourier neural operator: complex weights beside real ones."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(3, 4, 1)
        self.weight = nn.Parameter(torch.randn(4, 4, 3, 4, 3, dtype=torch.complex64))
        self.mix = nn.Conv3d(4, 4, 1, dtype=torch.complex64)

    def forward(self, x):
        x = torch.fft.rfftn(self.conv(x), dim=(2, 3, 4))
        return torch.fft.irfftn(self.mix(torch.einsum("bcthw,cdthw->bdthw", x, self.weight)), dim=(2, 3, 4))


def test_complex_weights_stay_complex():
    torch.manual_seed(0)
    model, x = Spectral().eval(), torch.randn(1, 3, 3, 4, 4)
    fast = vov3d.optimize_for_inference(model)
    assert {name: t.dtype for name, t in fast.model.state_dict().items()} == {
        name: t.dtype for name, t in model.state_dict().items()
    }
    torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-4)
    mix = nn.Sequential(model.mix, nn.Conv3d(4, 2, (1, 3, 3), dtype=torch.complex64)).eval()
    x = torch.randn(1, 4, 3, 4, 4, dtype=torch.complex64)
    torch.testing.assert_close(vov3d.optimize_for_inference(mix)(x), mix(x), rtol=1e-4, atol=1e-5)


class Settings(nn.Module):
    """Reads the settings of its convolution, as networks with padding of their own do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv3d(4, 8, (3, 1, 1), (1, 2, 2), groups=2), nn.ReLU()

    def forward(self, x):
        conv = self.conv
        x = F.pad(x, (0, 0, 0, 0, conv.dilation[0] * (conv.kernel_size[0] - 1), 0))
        y = self.act(conv(x.unflatten(1, (conv.groups, -1)).flatten(1, 2)[:, : conv.in_channels]))
        plain = (conv.stride, conv.padding, conv.padding_mode) == ((1, 2, 2), (0, 0, 0), "zeros")
        return y.view(len(x), conv.out_channels, -1) if plain else None


def test_settings_of_a_convolution_can_be_read():
    model, x = Settings().eval(), torch.randn(2, 4, 3, 7, 8)
    fast = vov3d.optimize_for_inference(model)
    torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-5)
    on_gpus = ChosenConvolution(fast.model.conv)
    for name in model.conv.__constants__:
        assert getattr(on_gpus, name) == getattr(model.conv, name), name


class CentralDifference(nn.Module):
    """A central difference convolution, whose code reads the kernel of its convolution."""

    def __init__(self, kernel) -> None:
        super().__init__()
        self.conv = nn.Conv3d(4, 6, kernel, padding=[size // 2 for size in kernel])

    def forward(self, x):
        weight = self.conv.weight
        if weight.shape[2] > 1:
            around = weight[:, :, 0].sum((2, 3)) + weight[:, :, 2].sum((2, 3))
        else:
            around = weight.sum((2, 3, 4))
        return self.conv(x) - 0.7 * F.conv3d(x, around[:, :, None, None, None])


@pytest.mark.parametrize("kernel", [(1, 1, 1), (1, 3, 3), (3, 1, 1), (3, 3, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_kernel_of_a_convolution_can_be_read(kernel, dtype):
    torch.manual_seed(0)
    model, x = CentralDifference(kernel).to(dtype).eval(), torch.randn(2, 4, 3, 7, 8, dtype=dtype)
    fast = vov3d.optimize_for_inference(model)
    torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(fast.model.conv.weight, model.conv.weight.detach())


def test_torchscript_is_refused():
    scripted = torch.jit.trace(C3D(3, 1, "behind").eval(), torch.randn(1, 3, 3, 8, 8))
    with pytest.raises(ValueError, match="TorchScript"):
        vov3d.optimize_for_inference(scripted)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [
        (1, 1, 0),
        (1, (2, 1, 3), 0),
        (1, 1, (0, 1, 2)),
        ((1, 3, 2), (2, 2, 1), (0, 1, 1)),
        ((3, 1, 1), (2, 1, 1), (1, 0, 0)),
        (3, 1, 1),
        ((2, 3, 4), 2, (0, 2, 1)),
    ],
)
def test_small_maps_run_as_products(kernel, stride, padding):
    torch.manual_seed(0)
    conv = nn.Conv3d(6, 5, kernel, stride, padding)
    model = nn.Sequential(nn.Conv3d(4, 6, 1), conv, nn.SiLU()).eval()
    fast = vov3d.optimize_for_inference(model)
    for x in (torch.randn(2, 4, 2, 3, 4), torch.randn(1, 4, 5, 7, 6)):
        x = x.contiguous(memory_format=torch.channels_last_3d)
        out = fast(x)
        torch.testing.assert_close(out, model(x), rtol=1e-4, atol=1e-5)
        assert out.is_contiguous(memory_format=torch.channels_last_3d)


class HoldsLayers(nn.Module):
    """Calls its layers in a list of its own, by keyword as PyTorch names the argument."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.point = nn.Conv3d(3, 8, 3, padding=1), nn.Conv3d(8, 8, 1)
        self.block, self.last = vov3d.TOSA(8, 8, 8, num_blocks=2), nn.Conv3d(8, 4, (1, 3, 3))
        self.layers = [self.conv, self.point]
        self.by_name = {"block": self.block}

    def forward(self, x):
        for layer in self.layers:
            x = layer(input=x)
        return self.last(input=self.by_name["block"](x))


def test_layers_that_are_also_held_in_a_list_get_the_precision():
    model, x = HoldsLayers().eval(), torch.randn(2, 3, 4, 8, 8)
    expected = copy.deepcopy(model).double()(x.double())
    for dtype, bound in ((torch.float32, 1e-5), (torch.float64, 1e-10)):
        found = vov3d.optimize_for_inference(model, dtype=dtype)(x)
        assert found.dtype == dtype
        torch.testing.assert_close(found.double(), expected, rtol=bound, atol=bound)


class Keyword(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv3d(8, 8, 3, padding=1, groups=8), nn.BatchNorm3d(8)

    def forward(self, x):
        return self.bn(input=self.conv(input=x)).relu()


CHANGES = {
    "optimized": vov3d.optimize_for_inference,
    "factorized": lambda m: (vov3d.factorize(m, rank=3), m)[1],
    "frozen": vov3d.freeze_batchnorm,
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.filterwarnings("ignore:1 batch norms are not folded")
def test_new_layers_take_their_input_by_the_name_of_pytorch(change):
    model, x = Keyword().eval(), torch.randn(2, 8, 3, 8, 8)
    expected = model(x)
    torch.testing.assert_close(CHANGES[change](model)(x), expected, rtol=1e-4, atol=1e-5)
