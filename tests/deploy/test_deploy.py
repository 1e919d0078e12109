"""The manifests of deploy/: what Ray's own schema and loader, and our command line, say of them."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from importlib.metadata import version
from pathlib import Path

import jsonschema
import pytest
import ray
import typer
import yaml

from moe.train.command import parser
from orchestrator.cli import app
from orchestrator.cluster.capacity import Growth

DEPLOY = Path(__file__).parents[2] / "deploy"


@pytest.fixture(scope="module")
def cluster_yaml():
    return yaml.safe_load((DEPLOY / "ray-cluster.yaml").read_text())


@pytest.fixture(scope="module")
def ray_job():
    return yaml.safe_load((DEPLOY / "rayjob.yaml").read_text())


def parse(command):
    """The options of a `moe-study` command, refused where one is unknown."""
    _, name, *arguments = command
    click_command = typer.main.get_command(app).commands[name]
    with click_command.make_context(name, arguments) as context:
        if name == "submit":
            run = typer.main.get_command(app).commands["run"]
            run.make_context("run", [context.params["study"], *context.args]).close()
        return context.params


def test_the_cluster_yaml_is_one_for_ray(cluster_yaml):
    from ray.autoscaler._private.util import prepare_config, validate_config

    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    known = {
        k: v for k, v in cluster_yaml.items() if k != "min_workers"
    }  # the local provider's own
    jsonschema.validate(known, schema)
    prepared = prepare_config(cluster_yaml)
    validate_config(prepared)
    assert Growth.of_config(prepared).most == cluster_yaml["max_workers"]


def test_the_ray_job_has_what_kuberay_requires(ray_job):
    assert (ray_job["apiVersion"], ray_job["kind"]) == ("ray.io/v1", "RayJob")
    spec = ray_job["spec"]
    cluster = spec["rayClusterSpec"]
    assert version("ray").startswith(cluster["rayVersion"])
    names = {group["groupName"] for group in cluster["workerGroupSpecs"]}
    assert len(names) == len(cluster["workerGroupSpecs"])
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]:
        pod = group["template"]["spec"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        assert group["rayStartParams"] is not None
        for container in pod["containers"]:
            assert container["image"]
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
    assert yaml.safe_load(spec["runtimeEnvYAML"])["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"]


def test_the_ray_job_runs_a_command_that_there_is(ray_job):
    shell, *command = shlex.split(ray_job["spec"]["entrypoint"])
    assert shell == "exec", "Ray's signal must reach the driver itself"
    asked = parse(command)
    assert asked["address"] == "auto"
    mounts = ray_job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    for path in (asked["home"], asked["checkpoint_uri"]):
        assert any(path.startswith(mount["mountPath"]) for mount in mounts["volumeMounts"])


@pytest.mark.parametrize("page", ["docs/cluster.md", "deploy/ray-cluster.yaml"])
def test_commands_that_are_written_down_are_understood(page, monkeypatch):
    text = (DEPLOY.parent / page).read_text().replace("# ", "").replace("\\\n", " ")
    commands = [
        shlex.split(line, comments=True)
        for line in map(str.strip, text.splitlines())
        if line.startswith(("moe-study run", "moe-study submit", "moe-study analyze"))
    ]
    assert commands
    for command in commands:
        parse(command)


@pytest.mark.parametrize(
    ("slurm", "expected"),
    [
        ({}, {"slice": (0, 1), "jobs": 1, "threads": 1, "until": None}),
        (
            {
                **{"SLURM_ARRAY_TASK_ID": "5", "SLURM_ARRAY_TASK_MIN": "2"},
                **{"SLURM_ARRAY_TASK_COUNT": "8", "SLURM_CPUS_PER_TASK": "6", "JOBS": "2"},
            },
            {"slice": (3, 8), "jobs": 2, "threads": 3, "until": None},
        ),
        ({"SLURM_JOB_END_TIME": "1"}, {"slice": (0, 1), "until": 0.0}),
    ],
)
def test_a_task_of_a_slurm_array_trains_its_slice(tmp_path, slurm, expected):
    """The script's own words, told by what stands in for Python."""
    python = tmp_path / "python"
    python.write_text('#!/usr/bin/env bash\nprintf "%s\\n" "$@"\n')
    python.chmod(0o755)
    places = {"CONFIGS": "my configs", "TOKENS": "tokens", "OUT": "out", "PYTHON": str(python)}
    done = subprocess.run(
        [DEPLOY / "slurm.sh"],
        check=True,
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"], **places, **slurm},
    )
    module, name, *arguments = done.stdout.splitlines()
    assert (module, name) == ("-m", "moe.train")
    options = vars(parser().parse_args(arguments))
    assert options["configs"] == [Path("my configs")]
    assert {key: options[key] for key in expected} == expected
