"""Folders of pictures and animated WebP show what a viewer of pictures shows, in 8 bits, or say why they do not."""

import contextlib
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.numbered_videos import folder_of_frames, frame_numbers, numbered_frame, write_video
from PIL import Image, ImageOps, ImageSequence

from vov3d.video import VideoError, VideoReader
from vov3d.video.decoders import opening
from vov3d.video.sources import looks_like_picture, looks_like_video


def first_frame(folder: Path) -> np.ndarray:
    with VideoReader(folder) as reader:
        (frame,) = reader.read([0])
        assert (reader.height, reader.width) == tuple(frame.shape[1:])
        return frame.permute(1, 2, 0).numpy()


@pytest.mark.parametrize("ending", ["jpg", "png", "tif", "webp"])
def test_exif_orientation_is_followed(tmp_path: Path, ending: str) -> None:
    picture = Image.fromarray(numbered_frame(37))
    settings = {"webp": {"lossless": True}}.get(ending, {})
    for orientation in range(10):  # 0 and 9 are none
        exif = Image.Exif()
        exif[0x0112] = orientation
        folder = tmp_path / str(orientation)
        folder.mkdir()
        picture.save(folder / f"1.{ending}", exif=exif, **settings)
        with Image.open(folder / f"1.{ending}") as saved:
            upright = np.asarray(ImageOps.exif_transpose(saved).convert("RGB"))
        assert upright.shape[:2] == ((96, 64) if 5 <= orientation <= 8 else (64, 96))
        np.testing.assert_array_equal(first_frame(folder), upright)


