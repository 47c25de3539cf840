"""Frames come out at the right size, place and scale."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from vov3d.video import EvalTransform, crop_boxes, eval_transform, train_transform

CFG = {
    "input_size": (3, 32, 32),
    "test_input_size": (3, 40, 40),
    "mean": (0.45, 0.40, 0.35),
    "std": (0.225, 0.25, 0.2),
    "interpolation": "bilinear",
    "sampling": "dense",
}


def noise(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_without_resizing_pixels_are_exact() -> None:
    frames = noise(4, 3, 40, 71)
    out = eval_transform(CFG, num_crops=3)(frames)
    assert out.shape == (3, 3, 4, 40, 40)
    assert out.dtype == torch.float32
    mean, std = (torch.tensor(CFG[key]).view(3, 1, 1, 1) for key in ("mean", "std"))
    for crop, (top, left) in zip(out, crop_boxes(40, 71, 40, 3)[1], strict=True):
        piece = frames[:, :, top : top + 40, left : left + 40].transpose(0, 1)
        torch.testing.assert_close(crop, (piece / 255 - mean) / std)


def test_upright_crops_run_down() -> None:
    frames = noise(2, 3, 60, 40)
    out = EvalTransform(CFG | {"mean": (0, 0, 0), "std": (1, 1, 1)}, num_crops=3)(frames)
    for crop, top in zip(out, (0, 10, 20), strict=True):
        torch.testing.assert_close(crop, frames[:, :, top : top + 40].transpose(0, 1) / 255)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_resizing_keeps_a_ramp_and_is_antialiased(interpolation: str) -> None:
    ramp = torch.arange(160, dtype=torch.uint8).expand(1, 3, 80, 160)
    resized = eval_transform(CFG | {"interpolation": interpolation}).resize(ramp)
    assert resized.shape == (1, 3, 40, 80)
    assert resized.dtype == torch.uint8
    inner = resized[0, 0, 20, 5:-5].float()
    torch.testing.assert_close(inner, 2 * torch.arange(5, 75) + 0.5, atol=1.0, rtol=0)
    stripes = ((torch.arange(320) % 4 == 1) * 255).to(torch.uint8).expand(1, 3, 160, 320)
    grey = eval_transform(CFG | {"interpolation": interpolation}).resize(stripes)[..., 5:-5].float()
    torch.testing.assert_close(grey, torch.full_like(grey, 255 / 4), atol=12, rtol=0)  # 127 without antialiasing


@pytest.mark.parametrize("size", [(80, 143), (30, 33)])
def test_without_antialiasing_resizing_is_that_of_the_published_loaders(size: tuple[int, int]) -> None:
    frames = noise(2, 3, *size)
    mean, std = (torch.tensor(CFG[key]).view(3, 1, 1) for key in ("mean", "std"))
    resized = eval_transform(CFG, antialias=False).resize(frames)
    published = F.interpolate((frames / 255 - mean) / std, resized.shape[-2:], mode="bilinear")
    found = (resized / 255 - mean) / std
    torch.testing.assert_close(found, published, atol=1.6 / 255 / 0.2, rtol=0)  # rounded to 8 bits
    if size[0] > 40:
        assert (found - (eval_transform(CFG).resize(frames) / 255 - mean) / std).abs().max() > 0.3


def test_training_without_antialiasing() -> None:
    frames = noise(2, 3, 90, 120)
    clips = []
    for antialias in (True, False):
        torch.manual_seed(0)
        clips.append(train_transform(CFG, scales=(36, 50), antialias=antialias)(frames))
    assert clips[0].shape == clips[1].shape
    assert not torch.equal(*clips)


def test_test_size_falls_back_to_the_input_size() -> None:
    for missing in (CFG | {"test_input_size": None}, {k: v for k, v in CFG.items() if k != "test_input_size"}):
        assert eval_transform(missing)(noise(2, 3, 50, 60)).shape == (1, 3, 2, 32, 32)


def test_training_treats_all_frames_alike_and_varies() -> None:
    transform = train_transform(CFG, scales=(36, 50))
    frames = noise(1, 3, 60, 80).expand(5, 3, 60, 80)
    torch.manual_seed(0)
    clips = [transform(frames) for _ in range(20)]
    assert all(clip.shape == (3, 5, 32, 32) and torch.equal(clip, clip[:, :1].expand_as(clip)) for clip in clips)
    assert len({clip.sum().item() for clip in clips}) == 20
    torch.manual_seed(0)
    assert torch.equal(transform(frames), clips[0])


def mirrored_share(transform) -> float:
    ramp = torch.arange(0, 160, 2, dtype=torch.uint8).expand(2, 3, 60, 80)
    clips = [transform(ramp) for _ in range(60)]
    return sum(float(clip[0, 0, 0, 0] > clip[0, 0, 0, -1]) for clip in clips) / 60


@pytest.mark.parametrize(
    ("change", "flip", "flips"),
    [
        ({}, None, True),
        ({"sampling": "segment"}, None, False),
        ({"sampling": "segment"}, True, True),
        ({}, False, False),
    ],
)
def test_mirroring_follows_the_sampling_or_the_argument(change: dict, flip: bool | None, flips: bool) -> None:
    torch.manual_seed(0)
    share = mirrored_share(train_transform(CFG | change, scales=(36, 50), flip=flip))
    assert 0.25 < share < 0.75 if flips else share == 0


def test_training_crops_reach_every_edge() -> None:
    transform = train_transform(CFG | {"mean": (0, 0, 0), "std": (1, 1, 1)}, scales=(34, 34), flip=False)
    rows = torch.arange(34, dtype=torch.uint8).view(1, 1, 34, 1).expand(1, 3, 34, 34)
    torch.manual_seed(0)
    assert {round(float(transform(rows)[0, 0, 0, 0]) * 255) for _ in range(60)} == {0, 1, 2}


def test_colours_change_alike_in_all_frames_and_some_clips_become_grey() -> None:
    plain = CFG | {"mean": (0, 0, 0), "std": (1, 1, 1)}
    frames = noise(1, 3, 32, 32).expand(4, 3, 32, 32)
    (same,) = {train_transform(plain, scales=(32, 32), flip=False)(frames)}
    transform = train_transform(plain, scales=(32, 32), flip=False, color=1)
    torch.manual_seed(0)
    clips = [transform(frames) for _ in range(60)]
    assert all(torch.equal(clip, clip[:, :1].expand_as(clip)) and 0 <= clip.min() <= clip.max() <= 1 for clip in clips)
    assert len({clip.mean().item() for clip in clips}) == 60
    assert not any(torch.equal(clip, same) for clip in clips)

    # of noise, channels agree only where the clip was made grey before the tint
    agreements = [torch.corrcoef(clip.flatten(1)).min() for clip in clips]
    assert 0.25 < sum(agreement > 0.8 for agreement in agreements) / 60 < 0.75


@pytest.mark.parametrize(
    ("call", "cause"),
    [
        (lambda: eval_transform(CFG | {"interpolation": "nearest"}), "'nearest'.*bilinear and bicubic"),
        (lambda: train_transform(CFG | {"interpolation": "lanczos"}), "'lanczos'"),
        (lambda: eval_transform(CFG, num_crops=2), "2 crops"),
        (lambda: train_transform(CFG, scales=(20, 40)), "no lower than the crop's 32"),
        (lambda: train_transform(CFG, scales=(50, 40)), "must rise"),
        (lambda: train_transform(CFG, scales=(36, 50), color=1.5), "color 1.5 must lie between 0"),
        (lambda: eval_transform(CFG)(torch.zeros(2, 3, 50, 50)), "float32"),
        (lambda: eval_transform(CFG)(noise(3, 50, 50)), r"\(3, 50, 50\)"),
        (lambda: eval_transform(CFG)(noise(2, 50, 60, 3)), r"\(T, 3, H, W\).*permute\(0, 3, 1, 2\)"),
        (lambda: eval_transform(CFG)(noise(2, 1, 50, 60)), r"\(T, 3, H, W\), got torch.uint8 \(2, 1, 50, 60\)"),
        (lambda: eval_transform(CFG)(noise(2, 3, 50, 60).numpy()), "in a tensor, got ndarray"),
        (lambda: train_transform(CFG, scales=(36, 50))(torch.zeros(2, 3, 50, 50)), "float32"),
        (lambda: train_transform(CFG, scales=(36, 50))(noise(2, 50, 60, 3)), r"permute\(0, 3, 1, 2\)"),
    ],
)
def test_bad_settings_are_refused(call, cause: str) -> None:
    with pytest.raises(ValueError, match=cause):
        call()


@settings(max_examples=25, deadline=None)
@given(height=st.integers(20, 90), width=st.integers(20, 90), seed=st.integers(0, 99), antialias=st.booleans())
def test_a_cut_for_training_is_the_same_in_either_memory_and_before_normalising(height, width, seed, antialias) -> None:
    transform = train_transform(CFG, scales=(32, 60), antialias=antialias)
    planes = noise(2, 3, height, width)
    results = []
    for frames in (planes, planes.contiguous(memory_format=torch.channels_last)):
        for way in (transform, lambda clip: transform.normalize(transform.cut(clip))):
            torch.manual_seed(seed)
            results.append(way(frames))
    assert results[0].shape == (3, 2, 32, 32)
    assert all(torch.equal(results[0], other) for other in results[1:])
