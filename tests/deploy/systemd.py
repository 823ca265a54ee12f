"""The unit of systemd, and the package that brings it."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
import urllib.error
import urllib.request

from check import check
from files import judge, path, read, same

UNIT = ("conf", "systemd", "arriero.service")
# From 0, shut in, to 10.
MOST_EXPOSED = 2.0


@check("systemd: the units are right, and the service is exposed as little as a proxy can be")
def unit(_):
    with tempfile.TemporaryDirectory() as folder:
        # The program has to be where the unit says.
        for name in ("arriero.service", "arriero.socket"):
            with open(os.path.join(folder, name), "w") as file:
                file.write(read("conf", "systemd", name).replace("/usr/bin/arriero", shutil.which("true")))
        service, socket = os.path.join(folder, "arriero.service"), os.path.join(folder, "arriero.socket")
        said = judge("systemd-analyze", "verify", "--man=no", service, socket)
        if "arriero." in said:
            raise AssertionError(said)
        told = judge("systemd-analyze", "security", "--offline=true", service)
        os.mkdir(os.path.join(folder, "etc"))
        judge("systemd-sysusers", f"--root={folder}", path("conf", "systemd", "arriero.conf"))
        with open(os.path.join(folder, "etc", "passwd")) as file:
            if not re.search(r"^arriero:.*:/var/lib/arriero:/usr/sbin/nologin$", file.read(), re.MULTILINE):
                raise AssertionError("no user is made")
    exposure = float(re.search(r"exposure level for \S+: ([\d.]+)", told)[1])
    if exposure > MOST_EXPOSED:
        raise AssertionError(f"exposure {exposure}")


def wait_until(condition, what):
    deadline = time.monotonic() + 30
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within 30 s: {what()}")
        time.sleep(0.05)


def ended(process):
    """Also when nobody has asked yet how."""
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


@check("systemd: the unit's filter of system calls stops nothing: start, requests, reload, upgrade, stop")
def confined(arriero):
    with tempfile.TemporaryDirectory() as folder:
        config, log = os.path.join(folder, "arriero.yaml"), os.path.join(folder, "log")
        token = os.path.join(folder, "token")
        with open(token, "w") as file:
            file.write("a-token-of-more-than-thirty-two-characters\n")
        # Its user is another one than ours, and may not look into our folders.
        os.chmod(folder, 0o777)
        arriero = shutil.copy(arriero, os.path.join(folder, "arriero"))
        text = f"""version: 1
listeners: [{{ address: "127.0.0.1:0" }}]
admin: {{ address: "unix:{folder}/admin.sock", token_file: {token} }}
server: {{ data_dir: {folder}/data }}
routes: [{{ name: all, upstream: fleet }}]
upstreams:
  fleet:
    kind: ollama
    health: {{ active: {{ interval: 200ms, timeout: 100ms, unhealthy: 1 }} }}
    servers: [{{ url: "http://127.0.0.1:9", name: gone, recovery: {{ exec: ["true"], after: 1, max_attempts: 1, verify: 1s }} }}]
"""
        with open(config, "w") as file:
            file.write(text)
        with open(log, "wb") as output:
            child = subprocess.Popen([sys.executable, os.path.join(os.path.dirname(os.path.abspath(__file__)), "confined.py"), path(*UNIT),
                                      arriero, "run", "-c", config], stdout=output, stderr=output, stdin=subprocess.DEVNULL, cwd=folder)

        def said():
            with open(log, errors="replace") as file:
                return file.read()

        try:
            wait_until(lambda: "listening on" in said() or child.poll() is not None, said)
            same(child.poll(), None, f"whether it lives\n{said()}")
            url = re.search(r"listening on (http://\S+)", said())[1]
            # Nobody is there, which the answer says; a body goes through as well.
            for data in (None, b'{"model":"m"}'):
                try:
                    urllib.request.urlopen(urllib.request.Request(url + "/api/tags", data), timeout=10).close()
                except urllib.error.HTTPError as error:
                    error.close()
            wait_until(lambda: "recovery" in said(), said)
            with open(config, "a") as file:
                file.write("defaults: { limits: { request_body: 1MiB } }\n")
            judge(arriero, "reload", "-c", config)
            new = int(re.search(r"process (\d+)", judge(arriero, "upgrade", "-c", config))[1])
            try:
                same(child.wait(30), 0, f"how the old process ended\n{said()}")
                judge(arriero, "servers", "-c", config)
            finally:
                os.kill(new, signal.SIGTERM)
            wait_until(lambda: ended(new), said)
        finally:
            child.kill()
            child.wait()


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
    units = {unit["unit-name"] for unit in deb["systemd-units"]}
    there = {name.rsplit(".", 1)[0] for name in os.listdir(path("conf", "systemd"))}
    same(units, there, "the units of the package")
    for name in units:
        for program in re.findall(r"^Exec\w+=(\S+)", read("conf", "systemd", f"{name}.service"), re.MULTILINE):
            same(program, "/usr/bin/arriero", f"{name}: where the program is")
    for script in ("preinst", "postinst", "prerm", "postrm"):
        file = path(deb["maintainer-scripts"], script)
        if os.path.exists(file):
            judge("sh", "-n", file)
