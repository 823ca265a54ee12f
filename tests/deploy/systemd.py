"""The unit of systemd, and the package that brings it."""

import os
import re
import shutil
import tempfile
import tomllib

from check import check
from files import judge, path, read, same

UNIT = ("conf", "systemd", "arriero.service")
# From 0, shut in, to 10.
MOST_EXPOSED = 2.0


@check("systemd: the unit is right, and exposed as little as a proxy can be")
def unit(_):
    with tempfile.TemporaryDirectory() as folder:
        # The program has to be where the unit says.
        text = read(*UNIT).replace("/usr/bin/arriero", shutil.which("true"))
        name = os.path.join(folder, "arriero.service")
        with open(name, "w") as file:
            file.write(text)
        said = judge("systemd-analyze", "verify", "--man=no", name)
        if "arriero.service" in said:
            raise AssertionError(said)
        told = judge("systemd-analyze", "security", "--offline=true", name)
    exposure = float(re.search(r"exposure level for \S+: ([\d.]+)", told)[1])
    if exposure > MOST_EXPOSED:
        raise AssertionError(f"exposure {exposure}")


@check("systemd: it is told of starts, reloads and upgrades, and waits for a drain")
def lifecycle(_):
    settings = dict(re.findall(r"^(\w+)=(.*)$", read(*UNIT), re.MULTILINE))
    same((settings["Type"], settings["NotifyAccess"], settings["KillMode"]), ("notify", "all", "mixed"), "how it is told")
    drain = 300
    if int(settings["TimeoutStopSec"].removesuffix("s")) <= drain:
        raise AssertionError("it is killed before it has drained")
    same(settings["ExecReload"].split()[1], "reload", "how it is reloaded")
    same(settings["StateDirectory"], "arriero", "its folder")


@check("Debian: the package brings what the unit needs, and keeps what was edited")
def package(_):
    manifest = tomllib.loads(read("Cargo.toml"))
    deb = manifest["package"]["metadata"]["deb"]
    placed = {}
    for source, target, mode in deb["assets"]:
        if not source.startswith("target/") and not os.path.exists(path(source.split("*")[0])):
            raise AssertionError(f"{source}: no such file")
        placed[target + (os.path.basename(source) if target.endswith("/") else "")] = mode
    program = re.search(r"^ExecStart=(\S+)", read(*UNIT), re.MULTILINE)[1]
    same(placed.get(program.lstrip("/")), "755", f"the mode of {program}")
    for file in deb["conf-files"]:
        if file.lstrip("/") not in placed:
            raise AssertionError(f"{file} is in no asset")
    same(deb["systemd-units"]["unit-name"], "arriero", "the unit")
    for name in os.listdir(path(deb["systemd-units"]["unit-scripts"])):
        if not name.startswith("arriero."):
            raise AssertionError(f"{name} does not belong to the unit")
    for script in ("preinst", "postinst", "prerm", "postrm"):
        file = path(deb["maintainer-scripts"], script)
        if os.path.exists(file):
            judge("sh", "-n", file)
