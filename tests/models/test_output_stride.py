"""Dilated last stages: the weights of the strided network on a finer map."""

import pytest
import torch
from helpers.reference_recipe import weight
from helpers.trained_like import as_trained
from torch import nn

import vov3d
from vov3d.hub.saving import save_pretrained
from vov3d.layers import MIDDLE_CONVS

SMALL = dict(mid_chs=(8, 8, 12), out_chs=(4, 8, 8), depths=(1, 2, 1), head_chs=16, hidden_chs=16, num_classes=5)


def small(name: str, output_stride: int, **kwargs) -> nn.Module:
    return as_trained(vov3d.create_model(name, output_stride=output_stride, **SMALL | kwargs))


def clip(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("output_stride", [8, 4, 2])
@pytest.mark.parametrize("conv", MIDDLE_CONVS)
@pytest.mark.parametrize("name", ["vov3d_m", "x3d_m"])
def test_dilated_maps_equal_strided_maps_at_their_pixels(name, conv, output_stride):
    # Squeeze-and-excitation averages over all pixels; without it the two maps agree in every value.
    strided, dilated = (small(name, s, conv=conv, se_ratio=0, kernel_size=5) for s in (16, output_stride))
    dilated.load_state_dict(strided.state_dict())
    for x in (clip(2, 3, 3, 33, 46), clip(1, 3, 3, 32, 64).requires_grad_()):  # without and with the views of training
        maps = [m.forward_intermediates(x, intermediates_only=True) for m in (strided, dilated)]
        for coarse, fine, info in zip(*maps, strided.feature_info, strict=True):
            step = max(info["reduction"] // output_stride, 1)
            torch.testing.assert_close(fine[..., ::step, ::step], coarse, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("name", "first"), [("vov3d_m", "layers.0.conv_s"), ("x3d_m", "conv_st")])
def test_the_published_network_up_to_its_first_dilated_convolution(name, first):
    seen = []
    for stride in (32, 16):
        model = vov3d.create_model(name, output_stride=stride, num_classes=3, dtype=torch.float64).eval()
        shapes = {k: tuple(v.shape) for k, v in model.state_dict().items()}
        model.load_state_dict({k: torch.from_numpy(weight(k, shape)) for k, shape in shapes.items()})
        block = model.stages[3].blocks[0]
        for module in (block.get_submodule(first), block.shortcut):
            module.register_forward_hook(lambda module, args, out: seen.append(out))
        with torch.no_grad():
            model(clip(1, 3, 2, 64, 96))
        assert block.get_submodule(first).dilation == (1, 1, 1)  # what came in had not been dilated
        later = [m.dilation[1] for m in model.stages[3].modules() if getattr(m, "kernel_size", (0, 0))[1] == 3]
        assert set(later[1:]) == {32 // stride}
    for coarse, fine in zip(seen[:2], seen[2:], strict=True):
        torch.testing.assert_close(fine[..., ::2, ::2], coarse, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("vov3d_n", {}),
        ("x3d_m", {}),
        *(
            pytest.param(name, {}, marks=pytest.mark.slow)
            for name in vov3d.list_models()
            if name not in ("vov3d_n", "x3d_m")
        ),
        *(("vov3d_m", dict(conv=conv)) for conv in MIDDLE_CONVS[:-1]),
    ],
)
def test_every_model_keeps_its_tensors(name, args):
    published = vov3d.create_model(name, device="meta", **args)
    x, own = torch.empty(1, 3, 2, 64, 96, device="meta"), published.feature_info[-1]["reduction"]
    for stride in (own // 2, own // 4):
        model = vov3d.create_model(name, output_stride=stride, device="meta", **args).eval()
        shapes = [{k: v.shape for k, v in m.state_dict().items()} for m in (model, published)]
        assert shapes[0] == shapes[1]
        maps = model.forward_intermediates(x, intermediates_only=True)
        for i, (out, info) in enumerate(zip(maps, model.feature_info, strict=True)):
            reduction = min(2 ** (i + 1), stride)
            assert info["reduction"] == reduction
            assert out.shape[2:] == (2, 64 // reduction, 96 // reduction)


@pytest.mark.parametrize("feature_cls", ["list", "fx"])
@pytest.mark.parametrize("name", ["vov3d_n", "x3d_xs"])
def test_features_only(name, feature_cls):
    model = vov3d.create_model(name, features_only=True, feature_cls=feature_cls, output_stride=8).eval()
    reductions = model.feature_info.reduction()
    assert reductions == [2, 4, 8, 8, 8][: len(reductions)]
    for out, reduction in zip(model(torch.zeros(1, 3, 2, 32, 48)), reductions, strict=True):
        assert out.shape[2:] == (2, 32 // reduction, 48 // reduction)


@pytest.mark.slow
def test_weights_load_and_the_model_saves(tmp_path):
    folder = save_pretrained(vov3d.create_model("vov3d_m", **SMALL, output_stride=16), tmp_path / "strided")
    x = clip(1, 3, 2, 16, 16).float()
    dilated = vov3d.create_model(f"local-dir:{folder}", pretrained=True, output_stride=8).eval()
    assert dilated.forward_features(x).shape[3:] == (2, 2)
    again = vov3d.create_model(f"local-dir:{save_pretrained(dilated, tmp_path / 'dilated')}", pretrained=True).eval()
    from_file = vov3d.create_model(
        "vov3d_m", checkpoint_path=folder / "model.safetensors", output_stride=8, **SMALL
    ).eval()
    last = vov3d.create_model(
        f"local-dir:{folder}", pretrained=True, output_stride=8, features_only=True, out_indices=[-1]
    ).eval()
    with torch.no_grad():
        for model in (again, from_file):
            assert torch.equal(model(x), dilated(x))
        assert torch.equal(last(x)[0], dilated.forward_features(x))


def test_the_window_of_the_published_evaluation_is_that_of_the_finer_map(tmp_path):
    def window(**kwargs):
        return vov3d.create_model("vov3d_m", device="meta", **kwargs).pretrained_cfg["pool_size"]

    assert window(output_stride=16) == (14, 14)
    assert window(output_stride=8) == (28, 28)
    assert window(output_stride=16, pretrained_cfg_overlay=dict(pool_size=(7, 7))) == (7, 7)
    saved = save_pretrained(vov3d.create_model("vov3d_n", output_stride=8), tmp_path / "model")
    for more in ({}, dict(output_stride=8)):
        assert tuple(vov3d.create_model(f"local-dir:{saved}", **more).pretrained_cfg["pool_size"]) == (8, 8)


@pytest.mark.parametrize("stride", [64, 24, 1, 0, -16])
def test_other_strides_are_refused(stride):
    with pytest.raises(ValueError, match=f"output_stride={stride} is not supported: .* give 32, .* stages 16, 8, 4, 2"):
        vov3d.create_model("x3d_s", output_stride=stride)
    with pytest.raises(ValueError, match="output_stride=32 is not supported: a stem and 3 stages of stride 2 give 16"):
        vov3d.create_model("vov3d_n", output_stride=32)
