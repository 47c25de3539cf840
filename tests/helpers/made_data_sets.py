"""Small made-up data sets in the dialects of the published ones, with what their readers must find."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from reference.data.published import DATA_SETS


@dataclass(frozen=True)
class Made:
    """A data set.

    Attributes:
        lists: Text of each list, by its path.
        videos: The label of each video or part, by split and by the path of its file.
        classes: How many classes there must be; verbs and nouns of a pair.
        bare: Splits whose lists have no labels.
        frames: Whether videos are folders of frames.
        names: Files of class names, which have no rows to double.
    """

    lists: Mapping[str, str]
    videos: Mapping[str, Mapping[str, object]]
    classes: int | tuple[int, int]
    bare: tuple[str, ...] = ()
    frames: bool = False
    names: tuple[str, ...] = field(default=())


def _lines(*rows: str) -> str:
    return "".join(f"{row}\n" for row in rows)


def _names(count: int, word: str) -> list[str]:
    return [f"{word} number {index}" for index in range(count)]


UCF = [f"Sport{index:03d}" for index in range(1, 102)]
GESTURES = [f"Waving {word}" for word in _names(27, "hand")]
DIVES = [["Back", f"{index}som", "NoTwis", "PIKE"] for index in range(48)]
VERBS, NOUNS = _names(97, "verb"), _names(300, "noun")
DEEDS = {f"c{index:03d}": f"Doing thing {index}, slowly/gladly" for index in range(157)}
AVA = {index: f"act {index} (e.g., a book)" for index in range(1, 81)}
TEMPLATES = ["Holding [something]", "Putting [something], [something] and [something] on the table"]
K600 = [f"juggling ball {index}" for index in range(600)]

_UCF_VIDEOS = {
    "train": {f"UCF-101/{UCF[i]}/v_{UCF[i]}_g0{i % 5}_c01.avi": UCF[i] for i in (0, 3, 100)},
    "test": {f"UCF-101/{UCF[i]}/v_{UCF[i]}_g09_c02.avi": UCF[i] for i in (0, 99)},
}
_BODIES = {"brush_hair": "a_brush_hair_u_nm_np1_fr_goo", "clap": "#2_Rhythm_clap_f_cm_np1_ba_med"}


def _hmdb51() -> Made:
    lists, train, test = {}, {}, {}
    for name, body in _BODIES.items():
        for fold in (1, 2, 3):
            lists[f"testTrainMulti_7030_splits/{name}_test_split{fold}.txt"] = _lines(
                *(f"{body}_{i}.avi {(i + fold - 1) % 3} " for i in range(6))
            )
        train |= {f"{name}/{body}_{i}.avi": name for i in (1, 4)}
        test |= {f"{name}/{body}_{i}.avi": name for i in (2, 5)}
    return Made(lists, {"train": train, "test": test}, 2)


def _kinetics(number: int) -> Made:
    names = K600 if number == 600 else ["abseiling", "massaging person's head"]
    head, rows = "label,youtube_id,time_start,time_end,split,is_cc", []
    videos = {}
    for index, name in enumerate(names):
        rows.append(f"{name},{index:03d}-_a,{index},{index + 10},val,0")
        videos[f"val/{name.replace(' ', '_')}/{index:03d}-_a_{index:06d}_{index + 10:06d}.mp4"] = name
    test = _lines("youtube_id,time_start,time_end,split", "zz_,5,15,test")
    lists = {f"kinetics-{number}_val.csv": _lines(head, *rows), f"kinetics-{number}_test.csv": test}
    return Made(lists, {"val": videos, "test": {"test/zz__000005_000015.mp4": None}}, max(number, 400), bare=("test",))


def _epic100() -> Made:
    head = (
        "narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,start_frame,stop_frame,"
        "narration,verb,verb_class,noun,noun_class,all_nouns,all_noun_classes"
    )
    times = "00:00:01.2,00:00:0{1}.10,00:01:02.5{1},5,90"
    row = "{0}_{1},{2},{0}," + times + ""","turn, slowly",turn,{3},tap,{4},"['tap', 'x']","[0, 1]\""""
    train = _lines(head, row.format("P01_11", 0, "P01", 0, 299), row.format("P01_11", 1, "P01", 96, 0))
    val = _lines(head, row.format("P02_101", 0, "P02", 5, 6))
    test = _lines(",".join(head.split(",")[:8]), "P03_1_0,P03,P03_1,00:00:01.2,00:00:01.00,00:00:02.00,60,120")
    lists = {"EPIC_100_train.csv": train, "EPIC_100_validation.csv": val, "EPIC_100_test_timestamps.csv": test}
    for kind, names in (("verb", VERBS), ("noun", NOUNS)):
        rows = (f"{i},{name},\"['{name}', 'b']\",thing" for i, name in enumerate(names))
        lists[f"EPIC_100_{kind}_classes.csv"] = _lines("id,key,instances,category", *rows)
    videos = {
        "train": {"P01/videos/P01_11.MP4": [(0, 299), (96, 0)]},
        "val": {"P02/videos/P02_101.MP4": [(5, 6)]},
        "test": {"P03/videos/P03_1.MP4": None},
    }
    names = ("EPIC_100_verb_classes.csv", "EPIC_100_noun_classes.csv")
    return Made(lists, videos, (97, 300), bare=("test",), names=names)


