"""Saves models in folders, converts them from and to other formats, and publishes them on the Hub with their cards.

A folder holds `model.safetensors`, `config.json` in timm's form with the video fields, and a card, as a repository of
the Hub does: `create_model("local-dir:folder", pretrained=True)` and `create_model("hf-hub:org/name", pretrained=True)`
read the same files.
"""

from vov3d.hub.conversion import convert, convert_state_dict
from vov3d.hub.publishing import from_pretrained, publish, push_to_hub
from vov3d.hub.saving import save_pretrained

__all__ = ["convert", "convert_state_dict", "from_pretrained", "publish", "push_to_hub", "save_pretrained"]
