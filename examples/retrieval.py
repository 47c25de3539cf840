"""Finds clips with the same motion: the nearest neighbours among the vectors that `vov3d embed` wrote.

    vov3d embed clips -o clips.npz && vov3d embed query.mp4 -o query.npz
    python examples/retrieval.py clips.npz --query query.npz              # for each of its videos the nearest clips
    python examples/retrieval.py clips.npz --query clips/a.mp4 --topk 10  # a clip of the index; not in its results

Vectors are compared by the cosine, exactly, with faiss (`pip install faiss-cpu`).
"""

import argparse
import os
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vov3d.cli.arguments import positive

_ARRAYS = ("paths", "times", "shot_starts", "shot_ends", "vectors")
_SAME = 0.9999  # cosine of two vectors of one video, which differ only in rounding


@dataclass(frozen=True)
class Vectors:
    """Content of a file of `vov3d embed`.

    Attributes:
        paths: The videos; of a file with many windows a video, each as "a.mp4 at 3.50 s".
        vectors: float32 `(N, D)`.
        about: The model and its settings; only vectors with equal ones can be compared.
    """

    paths: list[str]
    vectors: np.ndarray
    about: dict[str, str]


def read_vectors(path: Path) -> Vectors:
    """Reads a file of `vov3d embed`.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; vov3d embed FILES -o {path} writes one")
    try:
        if path.suffix.lower() == ".parquet":
            import pyarrow.parquet

            table = pyarrow.parquet.read_table(path)
            vectors = np.stack(table["vector"].to_numpy())
            about = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
            times = table["time"].to_pylist() if "time" in table.column_names else None
            return _checked(Vectors(_named(table["path"].to_pylist(), times), vectors, about))
        with np.load(path) as found:
            about = {key: str(found[key]) for key in found if key not in _ARRAYS}
            times = found["times"].tolist() if "times" in found else None
            return _checked(Vectors(_named(found["paths"].tolist(), times), found["vectors"], about))
    except (KeyError, OSError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: is no file of vov3d embed ({error})") from error


def _checked(found: Vectors) -> Vectors:
    """Refuses vectors that cannot be compared."""
    if found.vectors.ndim != 2 or 0 in found.vectors.shape or len(found.vectors) != len(found.paths):
        raise ValueError(f"{len(found.paths)} paths and vectors {found.vectors.shape}, expected one a path")
    if not np.isfinite(found.vectors).all():
        row = int(np.flatnonzero(~np.isfinite(found.vectors).all(1))[0])
        raise ValueError(f"the vector of {found.paths[row]} is not finite")
    return found


def _named(paths: list[str], times: list[float] | None) -> list[str]:
    return paths if times is None else [f"{p} at {time:.2f} s" for p, time in zip(paths, times, strict=True)]


class Index:
    """An index of vectors for nearest-neighbour search.

    Args:
        vectors: `(N, D)`.

    Raises:
        ImportError: If faiss is not there.
    """

    def __init__(self, vectors: np.ndarray) -> None:
        try:
            import faiss
        except ImportError as error:
            raise ImportError("an index needs faiss: pip install faiss-cpu") from error
        self._index: Any = faiss.IndexFlatIP(vectors.shape[1])
        self._index.add(_unit(vectors))

    def nearest(self, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the nearest vectors of each query, nearest first.

        Args:
            queries: `(M, D)`.
            count: Neighbours of each query, at most as many as there are vectors.

        Returns:
            Cosines and numbers, both `(M, count)`.
        """
        return self._index.search(_unit(queries), min(count, self._index.ntotal))


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Scales vectors to length 1."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.ascontiguousarray(vectors / np.maximum(lengths, 1e-12), dtype=np.float32)


def main(argv: Sequence[str] | None = None) -> int:
    """Finds nearest neighbours; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("index", type=Path, metavar="VECTORS", help="vectors to search, a file of vov3d embed")
    parser.add_argument("--query", required=True, help="queries, a file of vov3d embed or a clip of the index")
    parser.add_argument("--topk", type=positive, default=5, metavar="K", help="clips for each query (default: 5)")
    args = parser.parse_args(argv)
    try:
        _search(read_vectors(args.index), args)
    except (ImportError, OSError, ValueError) as error:
        print(f"retrieval: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("retrieval: stopped", file=sys.stderr)
        return 130
    return 0


def _search(clips: Vectors, args: argparse.Namespace) -> None:
    if args.query in clips.paths:
        queries = Vectors([args.query], clips.vectors[[clips.paths.index(args.query)]], clips.about)
    elif Path(args.query).suffix.lower() in (".npz", ".parquet"):
        queries = read_vectors(Path(args.query))
    else:
        raise ValueError(
            f"{args.query}: is no clip of {args.index}; vov3d embed {args.query} -o query.npz makes a query"
        )
    for key, value in clips.about.items():
        if queries.about.get(key) != value:
            raise ValueError(
                f"{args.query} was made with {key} {queries.about.get(key)!r}, {args.index} with {value!r}: their "
                "vectors cannot be compared; embed both in the same way"
            )
    sizes = clips.vectors.shape[1], queries.vectors.shape[1]
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"{args.query} has vectors of {sizes[1]} numbers, {args.index} of {sizes[0]}: embed both in the same way"
        )
    by_name = args.query in clips.paths or Path(args.query).samefile(args.index)
    cosines, numbers = Index(clips.vectors).nearest(queries.vectors, args.topk + 1)
    for query, row, found in zip(queries.paths, cosines, numbers, strict=True):
        near = [(cosine, clips.paths[i]) for cosine, i in zip(row, found, strict=True)]
        others = [(cosine, path) for cosine, path in near if not _is_same(query, path, cosine, by_name)]
        print(query)
        print("\n".join(f"  {cosine:6.3f}  {path}" for cosine, path in others[: args.topk]))


def _is_same(query: str, path: str, cosine: float, by_name: bool) -> bool:
    """Returns whether a clip is the query itself.

    Args:
        query: A video.
        path: A video of the index.
        cosine: Of their vectors.
        by_name: Whether one file names both, and so from one folder; else relative names tell only with the vectors.
    """
    same_name = os.path.normpath(query) == os.path.normpath(path)
    return same_name and (by_name or os.path.isabs(path) or cosine > _SAME)


if __name__ == "__main__":
    sys.exit(main())