def _charades() -> Made:
    head = "id,subject,scene,quality,relevance,verified,script,objects,descriptions,actions,length"
    row = '{},XY,Kitchen,5,7,Yes,"One, two; three",door;light,"A ""quoted"" word",{},30.1'
    lists = {
        "Charades_v1_train.csv": _lines(
            head, row.format("AB12C", "c092 11.90 21.20;c156 0.00 12.60"), row.format("DE34F", "")
        ),
        "Charades_v1_test.csv": _lines(head, row.format("GH56I", "c000 3.00 2.00")),
        "Charades_v1_classes.txt": _lines(*(f"{code} {name}" for code, name in DEEDS.items())),
    }
    videos = {
        "train": {"Charades_v1_480/AB12C.mp4": (92, 156), "Charades_v1_480/DE34F.mp4": ()},
        "test": {"Charades_v1_480/GH56I.mp4": (0,)},
    }
    return Made(lists, videos, 157, names=("Charades_v1_classes.txt",))


def _ava() -> Made:
    items = "".join(f'item {{\n  name: "{name}"\n  id: {number}\n}}\n' for number, name in AVA.items())
    box = "0.1,0.2,0.5,0.9"
    train = [f"-5KQ_,0902,{box},12,0", f"-5KQ_,0902,{box},80,0", f"-5KQ_,0903,{box},12,1"]
    lists = {
        "ava_train_v2.2.csv": _lines(*train),
        "ava_val_v2.2.csv": _lines(f"1j20q,0904,{box},1,0"),
        "ava_action_list_v2.2.pbtxt": items,
    }
    videos = {"train": {"videos/-5KQ_.mkv": [(11, 79), (11,)]}, "val": {"videos/1j20q.mkv": [(0,)]}}
    return Made(lists, videos, 80, names=("ava_action_list_v2.2.pbtxt",))


def _something(version: int) -> Made:
    plain = [name.replace("[", "").replace("]", "") for name in TEMPLATES]
    if version == 1:
        stem, root = "something-something-v1", "20bn-something-something-v1"
        lists = {
            f"{stem}-train.csv": _lines(f"7;{plain[0]}", f"100218;{plain[1]}"),
            f"{stem}-validation.csv": _lines(f"8;{plain[1]}"),
            f"{stem}-test.csv": _lines("9", "10"),
        }
        ending = ""
    else:
        root, ending = "20bn-something-something-v2", ".webm"
        entries = [
            {"id": str(i), "label": "an apple", "template": TEMPLATES[i % 2], "placeholders": []} for i in range(4)
        ]
        lists = {
            "labels/train.json": json.dumps([entries[2], entries[3]], indent=1),
            "labels/validation.json": json.dumps(entries[1:2], indent=1),
            "labels/test.json": json.dumps([{"id": "9"}, {"id": "10"}], indent=1),
        }
    ids = {
        "train": {"7": 0, "100218": 1} if version == 1 else {"2": 0, "3": 1},
        "val": {"8" if version == 1 else "1": 1},
    }
    videos: dict[str, dict[str, object]] = {
        split: {f"{root}/{i}{ending}": plain[label] for i, label in part.items()} for split, part in ids.items()
    }
    videos["test"] = {f"{root}/{i}{ending}": None for i in (9, 10)}
    return Made(lists, videos, 174, bare=("test",), frames=version == 1)


