"""The detector of actions: AVA's files, frame mAP, resumed training, and the results for a video."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import detected_scenes
import numpy as np
import pytest
import torch
from helpers.numbered_videos import write_video
from helpers.reference_files import published_file, published_state_dict
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pages import part_of
from PIL import Image
from reference import detect
from reference.detection.ava import (
    Annotation,
    Detection,
    read_annotations,
    read_boxes,
    read_detections,
    read_label_map,
    write_label_map,
    write_rows,
)
from reference.detection.data import Moment, SceneMoments, annotations_of, batch_of, clip_around, find_video, moments_of
from reference.detection.metrics import average_precision, frame_ap, mean_ap, overlaps, precision_recall
from reference.detection.model import Detector, Settings, build_detector, load_detector
from reference.detection.predicting import Film, save_results
from reference.detection.training import Plan, score_boxes, train
from reference.training.checkpoints import save_atomically
from torch import nn

import vov3d
from vov3d.synthetic.moving_scenes import ACTIONS
from vov3d.video import VideoReader

CPU = torch.device("cpu")
SMALL = dict(mid_chs=(8, 8, 8), out_chs=(8, 8, 16), depths=(1, 1, 1), num_blocks=2)


# --- AVA's files -----------------------------------------------------------------------------------------------------

names = st.text(st.sampled_from("aé-_ 9"), min_size=1, max_size=6).map(str.strip).filter(bool)
times = st.integers(0, 99999).map(lambda n: n / 8) | st.floats(0, 99999)  # of frames at 29.97 fps, say
corner = st.tuples(st.integers(0, 400), st.integers(1, 100)).map(lambda p: (p[0] / 500, (p[0] + p[1]) / 500))
boxes = st.tuples(corner, corner).map(lambda c: (c[0][0], c[1][0], c[0][1], c[1][1]))
people = st.one_of(st.none(), st.integers(0, 99))
annotations = st.builds(Annotation, names, times, boxes, st.integers(1, 80), people) | st.builds(
    Annotation, names, times, st.none(), st.none(), st.none()
)
scores = st.integers(0, 1000).map(lambda n: n / 1000)
detections = st.builds(Detection, names, times, boxes, st.one_of(st.none(), st.integers(1, 80)), scores)


@settings(deadline=None, max_examples=40)
@given(st.lists(annotations, max_size=6), st.lists(detections, max_size=6))
def test_written_files_are_read_back(tmp_path_factory, true, found):
    file = tmp_path_factory.mktemp("ava") / "rows.csv"
    write_rows(file, true)
    assert read_annotations(file) == true
    write_rows(file, found)
    assert read_detections(file) == found
    read = read_boxes(file)
    assert set(read) == {(row.video, row.timestamp) for row in found}
    assert sum(map(len, read.values())) == len({row[:3] for row in found})
    assert [p.name for p in file.parent.iterdir()] == ["rows.csv"]


def test_close_scores_keep_their_order_in_a_file(tmp_path):
    scores = [float(np.float32(score)) for score in (0.9999998, 0.9999999, 1e-9)]
    write_rows(tmp_path / "found.csv", [Detection("v", 1.0, (0.0, 0.0, 0.5, 0.5), 1, score) for score in scores])
    assert [float(np.float32(row.score)) for row in read_detections(tmp_path / "found.csv")] == scores


GOOD = "a,1,0.1,0.2,0.5,0.6"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a,1,0.1", r"line 2: expected video_id,timestamp,x1,y1,x2,y2,action_id\[,person_id\], got 3 columns: a,1,0.1"),
        (f"{GOOD},1,2,3", "got 9 columns"),
        ("a,soon,0.1,0.2,0.5,0.6,1,0", "line 2: timestamp 'soon' is not a number"),
        ("a,nan,0.1,0.2,0.5,0.6,1,0", "timestamp 'nan' is not a finite number"),
        ("a,1,0.5,0.2,0.1,0.6,1,0", "box 0.5,0.2,0.1,0.6 is not 0 <= x1 < x2 <= 1"),
        ("a,1,0.1,0.2,0.5,60,1,0", "box 0.1,0.2,0.5,60 is not 0 <= x1"),
        ("a,1,10,20,50,60,1,0", "box 10,20,50,60 .*; where it is in pixels, divide x by the width"),
        (",1,0.1,0.2,0.5,0.6,1,0", "has no video_id"),
        (f"{GOOD},x,0", "action_id 'x' is not a whole number"),
        (f"{GOOD},,0", "has no action_id"),
        (f"{GOOD},7,0", "action_id 7 is not in the label map, which has 1, 2"),
        (f"{GOOD},1,-3", "person_id '-3' is not a whole number"),
    ],
)
def test_invalid_lines_are_refused(line, message, tmp_path):
    file = tmp_path / "true.csv"
    file.write_text(f"{GOOD},1,0\n{line}\n")
    with pytest.raises(ValueError, match=rf"true\.csv, line 2: .*{message.removeprefix('line 2: ')}"):
        read_annotations(file, {1: "stand", 2: "sit"})


def test_a_heading_of_the_columns_is_left_out(tmp_path):
    file = tmp_path / "true.csv"
    file.write_text(f"video_id,timestamp,x1,y1,x2,y2,action_id,person_id\n{GOOD},1,0\n")
    assert read_annotations(file) == [Annotation("a", 1.0, (0.1, 0.2, 0.5, 0.6), 1, 0)]
    file.write_text(f"{GOOD},1,0\nvideo_id,timestamp,x1,y1,x2,y2,action_id,person_id\n")
    with pytest.raises(ValueError, match=r"true\.csv, line 2: action_id 'action_id' is not a whole number"):
        read_annotations(file)


def test_invalid_scores_are_refused(tmp_path):
    file = tmp_path / "found.csv"
    for line, message in ((f"{GOOD},1,1.5", "score 1.5 is not from 0 to 1"), (f"{GOOD},1", "got 7 columns")):
        file.write_text(f"\n{line}\n")
        with pytest.raises(ValueError, match=rf"found\.csv, line 2: .*{message}"):
            read_detections(file)
    with pytest.raises(FileNotFoundError, match="nothing.csv: there is no such file"):
        read_detections(tmp_path / "nothing.csv")


def test_label_maps(tmp_path):
    expected = {12: "stand", 3: 'carry/hold (an "object")'.replace('"', "'")}
    write_label_map(tmp_path / "a.pbtxt", expected)
    (tmp_path / "b.pbtxt").write_text(
        'label {\n  name: "stand"\n  label_id: 12\n  label_type: PERSON_MOVEMENT\n}\n'
        "label { label_id: 3 name: \"carry/hold (an 'object')\" }\n"
    )
    (tmp_path / "c.csv").write_text("label_id,label_name,label_type\n12,stand,X\n3,carry/hold (an 'object'),Y\n")
    text = (tmp_path / "b.pbtxt").read_text()
    (tmp_path / "ava_action_list_v2.2.pbtxt.txt").write_text(text, encoding="utf-8-sig")
    (tmp_path / "action_list.txt").write_text(text)
    (tmp_path / "labelmap.txt").write_text("12: stand\n3: carry/hold (an 'object')\n")
    for file in tmp_path.iterdir():
        assert read_label_map(file) == expected, file
    (tmp_path / "d.pbtxt").write_text("item {\n  id: 1\n  name: 'say \"no\"'\n}\nitem { name: 'sit' id: 2 }\n")
    assert read_label_map(tmp_path / "d.pbtxt") == {1: 'say "no"', 2: "sit"}
    for text, message in (
        ("", "holds no action"),
        ('item { name: "a" }', "line 1: expected name:"),
        ('item { name: "a" id: 1 }\nitem { name: "b" id: 1 }', "line 2: action 1 is 'a' already"),
    ):
        (tmp_path / "bad.pbtxt").write_text(text)
        with pytest.raises(ValueError, match=f"bad.pbtxt.*{message}"):
            read_label_map(tmp_path / "bad.pbtxt")


def test_videos_with_endings_in_capitals_are_found(tmp_path):
    (tmp_path / "P01.MP4").touch()
    assert find_video(tmp_path, "P01").name == "P01.MP4"


def test_lines_of_one_person_become_one_box():
    one, two = (0.1, 0.1, 0.5, 0.5), (0.2, 0.2, 0.9, 0.9)
    rows = [
        Annotation("a", 1, one, 3, 0),
        Annotation("a", 1, one, 4, 0),
        Annotation("a", 1, two, 3, 1),
        Annotation("a", 2, None, None, None),
    ]
    first, second = moments_of(rows)
    assert first.actions == [{3, 4}, {3}]
    assert np.allclose(first.boxes, [one, two])
    assert (second.boxes.shape, second.actions) == ((0, 4), [])
    assert moments_of(annotations_of([first, second]))[0].actions == first.actions
    assert len(annotations_of([first, second])) == 4


# --- frame mAP -------------------------------------------------------------------------------------------------------

cells = st.integers(0, 8)  # of a 3 x 3 grid: true boxes that do not overlap
shifts = st.lists(st.integers(-4, 4), min_size=4, max_size=4)
frames = st.integers(0, 2)


def in_cell(cell: int, shift=(0, 0, 0, 0)) -> tuple[float, ...]:
    left, top = cell % 3 * 30 + 5, cell // 3 * 30 + 5
    return tuple((v + 2 * s) / 100 for v, s in zip((left, top, left + 20, top + 20), shift, strict=True))


@settings(deadline=None, max_examples=12)
@given(
    st.sets(st.tuples(frames, cells, st.integers(1, 2)), min_size=1, max_size=12),
    st.lists(st.tuples(frames, cells, st.integers(1, 3), shifts), max_size=14),
    st.randoms(use_true_random=False),
)
def test_average_precision_is_that_of_torchmetrics(true, found, random):
    """On boxes that do not overlap, where AVA's rule and COCO's agree; COCO reads the curve at 101 points."""
    detection = pytest.importorskip("torchmetrics.detection")
    truth = [Annotation(f"{frame}", 0, in_cell(cell), action, None) for frame, cell, action in sorted(true)]
    order = random.sample(range(1, 100), len(found))
    guesses = [
        Detection(f"{frame}", 0, in_cell(cell, shift), action, score / 100)
        for (frame, cell, action, shift), score in zip(found, order, strict=True)
    ]
    own = {row.box for row in truth}  # an overlap of exactly one half is a matter of rounding
    assume(all(abs(overlaps(np.array([g.box]), np.array([b]))[0, 0] - 0.5) > 1e-6 for g in guesses for b in own))
    metric = detection.MeanAveragePrecision(iou_thresholds=[0.5], class_metrics=True, backend="pycocotools")
    for frame in sorted({row.video for row in (*truth, *guesses)}):
        t, g = ([row for row in rows if row.video == frame] for rows in (truth, guesses))
        metric.update(
            [
                dict(
                    boxes=100 * torch.tensor([row.box for row in g]).view(-1, 4),
                    scores=torch.tensor([row.score for row in g]),
                    labels=torch.tensor([row.action for row in g], dtype=torch.int64),
                )
            ],
            [
                dict(
                    boxes=100 * torch.tensor([row.box for row in t]).view(-1, 4),
                    labels=torch.tensor([row.action for row in t], dtype=torch.int64),
                )
            ],
        )
    result = metric.compute()
    values = dict(zip(result["classes"].view(-1).tolist(), result["map_per_class"].view(-1).tolist(), strict=True))
    for action in (1, 2):
        curve = precision_recall(truth, guesses, action)
        if curve is None:
            assert values.get(action, -1) == -1
            continue
        precision, recall = curve
        points = [max(precision[recall >= at - 1e-9], default=0.0) for at in np.linspace(0, 1, 101)]
        assert np.mean(points) == pytest.approx(values[action], abs=1e-6)
        assert abs(average_precision(precision, recall) - np.mean(points)) < 0.02


def test_average_precision_by_hand():
    truth = [Annotation("a", 0, in_cell(i), 1, None) for i in (0, 1)] + [Annotation("b", 0, None, None, None)]
    found = [
        Detection("a", 0, in_cell(0), 1, 0.9),
        Detection("a", 0, in_cell(0, (1, 0, 1, 0)), 1, 0.8),  # found before: wrong
        Detection("b", 0, in_cell(0), 1, 0.7),  # nobody is there
        Detection("c", 0, in_cell(0), 1, 0.95),  # nothing is annotated there, which the published evaluation counts
        Detection("a", 0, in_cell(1), 2, 0.85),  # does not do this
        Detection("a", 0, in_cell(1), 1, 0.1),
    ]
    values = frame_ap(truth, found, (1, 2))
    assert values == {1: pytest.approx((1 / 2 + 2 / 5) / 2), 2: None}
    values = frame_ap(truth, found, (1, 2), excluded={("c", 0)})
    assert values == {1: pytest.approx((1 + 2 / 4) / 2), 2: None}
    assert frame_ap(truth, found, (1,), excluded={("a", 0)}) == {1: None}  # what is true there does not count either
    assert mean_ap(values) == values[1]
    with pytest.raises(ValueError, match="no action is done"):
        mean_ap({1: None})


# --- the detector ----------------------------------------------------------------------------------------------------


def small_detector(seed: int = 0) -> Detector:
    torch.manual_seed(seed)
    return build_detector("vov3d_n", ACTIONS, pretrained=False, interval=0.1, size=32, **SMALL)


def test_regions_are_those_of_the_boxes():
    class Pixels(nn.Module):
        def forward(self, x):
            return [nn.functional.avg_pool3d(x, (1, 4, 4))]

    own = Settings("x", ("a", "b", "c"), (1, 2, 3), 4, 2, 1.0, 32, (0.0,) * 3, (1.0,) * 3, hidden_chs=3)
    detector = Detector(own, Pixels(), 3)
    for layer in (detector.hidden, detector.fc):
        nn.init.eye_(layer.weight)
        nn.init.zeros_(layer.bias)
    clip = torch.zeros(3, 2, 32, 64, dtype=torch.uint8)
    clip[0, :, :16, :16], clip[1, :, :, 48:], clip[2, 0, 24:, 24:40] = 255, 255, 255
    found = np.array([[0, 0, 0.25, 0.5], [0.75, 0, 1, 1], [0.375, 0.75, 0.625, 1]])
    small = torch.zeros(3, 2, 32, 32, dtype=torch.uint8)  # is padded
    small[1] = 255
    batch = batch_of([clip, small], [found, np.array([[0, 0, 1, 1]])])
    assert batch.clips.shape == (2, 3, 2, 32, 64)
    out = detector(batch.clips, batch.boxes)
    assert torch.allclose(out, torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 0.5], [0, 1, 0.0]]), atol=1e-6)


def test_published_weights_in_one_line(tmp_path, monkeypatch):
    published_file("vov3d_m_k400", tmp_path).rename(tmp_path / "vov3d_m.k400_f16.pth")
    monkeypatch.setenv("VOV3D_WEIGHTS_DIR", str(tmp_path))
    detector = build_detector("vov3d_m.k400_f16", ["stand", "sit"], [12, 11])
    own = detector.settings
    assert (own.output_stride, own.num_frames, own.size, own.interval) == (16, 16, 224, 5 / 30)
    published = vov3d.models.vov3d.checkpoint_filter_fn(published_state_dict("vov3d_m_k400"), nn.Identity())
    name = "stages.3.blocks.1.conv_agg.weight"
    assert torch.equal(detector.backbone.state_dict()[name.replace("stages.", "stages_")], published[name].float())
    out = detector.eval()(torch.zeros(1, 3, 2, 64, 64, dtype=torch.uint8), [torch.tensor([[0.0, 0, 32, 32]])])
    assert out.shape == (1, 2)
    loaded = load_detector(detector.save(tmp_path / "model"))
    assert loaded.settings == own
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), detector.parameters(), strict=True))


@pytest.mark.slow
def test_a_few_scenes_are_learnt(tmp_path):
    data = SceneMoments(4, 0, 8, 32)
    detector = small_detector()
    train(detector, data, Plan(epochs=30, batch=4, lr=0.02), tmp_path, CPU)
    losses = [float(row["loss"]) for row in csv.DictReader((tmp_path / "epochs.csv").open())]
    assert losses[-1] < 0.4 * losses[0]
    values = frame_ap(annotations_of(data.moments), score_boxes(detector, data, CPU), data.actions)
    assert mean_ap(values) > 0.9


def test_a_resumed_training_gives_equal_results(tmp_path, monkeypatch):
    data, plan = SceneMoments(4, 0, 4, 32), Plan(epochs=2, batch=2, lr=0.01)
    whole, first, second = (small_detector() for _ in range(3))
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    train(whole, data, plan, tmp_path / "whole", CPU)
    with monkeypatch.context() as patch:  # killed behind the second epoch, before its checkpoint
        patch.setattr(
            "reference.detection.training.save_atomically",
            lambda content, *files: save_atomically(content, *files) if content["epoch"] == 1 else 1 // 0,
        )
        with pytest.raises(ZeroDivisionError):
            train(first, data, plan, tmp_path / "parts", CPU)
    train(second, data, plan, tmp_path / "parts", CPU)
    assert [line[:2] for line in (tmp_path / "parts" / "epochs.csv").read_text().splitlines()] == ["ep", "1,", "2,"]
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), second.parameters(), strict=True))
    train(second, data, replace(plan, workers=1, max_broken=1), tmp_path / "parts", CPU)  # which change no result
    with pytest.raises(ValueError, match=r"is of a run with epochs=2 \(now 3\), lr=0.01 \(now 0.1\); give its options"):
        train(first, data, Plan(epochs=3, batch=2, lr=0.1), tmp_path / "parts", CPU)
    data.moments[0].boxes[0] /= 2
    with pytest.raises(ValueError, match="is of a run with other key frames, boxes or actions; give its"):
        train(first, data, plan, tmp_path / "parts", CPU)


def test_a_loss_of_nan_ends_the_training(tmp_path):
    data, detector = SceneMoments(2, 0, 4, 32), small_detector()
    nn.init.constant_(detector.fc.weight, float("nan"))
    with pytest.raises(FloatingPointError, match="the loss is nan in epoch 1: try a lower --lr"):
        train(detector, data, Plan(epochs=1, batch=2, lr=0.01), tmp_path, CPU)


def test_scores_of_a_clip_do_not_depend_on_others_of_its_batch():
    detector = small_detector().eval()
    nn.init.normal_(detector.fc.weight)
    random = np.random.default_rng(0)
    sizes = [(32, 32), (32, 80), (32, 32), (48, 32)]
    clips = [torch.from_numpy(random.integers(0, 256, (3, 8, *size), np.uint8)) for size in sizes]
    boxes = np.array([[0.1, 0.2, 0.7, 0.9], [0.5, 0.1, 1, 0.6]], np.float32)
    moments = [Moment(f"v{number}", 1.0, boxes[: 1 + number % 2], []) for number in range(len(clips))]
    data = SimpleNamespace(moments=moments, clip=lambda index, _: clips[index])
    together, alone = (score_boxes(detector, data, CPU, batch) for batch in (16, 1))
    assert [row[:4] for row in together] == [row[:4] for row in alone]
    assert [row.score for row in together] == pytest.approx([row.score for row in alone], abs=1e-5)


# --- commands --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Writes scenes as videos with AVA's files, and a detector that was hardly trained."""
    home = tmp_path_factory.mktemp("detect")
    assert detect.main(["scenes", "--output", str(home / "data"), "--scenes", "2", "--val-scenes", "2"]) == 0
    small_detector().save(home / "model")
    return home


