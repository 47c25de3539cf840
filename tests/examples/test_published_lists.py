"""Lists of published data sets: every dialect, in whatever dress, gives the same videos and classes."""

import csv
import io
import shutil
import warnings
from pathlib import Path

import pytest
from helpers.made_data_sets import GESTURES, MADE, UCF, Made, make
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reference.data.annotations import LABEL
from reference.data.lists import VideoList, described, read_list

Seen = dict[str, list[object]]


def seen(videos: VideoList, folder: Path) -> Seen:
    """Labels by the path of the file without its ending; class names of single labels."""
    found: Seen = {}
    for index, path in enumerate(videos.paths):
        label = None if not videos.labels else videos.labels[index]
        if label is not None and videos.kind == LABEL:
            label = videos.classes[label]
        found.setdefault(str(path.relative_to(folder).with_suffix("")), []).append(label)
    return found


def expected(made: Made, split: str) -> Seen:
    found: Seen = {}
    for path, label in made.videos[split].items():
        found[str(Path(path).with_suffix(""))] = label if isinstance(label, list) else [label]
    return found


def read(name: str, folder: Path, split: str, **options) -> VideoList:
    return read_list(folder, split=split, labelled=split not in MADE[name].bare, **options)


def check(name: str, folder: Path) -> None:
    made = MADE[name]
    for split in made.videos:
        videos = read(name, folder, split)
        assert seen(videos, folder) == expected(made, split)
        if split not in made.bare:
            size = len(videos.classes)
            assert (size if isinstance(made.classes, int) else tuple(map(len, videos.classes))) == made.classes


@pytest.mark.parametrize("name", MADE)
def test_every_dialect_is_read_as_published(name: str, tmp_path: Path) -> None:
    check(name, make(MADE[name], tmp_path))


@pytest.mark.parametrize("name", [name for name, made in MADE.items() if made.bare])
def test_lists_without_labels_are_for_prediction_alone(name: str, tmp_path: Path) -> None:
    make(MADE[name], tmp_path)
    with pytest.raises(ValueError, match="the list of a test set has no labels, so that nothing can be .* measured"):
        read_list(tmp_path, split="test")
    assert read(name, tmp_path, "test").labels == ()


# --- the same in another dress ---------------------------------------------------------------------------------------


def doubled(text: str, path: str) -> str:
    """The last row of a list once more."""
    lines = text.splitlines()
    return text if path.endswith(".json") or len(lines) < 2 else "".join(f"{line}\n" for line in [*lines, lines[-1]])


def quoted(text: str, path: str) -> str:
    """A CSV with a heading as a spreadsheet saves it: all cells in quotes."""
    rows = list(csv.reader(io.StringIO(text)))
    if not path.endswith(".csv") or len({len(row) for row in rows}) > 1 or len(rows[0]) < 3:
        return text
    out = io.StringIO()
    csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows(rows)
    return out.getvalue()


def tabbed(text: str, path: str) -> str:
    """A CSV with a heading, its columns apart by tabs."""
    rows = list(csv.reader(io.StringIO(text)))
    if not path.endswith(".csv") or len(rows[0]) < 4 or not rows[0][0].replace("_", "").isalpha() or "Set" in path:
        return text
    out = io.StringIO()
    csv.writer(out, delimiter="\t", lineterminator="\n").writerows(rows)
    return out.getvalue()


DRESS = st.fixed_dictionaries(
    {
        "end": st.sampled_from(["\n", "\r\n", "\r"]),
        "encoding": st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-be"]),
        "blank": st.sampled_from(["", "\n", "\n\n  \n", "\t\n"]),
        "double": st.booleans(),
        "form": st.sampled_from([str, quoted, tabbed]),
        "upper": st.booleans(),
        "folder": st.sampled_from(["data", "my data", "Ünï, 'x' [1]", "train"]),
        "link": st.booleans(),
    }
)