def test_orientation_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    folder = tmp_path / "f"
    folder.mkdir()
    picture = Image.fromarray(numbered_frame(5))
    for exif in (b"Exif\0\0nonsense", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0II*\0\x08\0\0\0\xff\xff"):
        picture.save(folder / "1.jpg", exif=exif, quality=95)
        assert frame_numbers(torch.from_numpy(first_frame(folder)).permute(2, 0, 1)[None]) == [5]


@pytest.mark.parametrize("ending", ["png", "tif", "pgm.ppm"])
def test_16_bits_are_scaled(tmp_path: Path, ending: str) -> None:
    folder = tmp_path / "f"
    folder.mkdir()
    ramp = np.linspace(0, 65535, 64 * 96).astype(np.uint16).reshape(64, 96)
    if ending.endswith("ppm"):
        (folder / "1.ppm").write_bytes(b"P5\n96 64\n65535\n" + ramp.astype(">u2").tobytes())
    else:
        Image.fromarray(ramp).save(folder / f"1.{ending}")
    expected = np.round(ramp / 65535 * 255).astype(np.uint8)[..., None].repeat(3, -1)
    np.testing.assert_array_equal(first_frame(folder), expected)


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_pixels_of_unknown_range_are_refused(tmp_path: Path, dtype: type) -> None:
    folder = tmp_path / "f"
    folder.mkdir()
    Image.fromarray(np.ones((8, 8), dtype)).save(folder / "1.tif")
    with pytest.raises(VideoError, match=r"1\.tif: this frame.*whose range is not known; save the frames with 8 or 16"):
        VideoReader(folder)


@pytest.mark.parametrize("dtype", [np.int32, np.float32, np.uint16])
def test_pictures_in_a_list_are_as_those_of_a_folder(dtype: type) -> None:
    pictures = [Image.fromarray(np.full((8, 8), value, dtype)) for value in (0, 257, 65535)]
    if dtype is np.uint16:
        with VideoReader(pictures) as reader:
            assert reader.read(range(3))[:, :, 0, 0].tolist() == [[value] * 3 for value in (0, 1, 255)]
    else:
        with pytest.raises(ValueError, match="frame 0 of the list: its pixels are .*, whose range is not known"):
            VideoReader(pictures)


def test_an_animation_given_as_a_list_of_itself_is_refused(tmp_path: Path) -> None:
    pictures = [Image.fromarray(numbered_frame(number)) for number in range(3)]
    pictures[0].save(tmp_path / "a.gif", save_all=True, append_images=pictures[1:])
    with Image.open(tmp_path / "a.gif") as animation:
        with pytest.raises(ValueError, match=r"the same frame each time; give the file itself, or frame\.copy\(\)"):
            VideoReader(list(ImageSequence.Iterator(animation)))
        with VideoReader([frame.copy() for frame in ImageSequence.Iterator(animation)]) as reader:
            assert frame_numbers(reader.read(range(3))) == [0, 1, 2]
    assert VideoReader(pictures[:1] * 4).num_frames == 4


@pytest.mark.parametrize("other", ["flow_x_{:05}.jpg", "{:05}.png", "{:05}.JPG", "{:05}_mask.jpg"])
def test_several_pictures_for_one_frame_are_refused(tmp_path: Path, other: str) -> None:
    folder = folder_of_frames(tmp_path / "f", 5)
    for number in range(1, 4):
        Image.fromarray(numbered_frame(number)).save(folder / other.format(number))
    with pytest.raises(VideoError, match=r"f: holds several pictures for one frame, such as .*0001.* and .*0001"):
        VideoReader(folder)


@pytest.mark.parametrize("names", [["s1_a", "s1_b", "s1_c"], ["a1", "a2", "b3", "b4"], ["1.500", "2.500", "3.500"]])
def test_names_of_other_kinds_are_one_video(tmp_path: Path, names: list[str]) -> None:
    folder = folder_of_frames(tmp_path / "f", 1, "cover.jpg")
    for name in names:
        Image.fromarray(numbered_frame(0)).save(folder / f"{name}.png")
    assert VideoReader(folder).num_frames == len(names) + 1


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_every_other_kind_of_pixels_is_shown_as_pillow_shows_it(tmp_path: Path, mode: str) -> None:
    folder = tmp_path / "f"
    folder.mkdir()
    picture = Image.fromarray(numbered_frame(3)).convert(mode)
    picture.save(folder / ("1.tif" if mode == "CMYK" else "1.png"))
    np.testing.assert_array_equal(first_frame(folder), np.asarray(picture.convert("RGB")))


def test_pictures_of_a_folder_over_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_of_frames(tmp_path / "f", 2)
    Image.new("RGB", (100, 100)).save(folder / "00003.jpg")
    monkeypatch.setattr(opening, "MAX_PIXELS", 64 * 96)
    with VideoReader(folder) as reader, pytest.raises(VideoError, match=r"00003\.jpg: has pictures of 100x100 pixels"):
        reader.read([2])


def test_other_files_among_the_frames_are_refused(tmp_path: Path) -> None:
    folder = folder_of_frames(tmp_path / "f", 1)
    os.mkfifo(folder / "2.png")  # would be waited for
    (folder / "3.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")  # would be run
    (folder / "4.png").mkdir()
    (folder / "5.png").symlink_to("nowhere.png")
    with VideoReader(folder) as reader:
        for index, cause in enumerate(("regular file", "cannot identify", "regular file", "regular file"), 1):
            with pytest.raises(
                VideoError, match=rf"{index + 1}\.png: this frame of the folder cannot be read.*{cause}"
            ):
                reader.read([index])


# --- animated WebP ---------------------------------------------------------------------------------------------------


def write_webp(path: Path, durations: list[int]) -> Path:
    """Writes an animated WebP whose frames carry their numbers, with milliseconds for each."""
    first, *others = (Image.fromarray(numbered_frame(number)) for number in range(len(durations)))
    first.save(path, save_all=True, append_images=others, duration=durations, lossless=True)
    return path


def test_animated_webp_is_a_video(tmp_path: Path) -> None:
    path = write_webp(tmp_path / "a.webp", [40] * 12)
    for source in (path, str(path), path.read_bytes()):
        with VideoReader(source) as reader:
            assert (reader.num_frames, reader.fps, reader.height, reader.width) == (12, 25, 64, 96)
            assert reader.backend == "pillow"
            assert reader.timestamps == pytest.approx([i / 25 for i in range(12)])
            assert reader.duration == pytest.approx(12 / 25)
            assert frame_numbers(reader.read([11, 0, 5, 5])) == [11, 0, 5, 5]
            assert reader.at_constant_rate([0, 7]) == [0, 7]


def test_webp_of_variable_rate(tmp_path: Path) -> None:
    with VideoReader(write_webp(tmp_path / "a.webp", [100, 100, 900, 100, 0])) as reader:
        assert reader.timestamps.tolist() == pytest.approx([0, 0.1, 0.2, 1.1, 1.2])
        assert frame_numbers(reader.read(range(5))) == list(range(5))


def test_damaged_webp_is_named_whatever_was_cut_or_changed(tmp_path: Path) -> None:
    data = write_webp(tmp_path / "a.webp", [40] * 6).read_bytes()
    rng = np.random.default_rng(0)
    pieces = [data[: int(size)] for size in rng.integers(1, len(data), 40)]
    for _ in range(40):
        changed = bytearray(data)
        for at in rng.integers(12, len(data), 8):
            changed[at] = rng.integers(256)
        pieces.append(bytes(changed))
    for piece in pieces:
        with (
            warnings.catch_warnings(action="ignore"),
            contextlib.suppress(VideoError),  # no other error
            VideoReader(piece) as reader,
        ):
            assert reader.read(range(min(reader.num_frames, 100))).dtype == torch.uint8
    with pytest.raises(VideoError, match=r"^<300 bytes>: cannot be decoded"):
        VideoReader(data[:300]).read([0])


def test_videos_are_recognised_by_their_name(tmp_path: Path) -> None:
    animated = write_webp(tmp_path / "a.webp", [40] * 2)
    Image.new("RGB", (8, 8)).save(tmp_path / "still.webp")
    os.mkfifo(tmp_path / "pipe.webp")
    videos = ["a.MP4", "a.gif", "a.flv", "a.ts", "a.mts", "a.m2ts", "a.3gp", "a.ogv", "a.vob", animated]
    pictures = ["a.JPG", "a.tiff", tmp_path / "still.webp"]
    others = ["a.txt", "mp4", ".mp4", "a.srt", "Thumbs.db", "a.json"]
    assert [path for path in [*videos, *pictures, *others] if looks_like_video(path)] == videos
    assert [path for path in [*videos, *pictures, *others] if looks_like_picture(path)] == pictures
    assert not looks_like_video(tmp_path / "pipe.webp")


@pytest.mark.parametrize(
    ("name", "codec"), [("a.gif", "gif"), ("a.flv", "libx264"), ("a.ts", "libx264"), ("a.3gp", "libx264")]
)
def test_listed_endings_open(tmp_path: Path, name: str, codec: str) -> None:
    with VideoReader(write_video(tmp_path / name, num_frames=6, codec=codec, fps=25)) as reader:
        assert frame_numbers(reader.read([5])) == [5]
