"""Two drivers, one launch: real processes, of which one dies without a word."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from orchestrator.driver.options import Options
from orchestrator.driver.session import opened
from orchestrator.study.library import load_study
from orchestrator.study.resolve import resolve

_HOLD = """
import sys, time
from orchestrator.study.library import load_study
from orchestrator.study.resolve import resolve
from orchestrator.base.home import Home
from orchestrator.driver.options import Options
from orchestrator.driver.session import opened

launch = resolve(load_study(sys.argv[1]), corpus_spec=sys.argv[2])
with opened(launch, Options(home=Home.at(sys.argv[3])), say=lambda line: None, start_cluster=False):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.mark.slow
def test_the_second_is_told_who_holds_the_launch_and_a_dead_ones_lock_is_taken_over(
    home, corpus, moe_study, study_file
):
    study = study_file("held", num_steps=4, eval_every=2, routers=["dense"], seeds=[0])
    first = subprocess.Popen(
        [sys.executable, "-c", _HOLD, study, corpus, home.root],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        assert first.stdout.readline() == "held\n"
        code, out, err = moe_study("run", study, "--home", home.root, "--corpus", corpus)
        assert code == 3
        assert f"process {first.pid}" in err.replace("\n", " ")
        assert "Traceback" not in err
        assert out == ""
    finally:
        first.kill()
        first.wait()
        first.stdout.close()
    assert list(home.root.glob("*.holder.json")), "it died without tidying up"
    launch = resolve(load_study(str(study)), corpus_spec=corpus)
    with opened(launch, Options(home=home), say=print, start_cluster=False) as session:
        assert [record.state for record in session.records] == ["waiting"]
