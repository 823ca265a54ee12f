"""Reading the files of the repository, and asking the programs that judge them."""

import os
import subprocess
import tempfile

import yaml

from check import ROOT


def path(*parts):
    return os.path.join(ROOT, *parts)


def read(*parts):
    with open(path(*parts), encoding="utf-8") as file:
        return file.read()


def load(*parts):
    return yaml.safe_load(read(*parts))


def judge(*command, within=120, **more):
    """Runs a program that says by its exit status whether it is content."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=within, stdin=subprocess.DEVNULL, **more)
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def same(actual, wanted, what):
    if actual != wanted:
        raise AssertionError(f"{what}: wanted {wanted!r}, got {actual!r}")


def configuration(arriero, text, **variables):
    """`arriero check` of a configuration whose secrets lie beside it."""
    with tempfile.TemporaryDirectory() as folder:
        os.mkdir(os.path.join(folder, "arriero"))
        for secret in ("arriero_admin", "arriero/token"):
            with open(os.path.join(folder, secret), "w") as file:
                file.write("a-token-of-more-than-thirty-two-characters\n")
        file_name = os.path.join(folder, "arriero.yaml")
        with open(file_name, "w") as file:
            file.write(text.replace("/run/secrets/", folder + "/").replace("/var/lib/arriero", folder))
        judge(arriero, "check", "-c", file_name, env=os.environ | variables)
