#!/usr/bin/env python3
"""Takes the picture of the dashboard that the README shows: `arriero demo` with some traffic going, in a real Chromium.

usage: screenshot.py ARRIERO PICTURE     needs playwright, and Chromium on the PATH; `make screenshot` brings both
"""

import json
import random
import re
import shutil
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

from playwright.sync_api import expect, sync_playwright

CLIENTS = 9
# Rates are of the last seconds, percentiles of the last minute: without the loads of the beginning.
SECONDS = 80
MOST = 200_000


class Demo:
    """The demo fleet, and clients that ask it, some models more often than others."""

    def __init__(self, arriero):
        self.process = subprocess.Popen([arriero, "demo", "--listen", "127.0.0.1:0"], stdin=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self.ended = threading.Event()
        urls = {}
        for line in self.process.stderr:
            if found := re.match(r"(listening on|admin at) (http://\S+)", line):
                urls[found[1]] = found[2]
            if "admin at" in urls:
                break
        else:
            sys.exit("the demo did not start")
        threading.Thread(target=self.process.stderr.read, daemon=True).start()
        self.admin, self.data = urls["admin at"], urls["listening on"]
        names = [model["name"] for model in json.loads(self.fetch("/api/tags"))["models"] if "embed" not in model["name"]]
        self.clients = [threading.Thread(target=self.ask, args=(random.Random(number), names)) for number in range(CLIENTS)]
        for client in self.clients:
            client.start()

    def fetch(self, path, body=None):
        request = urllib.request.Request(self.data + path, data=json.dumps(body).encode() if body else None)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.read()

    def ask(self, chance, names):
        while not self.ended.is_set():
            body = {"model": names[min(int(chance.expovariate(0.9)), len(names) - 1)], "messages": [{"role": "user", "content": "Hello"}]}
            try:
                self.fetch("/api/chat", body)
            except (OSError, urllib.error.URLError):
                pass
            self.ended.wait(chance.uniform(0.1, 1.5))

    def end(self):
        self.ended.set()
        for client in self.clients:
            client.join()
        self.process.terminate()
        self.process.wait()


def main():
    arriero, picture = sys.argv[1:]
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if not chromium:
        sys.exit("no Chromium: scripts/ensure.sh chromium installs it")
    demo = Demo(arriero)
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--no-proxy-server"])
            page = browser.new_page(viewport={"width": 1440, "height": 430}, color_scheme="light")
            page.goto(demo.admin)
            expect(page.locator("#content tbody tr").first).to_be_visible()
            time.sleep(SECONDS)
            taken = page.screenshot()
            browser.close()
    finally:
        demo.end()
    if len(taken) > MOST:
        sys.exit(f"the picture has {len(taken)} bytes, more than {MOST}")
    with open(picture, "wb") as file:
        file.write(taken)


if __name__ == "__main__":
    main()
