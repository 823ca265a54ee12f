"""curl and the `ollama` command line through Arriero."""

import json
import os
import re
import subprocess

from checks import check, expect, expect_equal
from images import png_base64
from wire import VOLATILE, compare


def curl(world, *arguments):
    """Runs curl; gives the head lines of its answers and the body."""
    head, body = (os.path.join(world.directory, name) for name in ("curl.head", "curl.body"))
    done = subprocess.run(
        ["curl", "--silent", "--show-error", "--max-time", "60", "--dump-header", head, "--output", body, *arguments],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=90)
    expect_equal(done.returncode, 0, f"exit code of curl ({done.stderr.strip()})")
    with open(head, newline="") as file:
        lines = file.read().split("\r\n")
    with open(body, "rb") as file:
        return lines, file.read()


def statuses(lines):
    return [int(line.split()[1]) for line in lines if line.startswith("HTTP/")]


def content_type(lines):
    return [line.split(":", 1)[1].strip() for line in lines if line.lower().startswith("content-type:")]


def write_big(world, size, model_first):
    body = {"prompt": "What is this?", "stream": False, "images": [png_base64(size)],
            "options": {"num_predict": 4, "temperature": 0, "seed": 7}}
    body = {"model": "tiny:2"} | body if model_first else body | {"model": "tiny:2"}
    path = os.path.join(world.directory, "big.json")
    with open(path, "w") as file:
        json.dump(body, file)
    return path


def add_big(size, model_first):
    @check(f"curl -d @big.json: {size // 1_000_000} MB, model {'first' if model_first else 'last'}, Expect: 100-continue")
    def big(world):
        path = write_big(world, size, model_first)
        wanted_head, wanted = curl(world, "-d", f"@{path}", world.b.url + "/api/generate")
        wanted_head, wanted = curl(world, "-d", f"@{path}", world.b.url + "/api/generate")
        head, got = curl(world, "-d", f"@{path}", world.fleet.url + "/api/generate")
        expect_equal(statuses(wanted_head), [100, 200], "statuses of the direct answer")
        expect_equal(statuses(head), [100, 200], "statuses")
        expect_equal(content_type(head), content_type(wanted_head), "Content-Type")
        expect_equal(mask(got), mask(wanted), "body")


def mask(body):
    return VOLATILE.sub(b"*", body)


for size in (1_200_000, 8_000_000):
    for model_first in (True, False):
        add_big(size, model_first)


@check("curl -T: 2 MB chunked, model last")
def curl_upload(world):
    path = write_big(world, 2_000_000, False)
    head, body = curl(world, "-X", "POST", "-H", "Transfer-Encoding: chunked", "-T", path, world.fleet.url + "/api/generate")
    expect_equal(statuses(head)[-1], 200, f"status ({body[:200]})")
    expect_equal(json.loads(body)["model"], "tiny:2", "model")


@check("curl -F: multipart with a present model")
def curl_form(world):
    audio = os.path.join(world.directory, "voice.wav")
    with open(audio, "wb") as file:
        file.write(b"RIFF" + os.urandom(100_000))
    for fields in (["-F", "model=tiny:1", "-F", f"file=@{audio}"], ["-F", f"file=@{audio}", "-F", "model=tiny:1"]):
        wanted_head, wanted = curl(world, *fields, world.a.url + "/v1/audio/transcriptions")
        head, got = curl(world, *fields, world.fleet.url + "/v1/audio/transcriptions")
        # This version of Ollama has no such path: its 404 has to come back as it is.
        expect_equal(statuses(head)[-1], statuses(wanted_head)[-1], "status")
        expect_equal(content_type(head), content_type(wanted_head), "Content-Type")
        expect_equal(got, wanted, "body")


@check("curl: stream with -N")
def curl_stream(world):
    body = json.dumps({"model": "tiny:1", "prompt": "Hi", "options": {"num_predict": 8}})
    head, got = curl(world, "-N", "-d", body, world.fleet.url + "/api/generate")
    expect_equal(statuses(head), [200], "statuses")
    expect_equal(content_type(head), ["application/x-ndjson"], "Content-Type")
    lines = got.splitlines()
    expect(len(lines) > 4 and json.loads(lines[-1])["done"], f"{len(lines)} lines, the last: {lines[-1]}")


def through(world, *arguments):
    """The `ollama` command line against Arriero."""
    done = world.a.cli(*arguments, host=world.fleet.url)
    expect_equal(done.returncode, 0, f"exit code of ollama {arguments[0]} ({done.stderr.strip()})")
    return done.stdout


@check("ollama list")
def cli_list(world):
    found = sorted(line.split()[0] for line in through(world, "list").splitlines()[1:])
    expect_equal(found, ["both:1", "tiny:1", "tiny:2"], "models")


@check("ollama show")
def cli_show(world):
    for model, server in (("tiny:1", world.a), ("tiny:2", world.b)):
        for arguments in (["show", model], ["show", "--modelfile", model]):
            # Sorted, since Ollama tells the parameters in another order each time.
            wanted = sorted(server.cli(*arguments).stdout.splitlines())
            expect_equal(sorted(through(world, *arguments).splitlines()), wanted, f"ollama {' '.join(arguments)}")


@check("ollama run")
def cli_run(world):
    for model in ("tiny:1", "tiny:2"):
        words = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", through(world, "run", model, "Hello")).strip()
        expect(words, f"no words from {model}")


@check("ollama ps")
def cli_ps(world):
    through(world, "ps")


@check("ollama run of an unknown model says so")
def cli_unknown(world):
    done = world.a.cli("show", "nope", host=world.fleet.url)
    direct = world.a.cli("show", "nope")
    expect_equal((done.returncode, done.stderr), (direct.returncode, direct.stderr), "exit code and message")


@check("as direct: 2 MB, model last, both streamed and whole")
def big_equal(world):
    for stream in (False, True):
        body = {"prompt": "What is this?", "stream": stream, "images": [png_base64(2_000_000)],
                "options": {"num_predict": 4, "temperature": 0, "seed": 7}, "model": "tiny:1"}
        compare(world.a.url, world.solo.url, "POST", "/api/generate", body)
