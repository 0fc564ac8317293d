"""Long search for bytes on which a reader breaks its promise, by atheris (libFuzzer for Python): ``make fuzz``.

python readers.py SECONDS            # for each kind of file
python readers.py SECONDS t.csv ...  # for these samples of helpers.reading
python readers.py crash-... t.csv    # once more the bytes that broke a promise, which a search leaves in build/
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[1]))
with atheris.instrument_imports(include=["desc_ext.data", "scipy.io.matlab", "numpy.lib", "PIL", "csv"]):
    from helpers.reading import read, samples


def search(what: str, name: str) -> None:
    content = samples()[name]
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        (corpus / "sample").write_bytes(content)
        place = Path(folder) / "read"
        place.mkdir()
        inputs = [str(corpus), f"-max_total_time={what}"] if what.isdigit() else [what]
        limits = [
            "-timeout=10",
            "-rss_limit_mb=2048",
            f"-max_len={4 * len(content)}",
            "-artifact_prefix=build/",
        ]
        atheris.Setup([sys.argv[0], *limits, *inputs], lambda data: read(place, name, data) and None)
        atheris.Fuzz()  # ends the process


if __name__ == "__main__":
    if len(sys.argv) == 3:
        search(*sys.argv[1:])
    failed = [
        name
        for name in sys.argv[2:] or samples()
        if subprocess.run([sys.executable, __file__, sys.argv[1], name], check=False).returncode
    ]
    sys.exit(f"a reader broke its promise on {', '.join(failed)}" if failed else 0)
