"""The form with 2D convolutions only: the same function, and nothing of it has more than four dimensions."""

import itertools

import pytest
import torch
from helpers.trained_like import as_trained
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import vov3d
from vov3d.deploy._conv2d import conv2d_graph_of
from vov3d.deploy._stream_files import StreamGraph
from vov3d.layers import MIDDLE_CONVS, ClassifierHead3d, ConvNormAct3d, D2plus1D, SqueezeExcite3d

NANO = dict(stem_chs=4, mid_chs=(4, 8, 8, 8), out_chs=(4, 4, 8, 8), depths=(1, 2, 1, 1), head_chs=8, hidden_chs=8)
TINY = dict(depths=(2,), stem_chs=4, mid_chs=(8,), out_chs=(6,), head_chs=8, hidden_chs=8, output_stride=4)
CLOSE = dict(rtol=0, atol=1e-9)


def nano(name: str, **how) -> nn.Module:
    return as_trained(vov3d.create_model(name, **{"num_classes": 5, **NANO, **how}))


@pytest.mark.parametrize(
    ("name", "output_stride", "conv"),
    [("x3d_m", 32, conv) for conv in MIDDLE_CONVS]
    + [pytest.param("vov3d_m", 16, c, marks=pytest.mark.slow if c != "d2plus1d" else ()) for c in MIDDLE_CONVS],
)
def test_it_equals_the_model(name, output_stride, conv):
    model = nano(name, conv=conv, output_stride=output_stride)
    clip = torch.randn(2, 3, 3, 256, 240, dtype=torch.float64)  # maps larger than the windows of 7 and 14
    graph = conv2d_graph_of(model, tuple(clip.shape[2:]))
    assert not any(isinstance(m, nn.Conv3d | nn.BatchNorm3d) for m in graph.modules())
    with torch.inference_mode():
        logits, probabilities = graph(clip)
        torch.testing.assert_close(logits, model(clip), **CLOSE)
        torch.testing.assert_close(probabilities, model.forward_dense(clip), **CLOSE)


@settings(max_examples=20, deadline=None)
@given(
    st.sampled_from(["vov3d_m", "x3d_m"]),
    st.sampled_from(MIDDLE_CONVS),
    st.booleans(),
    st.integers(1, 3),
    st.integers(1, 7),
    st.integers(4, 40),
    st.integers(4, 40),
    st.sampled_from([3, 5]),
    st.sampled_from([3, 5]),
)
def test_it_equals_the_model_for_clips_and_kernels_of_every_size(
    name, conv, causal, batch, frames, height, width, spatial, temporal
):
    kernels = dict(kernel_size=spatial, temporal_kernel_size=temporal, stem_temporal_kernel_size=temporal)
    model = as_trained(vov3d.create_model(name, num_classes=3, conv=conv, causal=causal, **kernels, **TINY))
    clip = torch.randn(batch, 3, frames, height, width, dtype=torch.float64)
    with torch.inference_mode():
        logits, probabilities = conv2d_graph_of(model, (frames, height, width))(clip)
        torch.testing.assert_close(logits, model(clip), **CLOSE)
        torch.testing.assert_close(probabilities, model.forward_dense(clip), **CLOSE)


@pytest.mark.parametrize("global_pool", ["avg", "max", "avgmax", "catavgmax", ""])
@pytest.mark.parametrize("num_classes", [0, 3])
def test_it_pools_as_the_model(global_pool, num_classes):
    model = nano("x3d_m", global_pool=global_pool, num_classes=num_classes)
    clip = torch.randn(2, 3, 2, 64, 40, dtype=torch.float64)
    graph = conv2d_graph_of(model, (2, 64, 40))
    assert graph.output_names[0] == ("logits" if num_classes else "features")
    assert len(graph.output_names) == len(graph(clip)) == 1 + (global_pool == "avg" and num_classes > 0)
    torch.testing.assert_close(graph(clip)[0], model(clip), **CLOSE)


@pytest.mark.parametrize("name", ["vov3d_m", "x3d_m"])
def test_it_gives_the_feature_maps_of_the_model(name):
    model = as_trained(vov3d.create_model(name, features_only=True, out_indices=(0, 2, 3), **NANO))
    clip = torch.randn(2, 3, 3, 50, 33, dtype=torch.float64)
    for found, expected in zip(conv2d_graph_of(model, (3, 50, 33))(clip), model(clip), strict=True):
        torch.testing.assert_close(found, expected, **CLOSE)


class Angles(nn.Linear):
    """A classifier of rows, by the angles between features and classes."""

    def forward(self, x):
        return nn.functional.linear(nn.functional.normalize(x), nn.functional.normalize(self.weight))


