"""Options: what signature, checks, tables and the command line make of a field."""

from __future__ import annotations

import inspect
import json
import pickle
import typing
import warnings
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
from sklearn.base import clone

from desc_ext.engine.estimator import Estimator
from desc_ext.engine.options import Option, estimator, option, option_fields, preset_names
from desc_ext.models import DEC, DESC, MODELS


@estimator
class Toy(Estimator):
    """A toy.

    {options}
    """

    method = "toy"
    presets: ClassVar = {
        "paper": {"size": 3, "rate": 0.5, "widths": (4, 2), "kind": "a", "flag": False, "length": None},
        "robust": {"size": 4, "rate": 0.1, "widths": (), "kind": "b", "flag": True, "length": 7},
    }

    preset: Literal["paper", "robust"] = option("values to start from", default="robust")
    size: Option[int] = option("a size", default=None, at_least=1, formerly="n")
    rate: Option[float] = option("a rate", default=None, above=0, below=1)
    widths: Option[tuple[int, ...]] = option("widths, odd or even", default=None, at_least=1)
    kind: Option[Literal["a", "b"]] = option("which one", default=None)
    flag: Option[bool] = option("whether", default=None)
    length: Option[int | None] = option("a length, or not", default=None, at_least=1)
    limit: int | None = option("a limit", default=2, at_least=0, at_most=9)


def test_signature():
    signature = inspect.signature(Toy)
    assert next(iter(signature.parameters)) == "n_clusters"
    assert signature.parameters["n_clusters"].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    assert all(
        parameter.kind is inspect.Parameter.KEYWORD_ONLY
        for name, parameter in signature.parameters.items()
        if name != "n_clusters"
    )
    hints = typing.get_type_hints(Toy.__init__)
    assert hints["kind"] == Literal["a", "b"] | None
    assert hints["size"] == int | None
    assert signature.parameters["limit"].default == 2


def test_presets_fill_the_gaps():
    resolved = Toy(3, rate=0.25, widths=[np.int64(5)])._resolve_options()
    found = {name: getattr(resolved, name) for name in preset_names(Toy)}
    assert found == {"size": 4, "rate": 0.25, "widths": (5,), "kind": "b", "flag": True, "length": 7}
    assert type(resolved.widths[0]) is int
    assert Toy(preset="paper")._resolve_options().length is None
    model = Toy(3)
    model._resolve_options()
    assert model.size is None  # what the user gave stays what it was


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "Toy: size must be an integer >= 1, got 0"),
        ({"size": True}, "size must be an integer >= 1, got True"),
        ({"size": 2.0}, "size must be an integer >= 1, got 2.0"),
        ({"rate": 0}, "rate must be a finite number > 0 and < 1, got 0"),
        ({"rate": 1}, "rate must be a finite number > 0 and < 1, got 1"),
        ({"rate": float("nan")}, "rate must be a finite number .* got nan"),
        ({"rate": "fast"}, "rate must be a finite number .* got 'fast'"),
        ({"widths": (3, 0)}, r"widths must be a tuple of integers >= 1, got \(3, 0\)"),
        ({"widths": 3}, "widths must be a tuple of integers >= 1, got 3"),
        ({"kind": "c"}, "kind must be one of 'a', 'b', got 'c'"),
        ({"kind": ["a"]}, r"kind must be one of 'a', 'b', got \['a'\]"),
        ({"flag": 1}, "flag must be True or False, got 1"),
        ({"preset": "best"}, "preset must be one of 'paper', 'robust', got 'best'"),
        ({"preset": None}, "preset must be one of 'paper', 'robust', got None"),
        ({"limit": 10}, "limit must be an integer >= 0 and <= 9, or None, got 10"),
        ({"verbose": 2}, "verbose must be one of 0, 1, got 2"),
    ],
)
def test_values_that_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Toy(**options)._resolve_options()


