"""Sets without clips and seeds below 0 are refused by name, before anything is written."""

import new_motions
import pytest
from reference.detection.data import write_scenes
from reference.localization.shapes import write_shapes

from vov3d.synthetic.masks import make_masked_set
from vov3d.synthetic.moving_scenes import make_scenes
from vov3d.synthetic.moving_shapes import make_set, write_videos
from vov3d.synthetic.moving_tasks import make_task_set, write_task_videos

MADE = [make_set, make_masked_set, make_scenes, lambda *args: make_task_set("regression", *args)]
WRITTEN = [
    write_videos,
    new_motions.write_new_motions,
    lambda folder, clips, seed: write_task_videos("regression", folder, clips, 0, seed),
    lambda folder, clips, seed: write_shapes(folder, clips, 0, seed),
    lambda folder, clips, seed: write_scenes(folder, clips, 0, seed),
]


@pytest.mark.parametrize(("clips", "seed"), [(0, 0), (-1, 0), (2, -1)])
def test_sets_need_clips_and_a_seed_from_0(clips, seed, tmp_path):
    cause = f"seed must be 0 or more, got {seed}" if seed else rf"\w+ must be 1 or more, got {clips}"
    for make in MADE:
        with pytest.raises(ValueError, match=cause):
            make(clips, seed)
    for write in WRITTEN:
        with pytest.raises(ValueError, match=cause):
            write(tmp_path / "set", clips, seed)
    assert not (tmp_path / "set").exists()


def test_shapes_that_are_too_small_leave_no_folder(tmp_path):
    with pytest.raises(ValueError, match="16 pixels or more, not 1 of 64"):
        write_videos(tmp_path / "set", 1, 0, num_frames=1)
    assert not (tmp_path / "set").exists()