def test_an_exchanged_classifier_gets_rows():
    model = nano("x3d_m", output_stride=16)
    model.head.fc = Angles(model.head.fc.in_features, 5, bias=False).double()
    clip = torch.randn(2, 3, 2, 130, 128, dtype=torch.float64)
    with torch.inference_mode():
        logits, probabilities = conv2d_graph_of(model, (2, 130, 128))(clip)
        torch.testing.assert_close(logits, model(clip), **CLOSE)
        torch.testing.assert_close(probabilities, model.forward_dense(clip), **CLOSE)


def test_the_activation_of_a_shortcut_is_computed():
    model = as_trained(vov3d.create_model("x3d_m", features_only=True, **NANO))
    model["stages_1"].blocks[1] = as_trained(D2plus1D(4, 8, 4, shortcut=ConvNormAct3d(4, 4, act_layer="gelu")))
    clip = torch.randn(2, 3, 2, 64, 40, dtype=torch.float64)
    for found, expected in zip(conv2d_graph_of(model, (2, 64, 40))(clip), model(clip), strict=True):
        torch.testing.assert_close(found, expected, **CLOSE)


def test_it_has_the_temperature_of_the_weights():
    model = vov3d.create_model("vov3d_n", pretrained=True).eval()
    assert model.temperature != 1
    clip = torch.randn(1, 3, 8, 64, 64)
    with torch.inference_mode():
        probabilities = conv2d_graph_of(model, (8, 64, 64))(clip)[1]
        torch.testing.assert_close(probabilities, model.forward_dense(clip), rtol=1e-4, atol=1e-5)


def ranks_and_operators(program: torch.export.ExportedProgram) -> tuple[list[int], set[str]]:
    """Returns the dimensions of every tensor that is read again but the outputs, and the names of the operators."""
    outputs = {node.name for node in program.graph.find_nodes(op="output")[0].args[0]}
    calls = [node for node in program.graph.nodes if node.op == "call_function" and node.users]
    ranks = [node.meta["val"].ndim for node in calls if node.name not in outputs and hasattr(node.meta["val"], "ndim")]
    return ranks, {str(node.target).split(".")[1] for node in calls if "." in str(node.target)}


