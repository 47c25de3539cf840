"""Clips stay channels-last through the whole network."""

import pytest
import torch

import vov3d


@pytest.fixture(params=[1, 2])
def threads(request):
    """Sets the number of threads: PyTorch takes other convolutions where one thread runs."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("name", ["vov3d_m", "x3d_xs"])
def test_clips_stay_channels_last_through_the_whole_network(name, batch, threads):
    # one clip alone once lost the layout at its first 1x1x1 convolution, and half the speed with it
    model = vov3d.create_model(name, depths=(1, 1, 1, 1)).eval()
    lost = []

    def check(layer, output):
        if output.dim() == 5 and not output.is_contiguous(memory_format=torch.channels_last_3d):
            lost.append(layer)

    for layer, module in model.named_modules():
        module.register_forward_hook(lambda _, __, output, layer=layer: check(layer, output))
    with torch.no_grad():
        model(torch.randn(batch, 3, 4, 64, 64))
    assert not lost
