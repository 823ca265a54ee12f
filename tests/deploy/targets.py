"""The targets of make that work on a deployment, with a program in Docker's place that records what it is asked for."""

import os
import re
import shutil
import subprocess
import tarfile
import tempfile

from check import ROOT, check
from files import read, same

COMPOSE = "compose -f docker-compose.prod.yml"
WANTED = {
    "up-prod": [f"{COMPOSE} up -d --build"],
    "prod": [f"{COMPOSE} up -d --build"],
    "stop": [f"{COMPOSE} stop"],
    "prod-stop": [f"{COMPOSE} down"],
    "restart-prod": [f"{COMPOSE} up -d --build --force-recreate --no-deps arriero"],
    "build-prod": [f"{COMPOSE} build arriero"],
    "build-prod-clean": [f"{COMPOSE} build --pull --no-cache arriero"],
    "status": [f"{COMPOSE} ps", f"{COMPOSE} exec -T arriero arriero status -c /etc/arriero/arriero.yaml"],
    "status-prod": [f"{COMPOSE} ps", f"{COMPOSE} exec -T arriero arriero status -c /etc/arriero/arriero.yaml"],
    "logs": [f"{COMPOSE} logs --follow --tail 100"],
    "logs-prod": [f"{COMPOSE} logs --follow --tail 100 arriero"],
}
DOCKER = """#!/bin/sh
echo "$*" >> "$RECORD"
case "$*" in
*"$FAIL_ON"*) [ -n "$FAIL_ON" ] && exit 1 ;;
esac
case "$*" in
*" cp "*) tar -C "$DATA" -cf - . ;;
esac
exit 0
"""


class Deployment:
    """A copy of what make works on, in a folder of its own."""

    def __init__(self, folder):
        self.folder, self.record = folder, os.path.join(folder, "asked")
        data = os.path.join(folder, "data")
        os.mkdir(data)
        with open(os.path.join(data, "history.db"), "w") as file:
            file.write("what happened\n")
        for name in ("Makefile", "docker-compose.prod.yml"):
            shutil.copy(os.path.join(ROOT, name), folder)
        shutil.copytree(os.path.join(ROOT, "conf"), os.path.join(folder, "conf"))
        programs = os.path.join(folder, "programs")
        os.mkdir(programs)
        with open(os.path.join(programs, "docker"), "w") as file:
            file.write(DOCKER)
        os.chmod(os.path.join(programs, "docker"), 0o755)
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
        self.environment |= {"PATH": programs + os.pathsep + os.environ["PATH"], "RECORD": self.record, "DATA": data, "FAIL_ON": ""}

    def make(self, *arguments, **environment):
        """(exit status, what is printed, what Docker was asked for)"""
        open(self.record, "w").close()
        done = subprocess.run(["make", "--no-print-directory", *arguments], cwd=self.folder, capture_output=True, text=True,
                              timeout=60, stdin=subprocess.DEVNULL, env=self.environment | environment)
        with open(self.record) as file:
            return done.returncode, done.stdout + done.stderr, file.read().splitlines()


def scene(function):
    def run(arriero):
        with tempfile.TemporaryDirectory() as folder:
            function(Deployment(folder), arriero)

    return run


@check("make: each target of the deployment asks Docker for what it says")
@scene
def asked(deployment, _):
    for target, wanted in WANTED.items():
        status, printed, asked = deployment.make(target)
        same((status, asked), (0, wanted), f"make {target} ({printed})")
    same(deployment.make("logs", "LOGS=ollama-1 ollama-2")[2], [f"{COMPOSE} logs --follow --tail 100 ollama-1 ollama-2"], "make logs")
    status, printed, _ = deployment.make("status", FAIL_ON="arriero status")
    if status == 0:
        raise AssertionError(f"make status hides that not all is well: {printed}")


@check("make: secrets are made once, and only their owner can look into their folder")
@scene
def secrets(deployment, _):
    deployment.make("up-prod")
    folder = os.path.join(deployment.folder, "secrets")
    same(oct(os.stat(folder).st_mode & 0o777), "0o700", "the folder's mode")
    before = {}
    for name in ("arriero_admin", "grafana_password"):
        # Users of containers read it by a mount of the file alone.
        same(oct(os.stat(os.path.join(folder, name)).st_mode & 0o777), "0o444", f"{name}: its mode")
        with open(os.path.join(folder, name)) as file:
            before[name] = file.read()
        if not re.fullmatch(r"[0-9a-f]{64}\n", before[name]):
            raise AssertionError(f"{name} is {before[name]!r}")
    deployment.make("up-prod")
    for name, text in before.items():
        with open(os.path.join(folder, name)) as file:
            same(file.read(), text, f"{name} after a second time")


@check("make: a backup holds the configuration and the data, no secrets, and Arriero goes on even when it fails")
@scene
def backup(deployment, _):
    deployment.make("secrets")
    status, printed, asked = deployment.make("backup")
    same((status, asked), (0, [f"{COMPOSE} pause arriero", f"{COMPOSE} cp arriero:/var/lib/arriero/. -", f"{COMPOSE} unpause arriero"]),
         f"make backup ({printed})")
    name = os.path.join(deployment.folder, printed.split()[-1])
    with tarfile.open(name) as archive:
        names = archive.getnames()
        data = archive.extractfile("data.tar")
        with tarfile.open(fileobj=data) as inner:
            same(inner.extractfile("./history.db").read(), b"what happened\n", "the data")
    if "docker-compose.prod.yml" not in names or any("secret" in name or "token" in name for name in names):
        raise AssertionError(f"it holds {names}")
    same(oct(os.stat(name).st_mode & 0o777), "0o600", "its mode")
    status, printed, asked = deployment.make("backup", "BACKUPS=other", FAIL_ON=" cp ")
    if status == 0 or os.listdir(os.path.join(deployment.folder, "other")):
        raise AssertionError("a backup that failed looks like one")
    same(asked[-1], f"{COMPOSE} unpause arriero", "the last that Docker is asked for")


@check("make: what deletes models asks first; without Docker the error says so")
@scene
def careful(deployment, _):
    status, printed, asked = deployment.make("prod-clean")
    same((status != 0, asked), (True, []), f"make prod-clean ({printed})")
    same(deployment.make("prod-clean", "CONFIRM=yes")[2], [f"{COMPOSE} down --volumes --rmi local --remove-orphans"], "with CONFIRM=yes")
    status, printed, _ = deployment.make("up-prod", "DOCKER=no-such-docker")
    if status == 0 or "no-such-docker is not here" not in printed:
        raise AssertionError(printed)


@check("make: health asks the admin listener, and fails when nobody answers")
@scene
def health(deployment, _):
    status, printed, _ = deployment.make("health", "ADMIN=http://127.0.0.1:9")
    if status == 0:
        raise AssertionError(printed)
    # `diagnose` and `verify` build the binary first; that they call it is seen without doing it.
    for verb in ("diagnose", "verify"):
        _, printed, _ = deployment.make("-n", verb)
        if f'/release/arriero" {verb}' not in printed:
            raise AssertionError(printed)


@check("make: help lists every target that is meant to be called")
@scene
def listed(deployment, _):
    _, printed, _ = deployment.make("help")
    shown = set(re.findall(r"^  make (\S+)", printed, re.MULTILINE))
    phony = {name for line in re.findall(r"^\.PHONY: ((?:.*\\\n)*.*)$", read("Makefile"), re.MULTILINE)
             for name in line.replace("\\", "").split()}
    same(phony - shown, {"tools", "engine"}, "targets that are not listed")
    same(set(WANTED) - shown, set(), "targets of a deployment that are not listed")