def _jester_numbers() -> Made:
    lists = {
        "classInd.txt": _lines(*(f"{i} {name.replace(' ', '_')}" for i, name in enumerate(GESTURES, 1))),
        "trainlist01.txt": _lines("34870 2", "5 27"),
        "vallist01.txt": _lines("9223 1"),
        "testlist01.txt": _lines("11", "12"),
    }
    name = [gesture.replace(" ", "_") for gesture in GESTURES]
    videos = {
        "train": {"20bn-jester-v1/34870": name[1], "20bn-jester-v1/5": name[26]},
        "val": {"20bn-jester-v1/9223": name[0]},
        "test": {"20bn-jester-v1/11": None, "20bn-jester-v1/12": None},
    }
    return Made(lists, videos, 27, bare=("test",), frames=True, names=("classInd.txt",))


def _jester() -> Made:
    lists = {
        "jester-v1-labels.csv": _lines(*GESTURES),
        "jester-v1-train.csv": _lines(f"34870;{GESTURES[1]}", f"5;{GESTURES[26]}"),
        "jester-v1-validation.csv": _lines(f"9223;{GESTURES[0]}"),
        "jester-v1-test.csv": _lines("11"),
    }
    videos = {
        "train": {"20bn-jester-v1/34870": GESTURES[1], "20bn-jester-v1/5": GESTURES[26]},
        "val": {"20bn-jester-v1/9223": GESTURES[0]},
        "test": {"20bn-jester-v1/11": None},
    }
    return Made(lists, videos, 27, bare=("test",), frames=True, names=("jester-v1-labels.csv",))


def _diving48() -> Made:
    def entry(name: str, label: int) -> dict[str, object]:
        return {"vid_name": name, "label": label, "start_frame": 0, "end_frame": 90}

    lists = {
        "Diving48_V2_train.json": json.dumps([entry("a-_1_00000", 0), entry("b_00001", 47)], indent=1),
        "Diving48_V2_test.json": json.dumps([entry("c_00002", 3)], indent=1),
        "Diving48_vocab.json": json.dumps(DIVES, indent=1),
    }
    videos = {
        "train": {"rgb/a-_1_00000.mp4": "Back 0som NoTwis PIKE", "rgb/b_00001.mp4": "Back 47som NoTwis PIKE"},
        "test": {"rgb/c_00002.mp4": "Back 3som NoTwis PIKE"},
    }
    return Made(lists, videos, 48)


def _moments() -> Made:
    names = ["clapping", "adult+female+singing", "boating"]
    lists = {
        "moments_categories.txt": _lines(*(f"{name},{i}" for i, name in enumerate(names))),
        "trainingSet.csv": _lines("clapping/getty-a_1.mp4,clapping,3,0", "boating/b.c_2.mp4,boating,2,1"),
        "validationSet.csv": _lines("adult+female+singing/x y_3.mp4,adult+female+singing,3,0"),
    }
    videos = {
        "train": {"training/clapping/getty-a_1.mp4": names[0], "training/boating/b.c_2.mp4": names[2]},
        "val": {"validation/adult+female+singing/x y_3.mp4": names[1]},
    }
    return Made(lists, videos, 3, names=("moments_categories.txt",))


MADE: dict[str, Made] = {
    "ucf101": Made(
        {
            "ucfTrainTestlist/classInd.txt": _lines(*(f"{i} {name}" for i, name in enumerate(UCF, 1))),
            "ucfTrainTestlist/trainlist01.txt": _lines(
                *(f"{path[8:]} {UCF.index(str(name)) + 1}" for path, name in _UCF_VIDEOS["train"].items())
            ),
            "ucfTrainTestlist/testlist01.txt": _lines(*(path[8:] for path in _UCF_VIDEOS["test"])),
        },
        _UCF_VIDEOS,
        101,
        names=("ucfTrainTestlist/classInd.txt",),
    ),
    "hmdb51": _hmdb51(),
    "jester": _jester(),
    "jester, numbers": _jester_numbers(),
    "kinetics400": _kinetics(400),
    "kinetics600": _kinetics(600),
    "ssv1": _something(1),
    "ssv2": _something(2),
    "diving48": _diving48(),
    "epic100": _epic100(),
    "charades": _charades(),
    "ava": _ava(),
    "moments": _moments(),
}
assert {name.split(",")[0] for name in MADE} <= set(DATA_SETS)


def make(made: Made, folder: Path, upper: bool = False) -> Path:
    """Writes the lists, and empty files for the videos; with `upper`, their endings in capitals."""
    for path, text in made.lists.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    for part in made.videos.values():
        for path in part:
            place = folder / path
            place.parent.mkdir(parents=True, exist_ok=True)
            if made.frames:
                place.mkdir(exist_ok=True)
                (place / "00001.jpg").touch()
            else:
                place.with_suffix(place.suffix.upper() if upper else place.suffix).touch()
    return folder
