#!/usr/bin/env python3
"""Does by hand, as root on Debian 12, what a container engine does with the Dockerfile, and runs what comes of it as the strictest
engine would.

1. The builder: a fresh Debian with what rust:…-bookworm has (the toolchain is this machine's); each instruction of the stage is
   carried out in it, with the files that .dockerignore lets through.
2. The image: the Debian packages of distroless/base-nossl-debian12, and what the last stage copies.
3. A run in namespaces of its own: read-only root, no capability, no new privileges, user 65532, an Ollama on its loopback. It has
   to serve what `OLLAMA_HOSTS` names on the image's `PORT`, to be healthy by the image's own check, and to end when it is told.

usage: stages.py [--binary FILE] [--folder FOLDER]
`--binary` takes a program that was built elsewhere instead of the first part. Variables of Cargo (CARGO_PROFILE_RELEASE_LTO=off …)
reach the builder, for a rehearsal in less time. Needs debootstrap; takes as long as a release build.
"""

import argparse
import ctypes
import glob
import http.server
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# What rust:…-bookworm has of what a build needs.
BUILDER_PACKAGES = "ca-certificates,gcc,g++,libc6-dev,make,pkg-config"
# https://github.com/GoogleContainerTools/distroless, base/: Debian packages, unpacked.
IMAGE_PACKAGES = ["base-files", "netbase", "tzdata", "media-types", "ca-certificates", "libc6"]
USER = 65532
LARGEST = 50_000_000
CARGO_HOME = os.environ.get("CARGO_HOME", os.path.expanduser("~/.cargo"))
RUSTUP_HOME = os.environ.get("RUSTUP_HOME", os.path.expanduser("~/.rustup"))


def run(*command, **more):
    return subprocess.run(command, check=True, stdin=subprocess.DEVNULL, **more)


def said_by(*command):
    return run(*command, capture_output=True, text=True).stdout


def stages():
    """The stages of the Dockerfile, each a list of (word, arguments)."""
    with open(os.path.join(ROOT, "Dockerfile")) as file:
        text = re.sub(r"\\\n", " ", re.sub(r"^\s*#.*\n", "", file.read(), flags=re.MULTILINE))
    found = []
    for line in filter(str.strip, text.splitlines()):
        word, arguments = line.split(None, 1)
        if word == "FROM":
            found.append([])
        found[-1].append((word, arguments))
    return found


def variables_of(steps, variables):
    for word, arguments in steps:
        if word in ("ENV", "ARG"):
            for name, value in re.findall(r'(\w+)=("[^"]*"|\S*)', arguments):
                if word == "ENV" or name not in variables:
                    variables[name] = value.strip('"')
    return variables


def allowed():
    with open(os.path.join(ROOT, ".dockerignore")) as file:
        return {line[1:].strip() for line in file if line.startswith("!")}


