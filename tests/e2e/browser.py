"""A real browser: headless Chromium loads a page that Arriero serves from files, and holds a WebSocket through it."""

import base64
import contextlib
import json
import os
import shutil

from websockets.sync.client import connect

from checks import check, expect, expect_equal, wait_until
from fleet import Process, fetch
from sockets import POLL, SOCKET, behind_arriero, routes

PAGE = """<!doctype html>
<meta charset="utf-8">
<title>arriero</title>
<link rel="stylesheet" href="/assets/style.css">
<script src="/assets/page.js"></script>
<p id="p">loaded</p>
"""

SCRIPT = f"""
const heard = [];
const events = [];
let socket;
async function begin() {{
  const poll = await fetch({json.dumps(POLL)});
  events.push(await poll.text());
  socket = new WebSocket("ws://" + location.host + {json.dumps(SOCKET)});
  socket.onopen = () => events.push("open");
  socket.onclose = event => events.push("close " + event.code);
  socket.onerror = () => events.push("error");
  socket.onmessage = event => heard.push(event.data);
}}
begin();
"""


class Browser:
    """Chromium without a screen, told what to do over its debugging socket."""

    def __init__(self, world):
        names = ("chromium", "chromium-browser", "google-chrome")
        program = next(filter(None, map(shutil.which, names)), None)
        expect(program, "no Chromium: scripts/ensure.sh chromium installs it")
        self.profile = os.path.join(world.directory, "chromium")
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
                     "--no-proxy-server", "--disable-background-networking", "--disable-component-update",
                     "--remote-debugging-port=0", f"--user-data-dir={self.profile}", "about:blank"]
        kept = {key: os.environ[key] for key in ("PATH", "LANG", "TMPDIR") if key in os.environ}
        self.process = Process("chromium", [program, *arguments], world.directory, kept | {"HOME": world.directory})
        world.processes.append(self.process)
        self.sent = 0
        port, _ = wait_until(self.told, 60, "the browser listens")
        target, = [each for each in json.loads(fetch(f"http://127.0.0.1:{port}/json/list")) if each["type"] == "page"]
        self.socket = connect(target["webSocketDebuggerUrl"], max_size=1 << 24, origin=None)

    def told(self):
        with open(os.path.join(self.profile, "DevToolsActivePort")) as file:
            return file.read().split("\n", 1)

    def call(self, method, **parameters):
        self.sent += 1
        self.socket.send(json.dumps({"id": self.sent, "method": method, "params": parameters}))
        while True:
            message = json.loads(self.socket.recv(30))
            if message.get("id") == self.sent:
                expect("error" not in message, f"{method}: {message.get('error')}")
                return message["result"]

    def run(self, script):
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        expect("exceptionDetails" not in result, f"{script}: {result.get('exceptionDetails')}")
        return result["result"].get("value")

    def stop(self):
        with contextlib.suppress(Exception):
            self.socket.close()
        self.process.stop()


@check("browser: a page from files and a socket live on over a reload")
def page_and_socket(world):
    www = os.path.join(world.directory, "www")
    os.makedirs(os.path.join(www, "assets"))
    for name, text in (("index.html", PAGE), ("assets/page.js", SCRIPT), ("assets/style.css", "p { color: rgb(1, 2, 3) }")):
        with open(os.path.join(www, name), "w") as file:
            file.write(text)
    with open(os.path.join(www, "dot.png"), "wb") as file:
        file.write(base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="))

    def site(generation):
        return (f"  - {{ name: site, match: {{ path: / }}, files: {{ root: \"{www}\", fallback: /index.html }}, compress: true, "
                f"headers: {{ response: {{ set: {{ X-Generation: \"{generation}\" }} }} }} }}")

    with behind_arriero(world, "browser", site(1)) as (echo, front), contextlib.closing(Holder(world)) as holder:
        browser = holder.browser
        browser.call("Page.enable")
        browser.call("Page.navigate", url=front.url + "/deep/link")
        wait_until(lambda: browser.run("typeof events == 'object' && events.join()") == "polled,open", 20, "the socket is open")
        expect_equal(browser.run("document.getElementById('p').textContent"), "loaded", "the page")
        expect_equal(browser.run("getComputedStyle(document.getElementById('p')).color"), "rgb(1, 2, 3)", "its style")
        wait_until(lambda: browser.run("heard.join()") == "you are 1", 10, "the first word")
        for generation in (2, 3):
            browser.run(f"socket.send('before {generation}')")
            front.reload(routes(echo.port, generation, site(generation)))
            browser.run(f"socket.send('after {generation}')")
            wait_until(lambda generation=generation: browser.run("heard.slice(-2).join()")
                       == f"before {generation},after {generation}", 10, "echoes on both sides of the reload")
            got = browser.run("fetch('/dot.png', {cache: 'reload'}).then(answer => answer.headers.get('x-generation'))")
            expect_equal(got, str(generation), "the file in force, as the page sees it")
        expect_equal(browser.run("events.join()"), "polled,open", "what the socket went through")
        expect_equal(echo.closed, [], "sockets that were closed")
        browser.call("Page.reload", ignoreCache=False)
        wait_until(lambda: browser.run("typeof heard == 'object' && heard.join()") == "you are 2", 20, "a second socket")
        wait_until(lambda: [number for number, _ in echo.closed] == [1], 10, "the first is closed at the server too")


class Holder:
    """Ends the browser whatever happens."""

    def __init__(self, world):
        self.browser = Browser(world)

    def close(self):
        self.browser.stop()
