"""Many images of a folder as rows on disk: decoded once, into shards that stay and that later runs read again.

Training reads every row some tens of times, and every run reads all rows several times before that: to check them, for their
scaling, for the first clusters. Decoding a small PNG takes a hundred times as long as reading its pixels, so images are
decoded once, and not where they are needed. And the rows of a fit are those of its beginning, whatever becomes of the files.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import PIL

from desc_ext.data.folders import Member
from desc_ext.data.image_files import BadImages, in_unit_range, look_of, pixels_of
from desc_ext.data.messages import DataError, note
from desc_ext.data.shards import npy_rows
from desc_ext.durable import replacing
from desc_ext.stored import FilePart, StoredRows

__all__ = ["decoded_rows", "headers_of"]

_VARIABLE = "DESC_EXT_CACHE"
_SHARD_BYTES = 2**25
_BLOCK_BYTES = (
    2**16
)  # images lie class by class where folders are classes: of ten, a window of mini-batches has all
_UNUSED_SECONDS = 30 * 24 * 3600  # after which the shards of a folder may go
_HEADERS, _LOCK, _USE = "headers.npy", "lock", "in-use"

# Of an image file: a number for its name, its size, when it was last changed (ns), and what look_of says.
_HEADER = np.dtype(
    [("name", "u8"), ("bytes", "i8"), ("changed", "i8"), ("grey", "?"), ("deep", "?"), ("height", "u4"), ("width", "u4")]
)  # fmt: skip


def headers_of(folder: Path, members: Sequence[Member]) -> np.ndarray:
    """What is known of each image before its pixels [n]: fields ``grey``, ``deep``, ``height``, ``width`` of :class:`Look`.

    Files are looked into, but those that are as they were when the shards of ``folder`` were written.

    Raises:
        DataError: files that are gone, are no images, or damaged ones.
    """
    headers = np.zeros(len(members), _HEADER)
    for i, member in enumerate(members):
        name = hashlib.blake2b(os.fsencode(member.file.relative_to(folder)), digest_size=8).digest()
        headers[["name", "bytes", "changed"]][i] = (int.from_bytes(name, "little"), *_status(member.file))
    known = _known_headers(folder)
    places = np.searchsorted(known["name"], headers["name"]).clip(max=max(len(known) - 1, 0))
    same = np.zeros(len(headers), bool)
    if len(known):
        found = known[places]
        same = np.logical_and.reduce([found[name] == headers[name] for name in ("name", "bytes", "changed")])
        headers[same] = found[same]
    bad = BadImages(folder, len(members))
    for i in np.flatnonzero(~same).tolist():
        with bad.gathering(members[i].file):
            headers[["grey", "deep", "height", "width"]][i] = tuple(look_of(members[i].file))
    bad.refuse()
    return headers


def decoded_rows(
    folder: Path, members: Sequence[Member], headers: np.ndarray, size: tuple[int, int], n_channels: int
) -> StoredRows:
    """The images of a folder as float32 rows in [0, 1], [n, H·W·C], with the bits of :func:`pixels_of`.

    They are kept as bytes (images of more than eight bits as float32), in shards of 32 MiB in a folder of
    ``$DESC_EXT_CACHE``, else of ``desc_ext`` in ``$XDG_CACHE_HOME`` or ``~/.cache``. A shard has its name only when it is
    whole, and the name says of which files it is: their names, sizes and times, and the version of Pillow. A run that was
    killed is gone on with, and after a change of files only the shards of these are written anew; those that no file
    belongs to any more go when no run reads them, and all shards of a folder when no run has read them for 30 days.

    Args:
        headers: of :func:`headers_of`.
        size: (height, width) that images are brought to.
        n_channels: 1 or 3.

    Raises:
        DataError: an image that is damaged or out of range, or has changed meanwhile.
        OSError: the shards cannot be written; the message says how to choose another place.
    """
    dtype = np.dtype(np.float32 if headers["deep"].any() else np.uint8)
    n_columns = math.prod(size) * n_channels
    entry = _entry(folder)
    shards = _Shards(
        entry / f"{size[0]}x{size[1]}x{n_channels}-{dtype}",
        members,
        headers,
        size,
        n_channels,
        n_columns,
        dtype,
    )
    use: _Use | None = None
    try:
        with _locked(entry):
            use = _Use(entry / _USE)
            os.utime(entry / _USE)
            if not shards.are_whole():
                _write(folder, entry, shards)
                if _flock(use.file, fcntl.LOCK_EX | fcntl.LOCK_NB):  # no run reads what has no file any more
                    shards.remove_others()
                _flock(use.file, fcntl.LOCK_SH)  # Linux gives the shared lock up to try for the other
                _remove_unused(entry)
    except DataError:
        raise
    except OSError as error:
        if not shards.are_whole():  # else a cache that may only be read has all that is wanted
            raise OSError(
                f"{folder}: its decoded images, {len(members) * n_columns * dtype.itemsize / 2**30:.2f} GiB, cannot be kept "
                f"in {entry}: {error}; make room there, or set {_VARIABLE} to another folder"
            ) from error
    parts = [_UsedPart.of(part, use) for part in npy_rows(shards.paths).parts]
    rows = StoredRows(parts, n_columns, dtype, _BLOCK_BYTES)
    return rows if dtype == np.float32 else rows.changed(in_unit_range, n_columns, np.dtype(np.float32))


class _Use:
    """The mark of a folder of shards that are read, which no other run then removes; in other processes, their own."""

    def __init__(self, path: Path) -> None:
        self._path, self.file = path, open(path, "a")  # noqa: SIM115 - held as long as rows are read
        _flock(self.file, fcntl.LOCK_SH)

    def __reduce__(self) -> tuple[Callable, tuple]:
        return _used, (self._path,)


def _used(path: Path) -> _Use | None:
    try:
        return _Use(path)
    except OSError:  # a cache that may only be read, which no run of this user removes
        return None


@dataclass(frozen=True)
class _UsedPart(FilePart):
    """A shard that no other run removes as long as its rows may be read."""

    use: _Use | None = None

    @classmethod
    def of(cls, part: Any, use: _Use | None) -> _UsedPart:
        """A whole file as such a part."""
        return cls(part.path, part.offset, part.n_rows, part.n_columns, part.dtype, part.changed, use)


@dataclass(frozen=True)
class _Shards:
    """Shards of the images of a folder, in the order of the images.

    Attributes:
        folder: where they lie.
    """

    folder: Path
    members: Sequence[Member]
    headers: np.ndarray
    size: tuple[int, int]
    n_channels: int
    n_columns: int
    dtype: np.dtype

    @property
    def places(self) -> list[slice]:
        """The images of each shard."""
        n = max(_SHARD_BYTES // (self.n_columns * self.dtype.itemsize), 1)
        return [slice(start, min(start + n, len(self.members))) for start in range(0, len(self.members), n)]

    @property
    def paths(self) -> list[Path]:
        """The files of the shards."""
        return [self._path(place) for place in self.places]

    def _path(self, place: slice) -> Path:
        digest = hashlib.sha256(f"{PIL.__version__} {place.stop - place.start} ".encode())
        digest.update(self.headers[place].tobytes())
        return self.folder / f"{digest.hexdigest()[:24]}.npy"

    def are_whole(self) -> bool:
        """Whether all are there."""
        return all(map(_is_whole, self.paths))

    def write(self, source: Path) -> None:
        """Writes those that are not there, of the images of the folder ``source``.

        Raises:
            DataError: images that are damaged, of which all are looked for, or some that have changed meanwhile.
        """
        self.folder.mkdir(exist_ok=True)
        bad = BadImages(source, len(self.members))
        for place in self.places:
            path = self._path(place)
            if _is_whole(path):
                continue
            rows = np.empty((place.stop - place.start, self.n_columns), self.dtype)
            n_bad = len(bad)
            for row, i in zip(rows, range(place.start, place.stop), strict=True):
                with bad.gathering(self.members[i].file):
                    self._decode(row, self.members[i].file, self.headers[i])
            if len(bad) > n_bad:
                continue
            header: Any = np.lib.format.header_data_from_array_1_0(rows)
            with replacing(path) as file:
                np.lib.format.write_array_header_1_0(file, header)
                file.write(rows.data)
        bad.refuse()

    def _decode(self, row: np.ndarray, file: Path, header: np.void) -> None:
        pixels = pixels_of(file, self.size, self.n_channels)
        row[:] = (in_unit_range(pixels) if self.dtype == np.float32 else pixels).reshape(-1)
        if _status(file) != (header["bytes"], header["changed"]):
            raise DataError(f"{file} has changed while it was read; start again when it no longer does")

    def remove_others(self) -> None:
        """Removes the shards of other files, and what a killed run left of one."""
        own = {path.name for path in self.paths}
        for file in self.folder.iterdir():
            if file.name not in own:
                file.unlink()


def _is_whole(path: Path) -> bool:
    """Whether a shard is there. One that a full disk cut short when the cache was copied is written anew."""
    try:
        npy_rows([path])
    except DataError:
        return False
    return True


def _write(folder: Path, entry: Path, shards: _Shards) -> None:
    """Headers, then the shards that are not there."""
    missing = sum(p.stop - p.start for p in shards.places if not _is_whole(shards._path(p)))
    wanted, free = missing * shards.n_columns * shards.dtype.itemsize, shutil.disk_usage(entry).free
    if wanted > free:
        raise OSError(f"{wanted / 2**30:.2f} GiB are wanted, and {free / 2**30:.2f} GiB are free")
    note(
        f"{folder}: {missing:,} of {len(shards.members):,} images are decoded, once, into {entry} "
        f"({wanted / 2**30:.2f} GiB), which later runs read again and you may remove; {_VARIABLE} names another place"
    )
    with replacing(entry / _HEADERS) as file:
        np.lib.format.write_array(file, np.sort(shards.headers, order="name"), allow_pickle=False)
    shards.write(folder)


# ---------------------------------------------------------------------- the place of the shards


def _entry(folder: Path) -> Path:
    """The folder for the shards of the images of ``folder``.

    Raises:
        OSError: nothing says where, and the user has no home folder.
    """
    if os.environ.get(_VARIABLE):
        root = Path(os.environ[_VARIABLE])
    else:
        root = Path(os.environ.get("XDG_CACHE_HOME") or _home() / ".cache") / "desc_ext"
    whole = folder.resolve()
    digest = hashlib.sha256(os.fsencode(whole)).hexdigest()[:16]
    return root.absolute() / "images" / f"{whole.name[:40]}-{digest}"


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError as error:  # a container may run under a number that is no user's
        raise OSError(
            f"there is no home folder to keep decoded images in; set {_VARIABLE} to a folder for them"
        ) from error


def _known_headers(folder: Path) -> np.ndarray:
    """The headers of the images whose shards were written, by their names; none where nothing usable is there."""
    with contextlib.suppress(OSError, ValueError, EOFError):
        known = np.load(_entry(folder) / _HEADERS, allow_pickle=False)
        if known.dtype == _HEADER and known.ndim == 1:
            return np.asarray(known)
    return np.zeros(0, _HEADER)


def _status(file: Path) -> tuple[int, int]:
    """Bytes of a file, and when it was last changed (ns)."""
    try:
        status = os.stat(file)
    except OSError as error:
        raise DataError(f"{file} cannot be read as an image: {error}") from error
    return status.st_size, status.st_mtime_ns


@contextlib.contextmanager
def _locked(entry: Path) -> Iterator[None]:
    """Holds the folder of shards, made if missing, for the process that writes: others wait, and find what it wrote."""
    entry.mkdir(mode=0o700, parents=True, exist_ok=True)  # what is in the images may be for their owner alone
    with open(entry / _LOCK, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            note(f"another run decodes images into {entry}; this one waits until it has ended")
            _flock(file, fcntl.LOCK_EX)
        except OSError:  # as _flock
            pass
        yield


def _flock(file: IO[str], operation: int) -> bool:
    """Whether the lock was had. Where the file system knows none, each process is on its own."""
    try:
        fcntl.flock(file, operation)
    except OSError:
        return False
    return True


def _remove_unused(entry: Path) -> None:
    """Removes the shards of other folders that no run has read for long."""
    for other in entry.parent.iterdir():
        with contextlib.suppress(OSError), open(other / _USE, "r+") as use:
            age = time.time() - os.fstat(use.fileno()).st_mtime
            if age > _UNUSED_SECONDS and _flock(use, fcntl.LOCK_EX | fcntl.LOCK_NB):
                shutil.rmtree(other)
