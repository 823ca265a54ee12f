"""The Debian package: made from the binary that is there, taken apart, and run."""

import os
import re
import tempfile
import tomllib

from check import check
from files import judge, path, read, same

TOOLS = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "arriero", "tools")
MODES = {"./usr/bin/arriero": "-rwxr-xr-x", "./etc/arriero/arriero.yaml": "-rw-r-----"}


def packed(arriero, folder):
    """The package, with the binary stripped and without much work on its size."""
    judge(path("scripts", "cargo-deb.sh"), TOOLS, within=600)
    release = os.path.join(folder, "target", "release")
    os.makedirs(release)
    judge("strip", "-o", os.path.join(release, "arriero"), arriero)
    environment = os.environ | {"CARGO_TARGET_DIR": os.path.join(folder, "target")}
    judge(os.path.join(TOOLS, "bin", "cargo-deb"), "--no-build", "--no-strip", "--fast", "--locked", "--output", folder + "/",
          env=environment)
    name, = [name for name in os.listdir(folder) if name.endswith(".deb")]
    return os.path.join(folder, name)


@check("Debian: the package can be built, has what it should where it should be, and what is in it runs")
def package(arriero):
    with tempfile.TemporaryDirectory() as folder:
        file = packed(arriero, folder)
        fields = dict(re.findall(r"^ ?([\w-]+): (.*)$", judge("dpkg-deb", "--field", file), re.MULTILINE))
        version = tomllib.loads(read("Cargo.toml"))["package"]["version"]
        machine = judge("dpkg", "--print-architecture").strip()
        same((fields["Package"], fields["Version"], fields["Architecture"]), ("arriero", f"{version}-1", machine), "what it is")
        for needed in ("libc6", "systemd"):
            if needed not in fields["Depends"]:
                raise AssertionError(f"it does not depend on {needed}: {fields['Depends']}")
        listed = {line.split()[-1]: line.split() for line in judge("dpkg-deb", "--contents", file).splitlines()}
        for name, mode in MODES.items():
            same(listed[name][0], mode, f"the mode of {name}")
        for name, entry in listed.items():
            if entry[1] not in ("root/root", "0/0"):
                raise AssertionError(f"{name} belongs to {entry[1]}")
        units = {os.path.basename(name) for name in listed if re.search(r"/lib/systemd/system/.", name)}
        same(units, {name for name in os.listdir(path("conf", "systemd")) if name.endswith((".service", ".socket"))}, "its units")
        root, control = os.path.join(folder, "root"), os.path.join(folder, "control")
        judge("dpkg-deb", "--extract", file, root)
        judge("dpkg-deb", "--control", file, control)
        with open(os.path.join(control, "conffiles")) as conffiles:
            same(conffiles.read().split(), ["/etc/arriero/arriero.yaml"], "what an update keeps")
        for script in ("postinst", "prerm", "postrm"):
            with open(os.path.join(control, script)) as text:
                if "#DEBHELPER#" in text.read():
                    raise AssertionError(f"{script} has a place that nothing was put into")
            judge("sh", "-n", os.path.join(control, script))
        program = os.path.join(root, "usr", "bin", "arriero")
        same(judge(program, "--version"), judge(arriero, "--version"), "its version")
        judge(program, "check", "--strict", "-c", os.path.join(root, "etc", "arriero", "arriero.yaml"))
