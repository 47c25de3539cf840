"""Labels a camera, an address or a file as it runs. Needs the extra `video`: `pip install 'vov3d[video]'`."""

from vov3d.live.classifier import StreamClassifier
from vov3d.live.source import Captured, LiveSource

__all__ = ["Captured", "LiveSource", "StreamClassifier"]
