"""Texts: reading them against files that the tests write, their rows against tf-idf and SVD in NumPy, the known sets."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest

from desc_ext.data import KNOWN, DataError, DataNote, catalogue, load_dataset, read_documents
from desc_ext.data.delimited import lines_of_words
from desc_ext.features import TextFeatures

TEXTS = [
    "the red apple",
    "an apple, red!",
    "green pear tree",
    "pear green",
    "stone bridge",
    "bridge of stone",
]
KINDS = ["fruit", "fruit", "pear", "pear", "wall", "wall"]


def write_jsonl(path, texts=TEXTS, kinds=KINDS):
    lines = "".join(json.dumps({"text": t, "kind": k}) + "\n" for t, k in zip(texts, kinds, strict=True))
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(lines.encode()))
    else:
        path.write_text(lines + "\n")  # an empty line at the end
    return path


def write_folder(path):
    for i, (text, kind) in enumerate(zip(TEXTS, KINDS, strict=True)):
        (path / kind).mkdir(parents=True, exist_ok=True)
        (path / kind / f"{i}.txt").write_text(text)
    return path


def write_csv(path):
    rows = [f'{kind},"{text}"' for text, kind in zip(TEXTS, KINDS, strict=True)]
    path.write_text("\n".join(["kind,text", *rows]) + "\n", encoding="utf-8-sig")
    return path


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_a_text_a_line(tmp_path, ending):
    lines = [*TEXTS, "# of 7, 8 and 9 apples", "", '"stone, red" 5']
    path = tmp_path / "t.txt"
    path.write_bytes((ending.join(lines) + ending).encode())
    with pytest.warns(DataNote, match=r"t\.txt holds no table of numbers: its 8 lines are texts"):
        found = read_documents(path)
    assert found.texts == [line for line in lines if line]
    np.save(tmp_path / "y.npy", np.arange(8) % 2)
    with pytest.warns(DataNote):
        data = load_dataset(path, labels=tmp_path / "y.npy")
    np.testing.assert_array_equal(data.labels, np.arange(8) % 2)
    jsonl = tmp_path / "t.jsonl"
    jsonl.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines if line))
    np.testing.assert_array_equal(data.X, load_dataset(jsonl).X)
    (tmp_path / "one.txt").write_text("a green apple")
    with pytest.warns(DataNote):
        new = load_dataset(tmp_path / "one.txt", preparation=data.preparation)
    np.testing.assert_array_equal(new.X, data.preparation.text_features.transform(["a green apple"]))


@pytest.mark.parametrize(
    "content", ["a b\n1 2\n", "1;x\n2;y\n", "# kind\n3\n4\n", "kind,text\na,red apple\nb,green pear\n"]
)
def test_a_table_is_no_text_a_line(tmp_path, content):
    (tmp_path / "t.txt").write_text(content)
    assert lines_of_words(tmp_path / "t.txt") is None


def test_an_option_that_names_columns_makes_a_table(tmp_path):
    (tmp_path / "t.txt").write_text("name\tkind\nred apple\tfruit\ngreen apple\tpear\n")
    found = read_documents(tmp_path / "t.txt", text="name", labels="kind")
    assert (found.texts, found.class_names) == (["red apple", "green apple"], ("fruit", "pear"))
    with pytest.raises(DataError, match="kind"):
        load_dataset(tmp_path / "t.txt", drop="name")


# Rows


def corpus(n=40, seed=0):
    """Texts of words from three topics, and the topics."""
    rng = np.random.default_rng(seed)
    words = [[f"{name}{i}" for i in range(8)] for name in ("ship", "cloud", "metal")]
    topics = rng.integers(0, 3, n)
    return [" ".join(rng.choice(words[t], 9)) for t in topics], topics


def tfidf_by_hand(texts, fitted):
    """1 + log(count) times 1 + log((1 + n)/(1 + df)), rows of unit norm, over words in 3 to n/2 of the fitted texts."""
    counts = [
        [text.split().count(word) for word in sorted({w for t in fitted for w in t.split()})]
        for text in texts
    ]
    fitted_counts = np.array(
        [
            [text.split().count(word) for word in sorted({w for t in fitted for w in t.split()})]
            for text in fitted
        ]
    )
    df = (fitted_counts > 0).sum(0)
    kept = (df >= 3) & (df <= len(fitted) / 2)
    counts = np.array(counts, dtype=float)[:, kept]
    weights = np.where(counts > 0, 1 + np.log(np.maximum(counts, 1)), 0)
    weights *= np.log((1 + len(fitted)) / (1 + df[kept])) + 1
    norm = np.linalg.norm(weights, axis=1, keepdims=True)
    return weights / np.where(norm == 0, 1, norm)


@pytest.mark.parametrize("unit_rows", [True, False])
def test_rows_are_those_of_the_formula(unit_rows):
    texts, _ = corpus()
    others, _ = corpus(15, seed=1)
    others.append("nothing that is known")
    features = TextFeatures(dimension=14, unit_rows=unit_rows)
    rows, projected = features.fit_transform(texts), features.transform(others)
    weights, other_weights = tfidf_by_hand(texts, texts), tfidf_by_hand(others, texts)
    directions = np.linalg.svd(weights, full_matrices=False)[2][:14].T
    assert (directions.shape, (other_weights[-1] == 0).all()) == ((24, 14), True)
    for found, by_hand in ((rows, weights @ directions), (projected, other_weights @ directions)):
        assert found.dtype == np.float32
        if unit_rows:
            norm = np.linalg.norm(by_hand, axis=1, keepdims=True)
            by_hand = by_hand / np.where(norm == 0, 1, norm)
        # the signs of the singular directions are free; 14 of 24 words: scikit-learn's random range finder is exact
        np.testing.assert_allclose(found @ found.T, by_hand @ by_hand.T, atol=1e-5)
    assert (projected[-1] == 0).all()


def test_other_texts_have_no_say_in_the_space(tmp_path):
    texts, topics = corpus()
    others, kinds = corpus(30, seed=3)
    write_jsonl(tmp_path / "a.jsonl", texts, [f"t{t}" for t in topics])
    write_jsonl(tmp_path / "b.jsonl", others, [f"t{t}" for t in kinds])
    alone = load_dataset(tmp_path / "a.jsonl", "kind", dimension=5)
    both = load_dataset(
        tmp_path / "a.jsonl", "kind", external=tmp_path / "b.jsonl", external_labels="kind", dimension=5
    )
    np.testing.assert_array_equal(both.X, alone.X)
    np.testing.assert_array_equal(both.labels, topics)
    assert alone.external is None
    assert alone.of_text
    features = TextFeatures(5)
    features.fit_transform(texts)
    np.testing.assert_array_equal(both.external.X, features.transform(others))
    np.testing.assert_array_equal(both.external.labels, kinds)
    assert both.external.class_names == ("t0", "t1", "t2")


def test_text_and_numbers_do_not_mix(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", *[list(part) for part in (corpus()[0], map(str, corpus()[1]))])
    with pytest.raises(DataError, match="one is text, the other is not"):
        load_dataset(tmp_path / "a.jsonl", external="digits")


def test_external_images(tmp_path):
    np.save(tmp_path / "images.npy", np.zeros((4, 5, 5), np.uint8))
    found = load_dataset("digits", external=tmp_path / "images.npy")
    assert found.external.images.shape == (4, 5, 5)
    assert found.external.labels is None


# Files


@pytest.mark.parametrize("name", ["t.jsonl", "t.jsonl.gz", "t.csv", "t"])
def test_files_and_folders(tmp_path, name):
    write = {"t.csv": write_csv, "t": write_folder}.get(name, write_jsonl)
    found = read_documents(write(tmp_path / name), None if name == "t" else "kind")
    assert found.texts == TEXTS
    assert found.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert found.class_names == ("fruit", "pear", "wall")
    assert (found.name, found.source) == ("t", str(tmp_path / name))
    if name != "t":
        assert read_documents(tmp_path / name).labels is None


def test_a_folder_of_texts_has_no_classes(tmp_path):
    for i, text in enumerate(TEXTS):
        (tmp_path / f"{i}.txt").write_text(text)
    (tmp_path / ".hidden").write_text("not a text")
    found = read_documents(tmp_path)
    assert found.texts == TEXTS
    assert found.labels is None


def test_only_some_classes(tmp_path):
    found = read_documents(write_jsonl(tmp_path / "t.jsonl"), "kind", ["wall", "fruit"])
    assert found.texts == TEXTS[:2] + TEXTS[4:]
    assert found.class_names == ("fruit", "wall")


def test_a_csv_of_numbers_stays_one(tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n1,2\n3,4\n")
    assert load_dataset(tmp_path / "t.csv").X.tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("name", "content", "labels", "message"),
    [
        (
            "t.jsonl",
            '{"text": "a b"}\n{"text": 3}\n',
            None,
            "line 2: wanted a text under 'text', got 3",
        ),
        (
            "t.jsonl",
            '{"text": "a b"}\n',
            "kind",
            r"line 1: wanted a number or word under 'kind' \(--labels\), got only text",
        ),
        ("t.jsonl", '{"text": "a b"}\n[1]\n', None, "line 2: wanted an object .* got list"),
        ("t.jsonl", '{"text": "a b"\n', None, "line 1 is not JSON"),
        ("t.jsonl", '{"text": "a b"}\n', None, "has 1 texts; wanted 2 at least"),
        ("t.jsonl.gz", "not gzip", None, "damaged"),
        ("t.csv", "text,kind\na b,x\nc d\n", "kind", "line 3 has 1 field, but the header has 2"),
        (
            "t.csv",
            "text,kind\na b,x\nc d,y\n",
            "sort",
            r"no column 'sort' \(--labels\); its columns are text, kind",
        ),
        ("t.csv", "text,kind\n", None, "has no rows below its header"),
    ],
)
def test_bad_files_are_refused(tmp_path, name, content, labels, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        load_dataset(tmp_path / name, labels)


def test_what_else_is_refused(tmp_path):
    write_folder(tmp_path / "t")
    with pytest.raises(
        DataError, match="whose folders are the classes, for which --labels means nothing; leave it out"
    ):
        load_dataset(tmp_path / "t", "kind")
    with pytest.raises(DataError, match="does not exist"):
        load_dataset(tmp_path / "nowhere.jsonl")
    (tmp_path / "t.jsonl").write_text('{"text": "one two"}\n{"text": "three four"}\n')
    with pytest.raises(DataError, match="2 texts have no word that is in 3 of them"):
        load_dataset(tmp_path / "t.jsonl")


# Known data sets


def test_known_texts_by_name(tmp_path, monkeypatch):
    monkeypatch.delenv("DESC_EXT_DATA", raising=False)
    monkeypatch.setattr(catalogue, "data_folders", lambda data_dir=None: [data_dir])
    groups = KNOWN["20newsgroups"].class_names
    (tmp_path / "20newsgroups").mkdir()
    rng = np.random.default_rng(0)
    lines = [
        json.dumps(
            {"text": " ".join(rng.choice([f"word{j}" for j in range(12)], 4)), "label": groups[i % 20]}
        )
        for i in range(80)
    ]
    (tmp_path / "20newsgroups" / "20newsgroups.jsonl.gz").write_bytes(
        gzip.compress("\n".join(lines).encode())
    )
    whole, a, b = (load_dataset(f"20newsgroups{part}", data_dir=tmp_path) for part in ("", "-a", "-b"))
    assert (len(whole.X), len(a.X), len(b.X)) == (80, 40, 40)
    assert set(a.class_names) | set(b.class_names) == set(groups)
    assert not set(a.class_names) & set(b.class_names)
    assert a.name == "20newsgroups-a"
    names = [json.loads(line)["label"] for line in lines]
    assert [a.class_names[label] for label in a.labels] == [name for name in names if name in a.class_names]
    with pytest.raises(
        DataError, match=r"bbc-news was not found: its file \(bbc-news.jsonl.gz\) is in none of"
    ) as error:
        load_dataset("bbc-news", data_dir=tmp_path, download=True)
    assert "--download" not in str(error.value)


def test_bbc_news(known_data):
    bbc = known_data("bbc-news")
    assert bbc.X.shape == (KNOWN["bbc-news"].n, KNOWN["bbc-news"].n_columns) == (2225, 256)
    assert np.bincount(bbc.labels).tolist() == [510, 386, 417, 511, 401]
    assert bbc.class_names == KNOWN["bbc-news"].class_names
    np.testing.assert_allclose(np.linalg.norm(bbc.X, axis=1), 1, rtol=1e-5)
    assert bbc.images is bbc.X


def test_newsgroups_are_counted(known_data):
    folder = catalogue.find_folder(KNOWN["20newsgroups"])
    if folder is None:
        known_data("20newsgroups")  # skips
    for part in ("", "-a", "-b"):
        known = KNOWN[f"20newsgroups{part}"]
        found = read_documents(folder / known.documents, "label", known.class_names)
        assert len(found.texts) == known.n
        assert found.class_names == tuple(sorted(known.class_names))