def dressed(made: Made, place: Path, dress: dict) -> Path:
    """The data set with its lists saved by other programs, and its videos elsewhere behind links."""
    folder = make(made, place / dress["folder"], dress["upper"])
    for path, text in made.lists.items():
        if dress["double"] and path not in made.names:
            text = doubled(text, path)
        text = dress["form"](text, path) if dress["form"] is not str else text
        text = (text + dress["blank"]).replace("\n", dress["end"])
        mark = "\ufeff" if dress["encoding"] == "utf-16-be" else ""
        (folder / path).write_bytes((mark + text).encode(dress["encoding"]))
    if dress["link"]:
        for top in {Path(path).parts[0] for part in made.videos.values() for path in part}:
            shutil.move(folder / top, place / "elsewhere" / top)
            (folder / top).symlink_to(place / "elsewhere" / top, target_is_directory=True)
    return folder


@pytest.mark.parametrize("name", [name for name in MADE if name != "kinetics600"])
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(dress=DRESS)
def test_another_dress_changes_nothing(name: str, dress: dict, tmp_path_factory) -> None:
    place = tmp_path_factory.mktemp("dressed")
    (place / "elsewhere").mkdir()
    check(name, dressed(MADE[name], place, dress))


@pytest.mark.parametrize("name", MADE)
def test_missing_videos_are_named_or_left_out(name: str, tmp_path: Path) -> None:
    made = MADE[name]
    make(made, tmp_path)
    split, part = max(made.videos.items(), key=lambda item: len(item[1]))
    lost = tmp_path / next(iter(part))
    shutil.rmtree(lost) if lost.is_dir() else lost.unlink()
    with pytest.raises(FileNotFoundError, match=r"videos are not there, first .*; say where they are \(root\)"):
        read(name, tmp_path, split)
    if len(part) > 1:
        with pytest.warns(RuntimeWarning, match="1 of .* videos are not there"):
            videos = read(name, tmp_path, split, partial=True)
        assert len(videos) == sum(map(len, expected(made, split).values())) - 1
        assert [path.stem for path in videos.missing] == [lost.stem]


@pytest.mark.parametrize("name", MADE)
def test_cut_lists_give_what_is_there_or_one_clear_error(name: str, tmp_path: Path) -> None:
    """A list that was cut anywhere, as by a full disk."""
    made = MADE[name]
    make(made, tmp_path)
    path = next(path for path in made.lists if path not in made.names)
    whole = made.lists[path]
    for share in (0, 0.01, 0.3, 0.55, 0.8, 0.97):
        (tmp_path / path).write_text(whole[: int(len(whole) * share)], encoding="utf-8")
        for split in made.videos:
            said = ""
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)
                try:
                    assert len(read(name, tmp_path, split, partial=True)) > 0
                except (ValueError, OSError) as error:
                    said = str(error)
            assert not said or tmp_path.name in said


# --- what is special about each --------------------------------------------------------------------------------------


def test_numbers_from_1_give_no_class_too_many(tmp_path: Path) -> None:
    make(MADE["ucf101"], tmp_path)
    videos = read_list(tmp_path, split="train")
    assert (len(videos.classes), videos.labels) == (101, (0, 3, 100))
    listed = tmp_path / "ucfTrainTestlist" / "trainlist01.txt"
    assert read_list(listed).labels == (0, 3, 100)  # the list itself
    assert read_list(listed.with_name("testlist01.txt")).labels == (0, 99)  # its classes are the folders
    assert read_list(tmp_path, split="train", classes=UCF[::-1]).labels == (100, 97, 0)


def test_a_fold_is_chosen(tmp_path: Path) -> None:
    make(MADE["hmdb51"], tmp_path)
    for file in list(tmp_path.glob("*/*_1.avi")):
        for number in range(6):
            file.with_name(f"{file.stem[:-1]}{number}.avi").touch()
    first, second = (read_list(tmp_path, split="train", fold=fold) for fold in (1, 2))
    assert len(first) == len(second) == 4
    assert not set(first.paths) & set(second.paths)
    assert any("2 test; 4 videos of 0 are in neither part of fold 1" in note for note in first.notes)
    with pytest.raises(ValueError, match="fold 7 is not there"):
        read_list(tmp_path, split="train", fold=7)


def test_the_video_of_another_class_does_not_stand_for_a_missing_one(tmp_path: Path) -> None:
    make(MADE["moments"], tmp_path)
    (tmp_path / "training/boating/b.c_2.mp4").rename(tmp_path / "training/clapping/b.c_2.mp4")
    with pytest.raises(FileNotFoundError, match="1 of 2 videos are not there"):
        read_list(tmp_path, split="train")


