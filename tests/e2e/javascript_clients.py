"""Runs clients.mjs; each of its lines is a check."""

import json
import os
import subprocess

from images import png

HERE = os.path.dirname(os.path.abspath(__file__))
EXPECTED = 14  # so that a script that ends early does not look like success


def run(world, report):
    if report.only and report.only not in "ollama-js openai-js fetch javascript":
        return
    picture = os.path.join(world.directory, "picture.png")
    with open(picture, "wb") as file:
        file.write(png(300_000 * 3 // 4))
    modules = os.path.join(world.cache, "node")
    try:
        done = subprocess.run(
            ["node", os.path.join(HERE, "clients.mjs"), world.fleet.url, modules, picture],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=180)
        output, errors = done.stdout, done.stderr
    except subprocess.TimeoutExpired as late:
        output, errors = (late.stdout or b"").decode(), "not done within 180 s"
    results = [json.loads(line) for line in output.splitlines()]
    for result in results:
        report.add(result["name"], result["error"])
    if len(results) != EXPECTED:
        report.add("javascript: all checks ran", f"{len(results)} of {EXPECTED}\n{errors}")
