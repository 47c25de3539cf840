"""The network without conv3d that goes into ExecuTorch files, whose runtime is not needed here."""

import pytest
import torch
from helpers.trained_like import as_trained
from torch import nn

import vov3d
from vov3d.deploy.graphs import frame_graph_of
from vov3d.layers import MIDDLE_CONVS

NANO = dict(stem_chs=4, mid_chs=(4, 8, 8, 8), out_chs=(4, 4, 8, 8), depths=(1, 2, 1, 1), head_chs=8, hidden_chs=8)


@pytest.mark.parametrize("output_stride", [32, 16])
@pytest.mark.parametrize("name", ["vov3d_m", "x3d_m"])
@pytest.mark.parametrize("conv", MIDDLE_CONVS)
def test_the_form_on_frames_equals_the_model_on_clips(name, conv, output_stride):
    model = as_trained(vov3d.create_model(name, conv=conv, output_stride=output_stride, num_classes=5, **NANO))
    clip = torch.randn(1, 3, 3, 256, 240, dtype=torch.float64)  # maps larger than the windows of 7 and 14
    graph = frame_graph_of(model)
    assert not any(isinstance(m, nn.Conv3d | nn.BatchNorm3d) for m in graph.modules())
    logits, probabilities = graph(clip)
    torch.testing.assert_close(logits, model(clip), rtol=0, atol=1e-9)
    torch.testing.assert_close(probabilities, model.forward_dense(clip), rtol=0, atol=1e-9)


def test_models_without_a_form_on_frames_are_refused():
    with pytest.raises(ValueError, match=r"need batch norms to fold, but stem\.bn is a "):
        frame_graph_of(vov3d.create_model("vov3d_m", norm_layer="groupnorm1", num_classes=3, **NANO).eval())
    with pytest.raises(ValueError, match="classifiers with average pooling"):
        frame_graph_of(vov3d.create_model("vov3d_m", global_pool="max", num_classes=3, **NANO).eval())
