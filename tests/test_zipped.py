"""The package works from a zip, as it is imported there."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

from tests.sources import PACKAGE


def test_a_batch_from_a_zip_makes_its_gallery(tmp_path: Path) -> None:
    """Its page and script, and the emulator's schema, are read wherever the package is."""
    packed = tmp_path / "packed.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        for file in PACKAGE.rglob("*"):
            if file.is_file() and "__pycache__" not in file.parts:
                archive.write(file, file.relative_to(PACKAGE.parent))
    (tmp_path / "prompts.txt").write_text("a fox\na whale\n")
    command = ["batch", "prompts.txt", "--out", "pictures", "--emulator", "--speed", "50"]
    code = (
        "import sys, doitong_async.cli as cli\n"
        "assert 'packed.zip' in cli.__file__, cli.__file__\n"
        f"sys.argv[1:] = {command!r}\n"
        "sys.exit(cli.main())"
    )
    environment = {"PYTHONPATH": str(packed), "PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stderr.decode()
    assert b"2 of 2 done" in run.stdout
    page = (tmp_path / "pictures" / "index.html").read_text("utf-8")
    assert page.count('class="card done"') == 2
    assert "<script>" in page


def test_no_module_reads_a_file_beside_it() -> None:
    """A path made of `__file__` does not exist inside a zip."""
    assert [str(path) for path in PACKAGE.rglob("*.py") if "__file__" in path.read_text()] == []
