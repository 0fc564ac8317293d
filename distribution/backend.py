"""The build backend: scikit-build-core's, but for torch, which is asked for only where none is installed.

The operators are compiled against the headers of some torch from 2.11 on; by its stable ABI the library then runs beside
any other. Where the environment that pip installs into has one, a second torch of several gigabytes for the build would be
downloaded for nothing. pip runs the build by the Python of that environment, whose folders ``sysconfig`` knows in spite of
the isolation; CMakeLists.txt looks there too. Other installers build in an environment of their own, and get a torch there.
"""

from __future__ import annotations

import importlib.metadata
import re
import sysconfig
from typing import Any

from scikit_build_core import build as _build
from scikit_build_core.build import (
    build_editable,
    build_sdist,
    build_wheel,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

OLDEST_TORCH = (2, 11)


def get_requires_for_build_wheel(config_settings: dict[str, Any] | None = None) -> list[str]:
    """scikit-build-core's requirements, and torch where the environment has none that is new enough."""
    return [*_build.get_requires_for_build_wheel(config_settings), *torch_requirement()]


def get_requires_for_build_editable(config_settings: dict[str, Any] | None = None) -> list[str]:
    """As of a wheel."""
    return [*_build.get_requires_for_build_editable(config_settings), *torch_requirement()]


def torch_requirement(folders: list[str] | None = None) -> list[str]:
    """``torch>=2.11``, or nothing where one of the ``folders`` (those of this Python's packages) holds such a torch."""
    if folders is None:
        folders = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    for found in importlib.metadata.distributions(name="torch", path=folders):
        numbers = re.match(r"(\d+)\.(\d+)", found.version)
        if numbers and tuple(map(int, numbers.groups())) >= OLDEST_TORCH:
            return []
    return ["torch>={}.{}".format(*OLDEST_TORCH)]