def copy(source, target):
    if os.path.isdir(source):
        shutil.copytree(source, target, dirs_exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        shutil.copy2(source, target)


class Builder:
    """The root in which the first stage is carried out."""

    def __init__(self, folder):
        self.root = folder
        self.mounted = []

    def make(self):
        mirror = re.search(r"(https?://\S+/debian/?)(?:\s|$)", said_by("apt-cache", "policy"))
        run("debootstrap", "--variant=minbase", f"--include={BUILDER_PACKAGES}", "bookworm", self.root, *([mirror[1]] if mirror else []))
        for name in ("etc/resolv.conf", "etc/hosts"):
            shutil.copy("/" + name, os.path.join(self.root, name))
        for settings in glob.glob("/etc/apt/apt.conf.d/*") + glob.glob("/usr/local/share/ca-certificates/*.crt"):
            shutil.copy(settings, self.root + settings)

    def enter(self):
        """Lends it this machine's toolchain and crates. What is done in there must change neither: the one can be read only, what
        is written to the others goes elsewhere."""
        copy(os.path.join(CARGO_HOME, "bin"), os.path.join(self.root, "usr/local/cargo/bin"))
        name = said_by("rustup", "show", "active-toolchain").split()[0]
        # It may be a link, which would lead nowhere in there.
        toolchain = os.path.realpath(os.path.join(RUSTUP_HOME, "toolchains", name))
        self.mount(f"usr/local/rustup/toolchains/{name}", "--bind", "-o", "ro", toolchain)
        written = [os.path.join(self.root, "usr/local/cargo", kind) for kind in ("written", "work")]
        for folder in written:
            os.makedirs(folder, exist_ok=True)
        layers = f"lowerdir={os.path.join(CARGO_HOME, 'registry')},upperdir={written[0]},workdir={written[1]}"
        self.mount("usr/local/cargo/registry", "-t", "overlay", "-o", layers, "overlay")
        self.mount("proc", "-t", "proc", "proc")

    def mount(self, place, *how):
        target = os.path.join(self.root, place)
        os.makedirs(target, exist_ok=True)
        run("mount", *how, target)
        self.mounted.append(target)

    def leave(self):
        while self.mounted:
            run("umount", self.mounted.pop())

    def carry_out(self, steps):
        machine = said_by("dpkg", "--print-architecture").strip()
        toolchain = said_by("rustup", "show", "active-toolchain").split()[0]
        variables = {"PATH": "/usr/local/cargo/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root",
                     "CARGO_HOME": "/usr/local/cargo", "RUSTUP_HOME": "/usr/local/rustup", "RUSTUP_TOOLCHAIN": toolchain,
                     "BUILDARCH": machine, "TARGETARCH": machine, "DEBIAN_FRONTEND": "noninteractive", "CARGO_NET_OFFLINE": "true", "RUSTUP_AUTO_INSTALL": "0"}
        given = {name: value for name, value in os.environ.items() if name.startswith("CARGO_PROFILE_")}
        given["REVISION"] = said_by("git", "-C", ROOT, "rev-parse", "--short=9", "HEAD").strip()
        place, may_copy = "/", allowed()
        for word, arguments in steps:
            if word in ("ENV", "ARG"):
                variables_of([(word, arguments)], variables)
                variables.update({name: value for name, value in given.items() if word == "ENV" or name in arguments})
            elif word == "WORKDIR":
                place = arguments
                os.makedirs(self.root + place, exist_ok=True)
            elif word == "COPY":
                *sources, target = arguments.split()
                for source in sources:
                    if source not in may_copy:
                        raise SystemExit(f"COPY {source}: .dockerignore keeps it from the builder")
                    into = os.path.normpath(os.path.join(place, target))
                    name = os.path.join(into, os.path.basename(source)) if len(sources) > 1 else into
                    copy(os.path.join(ROOT, source), self.root + name)
            elif word == "RUN":
                print(f"+ {' '.join(arguments.split())[:100]}", flush=True)
                run("chroot", self.root, "/bin/sh", "-c", f"cd {place} && {arguments}", env=variables | given)
            elif word != "FROM":
                raise SystemExit(f"what is {word}?")


def unpack_base(image):
    """What distroless/base-nossl-debian12:nonroot holds."""
    with tempfile.TemporaryDirectory() as packages:
        os.chmod(packages, 0o755)
        run("apt-get", "download", "-qq", "-o", "APT::Sandbox::User=root", *IMAGE_PACKAGES, cwd=packages)
        for package in glob.glob(os.path.join(packages, "*.deb")):
            run("dpkg-deb", "--extract", package, image)
    for unneeded in ("usr/share/man", "usr/share/lintian", "usr/share/locale", "usr/share/doc-base", "usr/sbin"):
        shutil.rmtree(os.path.join(image, unneeded), ignore_errors=True)
    certificates = sorted(glob.glob(os.path.join(image, "usr/share/ca-certificates/mozilla/*.crt")))
    os.makedirs(os.path.join(image, "etc/ssl/certs"), exist_ok=True)
    with open(os.path.join(image, "etc/ssl/certs/ca-certificates.crt"), "w") as bundle:
        for certificate in certificates:
            with open(certificate) as file:
                bundle.write(file.read())
    with open(os.path.join(image, "etc/passwd"), "w") as users:
        users.write(f"root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:{USER}:{USER}:nonroot:/home/nonroot:/sbin/nologin\n")
    os.makedirs(os.path.join(image, "home/nonroot"), exist_ok=True)
    os.makedirs(os.path.join(image, "proc"), exist_ok=True)
    os.makedirs(os.path.join(image, "tmp"), exist_ok=True)
    os.chmod(os.path.join(image, "tmp"), 0o1777)


def size_of(folder):
    seen, total = set(), 0
    for place, _, names in os.walk(folder):
        for name in names:
            status = os.lstat(os.path.join(place, name))
            if status.st_ino not in seen:
                seen.add(status.st_ino)
                total += status.st_size
    return total


def assemble(image, built, steps):
    """The last stage: `built` holds what the builder left in /out and /data. Its size in bytes."""
    unpack_base(image)
    base = size_of(image)
    for word, arguments in steps:
        if word == "COPY":
            source, target = [part for part in arguments.split() if not part.startswith("--")]
            copy(built + source, image + target)
            if "--chown=65532:65532" in arguments:
                os.chown(image + target, USER, USER)
    shells = [name for folder in ("bin", "usr/bin", "usr/local/bin") for name in ("sh", "bash", "dash", "busybox")
              if os.path.lexists(os.path.join(image, folder, name))]
    if shells:
        raise SystemExit(f"it has shells: {shells}")
    own = size_of(image) - base
    print(f"base {base / 1e6:.1f} MB + own layers {own / 1e6:.1f} MB = {(base + own) / 1e6:.1f} MB, uncompressed", flush=True)
    return base + own


class Ollama(http.server.BaseHTTPRequestHandler):
    """As much of it as a health check and an inventory ask for."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        answers = {"/api/version": {"version": "0.33.0"}, "/api/tags": {"models": []}, "/api/ps": {"models": []}}
        body = json.dumps(answers.get(self.path, {})).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def confine(image):
    """Called in the child, between fork and exec: all that an engine takes away with `--read-only --cap-drop ALL
    --security-opt no-new-privileges --user 65532`."""
    libc = ctypes.CDLL(None, use_errno=True)
    drop_bounding, no_new_privileges = 24, 38

    def enter():
        os.chroot(image)
        os.chdir("/home/nonroot")
        for capability in range(64):
            libc.prctl(drop_bounding, capability, 0, 0, 0)
        os.setgroups([])
        os.setgid(USER)
        os.setuid(USER)
        libc.prctl(no_new_privileges, 1, 0, 0, 0)

    return enter


def scene(image):
    """In namespaces of its own; this process is their first."""
    steps = stages()[-1]
    run("ip", "link", "set", "lo", "up")
    run("mount", "--bind", image, image)
    run("mount", "-o", "remount,bind,ro", image)
    run("mount", "-t", "tmpfs", "-o", "mode=1777,size=64m", "tmpfs", os.path.join(image, "tmp"))
    run("mount", "-t", "proc", "proc", os.path.join(image, "proc"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 11434), Ollama)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    image_variables = variables_of([step for step in steps if step[0] == "ENV"], {"PATH": "/usr/local/bin:/usr/bin:/bin"})
    program, = json.loads(next(arguments for word, arguments in steps if word == "ENTRYPOINT"))
    program = f"/usr/local/bin/{program}"
    health = json.loads(re.search(r"CMD (\[.*\])", next(arguments for word, arguments in steps if word == "HEALTHCHECK"))[1])
    enter = confine(image)

    def ask(*arguments):
        return subprocess.run([program, *arguments], preexec_fn=enter, env=image_variables, capture_output=True, text=True, timeout=60,
                              stdin=subprocess.DEVNULL)

    for arguments in (["--version"], ["check", "-c", "/etc/arriero/arriero.yaml"]):
        done = ask(*arguments)
        print(f"arriero {' '.join(arguments)}: {(done.stdout + done.stderr).strip().splitlines()[0]}", flush=True)
        if done.returncode != 0:
            raise SystemExit(f"exit status {done.returncode}\n{done.stderr}")
    child = subprocess.Popen([program, "run"], preexec_fn=enter, env=image_variables | {"OLLAMA_HOSTS": "127.0.0.1"}, stdin=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while ask(*health[1:]).returncode != 0:
        if child.poll() is not None or time.monotonic() > deadline:
            raise SystemExit("it does not become healthy")
        time.sleep(0.1)
    with open(f"/proc/{child.pid}/status") as file:
        status = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
    with open(f"/proc/{child.pid}/mountinfo") as file:
        root = [line.split() for line in file if line.split()[4] == "/"]
    for name, wanted in {"Uid": "\t".join([str(USER)] * 4), "CapEff": "0" * 16, "CapPrm": "0" * 16, "CapBnd": "0" * 16, "NoNewPrivs": "1"}.items():
        if status[name] != wanted:
            raise SystemExit(f"{name} is {status[name]}")
    if not any("ro" in line[5].split(",") for line in root):
        raise SystemExit(f"its root can be written to: {root}")
    with urllib.request.urlopen(f"http://127.0.0.1:{image_variables['PORT']}/api/version", timeout=10) as answer:
        print(f"healthy, without rights, on a read-only root; /api/version through it: {answer.read().decode()}", flush=True)
    child.send_signal(signal.SIGTERM)
    if child.wait(60) != 0:
        raise SystemExit(f"it ended with {child.returncode}")
    print("ended when it was told", flush=True)


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--binary", help="a program that was built elsewhere")
    arguments.add_argument("--folder", help="where to work; kept")
    arguments.add_argument("--scene", help=argparse.SUPPRESS)
    arguments = arguments.parse_args()
    if arguments.scene:
        return scene(arguments.scene)
    if os.geteuid() != 0:
        raise SystemExit("this needs root")
    with tempfile.TemporaryDirectory() as temporary:
        folder = os.path.abspath(arguments.folder or temporary)
        os.chmod(temporary, 0o755)
        builder, image = os.path.join(folder, "builder"), os.path.join(folder, "image")
        os.makedirs(image)
        first, last = stages()
        if arguments.binary:
            copy(arguments.binary, os.path.join(builder, "out/usr/local/bin/arriero"))
            library = said_by("gcc", "-print-file-name=libgcc_s.so.1").strip()
            copy(library, os.path.join(builder, "out/usr/lib/libgcc_s.so.1"))
            copy(os.path.join(ROOT, "conf/docker/arriero.yaml"), os.path.join(builder, "out/etc/arriero/arriero.yaml"))
            os.makedirs(os.path.join(builder, "data"))
        else:
            work = Builder(builder)
            try:
                work.make()
                work.enter()
                work.carry_out(first)
            finally:
                work.leave()
        size = assemble(image, builder, last)
        run("unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", sys.executable, os.path.abspath(__file__), "--scene", image)
    if size > LARGEST:
        raise SystemExit(f"the image is larger than {LARGEST / 1e6:.0f} MB")
    print("the image is as it should be")


if __name__ == "__main__":
    main()