@pytest.mark.parametrize(
    "options",
    [
        {"rate": np.float32(0.5)}, {"size": np.int8(1)}, {"limit": None}, {"limit": 0}, {"verbose": True},
        {"widths": []}, {"length": 1}, {"flag": np.True_}, {"verbose": np.int64(0)}, {"verbose": np.False_},
    ],
)  # fmt: skip
def test_values_that_are_taken(options):
    Toy(**options)._resolve_options()


def test_table():
    lines = [line.split() for line in Toy.__doc__.splitlines()]
    for row in (
        ["size", "3", "4", "a", "size"],
        ["rate", "0.5", "0.1", "a", "rate"],
        ["widths", "4,2", "()", "widths,", "odd", "or", "even"],
        ["kind", '"a"', '"b"', "which", "one:", '"a",', '"b"'],
        ["length", "None", "7", "a", "length,", "or", "not"],
    ):
        assert row in lines
    assert ["limit:", "a", "limit.", "Default:", "2."] in lines
    assert max(map(len, Toy.__doc__.splitlines())) <= 120


def test_former_names_are_taken_with_a_warning():
    with pytest.warns(FutureWarning, match="Toy: n is called size now.*use size") as caught:
        model = Toy(n=5)
    assert caught[0].filename == __file__
    assert model.size == 5
    assert "n" not in inspect.signature(Toy).parameters
    assert "n" not in model.get_params()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert clone(model).size == 5
    with pytest.raises(TypeError, match="unexpected keyword argument 'm'"):
        Toy(m=5)
    with pytest.raises(TypeError, match="Toy: n is the former name of size; give one of them"):
        Toy(n=5, size=6)


def test_saved_folders_with_former_names_are_read(tmp_path):
    @estimator
    class Renamed(DEC):
        method = "renamed"
        presets: ClassVar = {name: values | {"gain": 1.0} for name, values in DEC.presets.items()}
        gain: Option[float] = option("a gain", default=None, formerly="louder")

    X = np.random.default_rng(0).normal(size=(40, 6))
    small = {"hidden_sizes": (8,), "pretrain_epochs": 1, "max_rounds": 1, "update_interval": 1}
    options = small | {"gain": 2.0, "random_state": 0, "checkpoint": tmp_path / "checkpoint"}
    model = Renamed(3, **options).fit(X)
    model.save(tmp_path / "model")
    for folder in ("model", "checkpoint"):
        config = tmp_path / folder / "config.json"
        content = config.read_text()
        assert '"gain"' in content
        config.write_text(content.replace('"gain"', '"louder"'))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the user did not write the old name
        loaded = Renamed.load(tmp_path / "model")
        again = Renamed(3, **options, resume=True).fit(X)
    assert loaded.gain == loaded.resolved_params_["gain"] == 2.0
    np.testing.assert_array_equal(loaded.predict(X), model.labels_)
    np.testing.assert_array_equal(again.embedding_, model.embedding_)


def test_saved_folders_without_a_later_option(tmp_path):
    """A model has the option's default; a checkpoint is refused, as its fit would go on in another way."""
    X = np.random.default_rng(0).normal(size=(40, 6))
    small = {
        "hidden_sizes": (8,),
        "pretrain_epochs": 1,
        "max_rounds": 1,
        "update_interval": 1,
        "random_state": 0,
    }
    model = DEC(3, **small, checkpoint=tmp_path / "checkpoint").fit(X)
    model.save(tmp_path / "model")
    for folder, options in (("model", ("params", "resolved_params")), ("checkpoint", ("options",))):
        path = tmp_path / folder / "config.json"
        config = json.loads(path.read_text())
        for part in options:
            del config[part]["n_init"], config[part]["feature_dim"]
        path.write_text(json.dumps(config))
    loaded = DEC.load(tmp_path / "model")
    assert loaded.resolved_params_ == model.resolved_params_
    assert loaded.resolved_params_["feature_dim"] == 500
    np.testing.assert_array_equal(loaded.predict(X), model.labels_)
    with pytest.raises(
        ValueError, match="feature_dim: unknown to the version of desc_ext that wrote it, 500 here"
    ):
        DEC(3, **small, checkpoint=tmp_path / "checkpoint", resume=True).fit(X)


