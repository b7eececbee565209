"""What stands around the template: stages, make's commands, the workflows."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from typing import Any

import pytest

from lab import ROOT
from lab.cloudformation import source, yaml

STAGES = tomllib.loads((ROOT / "samconfig.toml").read_text())
README = (ROOT / "README.md").read_text(encoding="utf-8")
INVOKE = "sam remote invoke ReaperFunction --config-env prod"


@pytest.mark.parametrize("stage", ["default", "staging", "prod"])
def test_stages_are_dry_and_name_real_parameters(stage: str) -> None:
    """Each stage has a stack of its own and says DryRun=true in a line to flip; what it overrides
    exists.
    """
    deploy = STAGES[stage]["deploy"]["parameters"]
    assert "DryRun=true" in deploy["parameter_overrides"]
    assert {override.split("=")[0] for override in deploy["parameter_overrides"]} <= source()[
        "Parameters"
    ].keys()
    assert deploy["capabilities"] == "CAPABILITY_IAM"
    # A deployment with --guided writes its answers where the overrides stand, so that there is one
    # DryRun.
    assert STAGES[stage]["global"]["parameters"].keys() == {"stack_name"}
    stacks = [
        STAGES[name]["global"]["parameters"]["stack_name"] for name in STAGES if name != "version"
    ]
    assert len(set(stacks)) == 3


def test_the_examples_in_samconfig_are_parameters() -> None:
    """The lines that a newcomer fills in name parameters of the template."""
    text = (ROOT / "samconfig.toml").read_text()
    examples = re.findall(r'^  # "(\w+)=', text, re.MULTILINE)
    assert (
        {"Host", "SecretArns", "MaxConnections"} <= set(examples) <= source()["Parameters"].keys()
    )


@pytest.mark.skipif(not shutil.which("make"), reason="there is no make")
@pytest.mark.parametrize(
    ("goal", "runs"),
    [
        ("build", ["sam build --config-env prod", "-m release compiled .aws-sam/build"]),
        ("deploy", ["sam deploy --config-env prod"]),
        ("invoke-dry-run", [f"{INVOKE} --event-file events/manual-dry-run.json"]),
        ("invoke-kill", [f"{INVOKE} --event-file events/manual-kill.json"]),
        ("invoke-advise", [f"{INVOKE} --event-file events/advise.json"]),
        ("package", ["-m release compiled build/sam", "python -m release archives build/sam"]),
        (
            "ca-bundle",
            ["--output reaper/certs/global-bundle.pem https://truststore.pki.rds.amazonaws.com/"],
        ),
    ],
)
def test_make_says_what_a_person_would_type(goal: str, runs: list[str]) -> None:
    """Each goal ends in its commands, for the stage that was asked for, with files that exist."""
    make = ["make", "--no-print-directory", "--dry-run", "--always-make", goal, "STAGE=prod"]
    # Under `make test`
    without = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    done = subprocess.run(make, cwd=ROOT, env=without, capture_output=True, text=True, check=True)
    last = done.stdout.splitlines()[-len(runs) :]
    assert all(part in line for part, line in zip(runs, last, strict=True))
    assert all((ROOT / name).is_file() for name in re.findall(r"--event-file (\S+)", done.stdout))
    defaults = source()["Parameters"]["CaBundle"]["Default"]
    assert defaults == "/var/task/reaper/certs/global-bundle.pem"


def workflow(name: str) -> dict[Any, Any]:
    return yaml(ROOT / ".github" / "workflows" / name)


def spread(first: str, last: str) -> list[str]:
    """3.11 to 3.14, or 14 to 18: the last number counts up."""
    stem, low, high = (
        first.rpartition(".")[0],
        int(first.rpartition(".")[2]),
        int(last.rpartition(".")[2]),
    )
    return [f"{stem}.{n}" if stem else str(n) for n in range(low, high + 1)]


def test_the_workflow_runs_what_the_readme_promises() -> None:
    """Every Python and every server that the README names is in the matrix, and no other."""
    text = " ".join(README.split())
    jobs = workflow("test.yml")["jobs"]
    pythons = re.search(r"on Python (\S+) to ([\d.]+\d)", text)
    assert pythons
    assert jobs["pythons"]["strategy"]["matrix"]["python"] == spread(*pythons.groups())
    servers = re.search(
        r"on PostgreSQL (\d+) to (\d+), MySQL ([\d., and]+\d), and MariaDB ([\d., and]+\d)", text
    )
    assert servers
    promised = [f"postgres:{n}" for n in spread(servers[1], servers[2])]
    promised += [f"mysql:{n}" for n in re.findall(r"[\d.]*\d", servers[3])]
    promised += [f"mariadb:{n}" for n in re.findall(r"[\d.]*\d", servers[4])]
    assert jobs["servers"]["strategy"]["matrix"]["image"] == promised
    assert {"REAPER_TEST_POSTGRES_DSN", "REAPER_TEST_MYSQL_DSN"} == jobs["servers"]["env"].keys()


def test_the_workflow_checks_and_builds_the_template() -> None:
    """It lints the template and builds for every architecture that the template knows."""
    job = workflow("test.yml")["jobs"]["template"]
    assert (
        job["strategy"]["matrix"]["architecture"]
        == source()["Parameters"]["Architecture"]["AllowedValues"]
    )
    commands = [step["run"].split(" --")[0] for step in job["steps"] if "run" in step]
    assert commands == ["sam validate", "sam build"]


def test_a_tag_deploys_without_stored_keys() -> None:
    """Only a tag deploys, only after the tests, with a token from GitHub and no key of AWS."""
    found = workflow("deploy.yml")
    # YAML 1.1 reads `on` as true
    assert found[True] == {"push": {"tags": ["v*"]}}
    jobs = found["jobs"]
    assert (jobs["deploy"]["needs"], jobs["deploy"]["permissions"]["id-token"]) == (
        "package",
        "write",
    )
    assert jobs["package"]["needs"] == ["test", "audit"]
    assert {name: jobs[name]["uses"] for name in jobs["package"]["needs"]} == {
        name: f"./.github/workflows/{name}.yml" for name in jobs["package"]["needs"]
    }
    for path in (ROOT / ".github" / "workflows").iterdir():
        assert "secrets." not in path.read_text()
        # A token that can write is given to the one job that needs it, and none runs for what a
        # stranger sends.
        assert workflow(path.name)["permissions"] == {"contents": "read"}
        assert "pull_request_target" not in workflow(path.name)[True]
    writing = {name for name, job in jobs.items() if "write" in job.get("permissions", {}).values()}
    assert writing == {"publish", "deploy"}
    assert jobs["publish"]["permissions"] == {"contents": "write"}


def commands(job: dict[str, Any]) -> list[str]:
    return [step["run"] for step in job["steps"] if "run" in step]


def test_a_release_is_built_twice_and_on_the_processor_it_is_for() -> None:
    """SAM has pip compare hashes for the machine it runs on alone; what is published is built again
    and compared.
    """
    jobs = workflow("deploy.yml")["jobs"]
    runners = {
        one["architecture"]: one["runner"]
        for one in jobs["package"]["strategy"]["matrix"]["include"]
    }
    parameter = source()["Parameters"]["Architecture"]
    assert list(runners) == parameter["AllowedValues"]
    assert [name for name, runner in runners.items() if runner.endswith("-arm")] == ["arm64"]
    assert jobs["deploy"]["runs-on"] == runners[parameter["Default"]]
    assert jobs["package"]["runs-on"] == "${{ matrix.runner }}"
    package = "make package SAM=.venv/sam/bin/sam"
    assert commands(jobs["package"]) == [package, "mv dist first", package, "diff -r first dist"]
    # The SAM CLI is the pinned one in both, and not what the runner happens to have.
    assert commands(jobs["deploy"])[0] == "make build STAGE=prod SAM=.venv/sam/bin/sam"
    assert commands(jobs["deploy"])[1].startswith(".venv/sam/bin/sam deploy --config-env prod")


def test_weaknesses_are_asked_for() -> None:
    """At each change, each week, and before a release, of exactly what is shipped."""
    found = workflow("audit.yml")
    assert {"push", "pull_request", "schedule", "workflow_call"} == found[True].keys()
    assert commands(found["jobs"]["audit"]) == ["make audit"]
    recipe = (ROOT / "Makefile").read_text().partition("\naudit:")[2].partition("\n\n")[0]
    assert recipe.endswith(
        "pip-audit --require-hashes --disable-pip --requirement reaper/requirements.txt"
    )
