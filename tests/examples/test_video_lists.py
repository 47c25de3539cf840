"""Lists of videos: every layout is read as published, what is wrong is named by file and line."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from video_layouts import _by_space
from video_lists import VideoList, read_list

from vov3d import load_labels

K400, SSV1, SSV2 = map(load_labels, ("k400", "ssv1", "ssv2"))


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def pairs(videos: VideoList, root: Path) -> dict[str, str]:
    """Path below the root to class name."""
    return {
        path.relative_to(root).as_posix(): videos.classes[label]
        for path, label in zip(videos.paths, videos.labels, strict=True)
    }


# --- class folders ---------------------------------------------------------------------------------------------------


def test_class_folders_of_files_and_frames(tmp_path: Path) -> None:
    touch(tmp_path, "run/a b.mp4", "run/.DS_Store", "jump/c.AVI", "jump/d/00001.jpg", ".cache/x")
    videos = read_list(tmp_path)
    assert videos.classes == ("jump", "run")
    assert pairs(videos, tmp_path) == {"jump/c.AVI": "jump", "jump/d": "jump", "run/a b.mp4": "run"}
    assert (videos.name, len(videos), videos.missing) == (tmp_path.name, 3, ())


def test_a_split_that_lacks_a_class_keeps_the_numbers_of_all(tmp_path: Path) -> None:
    touch(tmp_path, "train/a/1.mp4", "train/b/2.mp4", "train/c/3.mp4", "validation/b/4.mp4", "validation/c/5.mp4")
    videos = read_list(tmp_path, split="val")
    assert videos.classes == ("a", "b", "c")
    assert videos.labels == (1, 2)
    with pytest.raises(ValueError, match="several splits; say which with split='train' or 'val'"):
        read_list(tmp_path)
    with pytest.raises(ValueError, match="has no split 'test'"):
        read_list(tmp_path, split="test")
    with pytest.raises(ValueError, match="split='val' has no effect"):
        read_list(tmp_path / "train", split="val")


def test_class_folders_with_published_names_take_published_numbers(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{name.replace(' ', '_')}/1.mp4" for name in K400))
    videos = read_list(tmp_path)
    assert videos.classes == K400
    assert sorted(videos.labels) == list(range(400))
    touch(tmp_path, "one_more/1.mp4")
    assert read_list(tmp_path).classes[0] == "abseiling"
    assert len(read_list(tmp_path).classes) == 401


def test_names_of_two_sets_are_not_guessed(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{name}/1.mp4" for name in SSV1))
    with pytest.raises(ValueError, match="ssv1 and of ssv2, which number them differently"):
        read_list(tmp_path)
    assert read_list(tmp_path, classes="ssv2").classes == SSV2


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["run/1.txt"], r"run/1\.txt: is neither a video nor a folder of frames"),
        (["run/00001.jpg"], r"00001\.jpg: is a picture; a class folder holds videos"),
        (["run/deeper/1.mp4"], r"run/deeper: holds no pictures"),
        (["a_b/1.mp4", "a b/1.mp4"], "classes 'a b' and 'a_b' cannot be told apart"),
        (["1.mp4"], "holds no class folders"),
    ],
)
def test_what_is_no_class_folder(tmp_path: Path, files: list[str], message: str) -> None:
    touch(tmp_path, *files)
    with pytest.raises(ValueError, match=message):
        read_list(tmp_path)


# --- paths and labels ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("separator", [" ", ",", "\t", ", "])
@pytest.mark.parametrize("heading", ["", "path{}label\n"])
def test_paths_and_numbers(tmp_path: Path, separator: str, heading: str) -> None:
    touch(tmp_path, "a.mp4", "sub/b c, d.mp4")
    lines = [f"a.mp4{separator}2", f"sub/b c, d.mp4{separator}0", ""]
    (tmp_path / "val.txt").write_text(heading.format(separator) + "\n".join(lines))
    videos = read_list(tmp_path / "val.txt")
    assert videos.classes == ("class 0", "class 1", "class 2")
    assert pairs(videos, tmp_path) == {"a.mp4": "class 2", "sub/b c, d.mp4": "class 0"}
    assert read_list(tmp_path, split="val").paths == videos.paths
    assert read_list(tmp_path / "val.txt", classes=["x", "y", "z"]).classes == ("x", "y", "z")


@pytest.mark.parametrize("separator", [" ", ",", "\t"])
def test_names_with_spaces(tmp_path: Path, separator: str) -> None:
    touch(tmp_path, "clips/my dog.mp4", "clips/b.mp4")
    (tmp_path / "l.csv").write_text(f"my dog.mp4{separator}class 3\nb.mp4{separator}opening a door\n")
    videos = read_list(tmp_path / "l.csv")  # `clips` beside the list is found
    assert pairs(videos, tmp_path / "clips") == {"my dog.mp4": "class 3", "b.mp4": "opening a door"}


NAMES = st.text(st.sampled_from("ab ,._-7é'"), min_size=1, max_size=8).filter(
    lambda name: name.strip() == name and not name.startswith(".") and ",," not in name and name.strip(",") == name
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    stems=st.lists(NAMES, min_size=1, max_size=4, unique=True),
    labels=st.lists(st.integers(0, 30), min_size=4, max_size=4),
    separator=st.sampled_from([" ", ",", "\t"]),
    absolute=st.booleans(),
)
def test_any_name_is_read_back(tmp_path_factory, stems, labels, separator, absolute) -> None:
    folder = tmp_path_factory.mktemp("list")
    names = [f"{stem}.mp4" for stem in stems]
    touch(folder, *names)
    given_as = [str(folder / name) if absolute else name for name in names]
    lines = [f"{name}{separator}{label}" for name, label in zip(given_as, labels, strict=False)]
    (folder / "l.txt").write_text("\n".join(lines), encoding="utf-8")
    videos = read_list(folder / "l.txt")
    assert videos.paths == tuple(folder / name for name in names)
    assert videos.labels == tuple(labels[: len(names)])


def test_labels_that_do_not_fit(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4")
    file = tmp_path / "l.txt"
    file.write_text("a.mp4 0\n\nb.mp4 7\n")
    with pytest.raises(
        ValueError, match=r"l\.txt:3: found class '7', expected one of 2 names \('x', ...\) or a number"
    ):
        read_list(file, classes=["x", "y"])
    file.write_text("a.mp4 0\nb.mp4 y\n")
    with pytest.raises(ValueError, match=r"l\.txt:2: found class 'y' after '0', expected all names or all numbers"):
        read_list(file)
    assert read_list(file, classes=["x", "y"]).labels == (0, 1)
    file.write_text("a.mp4 0\na.mp4 1\n")
    with pytest.raises(ValueError, match=r"l\.txt:2: .*a\.mp4 is 'class 1' here and 'class 0' above"):
        read_list(file)
    file.write_text("a.mp4\n")
    with pytest.raises(ValueError, match=r"l\.txt:1: found 'a\.mp4', expected a path and a label"):
        read_list(file)
    file.write_text("a.mp4 999999999999\n")
    with pytest.raises(ValueError, match="expected class numbers below"):
        read_list(file)
    file.write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(ValueError, match="is not text"):
        read_list(file)
    file.write_text("")
    with pytest.raises(ValueError, match="names no video"):
        read_list(file)


# --- Kinetics --------------------------------------------------------------------------------------------------------

HEAD = "label,youtube_id,time_start,time_end,split\n"


@pytest.fixture
def kinetics(tmp_path: Path) -> Path:
    """A list as published, with quotes and a column more as in later copies."""
    (tmp_path / "val.csv").write_text(
        "label,youtube_id,time_start,time_end,split,is_cc\n"
        '"massaging person\'s head",-0r6NmrdKCU,43,53,val,0\n'
        "testifying,---QUuC4vJs,84,94,validate,0\n"
        "abseiling,0wR5jVB-WPk,417.0,427.0,val,0\n"
    )
    return tmp_path


EXPECTED = {"-0r6NmrdKCU_000043_000053": "massaging person's head"}
EXPECTED |= {"---QUuC4vJs_000084_000094": "testifying", "0wR5jVB-WPk_000417_000427": "abseiling"}


@pytest.mark.parametrize("where", ["{stem}.mp4", "{folder}/{stem}.mkv", "val/{folder}/{stem}.mp4", "videos/{stem}.mp4"])
def test_kinetics_lists(kinetics: Path, where: str) -> None:
    for stem, name in EXPECTED.items():
        touch(kinetics, where.format(stem=stem, folder=name.replace(" ", "_")))
    videos = read_list(kinetics / "val.csv")
    assert videos.classes == K400
    assert {
        path.stem: videos.classes[label] for path, label in zip(videos.paths, videos.labels, strict=True)
    } == EXPECTED
    (kinetics / "validate.json").write_text("{}")  # published beside the list, with the same content in another form
    assert read_list(kinetics).paths == videos.paths
    assert all(path.exists() for path in videos.paths)


def test_a_part_of_a_video_in_two_classes(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text(HEAD + "archery,x,1,11,val\nbowling,x,1,11,val\n")
    touch(tmp_path, "archery/x_000001_000011.mp4", "bowling/x_000001_000011.mp4")
    videos = read_list(tmp_path / "l.csv")
    assert [path.parent.name for path in videos.paths] == ["archery", "bowling"]


def test_splits_of_one_kinetics_list(tmp_path: Path) -> None:
    (tmp_path / "all.csv").write_text(HEAD + "archery,x,1,11,train\nbowling,y,1,11,validate\n")
    touch(tmp_path, "x_000001_000011.mp4", "y_000001_000011.mp4")
    assert [path.stem[0] for path in read_list(tmp_path / "all.csv", split="validation").paths] == ["y"]
    with pytest.raises(ValueError, match="several splits"):
        read_list(tmp_path / "all.csv")


def test_missing_videos_are_counted(kinetics: Path, tmp_path_factory) -> None:
    touch(kinetics, "testifying/---QUuC4vJs_000084_000094.mp4")
    with pytest.raises(
        FileNotFoundError, match=r"2 of 3 videos are not there, first .*massaging.*_000053\.mp4, .*root"
    ):
        read_list(kinetics / "val.csv")
    with pytest.warns(RuntimeWarning, match="2 of 3 videos are not there"):
        videos = read_list(kinetics / "val.csv", partial=True)
    assert videos.labels == (K400.index("testifying"),)
    assert len(videos.missing) == 2
    with pytest.raises(FileNotFoundError, match="3 of 3 videos"):  # a partial set is not an empty one
        read_list(kinetics / "val.csv", root=tmp_path_factory.mktemp("empty"), partial=True)
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder; root"):
        read_list(kinetics / "val.csv", root=kinetics / "nowhere")


def test_kinetics_lists_that_are_wrong(tmp_path: Path) -> None:
    file = tmp_path / "l.csv"
    file.write_text("youtube_id,time_start,time_end,split\nx,1,2,test\n")
    with pytest.raises(ValueError, match="expected label,youtube_id.*the list of a test set has no labels"):
        read_list(file)
    file.write_text(HEAD + "archery,x,soon,2,val\n")
    with pytest.raises(ValueError, match=r"l\.csv:2: found times 'soon' and '2', expected seconds"):
        read_list(file)


# --- Something-Something ---------------------------------------------------------------------------------------------


def test_something_something_v1(tmp_path: Path) -> None:
    names = ["Putting something, something and something on the table", "Holding something"]
    (tmp_path / "something-something-v1-validation.csv").write_text(f"7;{names[0]}\n100218;{names[1]}\n")
    (tmp_path / "something-something-v1-labels.csv").write_text("\n".join(sorted(SSV1)))
    touch(tmp_path, *(f"20bn-something-something-v1/{number}/00001.jpg" for number in (7, 100218, 9)))
    videos = read_list(tmp_path)
    assert videos.classes == SSV1  # the order of the weights, not of the file
    assert pairs(videos, tmp_path / "20bn-something-something-v1") == {"7": names[0], "100218": names[1]}
    (tmp_path / "test.csv").write_text("5;Holding something\n6\n")
    with pytest.raises(ValueError, match=r"test\.csv:2: found '6', expected id;label; the list of a test set"):
        read_list(tmp_path / "test.csv")


def entry(number: int, template: str) -> dict:
    return {"id": str(number), "label": "holding a potato", "template": template, "placeholders": ["a potato"]}


def test_something_something_v2(tmp_path: Path) -> None:
    content = [entry(5, "Taking [one of many similar things on the table]"), entry(6, "Holding [something]")]
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/validation.json").write_text(json.dumps(content))
    (tmp_path / "labels/train.json").write_text(json.dumps(content[:1]))
    (tmp_path / "labels/labels.json").write_text(json.dumps({name: str(i) for i, name in enumerate(SSV2)}))
    touch(tmp_path, "20bn-something-something-v2/5.webm", "20bn-something-something-v2/6.mp4")
    videos = read_list(tmp_path, split="val")
    assert videos.classes == SSV2
    names = [videos.classes[label] for label in videos.labels]
    assert names == ["Taking one of many similar things on the table", "Holding something"]
    assert [path.name for path in videos.paths] == ["5.webm", "6.mp4"]
    assert videos.name == f"{tmp_path.name}-val"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "is not the JSON of a list"),
        ("{}", "found a JSON dict, expected a list"),
        ('[{"id": "1"}]', "entry 1: found .*the list of a test set has no labels"),
        ("[3]", "entry 1: found {'entry': 3}, expected"),
        (json.dumps([entry(1, "Juggling [something]")]), "1 of 1 videos are not there"),
    ],
)
def test_something_something_v2_lists_that_are_wrong(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "something-something-v2-validation.json"
    file.write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_list(file)


def test_own_classes_in_a_published_layout(tmp_path: Path) -> None:
    """Another data set in the form of Something-Something V2, with its own labels file: its order counts."""
    (tmp_path / "train.json").write_text(json.dumps([entry(1, "Zig [something]"), entry(2, "Zag [something]")]))
    (tmp_path / "labels.json").write_text(json.dumps({"Zig something": "0", "Zag something": "1", "Zog": "2"}))
    touch(tmp_path, "1.webm", "2.webm")
    videos = read_list(tmp_path)
    assert videos.classes == ("Zig something", "Zag something", "Zog")
    assert videos.labels == (0, 1)


# --- what is given ---------------------------------------------------------------------------------------------------


def test_settings_that_make_no_sense(tmp_path: Path) -> None:
    touch(tmp_path, "run/1.mp4")
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        read_list(tmp_path / "none")
    with pytest.raises(ValueError, match="layout 'ssv3' is not known"):
        read_list(tmp_path, layout="ssv3")
    with pytest.raises(ValueError, match="holds no list of layout ssv1; expected something-something-v2-val"):
        read_list(tmp_path, layout="ssv1")
    with pytest.raises(ValueError, match="root='x' has no effect on class folders"):
        read_list(tmp_path, root="x")
    with pytest.raises(ValueError, match="is a file; layout 'folder'"):
        read_list(tmp_path / "run/1.mp4", layout="folder")
    with pytest.raises(ValueError, match="classes 'k500': give a file of names, or one of k400"):
        read_list(tmp_path, classes="k500")
    with pytest.raises(ValueError, match=r"found class 'run', expected one of 1 names \('walk'"):
        read_list(tmp_path, classes=["walk"])


@pytest.mark.parametrize(
    "content", ['["b", "a"]', '{"b": 0, "a": 1}', '{"b": "0", "a": "1"}', '{"1": "a", "0": "b"}', "b\na\n"]
)
def test_names_in_every_published_form(tmp_path: Path, content: str) -> None:
    touch(tmp_path, "data/a/1.mp4", "data/b/2.mp4")
    (tmp_path / "names").write_text(content)
    assert read_list(tmp_path / "data", classes=tmp_path / "names").labels == (1, 0)


def test_long_lines_take_no_longer_than_their_length() -> None:
    """Expressions that go back over every blank took 12 s for 200,000 of them."""
    blanks = " " * 200_000
    assert _by_space(f"a{blanks}b") == ("a", "b")
    assert _by_space(f"a.mp4{blanks}b c") == ("a.mp4", "b c")
    assert _by_space(blanks) is None
    assert _by_space("a.mp4 " * 40_000 + "7") == (("a.mp4 " * 40_000).strip(), "7")