def test_moments_in_time_without_its_lists(tmp_path: Path) -> None:
    make(MADE["moments"], tmp_path)
    for name in ("trainingSet.csv", "validationSet.csv"):
        (tmp_path / name).unlink()
    videos = read_list(tmp_path, split="train")
    assert videos.classes == ("clapping", "adult+female+singing", "boating")  # the published order
    assert sorted(videos.labels) == [0, 2]


def test_ucf101_spells_a_name_in_two_ways(tmp_path: Path) -> None:
    make(MADE["ucf101"], tmp_path)
    file = tmp_path / "UCF-101/Sport001/v_Sport001_g00_c01.avi"
    file.rename(file.with_name("v_sPORT001_g00_c01.avi"))
    assert len(read_list(tmp_path, split="train")) == 3


@pytest.mark.parametrize("where", ["{}", "val/{}", "val/abseiling/{}", "videos/deep/{}"])
def test_kinetics_by_the_id_alone(tmp_path: Path, where: str) -> None:
    (tmp_path / "kinetics-400_val.csv").write_text(
        "label,youtube_id,time_start,time_end,split\nabseiling,a-_b,5,15,val\n"
    )
    file = tmp_path / where.format("a-_b.MKV")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    videos = read_list(tmp_path)
    assert (videos.paths, videos.labels, len(videos.classes)) == ((file,), (0,), 400)


def test_long_videos_are_read_in_parts(tmp_path: Path) -> None:
    from helpers.numbered_videos import write_video

    (tmp_path / "kinetics-400_val.csv").write_text(
        "label,youtube_id,time_start,time_end,split\nabseiling,long,1,2,val\nair drumming,long,3,4,val\n"
    )
    write_video(tmp_path / "long.mp4", num_frames=200)
    first, second = read_list(tmp_path).sources
    assert (first.start, first.end, second.start, second.end) == (1, 2, 3, 4)
    write_video(tmp_path / "long.mp4", num_frames=10)  # the file holds the part alone
    with pytest.raises(ValueError, match="is 'air drumming' here and 'abseiling' above"):
        read_list(tmp_path)


def test_actions_of_epic_kitchens_are_parts_or_clips(tmp_path: Path) -> None:
    make(MADE["epic100"], tmp_path)
    videos = read_list(tmp_path, split="train")
    assert [(part.start, part.end) for part in videos.sources] == [(0.1, 62.50), (1.1, 62.51)]
    (tmp_path / "P01_11_1.mp4").touch()
    assert [str(source)[-12:] for source in read_list(tmp_path, split="train").sources][1] == "P01_11_1.mp4"
    shutil.rmtree(tmp_path / "P01")
    (tmp_path / "rgb_frames/P01_11").mkdir(parents=True)  # a folder of frames
    part = read_list(tmp_path, split="train").sources[0]
    assert (part.start, part.end, part.in_frames) == (4, 90, True)
    (tmp_path / "EPIC_100_noun_classes.csv").unlink()
    videos = read_list(tmp_path, split="train")
    assert (len(videos.classes[1]), videos.classes[1][0]) == (300, "tap (noun 0)")
    assert "no EPIC_100_noun_classes.csv" in " ".join(described(videos))


def test_charades_by_actions(tmp_path: Path) -> None:
    make(MADE["charades"], tmp_path)
    videos = read_list(tmp_path, split="train", layout="charades-segments")
    assert [(part.start, part.end) for part in videos.sources] == [(11.9, 21.2), (0, 12.6)]
    assert videos.labels == ((92,), (156,))


def test_what_people_do_in_ava_is_a_part_about_each_key_frame(tmp_path: Path) -> None:
    make(MADE["ava"], tmp_path)
    assert [(part.start, part.end) for part in read_list(tmp_path, split="train").sources] == [
        (900.5, 903.5),
        (901.5, 904.5),
    ]
    (tmp_path / "ava_train_excluded_timestamps_v2.2.csv").write_text("-5KQ_,0903\n")
    assert len(read_list(tmp_path, split="train")) == 1


