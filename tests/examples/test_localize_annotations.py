"""Annotations in the forms in which data sets publish them."""

import json
from pathlib import Path

import pytest
from reference.localization.annotations import check_labels, checked, read_annotations
from reference.localization.metrics import Truth
from reference.localization.model import read_results

DATABASE = {
    "version": "VERSION 1.3",
    "taxonomy": [],
    "database": {
        "sJCgfgmBMxc": {
            "duration": 82.75,
            "subset": "training",
            "resolution": "320x240",
            "annotations": [{"segment": [6.2, 77.5], "label": "Painting"}, {"segment": [0, 5], "label": "Archery "}],
        },
        "empty": {"duration": 10, "subset": "validation", "annotations": []},
        "hidden": {"duration": 10, "subset": "testing"},
    },
}
EPIC = (
    "narration_id,participant_id,video_id,start_timestamp,stop_timestamp,verb,verb_class,noun_class,all_nouns\r\n"
    "P01_11_0,P01,P01_11,00:00:00.00,00:00:01.89,take,0,2,\"['plate', 'cup']\"\r\n"
    "P01_11_1,P01, P01_11 ,01:00:01.56,01:00:02.45,put-down,1,2,['plate']\r\n"
)


def activitynet(path: Path, *segments, **entry) -> Path:
    found = [{"segment": list(segment), "label": label} for *segment, label in segments]
    path.write_text(json.dumps({"database": {"v": {"duration": 20, **entry, "annotations": found}}}))
    return path


def test_a_segment_that_is_there_twice_counts_once(tmp_path):
    found = read_annotations(activitynet(tmp_path / "a.json", (1, 2, "run"), (1, 3, "run"), (1, 2, "run")))
    assert found.segments == (Truth("v", 1, 2, "run"), Truth("v", 1, 3, "run"))
    assert found.notes == ("segments that are there twice, and count once: 1",)


@pytest.mark.parametrize("start", ["", "\ufeff", "\r\n "])
def test_activitynet(tmp_path, start):
    path = tmp_path / "activity_net.v1-3.min.json"
    path.write_text(start + json.dumps(DATABASE, indent=1).replace("\n", "\r\n"), encoding="utf-8", newline="")
    found = read_annotations(path)
    assert found.segments == (
        Truth("sJCgfgmBMxc", 6.2, 77.5, "Painting"),
        Truth("sJCgfgmBMxc", 0, 5, "Archery"),
    )
    assert found.labels == ("Archery", "Painting")
    assert found.durations == {"sJCgfgmBMxc": 82.75, "empty": 10, "hidden": 10}
    assert found.subset("validation").videos == ("empty",)
    assert found.subset("training").segments == found.segments
    with pytest.raises(ValueError, match="no video is of subset 'val'; the file has testing, training, validation"):
        found.subset("val")


def test_epic(tmp_path):
    path = tmp_path / "EPIC_100_validation.csv"
    path.write_text("\ufeff" + EPIC, encoding="utf-8", newline="")
    found = read_annotations(path)
    assert found.segments == (Truth("P01_11", 0, 1.89, "0"), Truth("P01_11", 3601.56, 3602.45, "1"))
    assert (found.labels, found.videos) == (("0", "1"), ("P01_11",))
    assert read_annotations(path, "verb").labels == ("put-down", "take")
    assert found.subset("validation") is found  # the file knows no subsets
    (tmp_path / "EPIC_100_verb_classes.csv").write_text("id,key,category\n1,put,leave\n0,take,retrieve\n2,wash,clean\n")
    named = read_annotations(path)
    assert [one.label for one in named.segments] == ["take", "put"]
    assert named.labels == ("put", "take", "wash")
    assert named.notes == ("class names are those of EPIC_100_verb_classes.csv",)
    (tmp_path / "EPIC_100_verb_classes.csv").write_text("id,key\n0,take\n")
    with pytest.raises(ValueError, match=r"line 3: verb_class 1 is not in EPIC_100_verb_classes.csv"):
        read_annotations(path)


def test_thumos(tmp_path):
    (tmp_path / "BaseballPitch_val.txt").write_text(
        "video_validation_0000266  72.8 76.4\r\n\r\nvideo_validation_1 1 2\n"
    )
    (tmp_path / "Ambiguous_val.txt").write_text("video_validation_0000266  5 6\n")
    (tmp_path / "Diving_test.txt").write_text("video_test_4  1.5 2\n")
    (tmp_path / "readme.txt").write_text("about")
    found = read_annotations(tmp_path)
    assert found.labels == ("BaseballPitch", "Diving")
    assert found.subset("test").segments == (Truth("video_test_4", 1.5, 2, "Diving"),)
    assert len(found.subset("validation").segments) == 2
    assert found.notes == ("1 segments of Ambiguous are left out",)
    lines = tmp_path / "all.txt"
    lines.write_text("a 1 2 Moving something left\nb 0 9 Turning\n")
    assert read_annotations(lines).segments == (
        Truth("a", 1, 2, "Moving something left"),
        Truth("b", 0, 9, "Turning"),
    )


