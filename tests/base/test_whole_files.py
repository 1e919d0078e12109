"""A file or folder is there whole, or not at all."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import orchestrator
from orchestrator.base.whole_files import whole

ROOT = Path(orchestrator.__file__).parent


def test_a_file_replaces_an_earlier_one_at_the_end(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")
    with whole(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
        assert partial.parent == path.parent
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("folder", [False, True])
def test_what_fails_leaves_the_old_one_and_nothing_else(tmp_path, folder):
    path = tmp_path / "a"
    path.write_text("old")

    def fail():
        with whole(path) as partial:
            if folder:
                partial.mkdir()
                (partial / "part").write_text("x")
            else:
                partial.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_writer_left_is_in_nobodys_way(tmp_path):
    script = (
        "import os, signal, sys\nfrom pathlib import Path\n"
        "from orchestrator.base.whole_files import whole\n"
        "with whole(Path(sys.argv[1])) as partial:\n"
        "    partial.mkdir()\n    (partial / 'half').write_text('x')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    path = tmp_path / "folder"
    killed = subprocess.run(
        [sys.executable, "-c", script, path],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert killed.returncode == -signal.SIGKILL
    assert not path.exists()
    with whole(path) as partial:
        partial.mkdir()
        (partial / "all").write_text("x")
    assert [file.name for file in path.iterdir()] == ["all"]
    assert list(tmp_path.iterdir()) == [path]


def test_no_other_file_of_the_orchestrator_renames_by_hand():
    by_hand = re.compile(r"os\.(?:replace|rename)\(|\.rename\(|partial\.replace\(")
    found = [
        str(path.relative_to(ROOT))
        for path in ROOT.rglob("*.py")
        if path.name != "whole_files.py" and by_hand.search(path.read_text())
    ]
    assert found == []