@pytest.mark.parametrize(
    ("name", "conv"), [pytest.param("vov3d_m", "d2plus1d", marks=pytest.mark.slow), ("x3d_m", "3d")]
)
def test_no_tensor_inside_has_five_dimensions_and_the_batch_is_open(name, conv):
    model = vov3d.create_model(name, conv=conv, num_classes=3, **TINY).eval()
    program = conv2d_graph_of(model, (3, 20, 17)).trace()
    ranks, operators = ranks_and_operators(program)
    assert max(ranks) == 4
    assert "conv2d" in operators
    assert not {"conv3d", "convolution", "avg_pool3d", "batch_norm"} & operators
    clip = torch.randn(5, 3, 3, 20, 17)
    torch.testing.assert_close(program.module()(clip)[0], model(clip), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("features_only", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_stream_has_no_five_dimensions_either(features_only):
    how = dict(features_only=True) if features_only else dict(num_classes=3)
    stream = vov3d.streaming(vov3d.create_model("x3d_m", **how, **TINY).eval(), window=3)
    ranks, operators = ranks_and_operators(StreamGraph(stream, (20, 17)).trace())
    assert max(ranks) == 4
    assert not {"conv3d", "addmm"} & operators  # products of rows are slow to trace where the number of streams is open


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Returns a model and its file."""
    cfg = dict(label_names=["up", "down", "round"], num_frames=3, test_input_size=(3, 24, 24), pool_size=(3, 4))
    model = vov3d.create_model("x3d_m", num_classes=3, pretrained_cfg_overlay=cfg, **TINY).eval()
    return model, vov3d.export(model, tmp_path_factory.mktemp("conv2d") / "tiny.onnx", form="conv2d")


def test_an_onnx_file_of_it_has_plain_operators_and_constant_shapes(file):
    import onnx

    _, path = file
    network = onnx.load(path)
    onnx.checker.check_model(network, full_check=True)
    assert [(o.domain, o.version) for o in network.opset_import] == [("", 17)]
    known = "Add AveragePool Conv Gemm MatMul Mul Pad ReduceMean Relu Reshape Sigmoid Slice Softmax Transpose"
    assert {node.op_type for node in network.graph.node} <= set(known.split())
    (batch, *sizes) = network.graph.input[0].type.tensor_type.shape.dim
    assert batch.dim_param == "batch"
    assert [size.dim_value for size in sizes] == [3, 3, 24, 24]
    constants = {constant.name for constant in network.graph.initializer}
    assert all(node.input[1] in constants for node in network.graph.node if node.op_type == "Reshape")
    inside = onnx.shape_inference.infer_shapes(network).graph.value_info
    assert max(len(value.type.tensor_type.shape.dim) for value in inside) == 4


def test_a_file_of_it_takes_any_batch_but_one_size(file):
    model, path = file
    found = vov3d.load_exported(path)
    assert (found.metadata.form, found.metadata.clip) == ("conv2d", [3, 24, 24])
    assert found.class_names == ["up", "down", "round"]
    for batch in (1, 4):
        clip = torch.randn(batch, 3, 3, 24, 24)
        with torch.inference_mode():
            torch.testing.assert_close(found(clip), model(clip), rtol=1e-4, atol=1e-6)
            torch.testing.assert_close(found.forward_dense(clip), model.forward_dense(clip), rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="clips of 3x24x24 only, got 3x24x30"):
        found(torch.zeros(1, 3, 3, 24, 30))


@pytest.mark.slow  # several exports
@pytest.mark.parametrize(
    ("ending", "opset"), [(".onnx", 18), (".onnx", 20), (".xml", None), (".pt2", None), (".pte", None)]
)
def test_every_format_takes_it(ending, opset, tmp_path):
    if ending == ".pte":
        pytest.importorskip("executorch")
    name, how = ("vov3d_m", dict(num_blocks=2)) if ending == ".onnx" else ("x3d_m", dict(features_only=True))
    model = vov3d.create_model(name, **how, **TINY).eval()
    found = vov3d.load_exported(
        vov3d.export(model, tmp_path / f"a{ending}", form="conv2d", frames=2, size=20, opset=opset)
    )
    clip = torch.randn(2, 3, 2, 20, 20)
    with torch.inference_mode():
        outputs = ([x] if isinstance(x := network(clip), torch.Tensor) else x for network in (found, model))
        for ours, expected in itertools.zip_longest(*outputs):
            torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)
    if opset is not None:
        import onnx

        assert onnx.load(tmp_path / "a.onnx").opset_import[0].version == opset


REFUSED = [
    ("a.onnx", dict(form="2d"), "form must be 'conv3d' or 'conv2d', got '2d'"),
    ("a.pte", dict(form="conv3d"), "ExecuTorch files are of the form conv2d, not 'conv3d'"),
    ("a.onnx", dict(opset=16), "opset=16: it is for .onnx files, and from 17 to 20"),
    ("a.pt2", dict(opset=18), "opset=18: it is for .onnx files"),
]


@pytest.mark.parametrize(("name", "args", "message"), REFUSED)
def test_settings_without_a_meaning_are_refused(name, args, message, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.export, "export", None)
    with pytest.raises(ValueError, match=message):
        vov3d.export(vov3d.create_model("x3d_m", **TINY), tmp_path / name, **args)
    assert not list(tmp_path.iterdir())


def test_models_that_it_cannot_express_are_refused_with_the_reason(tmp_path):
    model = vov3d.create_model("vov3d_m", norm_layer="groupnorm1", num_classes=3, **TINY).eval()
    with pytest.raises(ValueError, match=r"need batch norms to fold, but stem\.bn is a "):
        conv2d_graph_of(model, (3, 20, 20))
    model = vov3d.create_model("vov3d_m", num_classes=3, **TINY).eval()
    model.head = nn.Flatten()
    with pytest.raises(ValueError, match="need the original head, but it was replaced by Flatten"):
        conv2d_graph_of(model, (3, 20, 20))
    for name, layer in (("hidden", nn.Sequential(nn.Conv3d(4, 4, 1))), ("conv", nn.Identity())):
        model = vov3d.create_model("vov3d_m", num_classes=3, **TINY).eval()
        setattr(model.head, name, layer)
        with pytest.raises(ValueError, match=rf"files without conv3d need a Conv3d at head\.{name}, got "):
            conv2d_graph_of(model, (3, 20, 20))
    for kind, match in (
        (type(model), "need a model of vov3d.create_model, .* got a Own"),
        (ClassifierHead3d, "original head, but it was replaced by Own"),
        (SqueezeExcite3d, r"need squeeze-and-excitation or Identity at .*\.se, got .*Own"),
    ):
        model = vov3d.create_model("vov3d_m", num_classes=3, **TINY).eval()
        next(m for m in model.modules() if type(m) is kind).__class__ = type("Own", (kind,), {})
        with pytest.raises(ValueError, match=match):
            conv2d_graph_of(model, (3, 20, 20))
    stream = vov3d.streaming(vov3d.create_model("x3d_m", num_classes=3, **TINY).eval())
    with pytest.raises(ValueError, match="a stream has no conv3d"):
        vov3d.export(stream, tmp_path / "s.onnx", form="conv3d")
