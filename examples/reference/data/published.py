"""Facts about published data sets: classes, counts, where the files come from and what their folder looks like.

This is the one place of these numbers; `python -m reference.prepare` checks against them, and a test holds the table in
`docs/guides/datasets.md` to them.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class DataSet:
    """Published facts about a data set.

    Attributes:
        name: As `prepare` takes it.
        title: As people call it.
        layout: As which `read_list` reads its folder.
        classes: Numbers of classes, of each edition; of verbs and nouns where there are both.
        counts: Labelled parts, or videos, of each split, of each edition or fold.
        counted: What is counted.
        home: Where the files come from.
        terms: Under which terms.
        folder: What the folder must look like, one path a line.
        other_names: Further names that `prepare` takes.
    """

    name: str
    title: str
    layout: str
    classes: tuple[tuple[int, ...], ...]
    counts: Mapping[str, tuple[int, ...]]
    home: str
    terms: str
    folder: tuple[str, ...]
    counted: str = "videos"
    other_names: tuple[str, ...] = ()


_QUALCOMM = "https://www.qualcomm.com/developer/software/"
_KINETICS = "https://github.com/cvdfoundation/kinetics-dataset"
_YOUTUBE = "lists CC BY 4.0; the videos are YouTube's and their makers'"
_RESEARCH = "research only, by Qualcomm's licence, after registration"


def _kinetics(number: int, counts: Mapping[str, tuple[int, ...]]) -> DataSet:
    return DataSet(
        f"kinetics{number}",
        f"Kinetics-{number}",
        "kinetics",
        ((number,),),
        counts,
        _KINETICS,
        _YOUTUBE,
        (f"kinetics-{number}_val.csv, or val.csv", "val/ID_000010_000020.mp4, in class folders or not; or ID.mp4"),
        other_names=(f"k{number}",),
    )


DATA_SETS: dict[str, DataSet] = {
    data.name: data
    for data in (
        DataSet(
            "ucf101",
            "UCF101",
            "ucf101",
            ((101,),),
            {"train": (9537, 9586, 9624), "test": (3783, 3734, 3696)},
            "https://www.crcv.ucf.edu/data/UCF101.php",
            "no licence is stated; the videos are YouTube's users'",
            ("ucfTrainTestlist/classInd.txt, trainlist01.txt, testlist01.txt", "UCF-101/Archery/v_Archery_g01_c01.avi"),
        ),
        DataSet(
            "hmdb51",
            "HMDB51",
            "hmdb51",
            ((51,),),
            {"train": (3570,), "test": (1530,)},
            "https://serre-lab.clps.brown.edu/resource/hmdb-a-large-human-motion-database/",
            "CC BY 4.0; films and YouTube videos keep their own rights",
            ("testTrainMulti_7030_splits/brush_hair_test_split1.txt", "brush_hair/NAME.avi"),
        ),
        DataSet(
            "jester",
            "Jester",
            "jester",
            ((27,),),
            {"train": (118562,), "val": (14787,), "test": (14743,)},
            _QUALCOMM + "jester-dataset",
            _RESEARCH,
            ("jester-v1-train.csv, or trainlist01.txt with classInd.txt", "20bn-jester-v1/ID/00001.jpg"),
        ),
        _kinetics(400, {"train": (246245, 246534), "val": (19906, 20000), "test": (38685, 40000)}),
        _kinetics(600, {"train": (392622,), "val": (30000,), "test": (60000,)}),
        _kinetics(700, {"train": (545317,), "val": (35000,), "test": (70000,)}),
        DataSet(
            "ssv1",
            "Something-Something V1",
            "ssv1",
            ((174,),),
            {"train": (86017,), "val": (11522,), "test": (10960,)},
            _QUALCOMM + "something-something-v-2-dataset",
            _RESEARCH,
            ("something-something-v1-train.csv, -validation.csv", "20bn-something-something-v1/ID/00001.jpg"),
            other_names=("somethingv1", "somethingsomethingv1", "sthv1"),
        ),
        DataSet(
            "ssv2",
            "Something-Something V2",
            "ssv2",
            ((174,),),
            {"train": (168913,), "val": (24777,), "test": (27157,)},
            _QUALCOMM + "something-something-v-2-dataset",
            _RESEARCH,
            ("labels/train.json, validation.json, test.json", "20bn-something-something-v2/ID.webm"),
            other_names=("somethingv2", "somethingsomethingv2", "sthv2"),
        ),
        DataSet(
            "diving48",
            "Diving48 V2",
            "diving48",
            ((48,),),
            {"train": (15027,), "test": (1970,)},
            "http://www.svcl.ucsd.edu/projects/resound/dataset.html",
            "no licence is stated",
            ("Diving48_V2_train.json, Diving48_V2_test.json, Diving48_vocab.json", "rgb/NAME.mp4"),
        ),
        DataSet(
            "epic100",
            "EPIC-Kitchens-100",
            "epic100",
            ((97, 300),),
            {"train": (67217,), "val": (9668,), "test": (13092,)},
            "https://epic-kitchens.github.io",
            "CC BY-NC 4.0",
            (
                "EPIC_100_train.csv, EPIC_100_validation.csv, EPIC_100_verb_classes.csv, EPIC_100_noun_classes.csv",
                "P01/videos/P01_11.MP4, or a clip for each action, P01_11_0.mp4",
            ),
            counted="actions",
            other_names=("epickitchens100", "epickitchens", "ek100", "epic"),
        ),
        DataSet(
            "charades",
            "Charades",
            "charades",
            ((157,),),
            {"train": (7985,), "test": (1863,)},
            "https://prior.allenai.org/projects/charades",
            "non-commercial, by the licence of the Allen Institute",
            ("Charades_v1_train.csv, Charades_v1_test.csv, Charades_v1_classes.txt", "Charades_v1_480/ID.mp4"),
        ),
        DataSet(
            "ava",
            "AVA",
            "ava",
            ((80,), (60,)),
            {"train": (235,), "val": (64,)},
            "https://research.google.com/ava/",
            "lists CC BY 4.0; the videos are YouTube's and their makers'",
            ("ava_train_v2.2.csv, ava_val_v2.2.csv, ava_action_list_v2.2.pbtxt", "videos/ID.mkv"),
            counted="files",
        ),
        DataSet(
            "moments",
            "Moments in Time",
            "moments",
            ((305,), (339,)),
            {"train": (727305, 802264), "val": (30500, 33900)},
            "http://moments.csail.mit.edu",
            "non-commercial research, after registration",
            (
                "trainingSet.csv, validationSet.csv, moments_categories.txt (or none: class folders alone)",
                "training/CLASS/NAME.mp4, validation/CLASS/NAME.mp4",
            ),
            other_names=("momentsintime", "mit"),
        ),
        DataSet(
            "folders",
            "your own, class folders",
            "folder",
            (),
            {},
            "your own",
            "your own",
            ("train/CLASS/NAME.mp4, val/CLASS/NAME.mp4, or CLASS/NAME.mp4",),
            other_names=("folder", "classfolders"),
        ),
        DataSet(
            "webdataset",
            "your own, webdataset shards",
            "webdataset",
            (),
            {},
            "your own",
            "your own",
            ("train-000.tar, val-000.tar; in them KEY.mp4 with KEY.cls, or KEY.json with a label",),
            other_names=("shards", "tar", "wds"),
        ),
    )
}


def data_set(name: str) -> DataSet:
    """Returns the facts of a data set by its name; cases and signs between letters do not matter.

    Raises:
        ValueError: If there is no such data set.
    """
    key = re.sub(r"[\W_]", "", name).casefold()
    for data in DATA_SETS.values():
        if key in (data.name, *data.other_names):
            return data
    raise ValueError(f"data set {name!r} is not known; use one of {', '.join(DATA_SETS)}")


def against_published(data: DataSet, split: str, count: int, classes: tuple[int, ...] | None) -> tuple[bool, str]:
    """Compares the counts of a split and of its classes with the published numbers.

    Args:
        data: The data set.
        split: `"train"`, `"val"` or `"test"`.
        count: What its list names.
        classes: How many classes it has; of verbs and nouns, where it has both; None where it has no labels.

    Returns:
        Whether both are as published, and a line that says so.
    """
    known, sizes = data.counts.get(split, ()), data.classes
    if not known or not sizes:
        return True, "no published number to compare with"
    wrong = []
    if count not in known:
        wrong.append(f"published are {_either([f'{number:,}' for number in known])} {data.counted}")
    if classes is not None and classes not in sizes:
        wrong.append(f"published are {_either([shown(size) for size in sizes])}")
    return not wrong, "as published" if not wrong else "DIFFERS: " + "; ".join(wrong)


def shown(classes: tuple[int, ...]) -> str:
    """Returns a number of classes in words."""
    return f"{classes[0]} classes" if len(classes) == 1 else f"{classes[0]} verbs and {classes[1]} nouns"


def _either(texts: list[str]) -> str:
    return " or ".join(dict.fromkeys(texts))
