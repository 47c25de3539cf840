"""From a video file to frames, clips and a label. Needs the extra `video`: `pip install 'vov3d[video]'`."""

from vov3d.video._errors import VideoError
from vov3d.video.classifier import Look, Prediction, VideoClassifier
from vov3d.video.reader import VideoReader
from vov3d.video.sampling import (
    Views,
    clip_indices,
    crop_boxes,
    dense_indices,
    parse_views,
    random_dense_indices,
    segment_indices,
)
from vov3d.video.transforms import EvalTransform, TrainTransform, eval_transform, train_transform

__all__ = [
    "EvalTransform",
    "Look",
    "Prediction",
    "TrainTransform",
    "VideoClassifier",
    "VideoError",
    "VideoReader",
    "Views",
    "clip_indices",
    "crop_boxes",
    "dense_indices",
    "eval_transform",
    "parse_views",
    "random_dense_indices",
    "segment_indices",
    "train_transform",
]
