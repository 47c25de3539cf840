"""Data sets of the Hub, made on disk: streamed whole, split without overlap, decoded by the package's own reader."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from vov3d.adapters.datasets import _bytes_of, open_videos, video_source
from vov3d.synthetic.moving_shapes import CLASSES, make_clip, write_clip
from vov3d.video import VideoReader

datasets = pytest.importorskip("datasets")

NAMES = CLASSES[:2]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets-cache")
    monkeypatch.setattr("datasets.config.HF_MODULES_CACHE", tmp_path / "modules-cache", raising=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Thirty videos in the layout of `videofolder`, without a split to measure by."""
    root = tmp_path_factory.mktemp("videos")
    content = root / "one.mp4"
    write_clip(content, make_clip(0, np.random.default_rng(0), 4, 16))
    for name in NAMES:
        for i in range(15):
            path = root / "data" / "train" / name / f"{NAMES.index(name)}{i:02}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.read_bytes())
    return root / "data"


@pytest.fixture(scope="module")
def table(folder, tmp_path_factory):
    """The same videos as bytes in Parquet files, and a split to measure by; other names of the columns."""
    root = tmp_path_factory.mktemp("table")
    features = datasets.Features({"clip": datasets.Video(decode=False), "action": datasets.ClassLabel(names=NAMES)})
    paths = sorted(folder.rglob("*.mp4"))
    for split, chosen in (("train-00000-of-00002", paths[::3]), ("train-00001-of-00002", paths[1::3])):
        write_rows(root / f"{split}.parquet", chosen, features)
    write_rows(root / "validation-00000-of-00001.parquet", paths[2::3], features)
    return root


def write_rows(path: Path, videos: list[Path], features):
    rows = {
        "clip": [{"bytes": video.read_bytes(), "path": video.name} for video in videos],
        "action": [NAMES.index(video.parent.name) for video in videos],
    }
    datasets.Dataset.from_dict(rows, features).to_parquet(path)


def names(stream, **kwargs) -> list[str]:
    """What a stream gives, as names of files and classes."""
    loaded = DataLoader(stream.map(lambda source, label: f"{Path(source).stem} {label}"), batch_size=None, **kwargs)
    return list(loaded)


def test_a_folder_is_divided_the_same_way_each_time_and_never_overlaps(folder):
    classes, train, held_out = open_videos(f"hf:{folder}")
    assert classes == list(NAMES)
    seen, measured = names(train), names(held_out)
    assert (len(seen), len(measured)) == (len(train), len(held_out))
    assert 2 <= len(measured) <= 12
    assert len({*seen, *measured}) == 30
    assert all(name[0] == name[-1] for name in (*seen, *measured))  # the class of its folder
    _, train, held_out = open_videos(str(folder))
    assert (names(train), names(held_out)) == (seen, measured)
    assert sorted(names(train, num_workers=2)) == sorted(seen)


def test_rows_of_bytes_and_a_split_of_their_own(table, monkeypatch):
    classes, train, held_out = open_videos(str(table))
    assert classes == list(NAMES)
    assert (len(train), len(held_out)) == (20, 10)
    source, label = next(iter(held_out))
    assert isinstance(source, bytes)
    assert label in (0, 1)
    with VideoReader(source) as reader:
        assert (reader.num_frames, reader.height) == (4, 32)


def test_shuffled_streams_give_each_video_once_in_another_order_each_time(table, monkeypatch):
    _, train, _ = open_videos(str(table), video="clip", label="action")
    monkeypatch.setattr("vov3d.adapters.datasets._BUFFER", 3 * 2000)  # of a few videos
    drawn = train.map(lambda source, label: (label, len(source)), shuffle=True)
    torch.manual_seed(0)
    first, second = list(drawn), list(drawn)
    torch.manual_seed(0)
    assert first == list(drawn)
    assert first != second
    for passed in (first, second, list(train.map(lambda source, label: (label, len(source))))):
        assert sorted(label for label, _ in passed) == [0] * 10 + [1] * 10
    loader = DataLoader(drawn, batch_size=None, num_workers=2)
    assert len(list(loader)) == 20


