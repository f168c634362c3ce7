"""Which files are a person's own, and that they are told as they were read."""

from __future__ import annotations

import subprocess
import sys
from hashlib import blake2b
from pathlib import Path

from paths import PYTHONPATH

LOOK = """
import numpy, pkg.layers, shared
from unisono.runs.jobfile import JobFile
from unisono.runtime.preparation.code_files import code_files
from pathlib import Path

job = JobFile.of("job.py")
Path("job.py").write_text("edited while it is read")
job.read()
for name, file in code_files().items():
    print(name, file.path, file.digest)
"""


def test_a_persons_own_files_are_named_as_on_every_host_and_held_as_they_were_read(tmp_path: Path) -> None:
    files = {
        "work/look.py": LOOK, "work/job.py": "import beside\n\ndef job():\n    pass\n", "work/beside.py": "P = 1\r\n",
        "work/pkg/__init__.py": "", "work/pkg/layers.py": "WIDE = True\n", "elsewhere/shared.py": "SHARED = 2\n",
    }  # fmt: skip
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
    environment = {"PYTHONPATH": f"{tmp_path / 'elsewhere'}:{PYTHONPATH}", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "look.py"], cwd=tmp_path / "work", env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = [line.split() for line in done.stdout.splitlines()]
    expected = [
        [Path(name).relative_to(name.partition("/")[0]), tmp_path / name, blake2b(text.encode(), digest_size=6)]
        for name, text in files.items()
    ]
    assert sorted(found) == sorted([str(name), str(path), digest.hexdigest()] for name, path, digest in expected)
