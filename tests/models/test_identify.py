"""Networks are identified by names and shapes of tensors alone."""

import pytest
from helpers.reference_files import PUBLISHED, load_reference, published_state_dict
from hypothesis import given, settings
from hypothesis import strategies as st

import vov3d
from vov3d.layers import MIDDLE_CONVS
from vov3d.models.identify import identify


@pytest.mark.parametrize("reference", PUBLISHED)
def test_the_published_formats_are_recognised_without_naming_them(reference):
    found = identify(published_state_dict(reference))
    assert PUBLISHED[reference] in found.variants
    assert found.num_classes == next(
        s[0]
        for n, s in load_reference(reference)["state_dict"].items()
        if n.endswith(("projection.weight", "proj.weight"))
    )
    assert found.format == ("pytorchvideo" if reference.startswith("pytorchvideo") else "slowfast")
    assert not found.model_args


@pytest.mark.parametrize(
    "variant",
    ["vov3d_m", *(pytest.param(n, marks=pytest.mark.slow) for n in ("vov3d_l", "x3d_s", "x3d_m", "x3d_l"))],
)
@pytest.mark.parametrize("conv", MIDDLE_CONVS)
def test_every_model_with_every_conv_is_recognised(variant, conv):
    found = identify(vov3d.create_model(variant, conv=conv, num_classes=7, in_chans=5, device="meta").state_dict())
    assert variant in found.variants
    assert (found.num_classes, found.in_chans, found.format) == (7, 5, "vov3d")
    rebuilt = vov3d.create_model(found.base, num_classes=7, in_chans=5, device="meta", **found.model_args)
    assert rebuilt.state_dict().keys() == vov3d.create_model(variant, conv=conv, device="meta").state_dict().keys()


widths = st.integers(1, 20).map(lambda n: 2 * n)


@st.composite
def networks(draw):
    stages = draw(st.integers(1, 5))
    args = {name: tuple(draw(widths) for _ in range(stages)) for name in ("mid_chs", "out_chs")}
    args |= dict(depths=tuple(draw(st.integers(1, 3)) for _ in range(stages)), output_stride=2 ** (stages + 1))
    args |= {name: draw(widths) for name in ("stem_chs", "head_chs", "hidden_chs")}
    args |= {name: draw(st.sampled_from((1, 3, 5))) for name in ("temporal_kernel_size", "stem_temporal_kernel_size")}
    args |= dict(kernel_size=draw(st.sampled_from((3, 5))), se_ratio=draw(st.sampled_from((0, 1 / 16, 1 / 4))))
    args |= dict(se_every_other=draw(st.booleans()), num_classes=draw(st.integers(0, 9)))
    args |= dict(conv=draw(st.sampled_from(MIDDLE_CONVS)), in_chans=draw(st.integers(1, 4)))
    variant = draw(st.sampled_from(("vov3d_m", "x3d_m", "x3d_l")))
    return variant, args | ({"num_blocks": draw(st.integers(1, 6))} if variant == "vov3d_m" else {})


@pytest.mark.slow
@settings(deadline=None, max_examples=15)
@given(networks())
def test_networks_of_any_width_are_recognised(network):
    variant, args = network
    model = vov3d.create_model(variant, device="meta", **args)
    found = identify(model.state_dict())
    kwargs = dict(num_classes=found.num_classes, in_chans=found.in_chans, device="meta")
    rebuilt = vov3d.create_model(found.base, **found.model_args, **kwargs)
    assert {k: v.shape for k, v in rebuilt.state_dict().items()} == {k: v.shape for k, v in model.state_dict().items()}


def test_other_networks_are_not_recognised():
    state = vov3d.create_model("vov3d_m", device="meta").state_dict()
    assert identify({}) is None
    assert identify({"a": state["stem.bn.weight"]}) is None
    for name in ("stages.1.blocks.0.layers.2.conv_t.weight", "stem.conv_s.weight", "head.bn.running_var"):
        assert identify({k: v for k, v in state.items() if k != name}) is None
    assert identify(state | {"more": state["stem.bn.weight"]}) is None


def test_the_one_network_of_x3d_xs_s_and_m():
    found = identify(vov3d.create_model("x3d_xs", device="meta").state_dict())
    assert found.variants == ("x3d_xs", "x3d_s", "x3d_m")
    assert found.base == "x3d_m"
    assert str(found) == "x3d_m (24-wide stem, stages of 3, 5, 11, 7 blocks)"
