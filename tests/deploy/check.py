#!/usr/bin/env python3
"""Checks what is shipped and deployed: the image, the Debian package, Compose, the targets of make, Kubernetes, systemd, Prometheus and
Grafana, the workflows of a release.

No container engine and no cluster is needed: schemas, linters and the programs' own checks judge the files, and where make
calls Docker, a program in its place records with what.

usage: check.py --arriero BINARY
Needs what tests/e2e/requirements.txt lists, promtool, amtool and systemd-analyze (`make check-deploy` brings them). The last
line is `deploy: N passed, N failed`.
"""

import argparse
import os
import sys
import traceback

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
CHECKS = []


def check(name):
    """Registers a function of one argument, the path of Arriero's binary, as a check; it fails by raising."""

    def register(function):
        CHECKS.append((name, function))
        return function

    return register


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--arriero", required=True, help="the binary whose `check` decides about configurations")
    arriero = os.path.abspath(arguments.parse_args().arriero)
    os.environ["PATH"] = os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"]
    passed = failed = 0
    for name, function in CHECKS:
        try:
            function(arriero)
        except Exception as error:  # noqa: BLE001: every failure of a check is a result
            failed += 1
            where = traceback.extract_tb(error.__traceback__)[-1]
            text = f"{type(error).__name__}: {error} ({os.path.basename(where.filename)}:{where.lineno})"
            print(f"FAIL  {name}\n      " + text.strip().replace("\n", "\n      "), flush=True)
        else:
            passed += 1
            print(f"ok    {name}", flush=True)
    print(f"deploy: {passed} passed, {failed} failed")
    return 0 if failed == 0 and passed > 0 else 1


if __name__ == "__main__":
    # The modules below import this one by its name.
    sys.modules["check"] = sys.modules["__main__"]
    import containers  # noqa: F401: registers its checks
    import dashboards  # noqa: F401
    import kubernetes  # noqa: F401
    import materials  # noqa: F401
    import package  # noqa: F401
    import revision  # noqa: F401
    import rules  # noqa: F401
    import systemd  # noqa: F401
    import targets  # noqa: F401
    import workflows  # noqa: F401

    sys.exit(main())
