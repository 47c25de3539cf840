"""A video from an http(s) address into a temporary file."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

from vov3d.models._download import DownloadError, download
from vov3d.video._errors import VideoError
from vov3d.video._source import Media


class Download:
    """A temporary copy of what an address gives; `close` deletes it.

    Attributes:
        media: the file.
    """

    def __init__(self, address: str) -> None:
        """Downloads to the end.

        Raises:
            VideoError: naming the address, if it cannot be fetched whole or does not fit on the disk.
        """
        self._folder = TemporaryDirectory(prefix="vov3d-video-")
        try:
            ending = os.path.splitext(urlsplit(address).path)[1]
            path = Path(self._folder.name, f"video{ending if ending[1:].isalnum() else ''}")
            download(address, path)
        except (DownloadError, OSError, ValueError) as error:  # ValueError: an address that is none
            self.close()
            raise VideoError(
                f"{address}: cannot be downloaded ({error}); try it in a browser, or give a file on disk"
            ) from error
        self.media = Media(address, path=str(path), own=False)

    def close(self) -> None:
        """Deletes the copy."""
        self._folder.cleanup()