def test_clips_are_around_their_key_frame(folder):
    own = Settings("x", ("a",), (1,), 4, 4, 0.1, 64, (0.0,) * 3, (1.0,) * 3)
    with VideoReader(folder / "data" / "videos" / "scene_0_00000.mp4") as reader:
        every = reader.read(range(8))[..., ::2, ::2].float()
        for time, expected in ((0.4, [2, 3, 4, 5]), (0.0, [0, 0, 0, 1]), (0.7, [5, 6, 7, 7])):
            clip = clip_around(reader, time, own).float()
            nearest = [(every - frame).abs().mean((1, 2, 3)).argmin().item() for frame in clip.transpose(0, 1)]
            assert nearest == expected
        with pytest.raises(ValueError, match=r"lasts 0\.80 s, and there is no key frame at 3 s"):
            clip_around(reader, 3, own)


def test_train_evaluate_and_predict_run_one_after_the_other(folder, tmp_path, capsys):
    data, out = str(folder / "data"), tmp_path / "run"
    command = ["train", "--data", data, "--output", str(out), "--from-scratch", "--size", "32", "--interval", "0.1"]
    assert detect.main([*command, "--epochs", "1", "--batch", "2"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("vov3d_n, stride 8: 2 key frames, ")
    report = json.loads((out / "results.json").read_text())
    assert printed[-1] == f"frame mAP at 0.5 IoU: {report['map']:.3f} (2 key frames)"
    assert list(report["ap"]) == list(ACTIONS)

    found = tmp_path / "found.csv"
    evaluate = ["evaluate", "--data", data]
    assert detect.main([*evaluate, "--model", str(out / "model"), "--output", str(found)]) == 0
    assert detect.main([*evaluate, "--found", str(found)]) == 0
    assert detect.main([*evaluate, "--model", str(out / "model"), "--boxes", str(found)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines.count(printed[-1]) == 3

    video = str(folder / "data" / "videos" / "scene_1_00001.mp4")
    predict = ["predict", video, "--model", str(out / "model"), "--boxes", str(folder / "data" / "val.csv")]
    for ending, more in (("mp4", []), ("gif", ["--gif"])):
        assert detect.main([*predict, "--threshold", "0", "--output", str(tmp_path / ending), *more]) == 0
        files = {path.suffix[1:]: path for path in (tmp_path / ending).iterdir()}
        assert set(files) == {"csv", "png", ending}
        assert len(read_detections(files["csv"])) % len(ACTIONS) == 0
    with VideoReader(tmp_path / "mp4" / "scene_1_00001.mp4") as reader:
        assert (reader.num_frames, reader.fps, reader.height) == (8, 10, 384)
    with Image.open(tmp_path / "gif" / "scene_1_00001.gif") as picture:
        assert picture.n_frames == 8
    assert Image.open(files["png"]).size == (384, 384)


@pytest.mark.parametrize("name", ["film.csv", "film.mp4"])
def test_predictions_do_not_replace_the_video_or_its_boxes(name, folder, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    paths = {file: tmp_path / ("" if file == name else "in") / file for file in ("film.csv", "film.mp4")}
    for path in paths.values():
        path.write_bytes(b"before")
    argv = ["predict", str(paths["film.mp4"]), "--model", str(folder / "model"), "--boxes", str(paths["film.csv"])]
    assert detect.main([*argv, "--output", str(tmp_path)]) == 1
    assert f"{name}: is the file that is read, which would be lost" in capsys.readouterr().err
    assert [path.read_bytes() for path in paths.values()] == [b"before"] * 2


@pytest.mark.parametrize("name", ["data/val.csv", "data/train.csv", "data/ava_actions.pbtxt", "boxes.csv"])
def test_detections_do_not_replace_what_is_read(name, folder, tmp_path, capsys):
    (tmp_path / "data").mkdir()
    path = tmp_path / name
    path.write_bytes(b"before")
    argv = ["evaluate", "--data", str(tmp_path / "data"), "--model", str(folder / "model")]
    assert detect.main([*argv, "--boxes", str(tmp_path / "boxes.csv"), "--output", str(path)]) == 1
    assert "is the file that is read, which would be lost" in capsys.readouterr().err
    assert path.read_bytes() == b"before"


def test_boxes_by_a_detector_of_torchvision(folder, tmp_path, capsys):
    from torchvision.models import get_model

    name = "ssdlite320_mobilenet_v3_large"
    model = get_model(name, weights=None, weights_backbone=None)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    video = str(folder / "data" / "videos" / "scene_1_00000.mp4")
    predict = ["predict", video, "--model", str(folder / "model"), "--proposer", name]
    assert detect.main([*predict, "--proposer-weights", str(tmp_path / "weights.pth")]) == 1  # it was never trained
    assert "the proposer finds nobody in any of 1 key frames" in capsys.readouterr().err
    with Film(Path(video), load_detector(folder / "model").settings) as film:
        film.propose(lambda frame: np.array([[0.1, 0.1, 0.6, 0.7]], np.float32), every=0.3)
        assert [moment.timestamp for moment in film.moments] == [0.15, 0.45, 0.75]
        assert len(score_boxes(load_detector(folder / "model"), film, CPU)) == 3 * len(ACTIONS)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["train", "--data", "{data}", "--output", "{home}/r", "--from-scratch"], "say how far apart frames are"),
        (["train", "--data", "{home}", "--output", "{home}/r"], "actions.pbtxt"),
        (["train", "--data", "scenes", "--output", "{home}/run"], "holds a run: continue it with --resume"),
        (["train", "--data", "scenes", "--output", "{home}/r", "--backbone", "vov3d_x"], "no model 'vov3d_x'"),
        (
            ["train", "--data", "scenes", "--output", "{home}/r", "--from-scratch", "--checkpoint", "x"],
            "--from-scratch and --checkpoint exclude each other",
        ),
        (["evaluate", "--data", "{data}", "--model", "{home}"], "no detector there; train one"),
        (["evaluate", "--data", "scenes", "--found", "x.csv"], "--found is measured as it is"),
        (
            ["evaluate", "--data", "{data}", "--model", "{home}/model", "--boxes", "{data}/train.csv"],
            "has no box in any",
        ),
        (["predict", "{video}", "--model", "{home}/model", "--boxes", "{data}/train.csv"], "no box for the video"),
        (
            ["predict", "{video}", "--model", "{home}/model", "--boxes", "{data}/val.csv", "--every", "1"],
            "--proposer-weights and --every are for a --proposer",
        ),
        (["predict", "{video}", "--model", "{home}/model", "--proposer", "x", "--threshold", "50"], "from 0 to 1"),
        (["train", "--data", "scenes", "--output", "{home}/new", "--interval", "-0.1"], "--interval is -0.1"),
        (["evaluate", "--data", "{data}", "--found", "x.csv", "--box-score", "0.8"], "--box-score is for proposals"),
        (["predict", "{video}", "--model", "{home}/model", "--proposer", "resnet18"], "no detector 'resnet18'"),
        (["predict", "nothing.mp4", "--model", "{home}/model", "--proposer", "resnet18"], "nothing.mp4"),
    ],
)
def test_invalid_commands_are_refused(command, message, folder, capsys):
    (folder / "run").mkdir(exist_ok=True)
    (folder / "run" / "checkpoint.pt").touch()
    fields = dict(home=folder, data=folder / "data", video=folder / "data" / "videos" / "scene_1_00000.mp4")
    assert detect.main([part.format(**fields) for part in command]) == 1
    err = capsys.readouterr().err
    assert err.startswith("detect: ")
    assert message in err


def test_the_page_is_what_was_measured():
    page, report = detected_scenes.PAGE.read_text(), json.loads(detected_scenes.RESULTS.read_text())
    assert part_of(page, "measured") == detected_scenes.page(report)
    assert report["map"] >= 0.8
    assert report["map_key"] < report["map"] / 2


def test_the_measurement_runs_on_a_small_detector(tmp_path):
    small_detector().save(tmp_path / "model")
    (tmp_path / "results.json").write_text('{"seconds": 60, "core_seconds": 60}')
    report = detected_scenes.measure(tmp_path, 30)
    assert {"map", "map_key", "map_shuffled"} <= set(report)
    assert len(report["ap"]) == len(ACTIONS)
    data = detected_scenes.scenes_of(small_detector(), 2, "key")
    assert all((scene.frames == scene.frames[:1]).all() for scene in data.scenes)


def test_detectors_that_do_not_fit(folder, tmp_path):
    saved = small_detector().save(tmp_path)
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps(config | {"colour": 3}))
    with pytest.raises(ValueError, match="does not describe a detector .*colour"):
        load_detector(saved)


# --- as published, and as it goes wrong ------------------------------------------------------------------------------


def scenes_folder(folder: Path, number: int = 6) -> Path:
    assert detect.main(["scenes", "--output", str(folder), "--scenes", str(number), "--val-scenes", "3"]) == 0
    return folder


def test_a_folder_named_as_the_generated_scenes_is_told_apart(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("scenes").symlink_to(folder / "data")
    words = ["evaluate", "--model", str(folder / "model"), "--data"]
    for data, told, number in (("scenes", True, 3), ("./scenes", False, 2)):
        assert detect.main([*words, data, "--val-scenes", "3"]) == 0
        text = capsys.readouterr().out
        assert ("./scenes is the folder of this name" in text) is told
        assert f"({number} key frames)" in text


def test_lists_with_a_byte_order_mark_and_excluded_key_frames(tmp_path, capsys):
    data = scenes_folder(tmp_path / "scenes", 1)
    for name in ("train.csv", "val.csv"):
        (data / name).write_text((data / name).read_text(), encoding="utf-8-sig")
    (data / "actions.pbtxt").rename(data / "ava_action_list_v2.2.pbtxt.txt")
    rows = read_annotations(data / "val.csv")
    assert not any(row.video.startswith("\ufeff") for row in rows)
    perfect = [Detection(*row[:4], 0.9) for row in rows]
    wrong = [Detection("elsewhere", 5.0, row.box, row.action, 0.95) for row in rows]
    write_rows(tmp_path / "found.csv", [*perfect, *wrong])
    words = ["evaluate", "--data", str(data), "--found", str(tmp_path / "found.csv")]
    assert detect.main(words) == 0
    text = capsys.readouterr().out
    assert "detections in 1 frames without annotation count as wrong" in text
    counted = float(text.partition("0.5 IoU: ")[2].split()[0])
    (data / "val_excluded_timestamps.csv").write_text("elsewhere,5\n")
    assert detect.main(words) == 0
    text = capsys.readouterr().out
    assert "frame mAP at 0.5 IoU: 1.000 (3 key frames)" in text
    assert counted < 0.8
    (data / "label_map.txt").write_text("1: other\n")
    assert detect.main(words) == 1
    assert "say which with --actions FILE" in capsys.readouterr().err
    assert detect.main([*words, "--actions", str(data / "ava_action_list_v2.2.pbtxt.txt")]) == 0


def test_boxes_proposed_in_frames_without_annotation_count_as_wrong(tmp_path):
    class Sees(nn.Module):
        settings = Settings("x", ("a", "b"), (1, 2), 8, 4, 0.1, 32, (0.45,) * 3, (0.225,) * 3)

        def forward(self, clips, boxes):
            return torch.ones(sum(map(len, boxes)), 2)

    data = SceneMoments(3, 0, 4, 32)
    rows = annotations_of(data.moments)
    write_rows(tmp_path / "boxes.csv", [Detection(*row[:3], None, 0.9) for row in rows])
    held_back = data.moments[0].video
    data.moments = data.moments[1:]
    data.moments.append(data.moments[0]._replace(timestamp=9.0, boxes=np.zeros((0, 4), np.float32), actions=[]))
    data.excluded, data.actions = set(), {1: "a", 2: "b"}
    data.clip = lambda index, settings: torch.zeros(3, 4, 32, 32, dtype=torch.uint8)
    extra = [Detection(data.moments[0].video, 7.0, (0.1, 0.1, 0.5, 0.5), None, 0.9)]
    write_rows(tmp_path / "boxes.csv", [*read_detections(tmp_path / "boxes.csv"), *extra])
    found = detect._measured(Sees(), data, CPU, 0, tmp_path / "boxes.csv")[1]
    assert {(row.video, row.timestamp) for row in found} >= {(data.moments[0].video, 7.0)}
    assert held_back not in {row.video for row in found}


def test_lines_that_stand_twice_count_once(tmp_path, capsys):
    data = scenes_folder(tmp_path / "scenes", 1)
    lines = (data / "val.csv").read_text()
    (data / "val.csv").write_text(lines + lines.splitlines()[0] + "\n")
    rows = read_annotations(data / "val.csv")
    write_rows(tmp_path / "found.csv", [Detection(*row[:4], 0.9) for row in rows[:-1]])
    assert detect.main(["evaluate", "--data", str(data), "--found", str(tmp_path / "found.csv")]) == 0
    assert "frame mAP at 0.5 IoU: 1.000" in capsys.readouterr().out


def test_some_of_the_actions_count(tmp_path, capsys):
    data = scenes_folder(tmp_path / "scenes", 1)
    rows = read_annotations(data / "val.csv")
    done = sorted({row.action for row in rows})
    write_rows(tmp_path / "found.csv", [Detection(*row[:4], 0.9) for row in rows if row.action == done[0]])
    words = ["evaluate", "--data", str(data), "--found", str(tmp_path / "found.csv")]
    assert detect.main(words) == 0
    whole = capsys.readouterr().out
    assert f"frame mAP at 0.5 IoU: {1 / len(done):.3f}" in whole
    only = tmp_path / "some.pbtxt"
    write_label_map(only, {done[0]: "first"})
    assert detect.main([*words, "--only", str(only)]) == 0
    text = capsys.readouterr().out
    assert f"1 actions count, {len(done) - 1} others of the annotations do not" in text
    assert "frame mAP at 0.5 IoU: 1.000 (3 key frames)" in text
    assert detect.main([*words, "--actions", str(only)]) == 1
    assert "measure some of them with --only" in capsys.readouterr().err
    write_label_map(only, {99: "fly"})
    assert detect.main([*words, "--only", str(only)]) == 1
    assert "action 99, 'fly', is not among those of the data" in capsys.readouterr().err


def test_proposals_count_from_a_score_on(tmp_path):
    file = tmp_path / "boxes.csv"
    rows = [Detection("v", float(i), (0.0, 0.0, 0.5, 0.5), None, score) for i, score in enumerate((0.2, 0.8, 0.9))]
    write_rows(file, rows)
    assert [key[1] for key in read_boxes(file)] == [0, 1, 2]
    assert [key[1] for key in read_boxes(file, 0.8)] == [1, 2]
    write_rows(file, [*rows, Annotation("v", 3.0, (0.0, 0.0, 0.5, 0.5), 1, 1)])
    assert len(read_boxes(file)) == 4
    with pytest.raises(ValueError, match="line 4: is no proposal"):
        read_boxes(file, 0.8)


def test_actions_under_other_numbers_are_refused(folder, tmp_path, capsys):
    names = list(ACTIONS)
    write_label_map(tmp_path / "swapped.pbtxt", dict(enumerate([names[1], names[0], *names[2:]], 1)))
    words = ["evaluate", "--data", str(folder / "data"), "--model", str(folder / "model")]
    assert detect.main([*words, "--actions", str(tmp_path / "swapped.pbtxt")]) == 1
    assert f"action 1 is {names[0]!r} in {folder / 'model'} and {names[1]!r} in " in capsys.readouterr().err


def test_the_held_out_part_is_read_before_the_training(tmp_path, capsys):
    data = scenes_folder(tmp_path / "scenes", 2)
    run = ["train", "--data", str(data), "--output", str(tmp_path / "run"), "--from-scratch", *TINY_RUN]
    lines = (data / "val.csv").read_text()
    (data / "val.csv").write_text(lines + "scene_1_00000,0.4,10,20,30,40,1,1\n")
    assert detect.main(run) == 1
    assert "box 10,20,30,40 is not 0 <= x1 < x2 <= 1" in capsys.readouterr().err
    assert not (tmp_path / "run" / "checkpoint.pt").exists()
    (data / "val.csv").write_text(lines + (data / "train.csv").read_text())
    assert detect.main(run) == 0
    assert "2 held-out videos are trained on, as scene_0_00000: the mAP does not hold" in capsys.readouterr().out


def test_key_frames_of_a_folder_are_at_its_own_rate(folder, tmp_path):
    (tmp_path / "film").mkdir()
    for number in range(12):
        Image.new("RGB", (64, 64), (20 * number, 0, 0)).save(tmp_path / "film" / f"{number:03}.png")
    write_rows(tmp_path / "boxes.csv", [Detection("film", 1.0, (0.1, 0.1, 0.6, 0.6), None, 0.9)])
    own = load_detector(folder / "model").settings
    for fps, frame in ((6, 6), (3, 3), (None, 11)):
        with Film(tmp_path / "film", own, fps) as film:
            film.take_boxes(tmp_path / "boxes.csv")
            assert film.clip(0, own)[0, own.num_frames // 2, 0, 0] == 20 * frame
    words = ["predict", str(folder / "data" / "videos" / "scene_1_00000.mp4"), "--model", str(folder / "model")]
    assert detect.main([*words, "--boxes", str(folder / "data" / "val.csv"), "--fps", "25"]) == 1


def test_the_video_with_boxes_lasts_as_long_as_its_source(folder, tmp_path):
    times = [0, 40, 80, 120, 1160, 1200]  # milliseconds: a pause of one second
    video = write_video(tmp_path / "film.mp4", times_ms=times)
    with Film(video, load_detector(folder / "model").settings) as film:
        film.moments = [Moment("film", time, np.zeros((0, 4), np.float32), []) for time in (0.04, 1.2)]
        written = save_results(film, [], tmp_path / "out", 0.5, gif=False)[2]
    with VideoReader(written) as reader:
        assert reader.duration == pytest.approx(1.2, abs=0.05)


def test_people_are_looked_for_in_one_frame_at_a_time(folder, monkeypatch):
    monkeypatch.setattr(VideoReader, "read", None)  # which holds all frames at once
    video = folder / "data" / "videos" / "scene_1_00000.mp4"
    with Film(video, load_detector(folder / "model").settings) as film:
        film.propose(lambda frame: np.array([[0.1, 0.1, 0.6, 0.7]], np.float32), every=0.06)
        assert [moment.timestamp for moment in film.moments] == pytest.approx(np.arange(0.03, 0.8, 0.06), abs=1e-3)


TINY_RUN = ["--backbone", "vov3d_n", "--size", "32", "--interval", "0.1", "--epochs", "1", "--batch", "4"]


@pytest.mark.slow
def test_a_broken_video_is_replaced_counted_and_listed(tmp_path, capsys):
    data = scenes_folder(tmp_path / "scenes")
    broken = data / "videos/scene_0_00002.mp4"
    broken.write_bytes(b"no video")
    words = ["train", "--data", str(data), "--from-scratch", *TINY_RUN]
    assert detect.main([*words, "--output", str(tmp_path / "run")]) == 0
    text = capsys.readouterr().out
    assert "1 videos are broken, others replaced them:" in text
    assert "scene_0_00002.mp4" in text
    assert detect.main([*words, "--output", str(tmp_path / "other"), "--max-broken", "0.1"]) == 1
    error = capsys.readouterr().err
    assert "1 of 6 videos are broken, more than --max-broken 0.1 allows" in error
    assert "scene_0_00002.mp4" in error


def test_a_detector_that_is_not_finite_is_not_saved(tmp_path, monkeypatch, capsys):
    data = scenes_folder(tmp_path / "scenes")
    words = ["train", "--data", str(data), "--from-scratch", *TINY_RUN, "--output", str(tmp_path / "run")]
    monkeypatch.setattr(nn.utils, "clip_grad_norm_", lambda parameters, _: torch.tensor(float("nan")), raising=True)
    assert detect.main(words) == 1
    assert "the gradient is nan in epoch 1" in capsys.readouterr().err
    assert not (tmp_path / "run/checkpoint.pt").exists()


@settings(deadline=None, max_examples=60)
@given(st.text(st.sampled_from('item {}"name:id12\n'), max_size=60), st.integers(0, 3))
def test_a_label_map_is_read_or_refused_in_linear_time(tmp_path_factory, text, kind):
    file = tmp_path_factory.mktemp("map") / "map.pbtxt"
    many = {0: text, 1: "item {" * 20_000 + 'name: "x"', 2: "item" + " " * 200_000, 3: 'item { name: "' + " " * 200_000}
    file.write_text(many[kind])
    said = ""
    try:
        said = f"map.pbtxt: {read_label_map(file)}"
    except ValueError as error:
        said = str(error)
    assert "map.pbtxt" in said
    assert len(said) < 500
