"""The commit in `arriero --version`: build.rs, in a small package of its own."""

import os
import re
import shutil
import subprocess
import tempfile

from check import check
from files import path, same

MANIFEST = '[package]\nname = "small"\nversion = "0.0.0"\nedition = "2024"\n'
MAIN = 'fn main() {\n    println!("{}|{}", env!("ARRIERO_REVISION"), env!("ARRIERO_VERSION"));\n}\n'
DAY = "2026-01-02"
NOTHING = "|0.0.0"


class Package:
    """A package in a folder, with a build folder outside of it."""

    def __init__(self, folder, build, **variables):
        self.folder = folder
        unset = ("ARRIERO_REVISION", "RUSTFLAGS", "CARGO_BUILD_TARGET", "GIT_DIR", "GIT_WORK_TREE")
        self.environment = {name: value for name, value in os.environ.items() if name not in unset}
        self.environment |= {"CARGO_TARGET_DIR": build, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull} | variables

    def write(self):
        os.makedirs(os.path.join(self.folder, "src"))
        shutil.copy(path("build.rs"), self.folder)
        for name, text in (("Cargo.toml", MANIFEST), (os.path.join("src", "main.rs"), MAIN)):
            with open(os.path.join(self.folder, name), "w") as file:
                file.write(text)
        return self

    def git(self, *arguments):
        who = {f"GIT_{part}_{key}": value for part in ("AUTHOR", "COMMITTER")
               for key, value in (("NAME", "a"), ("EMAIL", "a@example.com"), ("DATE", f"{DAY}T12:00:00Z"))}
        done = subprocess.run(["git", *arguments], cwd=self.folder, capture_output=True, text=True, check=True, env=self.environment | who)
        return done.stdout.strip()

    def commit(self):
        self.git("commit", "-q", "--allow-empty", "-m", "more")
        return self.told()

    def told(self):
        """What a program of the commit that is checked out says."""
        commit = self.git("rev-parse", "HEAD")[:9]
        return f"{commit}|0.0.0 ({commit} {DAY})"

    def build(self, *arguments, **variables):
        """(what it says, whether something was compiled)"""
        command = ["cargo", "run", "--offline", *arguments]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=300,
                              env=self.environment | {"CARGO_TERM_COLOR": "never"} | variables)
        if done.returncode != 0:
            raise AssertionError(done.stderr)
        return done.stdout.strip(), bool(re.search(r"^ *Compiling", done.stderr, re.MULTILINE))


@check("version: a release build knows its commit, also in a worktree and with packed refs, and builds anew only when that changes")
def of_git(_):
    with tempfile.TemporaryDirectory() as folder:
        package = Package(os.path.join(folder, "a"), os.path.join(folder, "build")).write()
        package.git("init", "-q", "-b", "main")
        package.git("add", ".")
        first = package.commit()
        same(package.build("--release"), (first, True), "the first build")
        same(package.build("--release"), (first, False), "the same commit once more")
        second = package.commit()
        same(package.build("--release"), (second, True), "after a commit")
        package.git("pack-refs", "--all")
        package.build("--release")
        same(package.build("--release")[1], False, "whether packed refs build anew each time")
        third = package.commit()
        same(package.build("--release"), (third, True), "after a commit on packed refs")
        package.git("checkout", "-q", "--detach", "HEAD~1")
        same(package.build("--release")[0], package.told(), "without a branch")
        package.git("worktree", "add", "-q", "-b", "other", os.path.join(folder, "b"), "main")
        other = Package(os.path.join(folder, "b"), os.path.join(folder, "build-b"))
        same(other.build("--release"), (third, True), "in a worktree")
        same(other.build("--release"), (third, False), "in a worktree once more")
        fourth = other.commit()
        same(other.build("--release"), (fourth, True), "in a worktree after a commit")


@check("version: a build for development knows no commit, so that none builds everything anew; ARRIERO_REVISION is believed")
def told(_):
    with tempfile.TemporaryDirectory() as folder:
        package = Package(os.path.join(folder, "a"), os.path.join(folder, "build")).write()
        package.git("init", "-q")
        package.git("add", ".")
        package.commit()
        same(package.build(), (NOTHING, True), "for development")
        package.commit()
        same(package.build(), (NOTHING, False), "for development, after a commit")
        same(package.build(ARRIERO_REVISION="1a2b3c4 2026-11-28")[0], "1a2b3c4|0.0.0 (1a2b3c4 2026-11-28)", "what is told")
        same(package.build(ARRIERO_REVISION="unknown")[0], NOTHING, "told that it is not known")
        same(package.build(ARRIERO_REVISION="1a2b3c4 \x1b[2J")[0], "1a2b3c4|0.0.0 (1a2b3c4)", "told something that is no word")


@check("version: without git, without a repository, and inside somebody else's, no commit is told and the build goes on")
def unknown(_):
    with tempfile.TemporaryDirectory() as folder:
        outside = Package(os.path.join(folder, "none"), os.path.join(folder, "build-1")).write()
        same(outside.build("--release")[0], NOTHING, "without a repository")
        owner = Package(os.path.join(folder, "owner"), os.path.join(folder, "build-2"))
        os.mkdir(owner.folder)
        owner.git("init", "-q")
        owner.commit()
        inside = Package(os.path.join(folder, "owner", "vendor", "small"), os.path.join(folder, "build-2")).write()
        same(inside.build("--release")[0], NOTHING, "inside another repository")
        programs = os.path.join(folder, "programs")
        os.mkdir(programs)
        with open(os.path.join(programs, "git"), "w") as file:
            file.write("#!/bin/sh\nexit 127\n")
        os.chmod(os.path.join(programs, "git"), 0o755)
        lost = Package(os.path.join(folder, "c"), os.path.join(folder, "build-3")).write()
        lost.git("init", "-q")
        lost.git("add", ".")
        lost.commit()
        lost.environment["PATH"] = programs + os.pathsep + lost.environment["PATH"]
        same(lost.build("--release")[0], NOTHING, "without git")
