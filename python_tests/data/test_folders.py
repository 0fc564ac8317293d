"""Folders of images and of texts, written by Pillow and by hand."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from PIL import Image

from desc_ext.data import DataError, load_dataset
from desc_ext.features import resized_images

GREY = np.random.default_rng(0).integers(0, 256, (6, 8, 5), dtype=np.uint8)
COLOUR = np.random.default_rng(1).integers(0, 256, (6, 8, 5, 3), dtype=np.uint8)


def write(folder, stack, suffix="png", classes=None, **options):
    for i, image in enumerate(stack):
        path = folder / (classes[i] if classes else "") / f"{i}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path, **options)
    return folder


def noted(folder, **options):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = load_dataset(folder, **options)
    return found, " | ".join(str(one.message) for one in said)


@pytest.mark.parametrize(
    ("suffix", "options", "atol"),
    [
        ("png", {}, 0),
        ("tiff", {}, 0),
        ("webp", {"lossless": True}, 0),
        ("jpg", {"quality": 100, "subsampling": 0}, 3),
    ],
)
@pytest.mark.parametrize("stack", [GREY, COLOUR], ids=["grey", "colour"])
def test_pixels_are_those_of_the_array(tmp_path, suffix, options, atol, stack):
    if suffix == "webp" and stack is GREY:
        stack = np.repeat(GREY[..., None], 3, axis=3)  # WebP knows no grey
    np.save(tmp_path / "s.npy", stack)
    as_array = load_dataset(tmp_path / "s.npy")
    found, said = noted(write(tmp_path / "f", stack, suffix, **options))
    np.testing.assert_allclose(found.X * 255, as_array.X * 255, atol=atol + 1e-4)
    assert (found.image_shape, found.labels, said) == (as_array.image_shape, None, "")
    assert found.ids.tolist() == [f"{i}.{suffix}" for i in range(6)]
    np.testing.assert_allclose(found.images * 255, as_array.images * 255, atol=atol + 1e-4)


def test_folders_are_classes(tmp_path):
    kinds = ["ship", "cat", "cat", "ship", "cat", "dog"]
    found, said = noted(write(tmp_path, GREY, classes=kinds))
    order = [1, 2, 4, 5, 0, 3]  # cat, dog, ship
    np.testing.assert_allclose(found.X, GREY[order].reshape(6, -1) / 255, rtol=1e-6)
    assert (found.labels.tolist(), found.class_names, said) == (
        [0, 0, 0, 1, 2, 2],
        ("cat", "dog", "ship"),
        "",
    )
    with pytest.raises(DataError, match="whose folders are the classes, for which --labels"):
        load_dataset(tmp_path, labels="kind")


def test_parts_for_training_are_no_classes(tmp_path):
    write(tmp_path / "train", GREY[:4], classes=["a", "b", "a", "b"])
    write(tmp_path / "test", GREY[4:], classes=["a", "b"])
    found, said = noted(tmp_path)
    assert (found.class_names, np.bincount(found.labels).tolist()) == (("a", "b"), [3, 3])
    assert "test, train are taken together, and are no classes" in said


def test_other_modes(tmp_path):
    """Palettes, bits, sixteen bits and opacity."""
    Image.fromarray(COLOUR[0]).convert("P").save(tmp_path / "p.png")
    as_seen = np.asarray(Image.open(tmp_path / "p.png").convert("RGB"))
    Image.fromarray(np.dstack([COLOUR[1], np.full((8, 5), 9, np.uint8)])).save(tmp_path / "rgba.png")
    found, _ = noted(tmp_path)
    np.testing.assert_allclose(found.X[0].reshape(8, 5, 3) * 255, as_seen, atol=1e-4)
    np.testing.assert_allclose(found.X[1].reshape(8, 5, 3) * 255, COLOUR[1], atol=1e-4)
    grey = tmp_path / "grey"
    deep = np.random.default_rng(2).integers(0, 65536, (8, 5), dtype=np.uint16)
    grey.mkdir()
    Image.fromarray(deep).save(grey / "deep.png")
    Image.fromarray(GREY[0] > 127).save(grey / "bits.png")
    found, _ = noted(grey)
    assert found.image_shape == (8, 5)
    np.testing.assert_array_equal(found.X[0].reshape(8, 5), GREY[0] > 127)
    np.testing.assert_allclose(found.X[1].reshape(8, 5), deep / 65535, rtol=1e-6)


def test_a_camera_that_was_held_upright(tmp_path):
    image = Image.fromarray(COLOUR[0])
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.png", exif=exif)
    Image.fromarray(np.rot90(COLOUR[1], -1)).save(tmp_path / "b.png")
    found, _ = noted(tmp_path)
    assert found.image_shape == (5, 8, 3)
    np.testing.assert_allclose(found.X[0].reshape(5, 8, 3) * 255, np.rot90(COLOUR[0], -1), atol=1e-4)


def test_images_of_several_sizes(tmp_path):
    write(tmp_path, GREY[:4])
    Image.fromarray(GREY[0].repeat(2, axis=0)).save(tmp_path / "large.png")
    with pytest.raises(
        DataError, match=r"2 sizes, height x width 8x5 \(4 images\), 16x5 \(1 images\).*--image-size 8x5"
    ):
        load_dataset(tmp_path)
    found = load_dataset(tmp_path, image_size=(4, 5))
    assert found.image_shape == (4, 5)
    by_torch = resized_images(GREY[:4] / 255, (4, 5))
    np.testing.assert_allclose(found.X[:4].reshape(4, 4, 5), by_torch, atol=1 / 255)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.png", b"no image", r"x\.png cannot be read as an image"),
        ("x.png", None, r"x\.png cannot be read as an image"),
        (
            "x.pdf",
            b"%PDF",
            r"6 images \(\.png, .*are read\) and other files, such as \S*x\.pdf; move these out of the folder$",
        ),
        (
            "x.gif",
            b"GIF",
            r"and other files, such as \S*x\.gif; move these out of the folder, or save them as \.png$",
        ),
    ],
)
def test_files_that_are_no_images_are_named(tmp_path, name, content, message):
    write(tmp_path, GREY)
    if content is None:
        noise = np.random.default_rng(0).integers(0, 256, (8, 5, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / name)
        content = (tmp_path / name).read_bytes()[:-60]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_dataset(tmp_path)


@pytest.mark.parametrize(
    "damage", [lambda whole: b"no image", lambda whole: whole[:-60]], ids=["header", "pixels"]
)
@pytest.mark.parametrize(
    ("n_bad", "named"), [(2, "bad0.png, bad1.png;"), (5, "bad0.png, bad1.png, bad2.png and 2 more;")]
)
def test_all_damaged_images_are_counted_at_once(tmp_path, damage, n_bad, named):
    write(tmp_path, GREY)
    noise = np.random.default_rng(0).integers(0, 256, GREY[0].shape, dtype=np.uint8)
    for i in range(n_bad):
        Image.fromarray(noise).save(tmp_path / f"bad{i}.png")
        (tmp_path / f"bad{i}.png").write_bytes(damage((tmp_path / f"bad{i}.png").read_bytes()))
    n = len(GREY) + n_bad
    message = (
        f"{n_bad} of {n} images cannot be used: {named} mend them .* The first: .*bad0.png cannot be read"
    )
    with pytest.raises(DataError, match=message):
        load_dataset(tmp_path)


def test_several_pictures_in_a_file(tmp_path):
    first, *rest = [Image.fromarray(image) for image in GREY[:3]]
    first.save(tmp_path / "a.tiff", save_all=True, append_images=rest)
    with pytest.raises(DataError, match="holds 3 pictures; wanted one a file"):
        load_dataset(tmp_path)


# Texts


def texts(folder, names=("a", "b"), suffix=".txt", encode=lambda text: text.encode()):
    words = {"a": "ship sea wind harbour", "b": "cloud rain wind storm"}
    for name in names:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(5):
            (folder / name / f"{i}{suffix}").write_bytes(encode(words[name]))
    return folder


def test_texts_by_class_and_part(tmp_path):
    texts(tmp_path / "train", suffix="")
    texts(tmp_path / "test", suffix="")
    found, said = noted(tmp_path, dimension=2)
    assert (len(found.texts), found.class_names) == (20, ("a", "b"))
    assert "test, train are taken together" in said
    assert found.ids[0] == "test/a/0"


def test_encodings_of_texts(tmp_path):
    texts(tmp_path, encode=lambda text: text.encode("utf-16"))
    (tmp_path / "b" / "x.txt").write_bytes("cloud rain größe".encode("cp1252"))
    found, said = noted(tmp_path, dimension=2)
    assert found.texts[0] == "ship sea wind harbour"
    assert found.texts[-1] == "cloud rain größe"
    assert "1 of 11 texts are not UTF-8" in said


def test_what_is_neither_text_nor_image_is_refused(tmp_path):
    texts(tmp_path)
    (tmp_path / "b" / "x.bin").write_bytes(bytes(range(256)))
    with pytest.raises(DataError, match=r"x\.bin is neither a text nor an image"):
        load_dataset(tmp_path)


def test_folders_at_several_depths_are_refused(tmp_path):
    texts(tmp_path)
    (tmp_path / "readme.txt").write_text("about the data")
    with pytest.raises(
        DataError,
        match=r"got both, 1 file beside folders, such as \S*readme.txt beside \S*0.txt; move it into the folder of its",
    ):
        load_dataset(tmp_path)
    (tmp_path / "licence.txt").write_text("whose they are")
    with pytest.raises(
        DataError, match=r"2 files beside folders.*; move them into the folder of their class"
    ):
        load_dataset(tmp_path)
    (tmp_path / "b" / "more").mkdir()
    (tmp_path / "b" / "more" / "x.txt").write_text("cloud")
    with pytest.raises(
        DataError, match=r"several depths, such as \S*licence.txt and \S*x.txt; name the folder right above"
    ):
        load_dataset(tmp_path)


def test_an_empty_folder_and_a_circle_of_links(tmp_path):
    (tmp_path / "self").symlink_to(tmp_path)
    with pytest.raises(DataError, match="holds no files"):
        load_dataset(tmp_path)


# Texts in files


@pytest.mark.parametrize(
    ("name", "content", "options"),
    [
        ("t.csv", "Text;kind\n" + '"ship; sea";x\nrain sky;y\n' * 4, {"labels": "kind"}),
        ("t.tsv", "kind\ttext\n" + "x\tship; sea\ny\train sky\n" * 4, {"labels": "kind"}),
        ("t.csv", "kind,text \n" + "x,ship; sea\ny,rain sky\n" * 4, {"labels": "kind"}),
        ("t.csv", "\n\nkind,TEXT\n" + "x,ship; sea\ny,rain sky\n" * 4, {"labels": "0"}),
        ("t.csv", "kind,body\n" + "x,ship; sea\ny,rain sky\n" * 4, {"labels": "kind", "text": "body"}),
        (
            "t.jsonl",
            '\ufeff{"Text": "ship; sea", "kind": "x"}\n\n{"Text": "rain sky", "kind": "y"}\n' * 4,
            {"labels": "kind"},
        ),
        (
            "t.jsonl",
            '{"body": "ship; sea", "k": "x"}\n{"body": "rain sky", "k": "y"}\n' * 4,
            {"labels": "k", "text": "body"},
        ),
    ],
)
def test_texts_however_they_are_parted(tmp_path, name, content, options):
    if name.endswith("jsonl"):
        content = "\ufeff" * content.startswith("\ufeff") + content.replace("\ufeff", "")
    (tmp_path / name).write_text(content, encoding="utf-8")
    found, said = noted(tmp_path / name, dimension=2, **options)
    assert found.texts == ["ship; sea", "rain sky"] * 4
    assert (found.labels.tolist(), found.class_names, said) == ([0, 1] * 4, ("x", "y"), "")


def test_texts_without_a_known_word_are_named(tmp_path):
    (tmp_path / "t.csv").write_text("id,text\n" + "n,ship sea\nm,rain sky\n" * 4 + "q,nothing\n")
    found, said = noted(tmp_path / "t.csv", id="id", dimension=2)
    assert not found.X[-1].any()
    assert "1 of 9 texts have no word that the features know, so their rows are 0: q" in said


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": "a b"}\n{"text": null}\n', "line 2: wanted a text under 'text', got null"),
        ('{"text": "a b"}\n\n{"body": "c"}\n', r"line 3: has no 'text', only body; .* --text KEY"),
        ("[" * 100_000 + "\n", "line 1 is not JSON"),
        ('{"text": "a"}\n{"text": "b"}\n\xff\n', "line 3 is not JSON"),
        ("[1, 2]\n", "line 1: wanted an object with a text, got list"),
    ],
)
def test_lines_that_hold_no_text(tmp_path, content, message):
    (tmp_path / "t.jsonl").write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        load_dataset(tmp_path / "t.jsonl")
