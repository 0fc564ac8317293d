"""What a folder holds: parts of a Parquet table, images, or texts; and which of its folders are classes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from desc_ext.data.messages import DataError, note
from desc_ext.messages import counted

__all__ = ["Member", "files_of", "members"]

_OF_SYSTEMS = ("thumbs.db", "desktop.ini")
# Names of folders that part a data set for training, which are no classes.
_SPLITS = ("train", "training", "test", "testing", "val", "valid", "validation", "dev")


class Member(NamedTuple):
    """A file of a folder, and the class that its folder is, or None."""

    file: Path
    kind: str | None


def files_of(folder: Path) -> list[Path]:
    """All files at any depth but hidden ones, in the order of their paths.

    Raises:
        DataError: there is none, or the folder cannot be read.
    """
    try:
        found = [file for file in _walk(folder) if file.is_file()]
    except OSError as error:
        raise DataError(f"the folder {folder} cannot be read: {error}") from error
    if not found:
        raise DataError(f"the folder {folder} holds no files")
    return found


def _walk(folder: Path) -> Iterable[Path]:
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith((".", "_")) or entry.name.lower() in _OF_SYSTEMS:
            continue
        # a link to a folder may lead back to where it lies
        if entry.is_dir() and not entry.is_symlink():
            yield from _walk(entry)
        else:
            yield entry


def members(folder: Path, files: list[Path]) -> list[Member]:
    """The files with their classes: the names of the folders they lie in; none where all lie in ``folder`` itself.

    Folders called train, test and the like are no classes, but may hold the folders of the classes.

    Raises:
        DataError: some files lie in folders and others beside them, or folders lie at different depths.
    """
    parents = [file.relative_to(folder).parts[:-1] for file in files]
    split = [parent[0] for parent in parents if parent and parent[0].lower() in _SPLITS]
    if split and len(split) == len(parents):
        parents = [parent[1:] for parent in parents]
        note(f"{folder}: {', '.join(dict.fromkeys(split))} are taken together, and are no classes")
    depths = {len(parent) for parent in parents}
    if len(depths) > 1 or max(depths) > 1:
        at = {len(parent): file for file, parent in zip(reversed(files), reversed(parents), strict=True)}
        if max(depths) == 1:
            n_loose = sum(not parent for parent in parents)
            them, their = ("it", "its") if n_loose == 1 else ("them", "their")
            raise DataError(
                f"{folder}: wanted files, or one folder of files for each class; got both, "
                f"{counted(n_loose, 'file')} beside folders, such as {at[0]} beside {at[1]}; move {them} into the "
                f"folder of {their} class, or out of {folder}"
            )
        raise DataError(
            f"{folder}: wanted files, or one folder of files for each class; got files at several depths, such as "
            f"{at[min(depths)]} and {at[max(depths)]}; name the folder right above those of the classes, or move the files up"
        )
    return [Member(file, parent[0] if parent else None) for file, parent in zip(files, parents, strict=True)]
