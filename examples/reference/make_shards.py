"""Packs the videos of a data set into webdataset shards, in parallel, with checksums.

    python -m reference.make_shards FOLDER --output shards --split train
    python -m reference.train --recipe finetune --data shards --output runs/mine

A shard holds KEY.mp4 beside KEY.json: the label, the number of its class, and where the video lay. Videos are drawn in
random order, files are copied as they are. Each shard is put in place whole, its SHA-256 beside it in the form of
`sha256sum`; the same command continues a stopped run, and --verify reads all of them again. The same videos and
settings give the same bytes.
"""

import argparse
import hashlib
import io
import json
import os
import random
import sys
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tqdm import tqdm

from reference.data.annotations import LABEL
from reference.data.lists import LAYOUTS, VideoList, described, read_list
from reference.data.sources import check_outside
from reference.training.stopping import run_resumable
from vov3d.cli.arguments import positive
from vov3d.files import make_folder, replacing
from vov3d.video import VIDEO_ENDINGS

_MB = 1_000_000


@dataclass(frozen=True)
class Entry:
    """A video of a shard.

    Attributes:
        path: The file.
        size: Its bytes.
        label: The name of its class.
        number: The number of its class.
    """

    path: Path
    size: int
    label: str
    number: int


@dataclass(frozen=True)
class Shard:
    """A shard to be written.

    Attributes:
        path: The tar file.
        first: Number of its first video, of which the keys count on.
        entries: Its videos.
    """

    path: Path
    first: int
    entries: tuple[Entry, ...]

    @property
    def checksum(self) -> Path:
        """The file that says its SHA-256."""
        return self.path.with_name(f"{self.path.name}.sha256")


def main(argv: Sequence[str] | None = None) -> int:
    """Makes shards; returns the exit status."""
    args = _parser().parse_args(argv)
    return run_resumable("make_shards", lambda: _make(args))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="list of videos, folder of classes, or folder of a data set with its lists")
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="FOLDER", help="where the shards go")
    parser.add_argument("--split", choices=("train", "val", "test"), help="where there are several; names the shards")
    parser.add_argument("--root", help="where the videos of a list lie (default: looked for beside it)")
    parser.add_argument("--layout", choices=LAYOUTS, help="default: recognised by its files")
    parser.add_argument("--classes", help="file of class names, or k400, ssv1, ssv2 (default: those of the data)")
    parser.add_argument("--labels-from", type=int, choices=(0, 1), help="number of the first class in a list")
    parser.add_argument("--partial", action="store_true", help="leave out videos of the list that are not there")
    parser.add_argument("--shard-mb", type=positive, default=1000, metavar="MB", help="of a shard (default: 1000)")
    parser.add_argument("--seed", type=int, default=0, help="of the order (default: 0)")
    parser.add_argument("--workers", type=positive, default=min(8, os.cpu_count() or 1), help="shards at once")
    parser.add_argument("--verify", action="store_true", help="read shards that are there again, and check them")
    return parser


def _make(args: argparse.Namespace) -> int:
    videos = read_list(
        args.data, args.root, args.layout, args.classes, args.split, args.partial, labels_from=args.labels_from
    )
    print(*described(videos), sep="\n", file=sys.stderr)
    entries = entries_of(videos, args.data)
    check_outside(args.output, args.data)
    make_folder(args.output)
    part = args.split or "all"
    shards = plan(entries, args.output, part, args.shard_mb * _MB, args.seed)
    _begin(args.output / f"{part}.json", shards, videos)
    todo = [shard for shard in shards if not is_whole(shard, args.verify)]
    if len(todo) < len(shards):
        print(f"make_shards: {len(shards) - len(todo)} of {len(shards)} shards are there", file=sys.stderr)
    with tqdm(total=sum(len(shard.entries) for shard in todo), unit="video", disable=None) as bar:
        for shard in _written(todo, args.workers):
            bar.update(len(shard.entries))
    size = sum(shard.path.stat().st_size for shard in shards)
    print(f"{len(entries)} videos in {len(shards)} shards, {size / _MB:.1f} MB: {args.output}/{part}-*.tar")
    return 0


def entries_of(videos: VideoList, name: str) -> list[Entry]:
    """Returns the videos of a list as they go into shards.

    Args:
        videos: The list.
        name: What errors call it.

    Raises:
        ValueError: For what shards cannot hold: parts of videos, folders of frames, several labels of a video, or
            names of classes that are other numbers.
    """
    if videos.kind != LABEL or not videos.labels:
        raise ValueError(
            f"{name}: shards take one label a video, and its list has {videos.kind if videos.labels else 'none'}"
        )
    if any(videos.sections):
        raise ValueError(f"{name}: its list names parts of longer videos: python -m reference.prepare cuts them out")
    wrong = [c for index, c in enumerate(videos.classes) if str(c).isdecimal() and str(c) != str(index)]
    if wrong:
        raise ValueError(f"{name}: class {str(wrong[0])!r} reads as another class's number; give names by --classes")
    found = []
    for path, number in zip(videos.paths, videos.labels, strict=True):
        if path.suffix.lower() not in VIDEO_ENDINGS or not path.is_file():
            raise ValueError(f"{path}: is no video file; python -m reference.prepare makes some of folders of frames")
        found.append(Entry(path, path.stat().st_size, str(videos.classes[number]), int(number)))
    return found