def test_classes_may_be_texts(folder, tmp_path):
    paths = sorted(folder.rglob("*.mp4"))
    rows = {"video": [str(path) for path in paths], "label": [path.parent.name for path in paths]}
    features = datasets.Features({"video": datasets.Video(decode=False), "label": datasets.Value("string")})
    datasets.Dataset.from_dict(rows, features).to_parquet(tmp_path / "train.parquet")
    classes, train, _ = open_videos(str(tmp_path))
    assert classes == sorted(NAMES)
    assert all(classes[label] == Path(source).parent.name for source, label in train)


def test_what_cannot_be_used_is_said(folder, table, tmp_path):
    with pytest.raises(ValueError, match=r"has no column 'labels'; give label=... of clip \(Video\), action"):
        open_videos(table, label="labels")
    with pytest.raises(ValueError, match=r"its column 'clip' is a Video, but one class for each video is expected"):
        open_videos(table, label="clip")
    features = datasets.Features({"video": datasets.Video(decode=False), "label": datasets.ClassLabel(names=NAMES)})
    path = str(next(folder.rglob("*.mp4")))
    rows = datasets.Dataset.from_dict({"video": [path] * 9, "label": [0, 1, -1] * 3}, features)
    (tmp_path / "rows").mkdir()
    rows.to_parquet(tmp_path / "rows" / "train.parquet")
    with pytest.raises(ValueError, match="has no video to|the class -1, which has no name"):
        open_videos(str(tmp_path / "rows"))
    for nothing in ({"path": None, "bytes": None}, {"video": path}, None):
        with pytest.raises(ValueError, match="neither path nor bytes: .*leave out rows without a video"):
            video_source(nothing)
    with pytest.raises(ValueError, match=r"got dict; vov3d.adapters.datasets.video_source\(row\) gives its file"):
        VideoReader({"path": path, "bytes": None})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("videos", "labels", "kind", "message"),
    [
        ([b"x"] * 9, [["a"], ["b"], ["a", "b"]] * 3, [datasets.Value("string")], "its column 'label' is a List"),
        ([b"x"] * 9, ["a", "", "b"] * 3, datasets.Value("string"), "videos have the class '', which has no name"),
        ([b"x", None, b"y"] * 3, ["a"] * 9, datasets.Value("string"), "neither path nor bytes: None"),
    ],
)
def test_rows_without_a_video_or_with_other_classes(videos, labels, kind, message, tmp_path):
    features = datasets.Features({"video": datasets.Value("binary"), "label": kind})
    for split in ("train", "test"):
        datasets.Dataset.from_dict({"video": videos, "label": labels}, features).to_parquet(
            tmp_path / f"{split}.parquet"
        )
    with pytest.raises(ValueError, match=message):
        list(open_videos(tmp_path)[1])


def test_columns_of_bytes(folder, tmp_path):
    """Without a split to measure by, rows are told apart by their content; the buffer is limited in bytes."""
    content = next(folder.rglob("*.mp4")).read_bytes()
    features = datasets.Features({"video": datasets.Value("binary"), "label": datasets.Value("int64")})
    rows = {"video": [content + bytes([i]) * 9 for i in range(40)], "label": [7, 9] * 20}
    datasets.Dataset.from_dict(rows, features).to_parquet(tmp_path / "train.parquet")
    classes, train, held_out = open_videos(tmp_path)
    assert classes == ["7", "9"]
    sources = [[source for source, _ in part] for part in (train, held_out)]
    assert sorted(sources[0] + sources[1]) == sorted(rows["video"])
    assert _bytes_of(content) == _bytes_of({"path": None, "bytes": content}) > len(content)
