"""Folders of models from elsewhere: whatever their files say, loading is a model or a clear error, in little memory.

Nothing in such a folder can name a file outside of it, and nothing in it is run.
"""

from __future__ import annotations

import copy
import hashlib
import json
import resource
import shutil
import warnings

import pytest
from helpers.saved_models import FOLDERS, rows
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from desc_ext.models import load_model

MODELS = [folder for folder in FOLDERS if folder.name != "checkpoint"]
X = rows()[0]
bounded = settings(max_examples=40, deadline=10_000, suppress_health_check=list(HealthCheck))
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, -1, 1, 2, 10**5, 10**9, 2**31, 2**63, 10**30]),
    st.floats(),
    st.sampled_from(["", "x", "../../x", "/etc/passwd", "cuda", "float64", "\0", "a" * 1000]),
    st.lists(st.sampled_from([0, 1, 3, 10**5, 10**9, "x", None]), max_size=4),
    st.dictionaries(st.sampled_from(["a", "params"]), st.integers(), max_size=2),
)


def places(value, path=()):
    """The way to every value of nested dictionaries and lists."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items)[:40]:
        yield from places(inner, (*path, key))


@st.composite
def altered(draw, config):
    config = copy.deepcopy(config)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from([path for path in places(config) if path]))
        place = config
        for key in path[:-1]:
            place = place[key]
        if draw(st.integers(0, 4)):
            place[path[-1]] = draw(VALUES)
        elif isinstance(place, dict):
            del place[path[-1]]
    return config


def loaded_or_refused(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            model = load_model(folder)
        except (ValueError, FileNotFoundError):
            return
        try:
            found = model.transform(X)
        except ValueError:
            return
    assert len(found) == len(X)


@pytest.mark.parametrize("folder", MODELS, ids=lambda f: f"{f.parent.name}-{f.name}")
def test_altered_configurations(tmp_path, folder):
    copied = shutil.copytree(folder, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())

    @bounded
    @given(altered(config))
    def check(content):
        (copied / "config.json").write_text(json.dumps(content))
        loaded_or_refused(copied)

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    check()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # KB


@pytest.mark.parametrize("name", ["desc", "self-expressive"])
def test_altered_tensors(tmp_path, name):
    """With a digest that fits, so that the bytes themselves are parsed."""
    [folder] = [f for f in MODELS if f.name == name][:1]
    copied = shutil.copytree(folder, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    content = (folder / config["tensor_file"]).read_bytes()

    @bounded
    @given(st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 255)), min_size=1, max_size=4))
    def check(changes):
        damaged = bytearray(content)
        for at, value in changes:
            damaged[at % len(damaged)] = value
        (copied / config["tensor_file"]).write_bytes(damaged)
        (copied / "config.json").write_text(
            json.dumps(config | {"sha256": hashlib.sha256(damaged).hexdigest()})
        )
        loaded_or_refused(copied)

    check()


@given(st.binary(max_size=300))
@bounded
def test_any_bytes_as_a_configuration(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises((ValueError, FileNotFoundError), match="config"):
        load_model(tmp_path)


@pytest.mark.parametrize("depth", [10_000, 1_000_000])
def test_a_configuration_of_brackets(tmp_path, depth):
    (tmp_path / "config.json").write_text("[" * depth)
    with pytest.raises(ValueError, match=r"config\.json is damaged"):
        load_model(tmp_path)


def test_sizes_that_fit_no_memory_are_refused_by_those_of_the_file(tmp_path):
    [folder] = [f for f in MODELS if f.name == "desc"][:1]
    copied = shutil.copytree(folder, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    for params in ("params", "resolved_params"):
        config[params]["hidden_sizes"] = [1_000_000, 1_000_000]
    (copied / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"is damaged: tensor '.*' has shape .*, wanted"):
        load_model(copied)


def test_nothing_is_unpickled(tmp_path):
    """A pickle in place of the tensors is refused for what it is."""
    [folder] = [f for f in MODELS if f.name == "desc"][:1]
    copied = shutil.copytree(folder, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    content = b"\x80\x04\x95cposix\nsystem\n(S'touch " + bytes(tmp_path / "ran") + b"'\ntR."
    (copied / config["tensor_file"]).write_bytes(content)
    (copied / "config.json").write_text(json.dumps(config | {"sha256": hashlib.sha256(content).hexdigest()}))
    with pytest.raises(ValueError, match="is damaged"):
        load_model(copied)
    assert not (tmp_path / "ran").exists()