def test_fields_that_are_no_options_are_refused():
    class Bad(Toy):
        speed: int = 3

    with pytest.raises(TypeError, match=r"Bad: speed would be an option without a meaning; .* ClassVar"):
        estimator(Bad)


@pytest.mark.parametrize(
    ("presets", "message"),
    [
        ({"paper": {"speed": 1}}, r"unknown are \['speed'\]"),
        ({"paper": {"limit": 1}, "robust": {}}, "the same in all presets"),
    ],
)
def test_presets_that_do_not_fit_are_refused(presets, message):
    with pytest.raises(TypeError, match=message):
        estimator(type("Bad", (Toy,), {"presets": presets, "__doc__": None}))


def test_numpy_values_become_pythons_own():
    resolved = Toy(flag=np.True_, size=np.int8(1))._resolve_options()._saved_params()
    assert resolved["flag"] is True
    assert type(resolved["size"]) is int


PRESETS = Toy.presets


@pytest.mark.parametrize(
    ("presets", "message"),
    [
        (
            {name: dict(list(values.items())[1:]) for name, values in PRESETS.items()},
            "no values for the options size",
        ),
        ({"mine": PRESETS["paper"]}, "preset is 'robust' by default, but its presets are 'mine'; declare"),
        (PRESETS | {"mine": PRESETS["paper"] | {"rate": 3}}, "preset 'mine' of Bad: rate must be .* got 3"),
    ],
)
def test_presets_that_would_fail_in_a_fit_are_refused(presets, message):
    with pytest.raises(TypeError, match=message):
        estimator(type("Bad", (Toy,), {"presets": presets, "__doc__": None}))


def test_a_class_may_have_presets_of_its_own():
    class Other(Toy):
        presets: ClassVar = Toy.presets | {"mine": Toy.presets["paper"] | {"size": 8}}

    for cls in (Other, estimator(Other)):
        assert cls(preset="mine")._resolve_options().size == 8
        with pytest.raises(ValueError, match="preset must be one of 'paper', 'robust', 'mine', got 'yours'"):
            cls(preset="yours")._resolve_options()
    # without a text of its own, the table is all it says
    assert "size" in Other.__doc__
    assert Other.__doc__.startswith("Other.\n")


def test_options_without_the_decorator_are_noticed():
    class Bare(Toy):
        gain: float = option("a gain", default=1.0)

    with pytest.raises(
        TypeError, match="Bare declares the options gain, but is not under the decorator @estimator"
    ):
        Bare()._resolve_options()


@pytest.mark.parametrize("cls", MODELS.values())
def test_every_estimator_says_all_it_takes(cls):
    """Table and list name every option, each preset has a value for the same ones, and each value passes its own check."""
    words = {line.split()[0].rstrip(":") for line in cls.__doc__.splitlines() if line.strip()}
    assert set(option_fields(cls)) <= words
    assert "{options}" not in cls.__doc__
    for preset in cls.presets:
        given = {name: value for name, value in cls.presets[preset].items() if value is not None}
        resolved: Any = cls(3, **{"preset": preset} | given)._resolve_options()
        assert resolved._saved_params() == cls(3, preset=preset)._resolve_options()._saved_params()
    for field in option_fields(cls).values():
        assert field.info.meaning
        assert not field.info.meaning.endswith(".")


def test_pickles_and_clones():
    model = DESC(4, hidden_sizes=(8,), random_state=1)
    assert pickle.loads(pickle.dumps(model)).get_params() == model.get_params() == clone(model).get_params()
    assert repr(model) == "DESC(hidden_sizes=(8,), n_clusters=4, random_state=1)"