@pytest.mark.parametrize(
    ("segment", "message", "mended"),
    [
        ((5, 4), "v 5 to 4 (a) ends before it starts", None),
        ((5, 5), "v 5 to 5 (a) ends before it starts", None),
        ((-1, 4), "v -1 to 4 (a) is not within 0 and 20 s", (0, 4)),
        ((15, 21), "v 15 to 21 (a) is not within 0 and 20 s", (15, 20)),
        ((-5, -2), "v -5 to -2 (a) lies before the beginning of the video", None),
        ((25, 30), "v 25 to 30 (a) lies behind the end of the video, 20 s", None),
    ],
)
def test_segments_that_cannot_be(tmp_path, segment, message, mended):
    path = activitynet(tmp_path / "a.json", (1, 2, "a"), (*segment, "a"))
    with pytest.raises(ValueError, match="1 of 2 segments cannot be: ") as error:
        read_annotations(path)
    assert f"segments cannot be: {message}" in str(error.value)
    found = read_annotations(path, mend=True)
    assert found.segments == (Truth("v", 1, 2, "a"), *([Truth("v", *mended, "a")] if mended else []))
    cut, left = (1, 0) if mended else (0, 1)
    assert found.notes == (f"{cut} segments were cut at the ends of their videos, {left} were left out",)


def test_videos_may_be_a_little_shorter_than_their_annotations(tmp_path):
    found = read_annotations(activitynet(tmp_path / "a.json", (15, 20, "a")))
    assert checked(found, "a.json", False, {"v": 19.8}).segments == (Truth("v", 15, 19.8, "a"),)
    with pytest.raises(ValueError, match=r"not within 0 and 19 s"):
        checked(found, "a.json", False, {"v": 19})


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", "{", "is no JSON"),
        ("a.json", "[]", 'expected {"database"'),
        ("a.json", '{"database": {"v": {"annotations": [{"label": "a"}]}}}', "video v: .*'segment' is missing"),
        ("a.json", '{"database": {"v": {"annotations": [{"label": "a", "segment": [1]}]}}}', "video v: expected"),
        ("a.json", '{"database": {"v": {"annotations": [{"label": "a", "segment": [1, "x"]}]}}}', "'x' is no time"),
        ("a.json", '{"database": {"v": {"duration": NaN}}}', "'nan' is no finite time"),
        ("a.json", '{"database": {"v": {"annotations": []}}}', "names no segment"),
        ("a.csv", "video,start\na,1\n", "has no column video_id and no start_timestamp"),
        ("a.csv", EPIC.replace("00:00:01.89", "soon"), "line 2: 'soon' is no time"),
        ("a.csv", EPIC.replace("put-down,1", "put-down,"), "line 3: has no label"),
        ("a.txt", "v 1 2 a\nv 1\n", "line 2: expected video start end class, got 'v 1'"),
        ("a.txt", "\n", "names no segment"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, name, text, message):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        read_annotations(path)
    assert str(error.value).startswith(str(path))


def test_nothing_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file or folder of annotations"):
        read_annotations(tmp_path / "none.json")
    with pytest.raises(ValueError, match="holds no CLASS_val.txt"):
        read_annotations(tmp_path)
    (tmp_path / "a.txt").write_bytes(b"v 1 2 caf\xe9")
    with pytest.raises(ValueError, match="is not text in UTF-8"):
        read_annotations(tmp_path / "a.txt")


def test_unknown_labels(tmp_path):
    found = read_annotations(activitynet(tmp_path / "a.json", (1, 2, "Archry"), (2, 3, "Diving")))
    check_labels(found, ["Archry", "Diving", "x"], "the model")
    with pytest.raises(ValueError, match="1 classes that the model does not know: 'Archry'; the nearest .* 'Archery'"):
        check_labels(found, ["Archery", "Diving"], "the model")


@pytest.mark.parametrize("label", [None, " ", 1.5, ["a"]])
def test_a_segment_without_a_plain_label_is_refused(tmp_path, label):
    with pytest.raises(ValueError, match="expected the name of a class"):
        read_annotations(activitynet(tmp_path / "a.json", (1, 2, label)))


def test_a_video_that_is_there_twice_is_refused(tmp_path):
    entry = json.dumps({"annotations": [{"segment": [1, 2], "label": "a"}]})
    path = tmp_path / "a.json"
    path.write_text(f'{{"database": {{"v": {entry}, "w": {entry}, "v": {entry}}}}}')
    with pytest.raises(ValueError, match="'v' is there twice"):
        read_annotations(path)


@pytest.mark.parametrize("numbers", ['"score": NaN, "segment": [1, 2]', '"score": 0.5, "segment": [1, Infinity]'])
def test_results_that_are_not_finite_are_refused(tmp_path, numbers):
    path = tmp_path / "found.json"
    path.write_text(f'{{"results": {{"v": [{{"label": "a", {numbers}}}]}}}}')
    with pytest.raises(ValueError, match="is not finite"):
        read_results(path)
