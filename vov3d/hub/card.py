"""Model cards: description of a network, use, published accuracy, cost, origin and licence."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from vov3d.hub.saving import describe
from vov3d.models import measure_budget
from vov3d.weights.tasks import make_task

DATASETS = {
    "k400": "Kinetics-400",
    "ssv1": "Something-Something V1",
    "ssv2": "Something-Something V2",
    "shapes": "moving shapes (vov3d.synthetic.moving_shapes)",
}

_CITATIONS = {
    "vov3d": """\
@article{lee2021diverse,
  title = {Diverse Temporal Aggregation and Depthwise Spatiotemporal Factorization for Efficient Video Classification},
  author = {Lee, Youngwan and Kim, Hyung-Il and Yun, Kimin and Moon, Jinyoung},
  journal = {IEEE Access},
  volume = {9},
  pages = {163054--163064},
  year = {2021},
  doi = {10.1109/ACCESS.2021.3132916}
}""",
    "x3d": """\
@inproceedings{feichtenhofer2020x3d,
  title = {X3D: Expanding Architectures for Efficient Video Recognition},
  author = {Feichtenhofer, Christoph},
  booktitle = {Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year = {2020}
}""",
}


def model_card(
    model: Any,
    place: str,
    label_names: Sequence[str] | None = None,
    source: Mapping[str, str] | None = None,
    transformers: bool = False,
) -> str:
    """Returns the README of a saved model, with the Hub's metadata in front.

    Args:
        model: A model made by `create_model`.
        place: The repository or folder that it will be loaded from.
        label_names: Class names in index order; those of the model if None.
        source: Origin of the weights: `file`, `sha256`, `format`.
        transformers: Adds how to load the model in transformers, for folders saved with `transformers=True`.

    Raises:
        ValueError: If the model cannot be saved, as in `save_pretrained`.
    """
    config = describe(model, label_names)
    cfg = {**config["pretrained_cfg"], "architecture": config["architecture"]}
    sections = [
        _metadata(cfg, place, transformers),
        f"# {_plain(place.rsplit('/', 1)[-1])}",
        _description(cfg, config),
        _use(cfg, place),
        _use_in_transformers(config, place) if transformers else "",
        _accuracy(cfg),
        _budget(config),
        _origin(cfg, source or {}),
        f"## Citation\n\n```bibtex\n{_CITATIONS[_paper(cfg)]}\n```",
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _paper(cfg: Mapping[str, Any]) -> str:
    return cfg["architecture"].split("_")[0]


def _dataset(cfg: Mapping[str, Any]) -> str | None:
    return DATASETS.get(cfg.get("label_set") or "")


def _metadata(cfg: Mapping[str, Any], place: str, transformers: bool) -> str:
    results = [
        EvalResult(
            task_type="video-classification",
            dataset_type=cfg["label_set"],
            dataset_name=_dataset(cfg) or cfg["label_set"],
            metric_type="accuracy",
            metric_name=name,
            metric_value=cfg[key],
        )
        for key, name in (("top1", "top-1"), ("top5", "top-5"))
        if cfg.get(key) is not None
    ]
    data = ModelCardData(
        license=cfg.get("license"),
        library_name="vov3d",
        pipeline_tag="video-classification",
        tags=["video-classification", "action-recognition", "3d-cnn", "timm", *["transformers"] * transformers],
        model_name=place.rsplit("/", 1)[-1] if results else None,
        eval_results=results or None,
    )
    return f"---\n{data.to_yaml()}\n---"


def _description(cfg: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    task = make_task(cfg.get("task"), cfg.get("heads"))
    classes = task.describe(config["num_classes"]) + (f" of {_dataset(cfg)}" if _dataset(cfg) else "")
    if task.name == "regression" and config.get("label_names"):
        classes += f" ({', '.join(map(_plain, config['label_names']))})"
    gives = {
        "single": "gives logits",
        "multilabel": "gives a logit for each label, whose sigmoid is the label's probability",
        "regression": "gives the values themselves",
        "multihead": f"gives the logits of its heads, {' before '.join(name for name, _ in task.heads)}",
    }[task.name]
    stride = cfg.get("frame_stride")
    length = f" of videos of {seconds:g} s" if (seconds := cfg.get("clip_seconds")) else ""
    clip = f"{cfg['num_frames']} frames, "
    clip += f"one in {stride} at 30 fps" if stride else f"one from each equal segment{length}"
    size = (cfg.get("test_input_size") or cfg["input_size"])[-1]
    paper = {"vov3d": "A VoV3D", "x3d": "An X3D"}[_paper(cfg)]
    link = f"[paper](https://arxiv.org/abs/{cfg['paper_ids'].split(':')[1]})"
    own = ("in_chans", "num_classes", "global_pool", "surgery")
    args = ", ".join(f"{k}={v!r}" for k, v in config["model_args"].items() if k not in own)
    return (
        f"{paper} ({link}) video classifier, `{cfg['architecture']}{f'({args})' if args else ''}`: {classes}. It takes"
        f" clips of {clip}, cropped to {size} x {size} pixels, and {gives}.{_surgery(config)}"
    )


def _surgery(config: Mapping[str, Any]) -> str:
    steps = [next(iter(step)) for step in config["model_args"].get("surgery", ())]
    done = {"factorize": "3D kernels were split in space and time", "fold_batchnorm": "batch norms were folded"}
    changes = " and ".join(dict.fromkeys(done[step] for step in steps))
    return f" Its {changes}; it loads like any other model." if changes else ""


def _plain(name: str) -> str:
    """Replaces the characters of a file's name that Markdown or HTML would interpret."""
    return re.sub(r"[^\w.,+=@() -]", "_", name)


def _quoted(place: str) -> str:
    """Returns a name as Python source in double quotes."""
    return json.dumps(place, ensure_ascii=False)


def _use(cfg: Mapping[str, Any], place: str) -> str:
    views = "{}x{}".format(*(cfg.get("views") or (1, 1)))
    most = ", topk=3" if cfg.get("task") in (None, "multihead") else ""
    return f"""## Use

Run `pip install "vov3d[video]"`, then classify a video with the frames, crops and class names that belong to the
weights:

```python
import vov3d

model = vov3d.from_pretrained({_quoted(place)})
print(vov3d.VideoClassifier(model, views="{views}")("clip.mp4"{most}))
```

`vov3d.from_pretrained({_quoted(place)}, features_only=True)` gives a backbone, `num_classes=...` a fresh classifier."""


def _use_in_transformers(config: Mapping[str, Any], place: str) -> str:
    kind = "AutoModelForVideoClassification" if config["num_classes"] else "AutoModel"
    has_pipeline = config["num_classes"] and config["pretrained_cfg"].get("task") != "multihead"
    pipe = f"""
print(pipeline("video-classification", model={_quoted(place)})("clip.mp4"))""" * bool(has_pipeline)
    imports = f"{kind}, AutoVideoProcessor" + ", pipeline" * bool(has_pipeline)
    return f"""## Use in transformers

`pip install "vov3d[transformers]"`; the same files, with the same outputs:

```python
import vov3d.adapters.transformers  # or trust_remote_code=True in each of the calls
from transformers import {imports}

model = {kind}.from_pretrained({_quoted(place)})
processor = AutoVideoProcessor.from_pretrained({_quoted(place)})
outputs = model(**processor("clip.mp4", return_tensors="pt")){pipe}
```"""


def _accuracy(cfg: Mapping[str, Any]) -> str:
    if cfg.get("top1") is None:
        return ""
    views = "{} clips x {} crops".format(*cfg["views"])
    size = (cfg.get("test_input_size") or cfg["input_size"])[-1]
    return f"""## Accuracy

As published, not measured again:

| data set | views | crop | top-1 | top-5 |
| --- | --- | --- | --- | --- |
| {_dataset(cfg)} | {views} | {size} | {cfg["top1"]} | {cfg["top5"]} |"""


def _budget(config: Mapping[str, Any]) -> str:
    cfg, args = config["pretrained_cfg"], {**config["model_args"], "num_classes": config["num_classes"]}
    size = (cfg.get("test_input_size") or cfg["input_size"])[-1]
    cost = measure_budget(config["architecture"], cfg["num_frames"], size, **args)
    stages = "\n".join(f"| {name} | {' x '.join(map(str, shape))} |" for name, shape in cost.stages)
    return f"""## Budget

One clip of {args["in_chans"]} x {cfg["num_frames"]} x {size} x {size}; multiply-adds of convolutions and linear layers:

| parameters | multiply-adds | activations |
| --- | --- | --- |
| {cost.params / 1e6:.2f} M | {cost.macs / 1e9:.2f} G | {cost.activations / 1e6:.1f} M |

| feature map | channels x frames x height x width |
| --- | --- |
{stages}"""


def _origin(cfg: Mapping[str, Any], source: Mapping[str, str]) -> str:
    lines = ["## Training data, origin and licence", ""]
    if dataset := _dataset(cfg):
        before = DATASETS.get(cfg.get("pretrained_on") or "")
        lines.append(f"- Trained on {dataset}" + (f", from weights trained on {before}." if before else "."))
    if cfg.get("origin_url") and cfg.get("tag"):
        lines.append(f"- Trained and published by the authors of {cfg['origin_url']}.")
    if source:
        made = f"- Converted from `{_plain(source['file'])}` (SHA-256 `{source['sha256']}`)"
        lines.append(f"{made}, tensor for tensor.")
    terms = cfg.get("license")
    if terms:
        lines.append(
            f"- Licence of the weights: {terms.upper()}" + (", not for commercial use." if "-nc" in terms else ".")
        )
    else:
        lines.append("- Licence of the weights: not stated with them.")
    return "\n".join(lines)
