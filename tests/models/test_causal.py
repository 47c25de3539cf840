"""Causal networks: no frame sees a later one, weights are those of the usual form, and every way to run them agrees."""

import json

import pytest
import torch
from helpers.trained_like import as_trained

import vov3d
from vov3d.layers import MIDDLE_CONVS, D2plus1D

NARROW = dict(depths=(1, 2), num_classes=7, head_chs=16, hidden_chs=24, stem_chs=6, output_stride=8)
SMALL = {
    "vov3d_m": NARROW | dict(mid_chs=(12, 16), out_chs=(6, 8)),
    "x3d_m": NARROW | dict(mid_chs=(12, 16), out_chs=(6, 8)),
}


def small(name, **kwargs):
    return as_trained(vov3d.create_model(name, **SMALL[name], **kwargs))


@pytest.mark.parametrize("conv", MIDDLE_CONVS)
@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("grad", [False, True])  # convolutions take other forms where gradients are wanted
def test_every_frame_equals_a_clip_that_ends_there(name, conv, grad):
    model = small(name, causal=True, conv=conv)
    for batch in (1, 2):
        clip = torch.randn(batch, 3, 6, 17, 16, dtype=torch.float64)
        with torch.set_grad_enabled(grad):
            every = model.forward_frames(clip)
            for frames in (1, 2, 6):
                last = model(clip[:, :, :frames])
                torch.testing.assert_close(every[:, frames - 1], last, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", vov3d.list_models())
def test_names_and_shapes_of_weights_stay(name):
    shapes = [
        {key: value.shape for key, value in vov3d.create_model(name, device="meta", **kwargs).state_dict().items()}
        for kwargs in ({}, {"causal": True})
    ]
    assert shapes[0] == shapes[1]


def test_a_block_of_its_own_is_causal():
    block = D2plus1D(4, 8, 4, causal=True).eval()
    clip = torch.randn(1, 4, 5, 8, 8)
    changed = clip.clone()
    changed[:, :, 3:] = 0
    with torch.no_grad():
        assert torch.equal(block(clip)[:, :, :3], block(changed)[:, :, :3])
        usual = D2plus1D(4, 8, 4).eval()
        usual.load_state_dict(block.state_dict())
        assert not torch.equal(usual(clip)[:, :, :3], usual(changed)[:, :, :3])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["x3d_m", "vov3d_m"])
def test_optimized_and_exported_forms_have_equal_outputs(name, tmp_path):
    model = small(name, causal=True).float()
    clip = torch.randn(2, 3, 6, 33, 32)
    fast = vov3d.optimize_for_inference(model)
    with torch.no_grad():
        torch.testing.assert_close(fast(clip), model(clip), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(fast.forward_frames(clip), model.forward_frames(clip), rtol=1e-4, atol=1e-5)
    vov3d.export(model, tmp_path / "causal.pt2", frames=4, size=32)  # compares


def test_a_saved_model_is_causal_again(tmp_path):
    model = small("vov3d_m", causal=True).float()
    vov3d.save_pretrained(model, tmp_path / "saved")
    assert json.loads((tmp_path / "saved/config.json").read_text())["model_args"]["causal"] is True
    again = vov3d.create_model(f"local-dir:{tmp_path / 'saved'}", pretrained=True).eval()
    clip = torch.randn(1, 3, 4, 16, 16)
    assert again.causal
    assert torch.equal(again.forward_frames(clip), model.forward_frames(clip))


def test_logits_of_every_frame_need_a_causal_network_that_averages():
    clip = torch.randn(1, 3, 2, 16, 16, dtype=torch.float64)
    with pytest.raises(ValueError, match="causal=True"):
        small("vov3d_m").forward_frames(clip)
    with pytest.raises(ValueError, match="'max'"):
        small("vov3d_m", causal=True, global_pool="max").forward_frames(clip)
