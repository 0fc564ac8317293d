"""Folders of images above 64 MiB: the rows that loading finds, on disk; runs that are killed, and files that change."""

from __future__ import annotations

import fcntl
import os
import pickle
import pwd
import shutil
import subprocess
import sys
import threading
import time
import warnings

import numpy as np
import pytest
from helpers.commands import ENVIRONMENT
from PIL import Image

from desc_ext.data import (
    DataError,
    DataNote,
    StoredRows,
    decoded,
    image_files,
    load_dataset,
    pictures,
    stored_rows,
)

pytestmark = pytest.mark.filterwarnings("ignore::desc_ext.data.DataNote")
N, H, W = 23, 9, 7
SHARD = 5  # images


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The folder of shards, of five images each."""
    monkeypatch.setenv("DESC_EXT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(decoded, "_SHARD_BYTES", SHARD * H * W)
    return tmp_path / "cache"


@pytest.fixture
def large(monkeypatch):
    """Makes every folder one whose images stay on disk."""
    return lambda: monkeypatch.setattr(pictures, "READ_WHOLE", 0)


def shards(cache):
    return {path.name: path.stat().st_ino for path in cache.rglob("*.npy") if path.name != "headers.npy"}


def write(folder, kind="grey", n=N):
    random = np.random.default_rng(0)
    for i in range(n):
        path = folder / "pictures" / ("cat", "dog", "ship")[i % 3] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        size = (H + i % 2, W) if kind == "sizes" else (H, W)
        pixels = random.integers(0, 256, (*size, 3) if kind == "colour" else size, dtype=np.uint8)
        if kind in ("deep", "deep and colour") and i == 4:
            pixels = random.integers(0, 65536, size, dtype=np.uint16)
        image = Image.fromarray(pixels)
        if kind == "deep and colour" and i == 5:
            image = image.convert("RGB")
        if kind == "palette":
            image = image.convert("P")
        image.save(path)
    return folder / "pictures"


@pytest.mark.parametrize("kind", ["grey", "colour", "deep", "deep and colour", "palette", "sizes"])
def test_rows_have_the_bits_of_those_in_memory(kind, tmp_path, large, cache):
    folder = write(tmp_path, kind)
    options = {"image_size": (H, W)} if kind == "sizes" else {}
    wanted = load_dataset(folder, **options)
    assert not cache.exists()
    large()
    with pytest.warns(DataNote, match=r"23 of 23 images are decoded, once, into .*cache"):
        found = load_dataset(folder, **options)
    for again in (found, load_dataset(folder, **options)):
        assert isinstance(again.X, StoredRows)
        assert (again.X.dtype, again.X.shape) == (np.float32, wanted.X.shape)
        assert np.asarray(again.X).tobytes() == wanted.X.tobytes()
        for index in (slice(3, 11), np.array([22, 0, 7, 7, 4]), -1):
            np.testing.assert_array_equal(again.X[index], wanted.X[index])
        flat = wanted.images.reshape(N, -1)
        np.testing.assert_array_equal(np.asarray(again.images), flat)
        np.testing.assert_array_equal(again.part(2, 9).images[:], flat[2:9])
        assert again.shape_of_images == wanted.images.shape[1:]
        blocks = {rows.block_bytes for rows in (again.X, again.images, again.part(2, 9).images)}
        assert blocks == {2**16}  # images lie class by class
        for name in ("ids", "labels"):
            np.testing.assert_array_equal(getattr(again, name), getattr(wanted, name))
        for name in ("name", "source", "class_names", "image_shape", "preparation"):
            assert getattr(again, name) == getattr(wanted, name)
    in_memory = np.asarray(stored_rows(folder, **options))
    np.testing.assert_array_equal(in_memory, flat)


def test_few_images_are_stored_rows_too(tmp_path, cache):
    folder = write(tmp_path, "colour")
    found, wanted = stored_rows(folder), load_dataset(folder)
    assert isinstance(found, StoredRows)
    assert not cache.exists()
    np.testing.assert_array_equal(np.asarray(found), wanted.images.reshape(N, -1))
    with pytest.raises(DataError, match="for which --columns means nothing"):
        stored_rows(folder, columns=["x"])
    np.save(tmp_path / "x.npy", np.zeros((2, 2)))
    for source in (tmp_path / "x.npy", np.load(tmp_path / "x.npy", mmap_mode="r")):
        with pytest.raises(DataError, match=r"image_size means .*leave it out"):
            stored_rows(source, image_size=(2, 2))


def test_a_second_run_looks_into_no_file(tmp_path, large, cache, monkeypatch):
    folder = write(tmp_path)
    large()
    wanted = np.asarray(load_dataset(folder).X)
    before = shards(cache)
    assert len(before) == -(-N // SHARD)
    for name in ("look_of", "pixels_of"):
        monkeypatch.setattr(decoded, name, None)
    with warnings.catch_warnings():
        warnings.simplefilter("error", DataNote)
        np.testing.assert_array_equal(np.asarray(load_dataset(folder).X), wanted)
    assert shards(cache) == before
    (next(cache.rglob("headers.npy"))).write_bytes(b"no headers")
    monkeypatch.setattr(decoded, "look_of", image_files.look_of)
    np.testing.assert_array_equal(np.asarray(load_dataset(folder).X), wanted)


@pytest.mark.parametrize("change", ["pixels", "time", "new", "gone", "size"])
def test_files_that_change_are_decoded_anew(change, tmp_path, large, cache):
    folder = write(tmp_path)
    large()
    before = np.asarray(load_dataset(folder).X)
    old = shards(cache)
    file = folder / "dog" / "10.png"
    options = {}
    if change == "pixels":
        Image.fromarray(np.full((H, W), 7, np.uint8)).save(file)
    elif change == "time":
        os.utime(file, ns=(1, 1))
    elif change == "new":
        Image.fromarray(np.full((H, W), 7, np.uint8)).save(folder / "ship" / "x.png")
    elif change == "gone":
        file.unlink()
    else:
        options = {"image_size": (5, 4)}
    found = load_dataset(folder, **options)
    new = shards(cache)
    wanted = [
        np.asarray(image_files.pixels_of(folder / name, found.image_shape, 1), np.float32).ravel() / 255
        for name in found.ids
    ]
    np.testing.assert_array_equal(np.asarray(found.X), wanted)
    kept = {name: inode for name, inode in new.items() if old.get(name) == inode}
    if change == "size":  # beside the others
        assert len(kept) == len(old)
        assert len(new) > len(old)
    elif change == "gone":  # those before it are what they were
        assert 0 < len(kept) < len(old)
    elif change == "new":  # at the end
        assert len(kept) == len(old) - 1
    else:
        assert len(kept) == len(old) - 1
        assert (np.asarray(found.X) != before).any() == (change == "pixels")
    assert change == "size" or len(new) == -(
        -len(found.X) // SHARD
    )  # no shard is left of what is no longer there


@pytest.mark.parametrize("left", [0, 60, -3])
def test_a_shard_that_was_cut_short_is_written_anew(left, tmp_path, large, cache):
    """As a cache that was copied to a full disk has them."""
    folder = write(tmp_path)
    large()
    wanted = np.asarray(load_dataset(folder).X)
    damaged = sorted(path for path in cache.rglob("*.npy") if path.name != "headers.npy")[1]
    damaged.write_bytes(damaged.read_bytes()[:left])
    np.testing.assert_array_equal(np.asarray(load_dataset(folder).X), wanted)


def test_rows_that_are_being_read_are_not_removed(tmp_path, large, cache):
    folder = write(tmp_path)
    large()
    first = load_dataset(folder).X
    wanted = np.asarray(first)
    Image.fromarray(np.full((H, W), 7, np.uint8)).save(folder / "dog" / "10.png")
    second = load_dataset(folder).X
    np.testing.assert_array_equal(np.asarray(first), wanted)
    assert (np.asarray(second) != wanted).any()
    assert len(shards(cache)) == -(-N // SHARD) + 1
    del first, second
    (folder / "dog" / "10.png").unlink()
    load_dataset(folder)
    assert len(shards(cache)) == -(-(N - 1) // SHARD)


def test_rows_that_another_process_was_given_are_not_removed(tmp_path, large, cache):
    folder = write(tmp_path)
    large()
    first = load_dataset(folder).X
    wanted = np.asarray(first)
    given = pickle.loads(pickle.dumps(first))
    del first
    Image.fromarray(np.full((H, W), 7, np.uint8)).save(folder / "dog" / "10.png")
    load_dataset(folder)
    np.testing.assert_array_equal(np.asarray(given), wanted)
    sent = pickle.dumps(given)
    del given
    shutil.rmtree(cache)
    with pytest.raises(OSError, match="is gone since it was opened"):
        pickle.loads(sent)[:2]


def test_rows_stay_though_they_were_found_while_others_were_read(tmp_path, large, cache):
    """The second run cannot remove what the first one reads; then the third must not remove what the second one reads."""
    folder = write(tmp_path)
    file, content = folder / "dog" / "10.png", (folder / "dog" / "10.png").read_bytes()
    large()
    first = load_dataset(folder).X
    Image.fromarray(np.full((H, W), 7, np.uint8)).save(file)
    second = load_dataset(folder).X
    wanted = np.asarray(second)
    del first
    file.write_bytes(content)
    third = load_dataset(folder).X
    np.testing.assert_array_equal(np.asarray(second), wanted)
    assert (np.asarray(third) != wanted).any()


def test_shards_that_no_run_reads_for_long_go(tmp_path, large, cache):
    large()
    for name in ("old", "read", "recent", "new"):
        write(tmp_path / name)
    load_dataset(tmp_path / "old" / "pictures")
    held = load_dataset(tmp_path / "read" / "pictures").X
    for file in cache.rglob("in-use"):
        os.utime(file, (1, time.time() - 31 * 24 * 3600))
    load_dataset(tmp_path / "recent" / "pictures")
    assert len(list((cache / "images").iterdir())) == 2  # without the old one
    load_dataset(tmp_path / "new" / "pictures")
    assert len(list((cache / "images").iterdir())) == 3
    assert np.asarray(held).shape == (N, H * W)


def test_an_image_that_goes_or_changes_while_it_is_decoded(tmp_path, large, cache, monkeypatch):
    folder = write(tmp_path)
    large()
    real = decoded.pixels_of

    def meanwhile(change):
        def pixels_of(file, *options):
            if file.name == "10.png" and change == "gone":
                file.unlink()
            found = real(file, *options)
            if file.name == "10.png":
                os.utime(file, ns=(1, 1))
            return found

        return pixels_of

    for change, message in (
        ("time", r"10.png has changed while it was read; start again"),
        ("gone", r"10.png cannot be read as an image: .*No such file"),
    ):
        monkeypatch.setattr(decoded, "pixels_of", meanwhile(change))
        with pytest.raises(DataError, match=message):
            load_dataset(folder)
    monkeypatch.setattr(decoded, "pixels_of", real)
    assert len(load_dataset(folder).X) == N - 1
    (folder / "dog" / "13.png").unlink()
    (folder / "dog" / "13.png").symlink_to(tmp_path / "nowhere.png")
    assert len(load_dataset(folder).X) == N - 2


@pytest.mark.parametrize("content", [b"no image", b"\x89PNG\r\n\x1a\n"])
def test_bad_images_are_named_as_in_memory(content, tmp_path, large):
    folder = write(tmp_path)
    (folder / "ship" / "bad.png").write_bytes(content)
    large()
    with pytest.raises(DataError, match=r"bad\.png cannot be read as an image"):
        load_dataset(folder)
    (folder / "ship" / "worse.png").write_bytes(content)
    with pytest.raises(
        DataError, match=rf"2 of {N + 2} images cannot be used: ship/bad\.png, ship/worse\.png; mend"
    ):
        load_dataset(folder)
    (folder / "ship" / "worse.png").unlink()
    (folder / "ship" / "bad.png").unlink()
    Image.fromarray(np.zeros((3, 3), np.uint8)).save(folder / "ship" / "small.png")
    with pytest.raises(DataError, match=r"2 sizes, height x width 9x7 \(23 images\), 3x3 \(1 images\)"):
        load_dataset(folder)


def test_images_with_damaged_pixels_are_all_named(tmp_path, large):
    folder = write(tmp_path)
    large()
    whole = {name: (folder / name).read_bytes() for name in ("cat/0.png", "ship/11.png")}
    for name, content in whole.items():
        (folder / name).write_bytes(content[:-40])
    with pytest.raises(DataError, match=rf"2 of {N} images cannot be used: {', '.join(whole)}; mend"):
        load_dataset(folder)
    for name, content in whole.items():
        (folder / name).write_bytes(content)
    assert len(load_dataset(folder).X) == N


KILLED = """
import os, signal, sys
from desc_ext.data import decoded, load_dataset, pictures
pictures.READ_WHOLE, decoded._SHARD_BYTES = 0, 5 * 9 * 7
where, wanted, calls = sys.argv[1], int(sys.argv[2]), []
owner, name = {"image": (decoded, "pixels_of"), "shard": (os, "replace"), "before": (os, "replace")}[where]
real = getattr(owner, name)
def killed(*arguments, **options):
    calls.append(name)
    if where == "before" and len(calls) == wanted:
        os.kill(os.getpid(), signal.SIGKILL)
    result = real(*arguments, **options)
    if len(calls) == wanted:
        os.kill(os.getpid(), signal.SIGKILL)
    return result
