"""Runs a program under the filter of system calls of a unit of systemd, without systemd, as a user without rights. A call that the
filter does not let through kills the program: in the unit it fails, which would be seen late or never.

usage: confined.py UNIT PROGRAM [ARGUMENT…]        needs pyseccomp and systemd-analyze
"""

import os
import re
import subprocess
import sys

import pyseccomp


def calls_of(word):
    """The calls of a set such as `@file-system`, or the one that is named."""
    if not word.startswith("@"):
        return {word}
    text = subprocess.run(["systemd-analyze", "syscall-filter", word], capture_output=True, text=True, check=True).stdout
    words = re.findall(r"^    ([@\w-]+)$", text, re.MULTILINE)
    return set().union(*map(calls_of, words))


def allowed_by(unit):
    """The calls that a unit allows; the first line of its filter is a list of what is allowed."""
    allowed = calls_of("@default")
    for line in re.findall(r"^SystemCallFilter=(.*)$", unit, re.MULTILINE):
        calls = set().union(*map(calls_of, line.lstrip("~").split()))
        allowed = allowed - calls if line.startswith("~") else allowed | calls
    return allowed


def main():
    with open(sys.argv[1]) as file:
        allowed = allowed_by(file.read())
    filter_of_calls = pyseccomp.SyscallFilter(pyseccomp.KILL_PROCESS)
    for call in allowed:
        try:
            filter_of_calls.add_rule(pyseccomp.ALLOW, call)
        except (OSError, RuntimeError, ValueError):
            pass  # a call that this processor, or an older library, does not have
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    filter_of_calls.load()
    os.execv(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
