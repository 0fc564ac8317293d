"""Writes ``methods.json`` from the options' fields: ``python -m desc_ext.cli.methods``. A test compares the two."""

from __future__ import annotations

import json
import re
from typing import Any, get_origin

from desc_ext.cli.catalogue import METHODS_FILE
from desc_ext.cli.settings import FLAGS, LENGTHS, OF_THE_RUN
from desc_ext.engine.documentation import summary
from desc_ext.engine.fields import OptionField, wanted
from desc_ext.engine.options import option_fields, plain, preset_names
from desc_ext.models import MODELS

__all__ = ["describe_classes", "main"]

# What several whole numbers look like on the command line.
_USUAL = "500,500,1000"
_EXAMPLES = {"image_shape": "28,28 or 3,32,32", "channels": "16,32,64", "kernels": "5,5,3"}


def describe_classes() -> dict[str, dict[str, Any]]:
    """The content of the file."""
    return {
        name: {
            "class": cls.__name__,
            "summary": summary(cls),
            "predicts": hasattr(cls, "predict"),
            "images": getattr(cls()._resolve_options(), "image_network", "dense") != "dense",
            "presets": list(cls.presets),
            "preset": option_fields(cls)["preset"].default if cls.presets else None,
            "options": _options(cls),
        }
        for name, cls in MODELS.items()
    }


def _options(cls: Any) -> list[dict[str, Any]]:
    fields, of_presets = option_fields(cls), set(preset_names(cls))
    length = next((name for name in LENGTHS if name in fields), None)
    flags = FLAGS | ({} if length is None else {length: "--epochs"})
    return [
        {
            "name": name,
            "values": _values(field),
            "default": None if name in of_presets else plain(field.default),
            "presets": {preset: plain(values[name]) for preset, values in cls.presets.items()}
            if name in of_presets
            else None,
            "meaning": field.info.meaning,
            "flag": flags.get(name),
        }
        for name, field in fields.items()
        if name not in OF_THE_RUN
    ]


def _values(field: OptionField) -> str:
    """Values as the command line takes them: Python's quotes and capitals are none of its words."""
    if field.name == "external":
        return "the name of a data set, or a file"
    kinds = [kind for kind in field.alternatives if kind in (int, float, str, bool) or get_origin(kind)]
    text = wanted(field, kinds)
    for python, word in (("'", ""), ("True or False", "true or false"), ("None", "none"), ("str", "a word")):
        text = text.replace(python, word)
    example = _EXAMPLES.get(field.name, _USUAL)
    return re.sub(r"a tuple of ((?:odd )?integers[^,]*)", rf"\1 such as {example}", text)


def main() -> None:
    """Writes the file."""
    content = json.dumps(describe_classes(), indent=1, ensure_ascii=False)
    METHODS_FILE.write_text(content + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
