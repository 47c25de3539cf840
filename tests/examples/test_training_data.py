"""Training data: epochs, random draws, shards, arrays, moving shapes, and mixing."""

import gzip
import io
import random
import tarfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import webdataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reference import evaluate, make_shards, train
from reference.data import sources
from reference.data.clips import MemoryClips, VideoClips, load, open_clips, plan_epoch, short_sides, to_network
from reference.data.sources import Source, read_source
from reference.data.splitting import held_out, read_sources
from reference.evaluation.samples import Samples, load_samples
from reference.training.mixing import box, mix
from reference.training.recipe import load_recipe, sections

from vov3d.synthetic.moving_shapes import CLASSES, make_set, write_videos
from vov3d.video import VideoReader, eval_transform, plan_random_clip, train_transform

CFG = {
    "num_frames": 4,
    "frame_stride": 1,
    "sampling": "dense",
    "input_size": (3, 16, 16),
    "test_input_size": (3, 20, 20),
    "mean": (0.4, 0.5, 0.6),
    "std": (0.2, 0.25, 0.3),
    "interpolation": "bilinear",
}


def recipe(**keys):
    return sections(load_recipe("finetune", {name.replace("_", ".", 1): str(value) for name, value in keys.items()}))


@pytest.fixture
def videos(tmp_path):
    write_videos(tmp_path / "videos", 3, seed=0, num_frames=9, size=32, classes=CLASSES[:2])
    return tmp_path / "videos"


def test_results_in_class_folders_are_refused(tmp_path, monkeypatch, capsys):
    for part in ("train", "val"):
        for name in ("left", "right"):
            (tmp_path / "data" / part / name).mkdir(parents=True)
            (tmp_path / "data" / part / name / "a.mp4").touch()
    monkeypatch.chdir(tmp_path / "data")
    before = sorted(tmp_path.rglob("*"))
    for data in (".", str(tmp_path / "data")):
        for call in (
            lambda: train.main(["--recipe", "finetune", "--data", data, "--output", "runs/mine"]),  # noqa: B023
            lambda: evaluate.main(["--data", data, "--split", "val", "--model", "vov3d_n"]),  # noqa: B023
            lambda: make_shards.main([data, "--split", "val", "--output", "shards"]),  # noqa: B023
        ):
            assert call() == 1
            assert f": lies in {data}, where every folder is a class; name another" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before
    sources.check_outside(tmp_path / "runs", ".", "shapes")
    (tmp_path / "data/val.csv").write_text("val/left/a.mp4 0\nval/right/a.mp4 1\n")  # it says what the videos are
    sources.check_outside(tmp_path / "data/runs", ".")


# --- epochs ----------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=200)
@given(number=st.integers(1, 300), batch=st.integers(1, 64), parts=st.integers(1, 9), epoch=st.integers(0, 3))
def test_an_epoch_has_each_clip_once_in_updates_of_one_size(number, batch, parts, epoch):
    if min(number, batch) < parts:
        with pytest.raises(ValueError, match="cannot be shared"):
            plan_epoch(number, batch, parts, 0, epoch)
        return
    plan = plan_epoch(number, batch, parts, 0, epoch)
    assert sorted(int(i) for update in plan for part in update for i in part) == list(range(number))
    sizes = [sum(map(len, update)) for update in plan]
    shares = [len(part) for update in plan for part in update]
    assert max(sizes) - min(sizes) <= 1
    assert min(shares) >= 1
    assert max(shares) - min(shares) <= 1
    assert max(sizes) <= max(batch, 2 * parts)
    assert max(sizes) <= batch or number // len(plan) < 2 * parts


def test_the_order_is_another_in_each_epoch_and_the_same_in_each_run():
    first, again, second = (np.concatenate([p for u in plan_epoch(50, 8, 1, 3, e) for p in u]) for e in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, second)


