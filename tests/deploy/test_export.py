"""Exported files: they equal their source, and settings that cannot work are refused before any work."""

import contextlib
import copy
import io
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from filelock import FileLock
from helpers.trained_like import without_zeros
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm
from torch.nn.utils.parametrize import is_parametrized

import vov3d
from vov3d.deploy import ExportedClassifier, ExportedModel, ExportError
from vov3d.deploy import export as package_export
from vov3d.deploy._compare import compare
from vov3d.deploy._metadata import Metadata, describe
from vov3d.deploy.formats import BOUNDS, base, torch_export
from vov3d.deploy.formats._archive import checked_archive
from vov3d.deploy.graphs import graph_of
from vov3d.layers import MIDDLE_CONVS
from vov3d.synthetic.noise import moving_clips
from vov3d.weights.state_dict import digest

EXPORT = sys.modules[package_export.__module__]
TINY = dict(depths=(2,), mid_chs=(12,), out_chs=(8,), head_chs=24, hidden_chs=40, output_stride=4)
NAMES = ["opening", "closing", 'naïve "quote"', "turning", "rising"]
OPEN = (".onnx", ".xml", ".pt2")  # formats whose files take clips of any size


def tiny(name: str = "vov3d_m", **change) -> nn.Module:
    more = {"num_blocks": 2} if name.startswith("vov3d") else {}
    cfg = dict(label_names=NAMES, num_frames=3, test_input_size=(3, 40, 40), pool_size=(3, 4))
    args = {**TINY, **more, "num_classes": 5, "pretrained_cfg_overlay": cfg, **change}
    return without_zeros(vov3d.create_model(name, **args))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return tiny().eval()


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    """Exports one file of each open-sized format, once for all workers, of a model in train mode."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # alone, the parent outlives the run
        folder = folder.parent
    folder = folder / "exported"
    with FileLock(f"{folder}.lock"):
        if not (folder / "tiny.onnx").is_file():  # the last that is made
            folder.mkdir(exist_ok=True)
            for end in (".pt2", ".xml", ".onnx"):
                vov3d.export(tiny().train(), folder / f"tiny{end}")
    return {end: folder / f"tiny{end}" for end in OPEN}


@pytest.fixture(scope="module")
def exported(files) -> dict[str, ExportedClassifier]:
    return {end: vov3d.load_exported(path) for end, path in files.items()}


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


# --- what comes back -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", OPEN)
@settings(max_examples=12, deadline=None)
@given(st.integers(1, 3), st.integers(1, 5), st.integers(4, 61), st.integers(4, 61))
def test_files_equal_their_source_for_clips_of_every_shape(end, model, exported, batch, frames, height, width):
    clip = torch.randn(batch, 3, frames, height, width)
    with torch.inference_mode():
        close(exported[end](clip), model(clip))
        close(exported[end].forward_dense(clip), model.forward_dense(clip))


@pytest.mark.parametrize("end", OPEN)
def test_copies_and_pickles_load_the_file_again(end, exported, tmp_path, monkeypatch):
    clip = torch.randn(1, 3, 2, 19, 24)
    pickled = pickle.dumps(exported[end])
    monkeypatch.chdir(tmp_path)  # as a process that starts elsewhere
    for again in (pickle.loads(pickled), copy.deepcopy(exported[end])):
        assert torch.equal(again(clip), exported[end](clip))
        assert again.class_names == NAMES


@pytest.mark.slow
def test_weights_that_are_computed_in_each_call_are_written_as_values(tmp_path):
    model = tiny().eval()
    block = model.stages[0].blocks[0].layers[0]
    weight_norm(model.head.fc)
    weight_norm(block.conv_s)
    spectral_norm(block.conv_pw).eval()
    clip = torch.randn(1, 3, 2, 19, 24)
    with torch.inference_mode():
        before = model(clip)
        found = vov3d.load_exported(vov3d.export(model, tmp_path / "computed.pt2"))
        close(found(clip), before)
        assert torch.equal(model(clip), before)
    assert all(is_parametrized(module) for module in (model.head.fc, block.conv_s, block.conv_pw))


@pytest.mark.slow
@pytest.mark.parametrize("end", OPEN)
def test_dilated_stages(end, tmp_path):
    model = tiny(output_stride=2).eval()
    found = vov3d.load_exported(vov3d.export(model, tmp_path / f"dilated{end}"))
    clip = torch.randn(1, 3, 2, 19, 24)
    with torch.inference_mode():
        close(found(clip), model(clip))
        close(found.forward_dense(clip), model.forward_dense(clip))


@pytest.mark.parametrize("end", OPEN)
def test_configuration_and_names_travel_inside(end, exported, model):
    found = exported[end]
    assert found.class_names == vov3d.class_names(found) == NAMES
    assert (found.num_classes, found.in_chans, found.training) == (5, 3, False)
    for key in ("mean", "std", "test_input_size", "pool_size", "interpolation"):
        assert tuple(found.pretrained_cfg[key]) == tuple(model.pretrained_cfg[key]), key
    for key in ("architecture", "num_frames", "frame_stride", "sampling"):
        assert found.pretrained_cfg[key] == model.pretrained_cfg[key], key
    assert found.metadata.vov3d_version == vov3d.__version__
    assert found.metadata.dtype == "fp32"


def test_other_tools_can_read_the_metadata(files):
    import onnx
    import openvino

    onnx_file = {p.key: p.value for p in onnx.load(files[".onnx"]).metadata_props}
    info = openvino.Core().read_model(files[".xml"]).get_rt_info(["vov3d"]).astype(dict)
    assert json.loads(onnx_file["class_names"]) == json.loads(info["class_names"].astype(str)) == NAMES


@pytest.mark.slow
def test_a_published_tag_its_licence_and_the_clip_that_was_asked_for(tmp_path):
    model = tiny().train()
    model.weights_digest = digest(model)  # as if they had been loaded
    before = {k: v.clone() for k, v in model.state_dict().items()}
    found = vov3d.load_exported(vov3d.export(model, tmp_path / "a.pt2", frames=2, size=24))
    assert found.metadata.license == found.pretrained_cfg["license"] == "cc-by-nc-4.0"
    assert found.pretrained_cfg["num_frames"] == 2
    assert tuple(found.pretrained_cfg["test_input_size"]) == (3, 24, 24)
    assert "top1" not in found.pretrained_cfg
    # the model stays as it was
    assert all(m.training for m in model.modules())
    assert all(p.requires_grad for p in model.parameters())
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


@pytest.mark.slow
def test_files_are_complete_and_no_larger_than_their_weights(files, model):
    weights = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    folder = files[".onnx"].parent
    assert sorted(p.name for p in folder.iterdir()) == ["tiny.bin", "tiny.onnx", "tiny.pt2", "tiny.xml"]
    assert files[".xml"].with_suffix(".bin").stat().st_size < weights + 10_000
    assert torch.export.load(files[".pt2"]).example_inputs is None
    for path in folder.iterdir():
        assert os.fsencode(Path(vov3d.__file__).parent) not in path.read_bytes(), f"{path.name} tells where it was made"


class Cosine(nn.Linear):
    """A classifier by the angle between features and classes."""

    def forward(self, x):
        return F.linear(F.normalize(x), F.normalize(self.weight))


@pytest.mark.slow  # an export
def test_a_file_of_torch_export_takes_every_activation_and_usual_classifiers(tmp_path):
    model = tiny("x3d_xs", depths=(1,), act_layer="hard_swish", mid_act_layer="mish").eval()
    model.head.fc = Cosine(40, 5, bias=False)
    found = vov3d.load_exported(vov3d.export(model, tmp_path / "a.pt2", frames=2, size=24))
    clip = torch.randn(1, 3, 2, 17, 24)
    close(found(clip), model(clip))


class Sorts(nn.Module):
    def forward(self, clip):
        return (clip.mean((2, 3, 4)).sort()[0],)


def test_an_operator_that_would_be_refused_is_named_before_the_file_is_written(tmp_path):
    with pytest.raises(ValueError, match=r"a\.pt2: the network runs aten\.sort\.default, .* write \.onnx or \.xml"):
        torch_export.write(base.Job(Sorts(), {}, 3, (1, 4, 4), "fp32", None), tmp_path / "a.pt2")


@pytest.mark.slow
def test_features_come_back_as_a_list(tmp_path):
    model = vov3d.create_model("x3d_xs", features_only=True, out_indices=(0, 1), **TINY).eval()
    with torch.autocast("cpu", torch.bfloat16):  # of the caller, which does not become a part of the file
        found = vov3d.load_exported(vov3d.export(model, tmp_path / "f.pt2", frames=2, size=33))
    clip = torch.randn(1, 3, 2, 47, 33)
    assert found.num_classes == 0
    assert not hasattr(found, "forward_dense")
    for one, expected in zip(found(clip), model(clip), strict=True):
        close(one, expected)


@pytest.mark.slow
def test_channels_that_the_configuration_has_no_mean_of(tmp_path):
    model = tiny(in_chans=2, num_classes=0).eval()
    found = vov3d.load_exported(vov3d.export(model, tmp_path / "c.pt2"))
    clip = torch.randn(1, 2, 1, 4, 4)
    assert (found.in_chans, found.num_classes, found.metadata.outputs) == (2, 0, ["features"])
    close(found(clip), model(clip))


@pytest.mark.slow  # an export
def test_other_poolings_give_logits_alone_which_the_classifier_takes(tmp_path):
    model = tiny("x3d_s", global_pool="max").eval()
    found = vov3d.load_exported(vov3d.export(model, tmp_path / "m.xml"))
    assert found.metadata.outputs == ["logits"]
    frames = torch.randint(0, 256, (3, 3, 50, 60), dtype=torch.uint8)
    classifier = vov3d.VideoClassifier(found)
    assert classifier.class_names == NAMES
    seen = vov3d.video.eval_transform(found.pretrained_cfg)(frames)
    with torch.inference_mode():
        close(classifier.scores(frames), model(seen).softmax(1)[0])


@pytest.mark.slow  # nncf takes most of a minute
def test_half_precision_and_int8_make_smaller_files(tmp_path, files, model, capsys):
    clips = list(moving_clips(model.pretrained_cfg, 3, 40, 8))
    sizes = [files[".xml"].with_suffix(".bin").stat().st_size]
    for dtype, how in (("bf16", {"dtype": "bf16"}), ("int8", {"calibration": clips})):
        path = vov3d.export(model, tmp_path / f"{dtype}.xml", **how)
        found = vov3d.load_exported(path)
        assert found.metadata.dtype == dtype
        sizes.append(path.with_suffix(".bin").stat().st_size)
        logits = model(clips[0])
        assert float((found(clips[0]) - logits).abs().max()) < BOUNDS[dtype] * float(logits.abs().max())
    assert sizes[1] < 0.6 * sizes[0]
    assert sizes[2] < 0.5 * sizes[0]
    assert capsys.readouterr().out == ""


def test_an_exported_model_is_not_trained(exported):
    found = exported[".onnx"]
    assert found.eval() is found
    with pytest.raises(ValueError, match="cannot be trained"):
        found.train()
    with pytest.raises(ValueError, match="expected 3 channels"):
        found(torch.zeros(1, 4, 3, 40, 40))
    with pytest.raises(ValueError, match="at least 4x4 pixels, got 3x40"):
        exported[".pt2"](torch.zeros(1, 3, 3, 3, 40))
    assert found(torch.zeros(1, 3, 3, 40, 40, dtype=torch.float64)).dtype == torch.float64
    for other in (torch.uint8, torch.int64):  # logits of that type would be cut to whole numbers
        with pytest.raises(ValueError, match=f"floating-point numbers, .* got {other}"):
            found(torch.zeros(1, 3, 3, 40, 40, dtype=other))


# --- the published evaluation in a graph -----------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(st.integers(8, 110), st.integers(8, 110), st.integers(1, 14), st.integers(1, 14))
def test_the_window_of_open_sizes_is_that_of_forward_dense(height, width, rows, columns):
    model = tiny().eval().double()
    model.pretrained_cfg["pool_size"] = (rows, columns)
    clip = torch.randn(1, 3, 2, height, width, dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(graph_of(model)(clip)[1], model.forward_dense(clip), rtol=1e-9, atol=1e-12)


def test_executorch_files_take_one_size(tmp_path):
    pytest.importorskip("executorch")
    model = tiny("x3d_m").eval()
    found = vov3d.load_exported(vov3d.export(model, tmp_path / "a.pte", frames=2, size=33))
    assert found.class_names == NAMES
    clip = torch.randn(2, 3, 2, 33, 33)
    close(found(clip), model(clip))
    close(found.forward_dense(clip), model.forward_dense(clip))
    with pytest.raises(ValueError, match="clips of 2x33x33 only, got 2x40x33"):
        found(torch.zeros(1, 3, 2, 40, 33))


# --- what is refused -------------------------------------------------------------------------------------------------


def hooked() -> nn.Module:
    model = tiny()
    model.stem.conv_s.register_forward_hook(lambda *_: None)
    return model


def replaced() -> nn.Module:
    model = tiny()
    model.forward = model.forward_features
    return model


REFUSED = [
    (tiny, "a.tflite", {}, r"a\.tflite: exported files end in \.onnx \(ONNX\), \.xml"),
    (tiny, "a", {}, "exported files end in"),
    (
        tiny,
        "a.pt2",
        {"calibration": [1]},
        "calibration is for int8, but torch.export files do not support it; use .xml or .onnx",
    ),
    (tiny, "a.onnx", {"dtype": "fp16"}, "ONNX files support fp32, int8, not 'fp16'"),
    (tiny, "a.xml", {"dtype": "fp8"}, "support fp32, fp16, bf16, int8, not 'fp8'"),
    (tiny, "a.xml", {"dtype": "int8"}, "int8 needs calibration clips"),
    (tiny, "a.xml", {"dtype": "bf16", "calibration": [1]}, "exclude each other"),
    (tiny, "a.xml", {"calibration": iter([1])}, "an iterator can be read only once"),
    (tiny, "a.onnx", {"calibration": [1]}, "int8 needs form='conv2d' in ONNX files"),
    (tiny, "a.onnx", {"frames": 0}, "needs frames=1 and size=4 or more, got 0 and 40"),
    (tiny, "a.pt2", {"size": 3}, "needs frames=1 and size=4 or more, got 3 and 3"),
    (replaced, "a.onnx", {}, r"the model has a forward that was set on the instance, which a file cannot hold"),
    (lambda: torch.compile(tiny()), "a.onnx", {}, r"torch\.compile: model\._orig_mod"),
    (tiny, "a.onnx", {"size": (40, 32)}, r"whole numbers, size that of both sides, got 3 and \(40, 32\)"),
    (tiny, "a.onnx", {"frames": 2.5}, "whole numbers, size that of both sides, got 2.5 and 40"),
    (tiny, "a.xml", {"calibration": []}, "calibration has no clips"),
    (
        tiny,
        "a.xml",
        {"calibration": [(torch.zeros(1, 3, 3, 40, 40), 0)]},
        r"collection of clips alone, such as \[clip for clip, label in loader\]: .* got tuple",
    ),
    (tiny, "a.xml", {"calibration": torch.zeros(1, 3, 3, 40, 40)}, r"of clips alone, .* got 4 dimensions"),
    (tiny, "a.xml", {"calibration": [torch.zeros(1, 3, 3, 40, 40).byte()]}, r"got torch\.uint8"),
    (
        tiny,
        "a.xml",
        {"calibration": [torch.zeros(1, 3, 3, 44, 44)], "form": "conv2d"},
        "the file is for clips of 3x40x40, got 3x44x44; set frames and size",
    ),
    (hooked, "a.onnx", {}, r"stem\.conv_s has hooks, which a file cannot hold"),
    (lambda: tiny().half(), "a.onnx", {}, r"float16, but only float32 models can be exported; call model\.float"),
    (lambda: vov3d.create_model("x3d_xs", device="meta"), "a.onnx", {}, "meta device"),
    (lambda: nn.Conv3d(3, 4, 1), "a.onnx", {}, "cannot export a Conv3d: give a model made by vov3d.create_model"),
    (lambda: vov3d.VoV3D(), "a.onnx", {}, "cannot export a VoV3D"),
    (
        lambda: vov3d.create_model("x3d_xs", features_only=True, feature_cls="dict"),
        "a.onnx",
        {},
        "leave out feature_cls='dict'",
    ),
]


@pytest.mark.parametrize(("make", "name", "args", "message"), REFUSED, ids=[case[3][:30] for case in REFUSED])
def test_settings_that_cannot_work_are_refused_before_any_work(make, name, args, message, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.export, "export", None)
    with pytest.raises(ValueError, match=message):
        vov3d.export(make(), tmp_path / name, **args)
    assert list(tmp_path.iterdir()) == []


def test_missing_folders_are_refused_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.export, "export", None)
    with pytest.raises(FileNotFoundError, match=r"nowhere: no such folder to write a\.onnx into"):
        vov3d.export(tiny(), tmp_path / "nowhere/a.onnx")
    (tmp_path / "a.onnx").mkdir()
    with pytest.raises(ValueError, match="is a folder; name a file"):
        vov3d.export(tiny(), tmp_path / "a.onnx")


def test_a_missing_extra_names_itself(tmp_path, monkeypatch, files):
    monkeypatch.setattr(base, "find_spec", lambda name: None)
    with pytest.raises(
        ImportError, match=r"a\.onnx needs onnxruntime, onnx, onnxscript: pip install 'vov3d\[deploy\]'"
    ):
        vov3d.export(tiny(), tmp_path / "a.onnx")
    with pytest.raises(ImportError, match=r"needs openvino, nncf: pip install 'vov3d\[deploy\]'"):
        vov3d.export(tiny(), tmp_path / "a.xml", calibration=[torch.zeros(1, 3, 3, 40, 40)])
    with pytest.raises(ImportError, match=r"tiny\.xml needs openvino: pip install"):
        vov3d.load_exported(files[".xml"])
    with pytest.raises(ImportError, match=r"pip install 'vov3d\[mobile\]'"):
        vov3d.load_exported("a.pte")
    assert vov3d.load_exported(files[".pt2"]).num_classes == 5


@pytest.mark.slow
def test_importing_the_package_imports_no_runtime():
    code = "import json, sys, vov3d.deploy, vov3d.cli; vov3d.export; print(json.dumps(list(sys.modules)))"
    loaded = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert not {"onnx", "onnxruntime", "onnxscript", "openvino", "nncf", "executorch", "vov3d.video"} & set(loaded)


@pytest.mark.slow
def test_a_file_with_wrong_outputs_is_not_kept(tmp_path, monkeypatch):
    def other_graph(model):
        model = tiny()
        with torch.no_grad():
            model.head.fc.weight[1] += 0.01
        return graph_of(model)

    (tmp_path / "a.pt2").write_text("what was there")
    monkeypatch.setattr(EXPORT, "graph_of", other_graph)
    with pytest.raises(ExportError, match=r"a\.pt2 is off by more than 0\.0001 of the largest output: random, "):
        vov3d.export(tiny(), tmp_path / "a.pt2")
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt2"]
    assert (tmp_path / "a.pt2").read_text() == "what was there"


def test_outputs_of_nan_count_as_wrong(model, exported):
    clip = torch.zeros(1, 3, 3, 40, 40)
    same = compare("zeros", model, exported[".pt2"], [clip])
    assert same.relative < 1e-4
    assert (same.number, same.agreement) == (1, 1)
    found = ExportedModel(exported[".pt2"].metadata, lambda clip: [torch.full((1, 5), float("nan"))] * 2, Path("a.pt2"))
    assert compare("zeros", model, found, [clip]).relative == float("inf")


def test_maps_of_logits_decide_no_class():
    overlay = {"task": "multihead", "heads": {"verb": 2, "noun": 3}}
    model, clip = tiny(global_pool="", pretrained_cfg_overlay=overlay).eval(), torch.randn(2, 3, 3, 16, 12)
    metadata = describe(model, 3, 16, ("logits",), "fp32", 4, False)
    same = compare("maps", model, ExportedModel(metadata, lambda clip: [model(clip)], Path("a.pt2")), [clip])
    assert (same.number, same.difference, same.agreement) == (2, 0.0, None)


def foreign_onnx(path: Path) -> None:
    from onnx import TensorProto, helper, save

    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", values[:1], values[1:])
    save(helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 18)]), path)


def foreign_xml(path: Path) -> None:
    import openvino
    from openvino import opset13

    x = opset13.parameter([1])
    openvino.save_model(openvino.Model([opset13.relu(x)], [x]), path)


def foreign_pt2(path: Path) -> None:
    torch.export.save(torch.export.export(nn.ReLU(), (torch.zeros(1),)), path)


@pytest.mark.parametrize("make", [foreign_onnx, foreign_xml, foreign_pt2])
def test_files_of_others_are_refused(make, tmp_path):
    path = tmp_path / f"a.{make.__name__.split('_')[1]}"
    make(path)
    with pytest.raises(ValueError, match=r"a\.\w+: cannot be loaded as .*: it was not written by vov3d\.export"):
        vov3d.load_exported(path)


class Code:
    """An object that runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def saved(content: object) -> bytes:
    out = io.BytesIO()
    torch.save(content, out)
    return out.getvalue()