setattr(owner, name, killed)
load_dataset(sys.argv[3])
"""


@pytest.mark.parametrize(
    ("where", "call", "whole"),
    [("image", 3, 0), ("image", 13, 2), ("before", 1, 0), ("before", 3, 1), ("shard", 1, 0), ("shard", 4, 3)],
)
def test_a_run_that_is_killed_leaves_whole_shards_and_the_next_goes_on(
    where, call, whole, tmp_path, large, cache, monkeypatch
):
    """Killed in an image, and before and after a shard, or the headers (the first file), has its name."""
    folder = write(tmp_path)
    wanted = load_dataset(folder).X
    command = [sys.executable, "-c", KILLED, where, str(call), str(folder)]
    done = subprocess.run(command, env={**ENVIRONMENT, "DESC_EXT_CACHE": str(cache)}, capture_output=True)
    assert done.returncode == -9, done.stderr
    left = shards(cache)
    assert len(left) == whole
    large()
    read = []
    real = decoded.pixels_of
    monkeypatch.setattr(decoded, "pixels_of", lambda *given: read.append(given) or real(*given))
    found = load_dataset(folder).X
    assert np.asarray(found).tobytes() == wanted.tobytes()
    assert len(read) == N - whole * SHARD
    assert {name: inode for name, inode in shards(cache).items() if name in left} == left
    assert not list(cache.rglob("*.part"))


def test_two_processes_decode_once(tmp_path, cache):
    folder = write(tmp_path)
    script = KILLED.replace("load_dataset(sys.argv[3])", "load_dataset(sys.argv[3]); print(len(calls))")
    command = [sys.executable, "-c", script, "image", "100", str(folder)]
    environment = {**ENVIRONMENT, "DESC_EXT_CACHE": str(cache)}
    both = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) for _ in range(2)]
    found = [int(one.communicate()[0]) for one in both]
    assert sorted(found) == [0, N]


def test_a_run_that_waits_says_so(tmp_path, large, cache):
    folder = write(tmp_path)
    large()
    load_dataset(folder)
    with open(next(cache.rglob("lock")), "a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        threading.Timer(0.3, fcntl.flock, (held, fcntl.LOCK_UN)).start()
        with pytest.warns(DataNote, match=r"another run decodes images into .*; this one waits"):
            assert len(load_dataset(folder).X) == N


@pytest.mark.skipif(
    os.geteuid() == 0 and not os.path.exists("/proc"), reason="the first user may write anywhere"
)
def test_a_place_that_cannot_be_written_is_said_with_a_way_out(tmp_path, large, monkeypatch):
    folder = write(tmp_path)
    large()
    monkeypatch.setenv("DESC_EXT_CACHE", "/proc/none")
    with pytest.raises(
        OSError, match=r"its decoded images, 0.00 GiB, cannot be kept in /proc/none.*set DESC_EXT_CACHE"
    ):
        load_dataset(folder)
    monkeypatch.setenv("DESC_EXT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(decoded.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 1000}))
    with pytest.raises(OSError, match=r"GiB are wanted, and .* GiB are free; make room there"):
        load_dataset(folder)


def test_a_whole_cache_that_may_only_be_read(tmp_path, large, cache):
    """Files that cannot be opened for writing stand for a folder that the first user may write to all the same."""
    folder = write(tmp_path)
    large()
    wanted = np.asarray(load_dataset(folder).X)
    for name in ("lock", "in-use"):
        file = next(cache.rglob(name))
        file.unlink()
        file.mkdir()
    np.testing.assert_array_equal(np.asarray(load_dataset(folder).X), wanted)
    Image.fromarray(np.full((H, W), 7, np.uint8)).save(folder / "dog" / "10.png")
    with pytest.raises(OSError, match=r"cannot be kept in .*cache.*set DESC_EXT_CACHE"):
        load_dataset(folder)


def test_where_shards_are_kept(tmp_path, large, monkeypatch):
    folder = write(tmp_path)
    large()
    monkeypatch.delenv("DESC_EXT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    load_dataset(folder)
    assert len(list((tmp_path / "xdg" / "desc_ext" / "images").iterdir())) == 1
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    load_dataset(folder)
    [entry] = (tmp_path / "home" / ".cache" / "desc_ext" / "images").iterdir()
    assert entry.stat().st_mode & 0o77 == 0  # for the owner alone


def test_a_user_without_a_home(tmp_path, large, monkeypatch):
    """As a number that is no user's has none, in a container: few images need none, many say what to set."""
    folder = write(tmp_path)
    for name in ("DESC_EXT_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)

    def unknown(number):
        raise KeyError(number)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    assert load_dataset(folder).X.shape == (N, H * W)
    large()
    with pytest.raises(OSError, match=r"no home folder .*set DESC_EXT_CACHE"):
        load_dataset(folder)
