"""Lists of videos: every layout is read as published, and errors name file and line."""

import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reference.data.layouts import split_by_space
from reference.data.lists import VideoList, described, read_list, read_names
from reference.data.targets import read_targets

from vov3d import load_labels

K400, SSV1, SSV2 = map(load_labels, ("k400", "ssv1", "ssv2"))


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def pairs(videos: VideoList, root: Path) -> dict[str, str]:
    """Returns class names by path below the root."""
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
    with pytest.raises(ValueError, match="several splits; say which with --split train or --split val"):
        read_list(tmp_path)
    with pytest.raises(ValueError, match="has no split 'test'"):
        read_list(tmp_path, split="test")
    with pytest.raises(ValueError, match="--split val has no effect"):
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


@pytest.mark.parametrize("numbers", [("1", "2", "3"), ("0", "1", "10", "2"), ("01", "02")])
def test_folders_named_by_numbers_are_classes_of_those_names(tmp_path: Path, numbers: tuple[str, ...]) -> None:
    touch(tmp_path, *(f"{part}/{name}/{name}.mp4" for part in ("train", "val") for name in numbers))
    videos = read_list(tmp_path, split="val")
    assert (videos.classes, videos.labels) == (numbers, tuple(range(len(numbers))))
    with pytest.raises(ValueError, match="labels_from=1 has no effect, labels are names"):
        read_list(tmp_path, split="val", labels_from=1)
    listed = tmp_path / "few.csv"
    listed.write_text("".join(f"val/{name}/{name}.mp4,{name}\n" for name in numbers[1:]))
    assert read_list(listed, classes=numbers).labels == tuple(range(1, len(numbers)))


