"""From a video file to frames, clips and a label. Needs the extra `video`: `pip install 'vov3d[video]'`."""

from vov3d.video._durations import median_duration
from vov3d.video._loading import plan_clips, plan_random_clip, stream_clips
from vov3d.video.classifier import Prediction, Predictions, Result, VideoClassifier, Window
from vov3d.video.decoders.base import VideoError
from vov3d.video.reader import VideoReader
from vov3d.video.sampling import (
    Views,
    clip_indices,
    clip_times,
    crop_boxes,
    dense_indices,
    parse_views,
    random_clip_indices,
    random_clip_times,
    random_dense_indices,
    segment_indices,
)
from vov3d.video.sources import PICTURE_ENDINGS, VIDEO_ENDINGS, Section, looks_like_picture, looks_like_video
from vov3d.video.transforms import EvalTransform, TrainTransform, eval_transform, train_transform

__all__ = [
    "PICTURE_ENDINGS",
    "VIDEO_ENDINGS",
    "EvalTransform",
    "Prediction",
    "Predictions",
    "Result",
    "Section",
    "TrainTransform",
    "VideoClassifier",
    "VideoError",
    "VideoReader",
    "Views",
    "Window",
    "clip_indices",
    "clip_times",
    "crop_boxes",
    "dense_indices",
    "eval_transform",
    "looks_like_picture",
    "looks_like_video",
    "median_duration",
    "parse_views",
    "plan_clips",
    "plan_random_clip",
    "random_clip_indices",
    "random_clip_times",
    "random_dense_indices",
    "segment_indices",
    "stream_clips",
    "train_transform",
]