def changed(source: Path, target: Path, edit, **added: bytes) -> Path:
    """Copies an archive with `edit(name, data)` in the place of every member, and more members."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            new.writestr(name, edit(name.partition("/")[2], old.read(name)))
        for name, data in added.items():
            new.writestr(f"{old.namelist()[0].partition('/')[0]}/{name}", data)
    return target


def graph_edit(edit):
    """Returns an edit of the graph alone, as parsed JSON."""

    def change(name: str, data: bytes) -> bytes:
        if name != "models/model.json":
            return data
        program = json.loads(data)
        edit(program)
        return json.dumps(program).encode()

    return change


def config_edit(which: str, edit):
    def change(name: str, data: bytes) -> bytes:
        if not name.endswith(f"model_{which}_config.json"):
            return data
        config = json.loads(data)
        edit(config["config"])
        return json.dumps(config).encode()

    return change


def nodes_of(program) -> list:
    return program["graph_module"]["graph"]["nodes"]


def set_formula(text: str):
    def edit(program) -> None:
        values = program["graph_module"]["graph"]["tensor_values"]["clip"]["sizes"]
        values[0] = {"as_expr": {"expr_str": text, "hint": None}}

    return graph_edit(edit)


def set_target(name: str):
    return graph_edit(lambda program: nodes_of(program)[0].update(target=name))


def set_argument(argument: dict):
    return graph_edit(lambda program: nodes_of(program)[0]["inputs"][0].update(arg=argument))


def set_structure(kind: str):
    spec = [1, {"type": kind, "context": '["os"]', "children_spec": []}]
    return graph_edit(
        lambda program: program["graph_module"]["module_call_graph"][0]["signature"].update(in_spec=json.dumps(spec))
    )


def pickled_weight(config) -> None:
    next(iter(config.values())).update(use_pickle=True, path_name="weight_0")


def opaque(config) -> None:
    config["x"] = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}


def same(name: str, data: bytes) -> bytes:
    return data


RUN = "__import__('os').system('touch {marker}')"
HOSTILE = {
    "example inputs": (lambda code: lambda name, data: code if "sample_inputs/model.pt" in name else data, {}),
    "pickled weight": (lambda code: config_edit("weights", pickled_weight), {}),
    "weight of a pickle": (lambda code: lambda name, data: code if name.endswith("weight_0") else data, {}),
    "opaque constant": (lambda code: config_edit("constants", opaque), {"data/constants/opaque_obj_0": "pickle"}),
    "custom object": (lambda code: same, {"data/constants/custom_obj_0": "pickle"}),
    "library": (lambda code: same, {"data/aotinductor/model/x.so": "pickle"}),
    "old weights": (lambda code: same, {"data/weights/model.pt": "pickle"}),
    "another model": (lambda code: same, {"models/other.json": "pickle"}),
    "formula": (lambda code: set_formula(RUN), {}),
    "formula of attributes": (lambda code: set_formula("().__class__.__base__.__subclasses__()"), {}),
    "formula that calls": (lambda code: set_formula("Symbol('s1').func('x')"), {}),
    "formula of text": (lambda code: set_formula("Integer('7')"), {}),
    "formula that grows": (lambda code: set_formula("Integer(9)**Integer(9)**Integer(9)**Integer(9)"), {}),
    "nested formula": (lambda code: set_formula("(" * 3000 + "1" + ")" * 3000), {}),
    "command": (lambda code: set_target("torch.os.system"), {}),
    "file": (lambda code: set_target("torch.ops.aten.from_file.default"), {}),
    "extension": (lambda code: set_target("#torch:x"), {}),
    "operator as value": (lambda code: set_argument({"as_operator": "torch.os.system"}), {}),
    "graph as value": (lambda code: set_argument({"as_graph": {}}), {}),
    "structure": (lambda code: set_structure("collections.namedtuple"), {}),
    "bounds": (lambda code: graph_edit(lambda p: p.update(range_constraints={"u9": {"min_val": 0, "max_val": 1}})), {}),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_loading_runs_no_code_and_takes_nothing_that_export_does_not_write(kind, files, tmp_path):
    marker = tmp_path / "ran"
    code = Code(f"touch {marker}")
    make, added = HOSTILE[kind]
    edit = make(saved({"x": code}))
    content = {name: pickle.dumps(code) if "constants" in name else saved({"x": code}) for name in added}
    path = changed(files[".pt2"], tmp_path / "a.pt2", lambda name, data: edit(name, data), **content)
    if kind == "formula":
        path = changed(files[".pt2"], path, set_formula(RUN.format(marker=marker)))
    if kind == "weight of a pickle":  # numbers are numbers, whatever they look like
        with contextlib.suppress(ValueError):
            vov3d.load_exported(path)
    else:
        with pytest.raises(ValueError, match=r"a\.pt2: cannot be loaded as torch\.export: (it was not|Weights only)"):
            vov3d.load_exported(path)
    assert not marker.exists()


def test_every_size_of_a_graph_is_loaded_with_bounds(files):
    # PyTorch 2.6 to 2.8 fails without, later releases do not need them.
    with zipfile.ZipFile(checked_archive(files[".pt2"])) as archive:
        graph = next(name for name in archive.namelist() if name.endswith(("model.json", "program.json")))
        program = json.loads(archive.read(graph))
    sizes = set(re.findall(r"Symbol\('(\w+)'", json.dumps(program)))
    assert len(sizes) == 4  # batch, frames, height and width
    assert program["range_constraints"].keys() == sizes
    assert all(bounds == {"min_val": 1, "max_val": None} for bounds in program["range_constraints"].values())


@pytest.mark.slow
def test_files_load_in_threads_and_leave_the_environment_alone(files, model):
    before = dict(os.environ)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: vov3d.load_exported(files[".pt2"]), range(2)))
    assert dict(os.environ) == before
    clip = torch.randn(1, 3, 2, 9, 9)
    for one in found:
        close(one(clip), model(clip))


@pytest.mark.parametrize("end", OPEN)
def test_files_are_called_by_several_threads_at_once(end, model, exported):
    clips = [torch.randn(1, 3, 8, 40 + i, 64) for i in range(4)]
    with torch.no_grad(), ThreadPoolExecutor(4) as pool:
        for found, clip in zip(pool.map(exported[end], clips * 8), clips * 8, strict=True):
            close(found, model(clip))


def test_onnx_files_read_no_other_files(files, tmp_path):
    import onnx

    (tmp_path / "secret").write_bytes(bytes(1 << 16))
    content = onnx.load(files[".onnx"])
    tensor = content.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="secret")
    (tmp_path / "a.onnx").write_bytes(content.SerializeToString())
    with pytest.raises(ValueError, match="its weights are in other files"):
        vov3d.load_exported(tmp_path / "a.onnx")


def test_metadata_of_a_file_is_checked(exported):
    strings = exported[".pt2"].metadata.to_strings()
    for name, value in (
        ("num_classes", "[]"),
        ("outputs", '"logits"'),
        ("outputs", "[]"),
        ("class_names", '["a"]'),
        ("min_size", "-1"),
        ("pretrained_cfg", "[]"),
        ("clip", "[1]"),
        ("license", "7"),
    ):
        with pytest.raises(ValueError, match="its metadata"):
            Metadata.from_strings(strings | {name: value})


def test_weights_of_another_file_are_refused(files, tmp_path):
    """Of the same size, so that OpenVINO takes them."""
    shutil.copy(files[".xml"], tmp_path / "tiny.xml")
    weights = bytearray(files[".xml"].with_suffix(".bin").read_bytes())
    weights[100] ^= 1
    (tmp_path / "tiny.bin").write_bytes(weights)
    with pytest.raises(ValueError, match=r"tiny\.bin does not belong to it"):
        vov3d.load_exported(tmp_path / "tiny.xml")


@pytest.mark.parametrize("end", [".onnx", ".xml", ".bin", ".pt2"])
@pytest.mark.parametrize("part", [0, 0.5])
def test_damaged_files_are_refused(end, part, files, tmp_path):
    for path in files[".xml"].parent.iterdir():
        data = path.read_bytes()
        (tmp_path / path.name).write_bytes(data[: int(len(data) * part)] if path.suffix == end else data)
    path = tmp_path / f"tiny{'.xml' if end == '.bin' else end}"
    with pytest.raises(ValueError, match="cannot be loaded as"):
        vov3d.load_exported(path)


def test_missing_files_are_named(tmp_path, files):
    with pytest.raises(FileNotFoundError, match=r"a\.onnx: no such file"):
        vov3d.load_exported(tmp_path / "a.onnx")
    with pytest.raises(FileNotFoundError, match=r"a\.xml: no such file$"):
        vov3d.load_exported(tmp_path / "a.xml")
    (tmp_path / "a.xml").write_bytes(files[".xml"].read_bytes())
    with pytest.raises(FileNotFoundError, match=r"a\.bin: no such file; a\.xml needs it"):
        vov3d.load_exported(tmp_path / "a.xml")
    with pytest.raises(ValueError, match="exported files end in"):
        vov3d.load_exported("a.bin")


# --- all of the zoo --------------------------------------------------------------------------------------------------

# Exporters take a minute for a deep network. Two whole ones stand for depth; the others differ from them in it alone,
# and one stage of two blocks shows a form of the convolutions.
ZOO = [(name, {}, end) for name in ("vov3d_m", "x3d_xs") for end in (".onnx", ".xml")]
ZOO += [("vov3d_m", {"conv": conv, "num_blocks": 2, **TINY}, ".onnx") for conv in MIDDLE_CONVS]
ZOO += [("vov3d_m", {"conv": conv, "num_blocks": 2, **TINY}, ".xml") for conv in ("3d", "d2plus1d")]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "args", "end"), ZOO)
def test_every_model_exports_and_matches(name, args, end, tmp_path):
    model = without_zeros(vov3d.create_model(name, **args)).eval()
    found = vov3d.load_exported(vov3d.export(model, tmp_path / f"a{end}", frames=4, size=96))
    for shape in ((1, 3, 5, 131, 97), (2, 3, 4, 64, 260)):
        clip = torch.randn(shape)
        with torch.inference_mode():
            close(found(clip), model(clip))
            close(found.forward_dense(clip), model.forward_dense(clip))
