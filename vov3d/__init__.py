"""Efficient video 3D CNNs: VoV3D, X3D and their building blocks.

`import vov3d` is fast: a name's module is imported when the name is first used. The models are registered in timm as
soon as both are imported, in either order. `VideoClassifier` needs the extra `video`, files for other runtimes need
the extra `deploy`.
"""

from __future__ import annotations

import sys
from importlib import import_module

TYPE_CHECKING = False  # true for type checkers; importing typing would take longer than everything else here
if TYPE_CHECKING:
    from typing import Any

    from vov3d.deploy import export, load_exported, optimize_for_inference, streaming
    from vov3d.hub import convert, convert_state_dict, from_pretrained, publish, push_to_hub, save_pretrained
    from vov3d.interpret import explain
    from vov3d.labels import class_names, load_labels
    from vov3d.layers import TOSA, ClassifierHead3d, ConvNormAct3d, D2plus1D, SqueezeExcite3d, set_conv_forms
    from vov3d.live import StreamClassifier
    from vov3d.memory import keep_freed_memory
    from vov3d.models import (
        X3D,
        VideoPretrainedCfg,
        VoV3D,
        WeightsError,
        create_model,
        is_model,
        list_models,
        list_pretrained,
        measure_budget,
        model_entrypoint,
    )
    from vov3d.surgery import factorize, fold_batchnorm, freeze_batchnorm, recalibrate, replace_blocks
    from vov3d.video import VideoClassifier

__version__ = "0.1.0"

__all__ = [
    "TOSA",
    "X3D",
    "ClassifierHead3d",
    "ConvNormAct3d",
    "D2plus1D",
    "SqueezeExcite3d",
    "StreamClassifier",
    "VideoClassifier",
    "VideoPretrainedCfg",
    "VoV3D",
    "WeightsError",
    "__version__",
    "class_names",
    "convert",
    "convert_state_dict",
    "create_model",
    "explain",
    "export",
    "factorize",
    "fold_batchnorm",
    "freeze_batchnorm",
    "from_pretrained",
    "is_model",
    "keep_freed_memory",
    "list_models",
    "list_pretrained",
    "load_exported",
    "load_labels",
    "measure_budget",
    "model_entrypoint",
    "optimize_for_inference",
    "publish",
    "push_to_hub",
    "recalibrate",
    "replace_blocks",
    "save_pretrained",
    "set_conv_forms",
    "streaming",
]

# The public names of each room, which is imported when one of them is first used.
_ROOMS = {
    "adapters": "",
    "deploy": "export load_exported optimize_for_inference streaming",
    "hub": "convert convert_state_dict from_pretrained publish push_to_hub save_pretrained",
    "interpret": "explain",
    "labels": "class_names load_labels",
    "layers": "TOSA ClassifierHead3d ConvNormAct3d D2plus1D SqueezeExcite3d set_conv_forms",
    "live": "StreamClassifier",
    "memory": "keep_freed_memory",
    "models": "X3D VideoPretrainedCfg VoV3D WeightsError create_model is_model list_models list_pretrained"
    " measure_budget model_entrypoint",
    "surgery": "factorize fold_batchnorm freeze_batchnorm recalibrate replace_blocks",
    "video": "VideoClassifier",
}
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name in _ROOM_OF:
        globals()[name] = found = getattr(import_module(f"vov3d.{_ROOM_OF[name]}"), name)
        return found
    if name in _ROOMS:
        return import_module(f"vov3d.{name}")
    raise AttributeError(f"module 'vov3d' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_ROOMS})


class _Finder:
    """Registers the models as soon as timm is imported: timm has no plug-ins, and importing it takes seconds.

    It follows the imports of timm and of our modules, and acts once timm is imported and no module of ours is partly
    imported.
    """

    def __init__(self) -> None:
        self.importing = 0

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """Returns the spec of the other finders, with a loader that reports the end of the import."""
        if name != "timm" and not name.startswith("vov3d."):
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        spec: Any = next(filter(None, (finder.find_spec(name, path, target) for finder in others)), None)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: Any) -> None:
                self.importing += 1
                try:
                    execute(module)
                finally:
                    self.importing -= 1
                if not self.importing and "timm" in sys.modules:
                    import_module("vov3d.models")

            spec.loader.exec_module = exec_module
        return spec


if "timm" in sys.modules:
    import_module("vov3d.models")
else:
    sys.meta_path.insert(0, _Finder())