def test_answers_to_the_test_set_are_taken(tmp_path: Path) -> None:
    make(MADE["ssv2"], tmp_path)
    (tmp_path / "labels/test-answers.csv").write_text("9;Holding something\n10;Holding something\n")
    assert len(set(read_list(tmp_path, split="test").labels)) == 1


def test_lists_of_classes_and_ids(tmp_path: Path) -> None:
    names = ["Holding something", "Twisting (wringing) something wet until water comes out"]
    (tmp_path / "cmn_trainlist03.txt").write_text("".join(f"{name}/{i}\n" for i, name in enumerate(names)))
    (tmp_path / "otam_list.txt").write_text("train8/0\ntrain50/1\n")
    for i in (0, 1):
        (tmp_path / f"{i}.webm").touch()
    with pytest.raises(ValueError, match="found 'train8/0', .*layout='classpath' if the folder is the class"):
        read_list(tmp_path / "otam_list.txt")
    assert read_list(tmp_path / "cmn_trainlist03.txt").classes == tuple(names)
    assert read_list(tmp_path / "otam_list.txt", layout="classpath").classes == ("train50", "train8")


def test_numbers_behind_paths_of_known_classes_count(tmp_path: Path) -> None:
    for path in ("abseiling/a.mp4", "zumba/b.mp4"):
        (tmp_path / path).parent.mkdir()
        (tmp_path / path).touch()
    (tmp_path / "train.list").write_text("abseiling/a.mp4 1\nzumba/b.mp4 0\n")
    assert read_list(tmp_path / "train.list").labels == (1, 0)


def test_two_data_sets_in_one_folder_are_not_guessed(tmp_path: Path) -> None:
    make(MADE["charades"], make(MADE["diving48"], tmp_path))
    with pytest.raises(ValueError, match=r"holds lists of several data sets.*say which with layout"):
        read_list(tmp_path, split="train")
    assert len(read_list(tmp_path, split="train", layout="diving48").classes) == 48
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/Diving48_V2_train.json").write_text("[]")
    with pytest.raises(ValueError, match="are lists of the same part, and differ"):
        read_list(tmp_path, split="train", layout="diving48")


@pytest.mark.parametrize(
    ("name", "path", "old", "new", "message"),
    [
        (
            "hmdb51",
            "testTrainMulti_7030_splits/clap_test_split1.txt",
            "_2.avi 2",
            "_2.avi 3",
            "1 for training, 2 for test",
        ),
        ("ucf101", "ucfTrainTestlist/trainlist01.txt", " 101", " 102", "found class 102, expected one from 1 to 101"),
        ("jester, numbers", "trainlist01.txt", " 27", " 28", "found class 28, expected one from 1 to 27"),
        ("kinetics400", "kinetics-400_val.csv", ",0,10,", ",ten,10,", "found times 'ten' and '10', expected seconds"),
        ("diving48", "Diving48_V2_train.json", "47", "48", "found label '48', expected a number from 0 to 47"),
        ("epic100", "EPIC_100_train.csv", "turn,96", "turn,97", "found verb_class '97', expected one from 0 to 96"),
        ("epic100", "EPIC_100_train.csv", "00:01:02.50", "a minute", "found the time 'a minute', expected hours"),
        ("charades", "Charades_v1_train.csv", "c156", "c157", "found the action 'c157 0.00 12.60', expected a class"),
        ("moments", "trainingSet.csv", ",boating,", ",rowing,", "found class 'rowing', expected one of 3 names"),
        ("ava", "ava_train_v2.2.csv", "0.1,0.2,0.5,0.9,80", "0.1,0.2,1.5,0.9,80", "is not 0 <= x1 < x2 <= 1"),
        ("ssv1", "something-something-v1-train.csv", "7;", ";", "expected id;label"),
        ("jester", "jester-v1-train.csv", GESTURES[1], "Juggling", "found class 'Juggling', expected one of 27 names"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    name: str, path: str, old: str, new: str, message: str, tmp_path: Path
) -> None:
    make(MADE[name], tmp_path)
    text = (tmp_path / path).read_text()
    assert old in text
    (tmp_path / path).write_text(text.replace(old, new))
    with pytest.raises(ValueError, match=message):
        read_list(tmp_path, split="train" if "train" in MADE[name].videos else "val")