def plan(entries: Sequence[Entry], folder: Path, part: str, limit: int, seed: int) -> list[Shard]:
    """Divides videos, in random order, into shards of at most `limit` bytes, or of one video that is larger.

    Args:
        entries: The videos.
        folder: Where the shards go.
        part: What their names begin with.
        limit: Bytes of the videos of a shard.
        seed: Of the order.
    """
    order = sorted(entries, key=lambda entry: str(entry.path))
    random.Random(seed).shuffle(order)
    groups: list[list[Entry]] = []
    size = 0
    for entry in order:
        if not groups or size + entry.size > limit:
            groups.append([])
            size = 0
        groups[-1].append(entry)
        size += entry.size
    shards, first = [], 0
    for number, group in enumerate(groups):
        shards.append(Shard(folder / f"{part}-{number:06d}.tar", first, tuple(group)))
        first += len(group)
    return shards


def write_shard(shard: Shard) -> str:
    """Puts a shard in place, then its checksum; returns the SHA-256.

    Raises:
        OSError: If a video cannot be read, or is no longer as long as it was; the shard is then not there.
    """
    shard.checksum.unlink(missing_ok=True)
    with replacing(shard.path) as draft:
        with draft.open("wb") as file:
            hashed = _Hashed(file)
            with tarfile.open(fileobj=hashed, mode="w", format=tarfile.PAX_FORMAT) as tar:  # type: ignore[call-overload]
                for number, entry in enumerate(shard.entries, shard.first):
                    _add(tar, f"{number:08d}", entry)
        digest = hashed.sha256.hexdigest()
    with replacing(shard.checksum) as draft:
        draft.write_text(f"{digest}  {shard.path.name}\n")
    return digest


def is_whole(shard: Shard, verify: bool = False) -> bool:
    """Returns whether a shard and its checksum are there; with `verify`, whether they agree.

    Args:
        shard: The shard.
        verify: Reads it.
    """
    if not shard.path.is_file() or not shard.checksum.is_file():
        return False
    if not verify:
        return True
    with shard.path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if shard.checksum.read_text().split()[:1] == [digest]:
        return True
    print(f"make_shards: {shard.path} is damaged and made again", file=sys.stderr)
    return False


class _Hashed:
    """A file to write to, with the SHA-256 of what was written."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.sha256 = file, hashlib.sha256()

    def write(self, content: bytes) -> int:
        self.sha256.update(content)
        return self._file.write(content)

    def tell(self) -> int:
        return self._file.tell()


def _add(tar: tarfile.TarFile, key: str, entry: Entry) -> None:
    """Adds a video and what is known of it; nothing of the machine or the time goes into the headers."""
    info = tarfile.TarInfo(f"{key}{entry.path.suffix.lower()}")
    info.size = entry.size
    with entry.path.open("rb") as file:
        if os.fstat(file.fileno()).st_size != entry.size:
            raise OSError(f"{entry.path}: has changed while shards were made; start again in another folder")
        tar.addfile(info, file)
    name = os.path.join(entry.path.parent.name, entry.path.name).encode("utf-8", "backslashreplace").decode()
    about = json.dumps({"label": entry.label, "class": entry.number, "video": name}).encode()
    info = tarfile.TarInfo(f"{key}.json")
    info.size = len(about)
    tar.addfile(info, io.BytesIO(about))


def _written(shards: Sequence[Shard], workers: int) -> Iterator[Shard]:
    """Yields shards as they are written, several at once: hashing and copying need no lock of Python."""
    pool = ThreadPoolExecutor(workers)
    try:
        futures = {pool.submit(write_shard, shard): shard for shard in shards}
        for future in as_completed(futures):
            future.result()
            yield futures[future]
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(file: Path, shards: Sequence[Shard], videos: VideoList) -> None:
    """Notes what is made, or checks that the shards that are there are of the same videos and settings.

    Raises:
        ValueError: If they are not.
    """
    digest = hashlib.sha256()
    for shard in shards:
        rows = [(entry.path.parent.name, entry.path.name, entry.size, entry.label) for entry in shard.entries]
        digest.update(json.dumps([shard.path.name, rows]).encode())
    about: dict[str, Any] = {"videos": sum(len(shard.entries) for shard in shards), "shards": len(shards)}
    about |= {"classes": [str(name) for name in videos.classes], "plan": digest.hexdigest()}
    if file.exists():
        try:
            found = json.loads(file.read_text(encoding="utf-8")).get("plan")
        except (ValueError, AttributeError) as error:
            raise ValueError(f"{file}: is damaged ({error}); delete it and the shards beside it") from error
        if found != about["plan"]:
            raise ValueError(f"{file}: tells of shards of other videos or settings; name another folder")
        return
    if there := sorted(file.parent.glob(f"{file.stem}-*.tar")):
        raise ValueError(f"{there[0]}: is there without {file.name}, which says of what; name another folder")
    with replacing(file) as draft:
        draft.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
