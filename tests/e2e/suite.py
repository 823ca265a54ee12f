#!/usr/bin/env python3
"""The end-to-end suite: real Ollama servers, real clients, Arriero between them.

usage: suite.py ARRIERO_BINARY CACHE_FOLDER [PART_OF_A_NAME]
run.sh prepares the folder and calls this with the right Python.
"""

import os
import signal
import sys

import checks
import bytes_equal  # noqa: F401: registers its checks
import embeddings  # noqa: F401
import python_clients  # noqa: F401
import quotas  # noqa: F401
import tools  # noqa: F401
import sockets  # noqa: F401
import waiting  # noqa: F401
import browser  # noqa: F401
import dashboard  # noqa: F401
import dashboard_fetched  # noqa: F401
import api_document  # noqa: F401
import tls_scan  # noqa: F401
import three_ollamas  # noqa: F401
import model_jobs  # noqa: F401
import prometheus  # noqa: F401
import traces  # noqa: F401
import javascript_clients
import routing  # noqa: F401
from fleet import World

LIMIT = 1200  # seconds for everything


def too_late(*_):
    raise SystemExit(f"the suite was not done within {LIMIT} s")


def main():
    binary, cache, *only = sys.argv[1:]
    signal.signal(signal.SIGALRM, too_late)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.alarm(LIMIT)
    report = checks.Report(only[0] if only else None)
    world = World(os.path.realpath(binary), os.path.realpath(cache))
    complete = False
    try:
        world.start()
        calm = [entry for entry in checks.CHECKS if entry[1].__module__ != "routing"]
        rough = [entry for entry in checks.CHECKS if entry[1].__module__ == "routing"]
        for name, function in calm:
            report.run(name, function, world)
        javascript_clients.run(world, report)
        for name, function in rough:
            report.run(name, function, world)
        complete = True
    finally:
        world.stop(show_logs=report.failed > 0 or not complete)
        if not complete:
            report.add("the suite ran to its end", "it did not: see above")
        code = report.close()
    return code


if __name__ == "__main__":
    sys.exit(main())
