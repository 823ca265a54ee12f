"""What GitHub runs: the checks of a change, and a release."""

import os
import re
import tempfile

from check import check
from files import judge, load, path, read, same

FOLDER = os.path.join(".github", "workflows")


def workflows():
    return sorted(os.path.join(FOLDER, name) for name in os.listdir(path(FOLDER)))


@check("workflows: each is what GitHub allows, and zizmor finds nothing that somebody could abuse")
def lint(_):
    judge("check-jsonschema", "--builtin-schema", "vendor.github-workflows", *workflows())
    judge("zizmor", "--offline", "--no-progress", "--quiet", *workflows())


@check("workflows: jobs end, may do no more than they need, and use each action by its hash with the version beside it")
def care(_):
    for name in workflows():
        workflow = load(name)
        for right in workflow["permissions"].values() if workflow["permissions"] else ():
            same(right, "read", f"{name}: a right of all jobs")
        for job_name, job in workflow["jobs"].items():
            if "timeout-minutes" not in job:
                raise AssertionError(f"{name}: {job_name} may run for ever")
        for used in re.findall(r"uses: (.*)", read(name)):
            if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", used):
                raise AssertionError(f"{name}: {used}")


@check("workflows: their scripts are shell, and what they call is here")
def scripts(_):
    called = set()
    for name in workflows():
        for job in load(name)["jobs"].values():
            for step in job["steps"]:
                text = step.get("run", "")
                with tempfile.NamedTemporaryFile("w", suffix=".sh") as file:
                    file.write(re.sub(r"\$\{\{.*?\}\}", "x", text))
                    file.flush()
                    judge("bash", "-n", file.name)
                called.update(re.findall(r"(?:^|\s)((?:scripts/|\.ci/)\S+)", text))
    same(called, {".ci/run", "scripts/release.sh"}, "what they call")
    for name in called:
        if not os.access(path(name), os.X_OK):
            raise AssertionError(f"{name} cannot be run")


@check("workflows: they build with the compiler and the C library of the image")
def compiler(_):
    image = re.search(r"^FROM .*(rust:\S+) AS builder", read("Dockerfile"), re.MULTILINE)[1]
    containers = {job["container"] for name in workflows() for job in load(name)["jobs"].values() if "container" in job}
    same(containers, {image}, "where they build")