# --- what is drawn ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", ["dense", "segment"])
def test_a_clip_depends_on_seed_epoch_and_index_alone(videos, sampling):
    source, _ = read_source(str(videos), "train", recipe().data, recipe().shapes, None)
    clips = open_clips(source, CFG | {"sampling": sampling}, recipe(clip_flip="true"), train=True)
    assert isinstance(clips, VideoClips)
    before = torch.get_rng_state()
    together = clips.__getitems__([(0, 1), (0, 4), (1, 4)])
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    alone = clips.__getitems__([(0, 4)])
    assert torch.equal(alone.clips[0], together.clips[1])
    assert not torch.equal(together.clips[1], together.clips[2])
    (worked,) = list(load(clips, [[(0, 1), (0, 4), (1, 4)]], workers=1))
    assert torch.equal(worked.clips, together.clips)
    assert worked.labels.tolist() == [0, 1, 1]


@settings(deadline=None, max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(epoch=st.integers(0, 1000), size=st.integers(4, 30), flip=st.booleans(), inverse=st.booleans())
def test_clips_of_videos_reach_the_network_as_the_transform_gives_them(videos, epoch, size, flip, inverse):
    cfg = CFG | {"input_size": (3, size, size)}
    keys = recipe(clip_flip=str(flip).lower(), clip_inverse_scales=str(inverse).lower())
    source, _ = read_source(str(videos), "train", keys.data, keys.shapes, None)
    clips = open_clips(source, cfg, keys, train=True)
    found = clips.__getitems__([(epoch, 3)]).clips
    assert found.dtype == torch.uint8  # a quarter of the bytes of floats
    rng = random.Random(repr((keys.train.seed, epoch, 3)))
    with VideoReader(source.files[3]) as reader:
        frames = reader.read(plan_random_clip(cfg, reader, rng)).contiguous()
    low, high = scales = short_sides(keys.clip, size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(rng.getrandbits(63))
        if inverse:
            scales = (round(1 / rng.uniform(1 / high, 1 / low)),) * 2
        wanted = train_transform(cfg, scales, flip, color=keys.clip.color)(frames)
    torch.testing.assert_close(to_network(found, cfg, torch.zeros(()))[0], wanted, rtol=1e-4, atol=1e-5)


def test_validation_takes_the_middle_of_a_video(videos):
    source, _ = read_source(str(videos), "train", recipe().data, recipe().shapes, None)
    clips = open_clips(source, CFG | {"frame_stride": 3}, recipe(), train=False)
    with VideoReader(source.files[2]) as reader:
        frames = reader.read([2, 3, 4, 5])  # a stride of 3 at 30 frames a second is one of 1 at 10
    assert torch.equal(clips.__getitems__([(0, 2)]).clips, eval_transform(CFG)(frames))


def test_a_zoom_of_one_keeps_the_whole_of_a_square_video(videos):
    source, _ = read_source(str(videos), "train", recipe().data, recipe().shapes, None)
    clips = open_clips(source, CFG | {"sampling": "segment"}, recipe(clip_zoom="[1, 1]", clip_color=0), train=True)
    clip = to_network(clips.__getitems__([(0, 1)]).clips, CFG, torch.zeros(()))[0]
    with VideoReader(source.files[1]) as reader:
        frames = eval_transform(CFG | {"test_input_size": None})(reader.read(range(reader.num_frames)))[0]
    for t in range(clip.shape[1]):
        assert any(torch.allclose(clip[:, t], frames[:, i], atol=1e-5) for i in range(frames.shape[1]))


@given(size=st.integers(16, 400))
def test_short_sides_are_multiples_of_the_crop_unless_they_are_given(size):
    assert short_sides(SimpleNamespace(scales=[], zoom=[]), 224) == (256, 320)
    assert short_sides(SimpleNamespace(scales=[300, 310], zoom=[]), size) == (300, 310)
    low, high = short_sides(SimpleNamespace(scales=[], zoom=[1, 1.5]), size)
    assert low == size <= high
    assert abs(high - 1.5 * size) <= 0.5


def memory(clips: np.ndarray, shift: int = 0, flip: bool = False, train: bool = True) -> MemoryClips:
    source = Source("x", np.zeros(len(clips), np.int64), ("a",), clips=clips)
    keys = dict(clip_shift=shift, clip_flip=str(flip).lower())
    return MemoryClips(source, CFG | {"test_input_size": None}, recipe(**keys), train)


@settings(deadline=None, max_examples=60)
@given(
    height=st.integers(16, 20),
    width=st.integers(16, 20),
    shift=st.integers(0, 5),
    epoch=st.integers(0, 50),
    train=st.booleans(),
)
def test_a_clip_in_memory_is_cut_out_of_itself_with_its_border_repeated(height, width, shift, epoch, train):
    clips = np.random.default_rng(0).integers(0, 256, (2, 4, height, width, 3), np.uint8)
    (cut,) = memory(clips, shift, train=train).__getitems__([(epoch, 1)]).clips.numpy()
    margin = shift if train else 0
    padded = np.pad(clips[1], ((0, 0), (margin, margin), (margin, margin), (0, 0)), mode="edge")
    places = np.lib.stride_tricks.sliding_window_view(padded, (4, 16, 16, 3)).reshape(-1, 4, 16, 16, 3)
    assert (places == cut).all((1, 2, 3, 4)).any()
    if not train:
        assert np.array_equal(cut, clips[1][:, (height - 16) // 2 :, (width - 16) // 2 :][:, :16, :16])


def test_half_of_the_clips_are_mirrored_where_that_is_asked_for():
    clips = np.random.default_rng(0).integers(0, 256, (1, 4, 16, 16, 3), np.uint8)
    cut = memory(clips, flip=True).__getitems__([(epoch, 0) for epoch in range(40)]).clips.numpy()
    same = sum(np.array_equal(clip, clips[0]) for clip in cut)
    mirrored = sum(np.array_equal(clip, clips[0][:, :, ::-1]) for clip in cut)
    assert same + mirrored == 40
    assert 8 < same < 32


def test_longer_clips_in_memory_are_sampled():
    clips = np.broadcast_to(np.arange(10, dtype=np.uint8)[None, :, None, None, None], (1, 10, 16, 16, 3))
    starts = set()
    for epoch in range(30):
        found = memory(clips).__getitems__([(epoch, 0)]).clips[0, :, 0, 0, 0].tolist()
        assert found == list(range(found[0], found[0] + 4))
        starts.add(found[0])
    assert len(starts) > 3


def test_uint8_clips_reach_the_network_as_the_transform_gives_them():
    clips = np.random.default_rng(0).integers(0, 256, (2, 4, 16, 16, 3), np.uint8)
    found = to_network(memory(clips, train=False).__getitems__([(0, 0), (0, 1)]).clips, CFG, torch.zeros(()))
    frames = torch.from_numpy(clips).permute(0, 1, 4, 2, 3)
    wanted = torch.cat([eval_transform(CFG | {"test_input_size": None})(clip) for clip in frames])
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert to_network(found, CFG, torch.zeros((), dtype=torch.float64)).dtype == torch.float64


# --- sources ---------------------------------------------------------------------------------------------------------


def shard(path, files, labels, ending="cls"):
    with webdataset.TarWriter(str(path)) as writer:
        for number, (file, label) in enumerate(zip(files, labels, strict=True)):
            content = {"label": label} if ending == "json" else str(label)
            writer.write({"__key__": f"clips/{number:04d}", "mp4": file.read_bytes(), ending: content})


@pytest.mark.parametrize("ending", ["cls", "json"])
def test_shards_that_webdataset_wrote_give_the_videos(videos, tmp_path, ending):
    files = sorted(videos.glob("*/*.mp4"))
    names = [file.parent.name for file in files]
    for number in (0, 1):
        labels = names[3 * number : 3 * number + 3]
        shard(tmp_path / f"x-{number:03d}.tar", files[3 * number : 3 * number + 3], labels, ending)
    data = recipe(data_path=tmp_path / "x-{000..001}.tar").data
    source, val = read_sources(SimpleNamespace(**vars(data) | {"val_share": 0}), recipe().shapes)
    assert val is None
    assert [source.classes[i] for i in source.labels] == names
    assert [member.read() for member in source.files] == [file.read_bytes() for file in files]
    other, _ = read_source(str(videos), "train", data, recipe().shapes, None)
    of_shards, of_files = (open_clips(s, CFG, recipe(), train=True).__getitems__([(0, 4)]) for s in (source, other))
    assert torch.equal(of_shards.clips, of_files.clips)


def test_an_archive_beside_class_folders_is_no_shard(videos):
    files = sorted(videos.glob("*/*.mp4"))
    archive, keys = videos / "videos.tar", (recipe().data, recipe().shapes, None)
    with tarfile.open(archive, "w") as tar:
        tar.add(files[0], "left/0.mp4")
    source, _ = read_source(str(videos), "train", *keys)
    assert list(source.files) == files
    archive.unlink()
    shard(videos / "x-0.tar", files[:2], [0, 1])
    assert len(read_source(str(videos), "train", *keys)[0]) == 2


def test_shards_that_lack_something_are_refused(videos, tmp_path):
    files = sorted(videos.glob("*/*.mp4"))[:2]
    with webdataset.TarWriter(str(tmp_path / "bare.tar")) as writer:
        writer.write({"__key__": "a", "mp4": files[0].read_bytes()})
    shard(tmp_path / "x-0.tar", files, [0, 5])
    (tmp_path / "names.txt").write_text("one\ntwo\n")
    (tmp_path / "text.tar").write_text("no tar")
    for name, keys, message in (
        ("bare.tar", {}, "has no .cls and no .json beside it"),
        ("x-{0..1}.tar", {}, "1 of 2 shards are missing"),
        ("x-0.tar", {"data_classes": tmp_path / "names.txt"}, "labels from 0 to 5, but there are 2 classes"),
        ("text.tar", {}, "is no tar file"),
    ):
        with pytest.raises(ValueError, match=message):
            read_sources(recipe(data_path=tmp_path / name, **keys).data, recipe().shapes)


def test_a_folder_named_as_the_generated_clips_is_told_apart(videos, tmp_path, monkeypatch):
    monkeypatch.setenv("VOV3D_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    keys = recipe(shapes_clips=4, shapes_frames=2, shapes_size=16)
    assert read_source("shapes", "train", keys.data, keys.shapes, None)[0].notes == ()
    Path("shapes").symlink_to(videos)
    generated, _ = read_source("shapes", "train", keys.data, keys.shapes, None)
    assert generated.notes == ("shapes: generated clips; ./shapes is the folder of this name",)
    there, _ = read_source("./shapes", "train", keys.data, keys.shapes, None)
    assert len(there) == len(list(videos.glob("*/*.mp4")))


def test_arrays_of_another_form_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", labels=np.zeros(3, int))
    np.savez(tmp_path / "b.npz", clips=np.zeros((3, 4, 8, 8)), labels=np.zeros(3, int))
    for name, message in (("a", "holds no clips"), ("b", "expected uint8 clips")):
        with pytest.raises(ValueError, match=message):
            read_source(str(tmp_path / f"{name}.npz"), "train", recipe().data, recipe().shapes, None)


def test_validation_is_what_lies_beside_training_or_a_share_of_each_class(videos, tmp_path):
    share = recipe(data_path=videos, data_val_share=0.34)
    train, val = read_sources(share.data, share.shapes)
    assert np.bincount(train.labels).tolist() == [2, 2]
    assert np.bincount(val.labels).tolist() == [1, 1]
    assert not {*map(str, train.files)} & {*map(str, val.files)}
    for part, kept in (("train", slice(2)), ("val", slice(2, 3))):
        for folder in videos.iterdir():
            (tmp_path / "parts" / part / folder.name).mkdir(parents=True)
            for file in sorted(folder.iterdir())[kept]:
                (tmp_path / "parts" / part / folder.name / file.name).symlink_to(file)
    for share in (0.0, 0.34):  # a share is held out only where no part is there
        parts = recipe(data_path=tmp_path / "parts", data_val_share=share)
        train, val = read_sources(parts.data, parts.shapes)
        assert (len(train), len(val)) == (4, 2)
        assert train.classes == val.classes == tuple(sorted(CLASSES[:2]))
    (tmp_path / "parts/val").rename(tmp_path / "parts/test")
    train, val = read_sources(parts.data, parts.shapes)
    assert (len(train), len(val)) == (2, 2)
    parts.data.val_share = 0.0
    assert read_sources(parts.data, parts.shapes)[1] is None


def test_errors_name_the_part_of_the_data(tmp_path):
    (tmp_path / "val.csv").write_text("a.mp4 0\n")
    (tmp_path / "train.csv").write_text("a.mp4 0\nno label\n")
    broken = recipe(data_path=tmp_path)
    with pytest.raises(ValueError, match=r"train\.csv:2"):
        read_sources(broken.data, broken.shapes)


def test_a_class_of_one_video_keeps_it_for_training():
    source = Source(
        "x", np.array([0, 1, 1, 1, 1]), ("a", "b"), clips=np.arange(15, dtype=np.uint8).reshape(5, 1, 1, 1, 3)
    )
    train, val = held_out(source, 0.5)
    assert train.labels.tolist() == [0, 1, 1]
    assert val.labels.tolist() == [1, 1]


def test_shapes_are_made_once_and_are_those_of_make_set(tmp_path, monkeypatch):
    keys = recipe(data_path="shapes", shapes_clips=130, shapes_val_clips=20, shapes_frames=3, shapes_size=16)
    data = SimpleNamespace(**vars(keys.data) | {"val_share": 0})
    train, val = read_sources(data, keys.shapes)
    clips, labels = make_set(130, 0, 3, 16)
    assert np.array_equal(train.clips, clips)
    assert np.array_equal(train.labels, labels)
    assert np.array_equal(val.clips, make_set(20, 1, 3, 16)[0])
    monkeypatch.setattr(sources, "make_shapes", None)
    again, _ = read_sources(data, keys.shapes)
    assert again.digest() == train.digest() != val.digest()


def test_the_digest_follows_names_labels_and_contents_not_the_place(videos, tmp_path):
    source, _ = read_source(str(videos), "train", recipe().data, recipe().shapes, None)
    before, part = source.digest(), source.subset(np.array([0, 1])).digest()
    videos.rename(tmp_path / "elsewhere")
    moved, _ = read_source(str(tmp_path / "elsewhere"), "train", recipe().data, recipe().shapes, None)
    assert moved.digest() == before != part
    file = moved.files[1]
    file.write_bytes(file.read_bytes() + b" ")
    assert moved.digest() != before


@pytest.mark.parametrize("change", [lambda clips: clips[:, ::-1], lambda clips: clips[::-1], lambda clips: clips + 1])
def test_the_digest_follows_clips_in_memory(change):
    clips = np.random.default_rng(0).integers(0, 200, (3, 5, 4, 4, 3), np.uint8)
    source = sources.Source("clips", np.zeros(3, np.int64), ("a",), clips=clips)
    samples = Samples(list(clips), ("a", "b", "c"), (0, 0, 0), ("x",), "clips")
    other = change(clips)
    assert replace(source, clips=clips.copy()).digest() == source.digest() != replace(source, clips=other).digest()
    assert (
        replace(samples, sources=[*clips]).digest() == samples.digest() != replace(samples, sources=[*other]).digest()
    )


# --- mixing ----------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=80)
@given(
    seed=st.integers(0, 10_000),
    batch=st.integers(1, 5),
    height=st.integers(3, 12),
    width=st.integers(3, 12),
    alpha=st.sampled_from([0.2, 1.0, 4.0]),
)
def test_cutmix_replaces_the_same_box_in_all_frames_and_mixes_labels_by_its_area(seed, batch, height, width, alpha):
    numbers = torch.arange(batch, dtype=torch.float32)
    clips = numbers.view(-1, 1, 1, 1, 1).expand(batch, 3, 4, height, width)
    mixed, targets = mix(clips, torch.arange(batch), batch, 0.0, alpha, np.random.default_rng(seed))
    assert torch.equal(mixed, mixed[:, :1, :1].expand_as(mixed))
    for own in range(batch):
        area = (mixed[own, 0, 0] == own).float().mean()
        wanted = torch.zeros(batch)
        wanted[own] += area if batch > 1 else 1
        wanted[own - 1] += 1 - area if batch > 1 else 0
        torch.testing.assert_close(targets[own], wanted)
    assert torch.equal(clips[:, 0, 0, 0, 0], numbers)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 1000))
def test_mixup_mixes_clips_and_labels_by_one_share(seed):
    clips = torch.randn(3, 3, 2, 4, 4)
    mixed, targets = mix(clips, torch.tensor([2, 0, 1]), 3, 0.5, 0.0, np.random.default_rng(seed))
    for own, label in enumerate((2, 0, 1)):
        share = targets[own, label]
        torch.testing.assert_close(mixed[own], share * clips[own] + (1 - share) * clips[own - 1])
    torch.testing.assert_close(targets.sum(1), torch.ones(3))


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10_000), share=st.floats(0, 1))
def test_a_box_lies_in_the_frame_and_is_no_larger_than_its_share(seed, share):
    rows, columns = box(20, 30, share, np.random.default_rng(seed))
    assert 0 <= rows.start <= rows.stop <= 20
    assert 0 <= columns.start <= columns.stop <= 30
    assert rows.stop - rows.start <= 20 * (1 - share) ** 0.5 + 1
    assert columns.stop - columns.start <= 30 * (1 - share) ** 0.5 + 1


def test_labels_in_json_may_be_numbers(videos, tmp_path):
    files = sorted(videos.glob("*/*.mp4"))[:2]
    shard(tmp_path / "x.tar", files, [1, 0], "json")
    source, _ = read_source(str(tmp_path / "x.tar"), "train", recipe().data, recipe().shapes, None)
    assert source.labels.tolist() == [1, 0]
    assert source.classes == ("class 0", "class 1")


def pale(number, of):
    """Returns clips of one shade each, all of them different, as those of other parts are."""
    shades = 10 * ("train", "val", "other").index(of) + np.arange(number, dtype=np.uint8)
    return np.broadcast_to(shades[:, None, None, None, None], (number, 4, 8, 8, 3))


@pytest.mark.parametrize("kind", ["shards", "arrays"])
@pytest.mark.parametrize("known", [False, True])
def test_numbers_of_both_parts_count_from_the_same(tmp_path, kind, known):
    """The part for validation lacks the last class, so that a shifted label would be another class."""
    options = recipe(data_labels_from="1", data_path=str(tmp_path))
    if known:
        options.data.classes = str(tmp_path / "names.txt")
        (tmp_path / "names.txt").write_text("w\nx\ny\n")
    for part, labels in (("train", [1, 2, 3]), ("val", [1, 2])):
        if kind == "shards":
            each = [(f"{part}{number}", str(number).encode()) for number in labels]
            members = [pair for key, label in each for pair in ((f"{key}.mp4", key.encode()), (f"{key}.cls", label))]
            tar_of(tmp_path / f"{part}-0.tar", *members)
        else:
            np.savez(tmp_path / part, clips=pale(len(labels), of=part), labels=labels)
            options.data.path, options.data.val = str(tmp_path / "train.npz"), str(tmp_path / "val.npz")
    train, val = read_sources(options.data, options.shapes)
    assert (train.labels.tolist(), val.labels.tolist()) == ([0, 1, 2], [0, 1])


def test_arrays_of_the_same_classes_in_another_order_keep_their_names(tmp_path):
    for part, names in (("train", ["walk", "run"]), ("val", ["Run", "walk"]), ("other", ["run", "fly"])):
        np.savez(tmp_path / part, clips=pale(2, of=part), labels=[0, 1], classes=names)
    options = recipe(data_path=str(tmp_path / "train.npz"), data_val=str(tmp_path / "val.npz"))
    assert read_sources(options.data, options.shapes)[1].labels.tolist() == [1, 0]
    options.data.val = str(tmp_path / "other.npz")
    with pytest.raises(ValueError, match=r"other\.npz: found class 'fly', expected one of 2 names"):
        read_sources(options.data, options.shapes)


def test_names_of_shards_are_read_as_those_of_lists(tmp_path):
    def read(labels, classes=None, **keys):
        members = [
            (f"{n}.{end}", text) for n, label in enumerate(labels) for end, text in (("mp4", b"v"), ("cls", label))
        ]
        path, options = tar_of(tmp_path / "x.tar", *members), recipe(**keys)
        return read_source(path, "train", options.data, options.shapes, classes)[0]

    assert read([b"Walk", b"walk", b"run"]).labels.tolist() == [1, 1, 0]
    assert read([b"Walk", b"run"], ("run", "walk", "fly")).labels.tolist() == [1, 0]
    assert read([b"2", b"1"], ("1", "2", "3")).labels.tolist() == [1, 0]
    assert read([b"002", b"001"], ("001", "002", "003")).labels.tolist() == [1, 0]
    assert read([b"02", b"01", b"10"], tuple(f"{i:02}" for i in range(1, 11))).labels.tolist() == [1, 0, 9]
    assert read([b"002", b"001"], ("walk", "run", "fly")).labels.tolist() == [2, 1]
    with pytest.raises(ValueError, match="found labels 0 and 'walk', expected all names or all numbers"):
        read([b"walk", b"0", b"run"])
    with pytest.raises(ValueError, match="labels_from=1 has no effect, labels are names"):
        read([b"walk", b"run"], data_labels_from="1")


def tar_of(path, *members):
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return str(path)


def test_shards_whose_labels_or_names_are_not_plain_are_refused(tmp_path):
    for members, message in (
        ([("a.mp4", b"v"), ("a.json", b'{"label": null}')], "found label None, expected the name or the number"),
        ([("a.mp4", b"v"), ("a.json", b'{"label": ["x", "y"]}')], "found label ..x., .y"),
        ([("a.mp4", b"v"), ("a.cls", b" ")], "a.cls: found no label"),
        ([("a.mp4", b"v"), ("a.cls", b"-1"), ("b.mp4", b"v"), ("b.cls", b"0")], "found label -1"),
        ([("a.mp4", b"v"), ("a.avi", b"v"), ("a.cls", b"0")], "two videos of one key, a.mp4 and a.avi"),
        ([("v1.0.mp4", b"v"), ("v1.0.cls", b"0")], r"v1.0.mp4: has a dot in its name"),
    ):
        with pytest.raises(ValueError, match=message):
            read_source(tar_of(tmp_path / "x.tar", *members), "train", recipe().data, recipe().shapes, None)
    packed = tmp_path / "packed.tar"
    packed.write_bytes(gzip.compress((tmp_path / "x.tar").read_bytes()))
    with pytest.raises(ValueError, match="is packed"):
        read_source(str(packed), "train", recipe().data, recipe().shapes, None)


def test_a_label_in_cls_counts_beside_json_of_something_else_and_other_files_of_a_key_are_left(tmp_path):
    members = [(f"{key}.{end}", text) for key in "ab" for end, text in (("json", b'{"caption": "x"}'), ("mp4", b"v"))]
    extra = [("a.cls", b"1"), ("b.cls", b"0"), ("a.depth.mp4", b"d"), ("._a.mp4", b"mac")]
    path = tar_of(tmp_path / "x.tar", *members, *extra)
    source, _ = read_source(path, "train", recipe().data, recipe().shapes, None)
    assert source.labels.tolist() == [1, 0]


def test_labels_of_arrays_are_whole_numbers_and_damaged_files_are_named(tmp_path):
    clips, file = np.zeros((2, 4, 8, 8, 3), np.uint8), tmp_path / "a.npz"
    for labels, message in (([0.7, 1], "labels are float64, as 0.7"), (["a", "b"], "labels are <U1, as 'a'")):
        np.savez(file, clips=clips, labels=np.array(labels))
        with pytest.raises(ValueError, match=message):
            read_source(str(file), "train", recipe().data, recipe().shapes, None)
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(ValueError, match="cannot be read as an .npz file"):
        read_source(str(file), "train", recipe().data, recipe().shapes, None)
    with pytest.raises(ValueError, match="cannot be read as an .npz file"):
        load_samples(file, ["a"], 1)