def test_names_that_are_numbers_are_not_mixed_with_numbers(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4")
    listed = tmp_path / "two.csv"
    listed.write_text("a.mp4,0\nb.mp4,1\n")
    with pytest.raises(ValueError, match=r"two\.csv:1: found class '0', expected one of 2 names \('1', \.\.\.\); give"):
        read_list(listed, classes=("1", "2"))


@pytest.mark.parametrize(("here", "there"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_accents_may_be_spelt_in_two_ways(tmp_path: Path, here: str, there: str) -> None:
    name, other = (unicodedata.normalize(form, "café") for form in (here, there))
    touch(tmp_path, f"train/{name}/1.mp4", "train/tea/2.mp4", f"val/{other}/{other} 3.mp4", "val/tea/4.mp4")
    assert read_list(tmp_path, split="train").labels == read_list(tmp_path, split="val").labels == (0, 1)
    listed = tmp_path / "mine.csv"
    listed.write_text(f"train/{other}/1.mp4,{name}\nval/{name}/{name} 3.mp4,{other}\nval/tea/4.mp4,tea\n")
    assert read_list(listed).labels == (0, 0, 1)
    assert len(read_targets(listed, "multilabel").classes) == 2
    listed.write_text(f"path,start,end,label\nval/{name}/{name} 3.mp4,,,{name}\nval/tea/4.mp4,,,tea\n")
    assert len(read_list(listed)) == 2
    lists = tmp_path / "ucf"
    touch(lists, f"{name}/{name} 1.avi")
    (lists / "trainlist01.txt").write_text(f"{other}/{other} 1.avi 1\n")
    (lists / "classInd.txt").write_text(f"1 {other}\n")
    assert read_list(lists).paths == (lists / name / f"{name} 1.avi",)


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
def test_folders_without_classes_are_refused(tmp_path: Path, files: list[str], message: str) -> None:
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


def test_whole_numbers_with_a_point_are_class_numbers(tmp_path: Path) -> None:
    # pandas writes a column of numbers with gaps so; as names they would be sorted by their letters
    touch(tmp_path, *(f"{number}.mp4" for number in range(12)))
    listed = tmp_path / "list.csv"
    listed.write_text("path,label\n" + "".join(f"{number}.mp4,{number}.0\n" for number in range(12)))
    assert read_list(listed).labels == tuple(range(12))
    assert read_list(listed, classes=[f"motion {number}" for number in range(12)]).labels == tuple(range(12))
    assert read_targets(listed, "multilabel").labels.argmax(1).tolist() == list(range(12))


def test_json_lines_are_refused_by_their_form(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4")
    listed = tmp_path / "list.jsonl"
    listed.write_text('{"video": "a.mp4", "label": "x"}\n')
    for read in (read_list, lambda file: read_targets(file, "multilabel")):
        with pytest.raises(ValueError, match=r"list.jsonl:1: found .*, JSON lines, .*expected a path"):
            read(listed)


def test_paths_of_windows(tmp_path: Path) -> None:
    touch(tmp_path, "a b/1.mp4", "c/2.mp4", "odd\\3.mp4")
    file = tmp_path / "list.csv"
    file.write_text("a b\\1.mp4,x\nc\\2.mp4,y\nodd\\3.mp4,y\n")
    found = read_list(file)
    assert [path.relative_to(tmp_path).as_posix() for path in found.paths] == ["a b/1.mp4", "c/2.mp4", "odd\\3.mp4"]
    file.write_text("c\\2.mp4,1.5\n")
    assert read_targets(file, "regression").paths == (tmp_path / "c/2.mp4",)


@pytest.mark.parametrize("separator", [" ", ",", "\t"])
def test_names_with_spaces(tmp_path: Path, separator: str) -> None:
    touch(tmp_path, "clips/my dog.mp4", "clips/b.mp4")
    (tmp_path / "l.csv").write_text(f"my dog.mp4{separator}class 3\nb.mp4{separator}opening a door\n")
    videos = read_list(tmp_path / "l.csv")  # `clips` beside the list is found
    assert pairs(videos, tmp_path / "clips") == {"my dog.mp4": "class 3", "b.mp4": "opening a door"}


@pytest.mark.parametrize("between", [",", ", ", "\t", " "])
def test_cells_in_quotes(tmp_path: Path, between: str) -> None:
    touch(tmp_path, "a d.mp4", "b, c.mp4")
    (tmp_path / "l.csv").write_text(f'"a d.mp4"{between}"left, then ""right"""\nb, c.mp4{between}"up"\n')
    assert pairs(read_list(tmp_path / "l.csv"), tmp_path) == {"a d.mp4": 'left, then "right"', "b, c.mp4": "up"}


def test_cells_in_quotes_behind_a_space_in_every_table(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4")
    parts = tmp_path / "parts.csv"
    parts.write_text('path, start, end, label\n"a.mp4", 0, 1, "left, then right"\n"b.mp4", 1, 2, "up"\n')
    assert read_list(parts).classes == ("left, then right", "up")
    many = tmp_path / "many.csv"
    many.write_text('"path", "labels"\n"a.mp4", "left; up"\n"b.mp4", "up"\n')
    assert read_targets(many, "multilabel").classes == ("left", "up")
    names = tmp_path / "names.csv"
    names.write_text('id, name\n0, "left, then right"\n1, "up"\n')
    assert read_names(names) == ["left, then right", "up"]


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
    videos = read_list(folder / "l.txt", labels_from=0)
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
    file.write_text(f"a.mp4 0\n../{tmp_path.name}/a.mp4 1\n")
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
    """Writes a list as published, with quotes and a column more as in later copies."""
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


# --- what can be meant in two ways -----------------------------------------------------------------------------------


def a_list(folder: Path, lines: list[str], name: str = "l.txt", there: bool = True) -> Path:
    if there:
        touch(folder, *(line.split(",")[0].split()[0] for line in lines))
    (folder / name).write_text("\n".join(lines) + "\n")
    return folder / name


def test_labels_that_count_from_1_give_no_class_too_many(tmp_path: Path) -> None:
    file = a_list(tmp_path, [f"{name}/v_{name}_g01_c01.avi {i}" for i, name in enumerate(("Archery", "Biking"), 1)])
    with pytest.raises(
        ValueError, match=r"l\.txt: its labels go from 1 to 2, and none is 0: .*labels_from=1, or labels_fr"
    ):
        read_list(file)
    videos = read_list(file, labels_from=1)
    assert (videos.classes, videos.labels) == (("class 0", "class 1"), (0, 1))
    assert read_list(file, labels_from=0).labels == (1, 2)
    assert read_list(file, labels_from=1, classes=["x", "y"]).labels == (0, 1)
    with pytest.raises(ValueError, match="labels go from 1 to 2"):  # 2 might be a third name
        read_list(file, classes=["x", "y", "z"])
    file.write_text(file.read_text() + "Archery/v_Archery_g01_c01.avi 0\n".replace("Archery/v_Arch", "new"))
    touch(tmp_path, "newery_g01_c01.avi")
    with pytest.raises(ValueError, match="found label 0, expected labels from 1 on"):
        read_list(file, labels_from=1)


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("beside", ["classInd.txt", "categories.txt", "given.txt"])
def test_a_file_of_numbered_names_says_which_number_is_which(tmp_path: Path, first: int, beside: str) -> None:
    names = ["Swiping Left", "Drumming", "No gesture"]
    (tmp_path / beside).write_text(
        "".join(f"{i} {name}\n" for i, name in enumerate(names, first)), encoding="utf-8-sig"
    )
    file = a_list(tmp_path, [f"{100 + i} {first + 2 - i}" for i in range(3)], "trainlist01.txt")
    classes = tmp_path / beside if beside == "given.txt" else None
    videos = read_list(file, classes=classes)
    assert videos.classes == tuple(names)
    assert videos.labels == (2, 1, 0)
    assert f"{first} is 'Swiping Left'" in " ".join(described(videos))
    with pytest.raises(ValueError, match="labels_from=1 has no effect"):
        read_list(file, classes=classes, labels_from=1)
    if beside != "given.txt":  # a model's names, in an order of its own
        assert read_list(file, classes=names[::-1]).labels == (0, 1, 2)
    file.write_text("100 9\n")
    with pytest.raises(ValueError, match=f"trainlist01.txt:1: found class 9, expected one from {first} to {first + 2}"):
        read_list(file, classes=classes)


HMDB = ["April_09_brush_hair_u_nm_np1_ba_goo_0.avi", "Blonde_being_brushed_brush_hair_f_nm_np2_ri_med_0.avi"]


@pytest.mark.parametrize("line", ["walk,{}.mp4", "walk {}.mp4", "0\t{}.avi"])
def test_a_label_before_its_video_is_told(tmp_path: Path, line: str) -> None:
    with pytest.raises(ValueError, match="mine.txt:1: found .*, the video behind its label: expected the path first"):
        read_list(a_list(tmp_path, [line.format(name) for name in "ab"], "mine.txt", there=False))
    (tmp_path / "headed.csv").write_text("label,path\nwalk,a.mp4\nrun,b.mp4\n")
    with pytest.raises(ValueError, match="headed.csv:2: found 'walk,a.mp4', the video behind its label"):
        read_list(tmp_path / "headed.csv")


@pytest.mark.parametrize(
    "text",
    [
        "id,name\n0,walk\n1,run, fast\n".replace("run, fast", '"run, fast"'),
        'name,id\n"run, fast",1\nwalk,0\n',
        "run, fast\t1\nwalk\t0\n",
        "\ufeffid;name\r\n1;walk\r\n2;run, fast\r\n",
    ],
)
def test_a_table_of_numbers_and_names_says_which_is_which(tmp_path: Path, text: str) -> None:
    (tmp_path / "names.csv").write_bytes(text.encode())
    first = int(";" in text)
    file = a_list(tmp_path, [f"{name}.mp4 {number + first}" for number, name in enumerate("ab")])
    videos = read_list(file, classes=str(tmp_path / "names.csv"))
    assert (videos.classes, videos.labels) == (("walk", "run, fast"), (0, 1))


@pytest.mark.parametrize("text", ["walk, run\nsit, stand\n", "phase 1\nphase 2\n", "a,1\nb,3\n", "x,1\nx,2\n"])
def test_names_with_commas_and_numbers_are_names(tmp_path: Path, text: str) -> None:
    (tmp_path / "names.txt").write_text(text)
    assert read_names(tmp_path / "names.txt") == text.splitlines()


@pytest.mark.parametrize("name", ["brush_hair_test_split1.txt", "mine.txt"])
def test_the_split_lists_of_hmdb51_are_no_classes(tmp_path: Path, name: str) -> None:
    file = a_list(tmp_path, [f"{video} {i} " for i, video in enumerate(HMDB)], name)
    with pytest.raises(ValueError, match="1 is training, 2 test and 0 neither"):
        read_list(file)
    assert read_list(file, layout="csv").labels == (0, 1)


@pytest.mark.parametrize("separator", [" ", ",", "\t"])
@pytest.mark.parametrize("ending", ["", ".mp4"])
def test_path_frames_label(tmp_path: Path, separator: str, ending: str) -> None:
    rows = [("some/dir-1", 163, 1), ("some/dir-2", 122, 0), ("other/dir 3", 258, 2)]
    lines = [separator.join((f"{path}{ending}", str(frames), str(label))) for path, frames, label in rows]
    touch(tmp_path, *(f"{path}{ending}" for path, *_ in rows))
    (tmp_path / "l.txt").write_text("\n".join(lines))
    with pytest.raises(ValueError, match=r"l\.txt:1: .*is it path, frames and label.*layout='frames', or layout='csv'"):
        read_list(tmp_path / "l.txt")
    videos = read_list(tmp_path / "l.txt", layout="frames")
    assert [path.name for path in videos.paths] == [f"{name}{ending}" for name in ("dir-1", "dir-2", "dir 3")]
    assert videos.labels == (1, 0, 2)
    (tmp_path / "l.txt").write_text(f"a.mp4{separator}x{separator}1\nb.mp4{separator}y{separator}0\n")
    with pytest.raises(ValueError, match=r"l\.txt:2: .*expected a path, a number of frames and a label"):
        read_list(tmp_path / "l.txt", layout="frames")


@pytest.mark.parametrize("heading", ["video_name,tag", "clip,action", "Path,Label", "clip_file,activity", "a,b"])
def test_headings_are_no_videos(tmp_path: Path, heading: str) -> None:
    file = a_list(tmp_path, ["x_1.avi,BabyCrawling", "x_2.avi,BenchPress"], "train.csv")
    file.write_text(f"{heading}\n{file.read_text()}", encoding="utf-8-sig")
    for partial in (False, True):
        videos = read_list(file, partial=partial)
        assert videos.classes == ("BabyCrawling", "BenchPress")
        assert f"line 1, '{heading}', is a heading" in described(videos)
    touch(tmp_path, "video_name.avi")  # a video of that name is one
    file.write_text("video_name.avi,BabyCrawling\nx_2.avi,BenchPress\n")
    assert len(read_list(file)) == 2


def test_columns_of_other_tables_are_refused(tmp_path: Path) -> None:
    file = a_list(tmp_path, ["id,video,start,class", "1,a,0,run", "2,b,5,jump"], there=False)
    with pytest.raises(ValueError, match=r"l\.txt:1: found 'id,video,start,class', 4 columns"):
        read_list(file)


def test_a_list_beside_folders_is_not_ignored(tmp_path: Path) -> None:
    touch(tmp_path, "run/1.mp4", "jump/2.mp4", "README.txt", "photo.jpg")
    (tmp_path / "classes.txt").write_text("run\njump\n")
    (tmp_path / "notes.md").write_text("run/1.mp4\n")
    assert len(read_list(tmp_path)) == 2
    for name, text in (
        ("labels.csv", "run/1.mp4,jump\njump/2.mp4,jump\n"),
        ("trainlist01.txt", "34870 2\n56557 13\n"),
        ("all.json", '[{"id": "7", "template": "Holding [something]"}]'),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=f"holds class folders, and {name}, .*layout='folder'"):
            read_list(tmp_path)
        assert read_list(tmp_path, layout="folder").labels == (0, 1)
        (tmp_path / name).unlink()


def test_system_files_are_left_out_and_named(tmp_path: Path) -> None:
    touch(tmp_path, "run/1.mp4", "run/1.srt", "run/Thumbs.db", "jump/2.mp4", "jump/desktop.ini", "jump/.DS_Store")
    touch(tmp_path, "__MACOSX/run/._1.mp4", "@eaDir/x")
    videos = read_list(tmp_path)
    assert videos.classes == ("jump", "run")
    assert len(videos) == 2
    (told,) = videos.notes
    assert all(name in told for name in ("__MACOSX", "run/1.srt", "run/Thumbs.db", "jump/desktop.ini", "@eaDir"))
    touch(tmp_path, "run/1.docx")
    with pytest.raises(ValueError, match="is neither a video nor a folder of frames"):
        read_list(tmp_path)


def test_the_reading_is_described(tmp_path: Path) -> None:
    file = a_list(tmp_path, ["a.mp4 0", "b.mp4 0", "c.mp4 3", "c.mp4 3"])
    first, *others = described(read_list(file))
    assert first == f"{file}, csv: 3 videos of 2 classes, 1 to 2 of each; 0 is 'class 0', 3 is 'class 3'"
    assert others == ["2 of 4 classes have no video, as 'class 1'", "1 lines name a video again, and count once"]


LONG = [" " * 200_000, "a" + " " * 200_000 + "b", "a.mp4 " * 40_000, "a " * 100_000, "," * 200_000, '"' * 200_001]
LONG += ["x" * 200_000 + " 1", "9" * 200_000, "a.mp4 " + "9" * 200_000, ";" * 200_000, "youtube_id," * 20_000, "a\0b 1"]


@pytest.mark.parametrize("number", range(len(LONG)))
def test_long_lines_are_read_or_refused_at_once(tmp_path: Path, number: int) -> None:
    (tmp_path / "l.csv").write_text(f"a.mp4 0\n{LONG[number]}\n{LONG[number]}\n")
    touch(tmp_path, "a.mp4")
    for layout in (None, "csv", "frames", "kinetics", "ssv1", "ssv2"):
        said = ""
        try:
            read_list(tmp_path / "l.csv", layout=layout)
        except (ValueError, OSError) as error:
            said = str(error)
        assert len(said) < 1000 or "File name too long" in said or "not there" in said


@settings(max_examples=100, deadline=None)
@given(st.text(st.sampled_from("ab .mp4\t"), max_size=30).map(str.strip).filter(bool))
def test_a_path_ends_behind_the_last_ending_of_a_video(line: str) -> None:
    """As the expression says that took quadratic time."""
    import re

    match = re.fullmatch(r"(.+\.mp4)\s+(\S.*)", line) or re.fullmatch(r"(.+?)\s+(\S+)", line)
    expected = re.fullmatch(r"(.*\S)\s+(\S+)", line) if match and not match[1].endswith(".mp4") else match
    found = split_by_space(line)
    assert (found is None) == (match is None)
    if match and expected:
        assert found == (expected[1], expected[2])
