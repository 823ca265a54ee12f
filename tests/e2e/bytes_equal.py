"""An answer through Arriero is the server's own answer, to the byte."""

import json

from checks import check, expect, expect_equal
from wire import compare, send

STEADY = {"temperature": 0, "seed": 7, "num_predict": 12}
CHAT = {"model": "tiny:1", "messages": [{"role": "user", "content": "Name three colours."}], "options": STEADY}
GENERATE = {"model": "tiny:1", "prompt": "Name three colours.", "options": STEADY}
OPENAI_CHAT = {
    "messages": [{"role": "user", "content": "Name three colours."}],
    "model": "tiny:1", "temperature": 0, "seed": 7, "max_tokens": 12,
}
OPENAI_COMPLETION = {"prompt": "Once upon", "model": "tiny:1", "temperature": 0, "seed": 7, "max_tokens": 12}

CASES = [
    ("GET", "/", None),
    ("GET", "/api/version", None),
    ("GET", "/api/tags", None),
    ("GET", "/v1/models", None),
    ("GET", "/v1/models/tiny:1", None),
    ("POST", "/api/show", {"model": "tiny:1"}),
    ("POST", "/api/show", {"name": "tiny:1"}),
    ("POST", "/api/chat", CHAT),
    ("POST", "/api/chat", CHAT | {"stream": False}),
    ("POST", "/api/generate", GENERATE),
    ("POST", "/api/generate", GENERATE | {"stream": False}),
    ("POST", "/api/generate", GENERATE | {"stream": False, "raw": True}),
    ("POST", "/api/generate", {"model": "tiny:1"}),  # load it
    ("POST", "/api/embed", {"model": "tiny:1", "input": ["one", "two"]}),
    ("POST", "/api/embeddings", {"model": "tiny:1", "prompt": "one"}),
    ("POST", "/v1/chat/completions", OPENAI_CHAT),
    ("POST", "/v1/chat/completions", OPENAI_CHAT | {"stream": True}),
    ("POST", "/v1/chat/completions", OPENAI_CHAT | {"stream": True, "stream_options": {"include_usage": True}}),
    ("POST", "/v1/completions", OPENAI_COMPLETION),
    ("POST", "/v1/completions", OPENAI_COMPLETION | {"stream": True}),
    ("POST", "/v1/embeddings", {"input": "one", "model": "tiny:1"}),
]

UNKNOWN = [
    ("POST", "/api/chat", CHAT | {"model": "nope"}),
    ("POST", "/api/generate", GENERATE | {"model": "nope:7b"}),
    ("POST", "/api/show", {"model": "nope"}),
    ("POST", "/api/embed", {"model": "nope", "input": "one"}),
    ("POST", "/v1/chat/completions", OPENAI_CHAT | {"model": "nope"}),
    ("POST", "/v1/completions", OPENAI_COMPLETION | {"model": "nope"}),
    ("POST", "/v1/embeddings", {"input": "one", "model": "nope"}),
    ("GET", "/v1/models/nope", None),
]


def words(body):
    if body is None:
        return ""
    kind = [key for key in ("stream", "raw", "stream_options") if key in body]
    return " " + ",".join(f"{key}={body[key]}" for key in kind if key != "stream_options") if kind else ""


def add(label, method, path, body, status, server, front):
    @check(f"{label}: {method} {path}{words(body)}{' with usage' if body and 'stream_options' in body else ''}"
           f"{' by name' if body and 'name' in body else ''}")
    def equal(world):
        compare(getattr(world, server).url, getattr(world, front).url, method, path, body, status=status)


for case in CASES:
    add("as direct", *case, 200, "a", "solo")


def shape(value):
    """A JSON value without its texts and numbers."""
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items()}
    return type(value).__name__


def add_unknown(method, path, body):
    # Nobody has the model, so Arriero answers itself, in the words of a newer Ollama than this one: they are
    # compared by what they say, everything else exactly.
    @check(f"unknown model: {method} {path}")
    def alike(world):
        wanted, got = (send(base, method, path, body) for base in (world.a.url, world.fleet.url))
        expect_equal((got.status, got.content_type), (wanted.status, wanted.content_type), "status and Content-Type")
        expect_equal(got.status, 404, "status")
        expect_equal(shape(json.loads(got.body)), shape(json.loads(wanted.body)), "shape of the body")
        model = (body or {"model": "nope"})["model"]
        for answer in (wanted, got):
            text = json.dumps(json.loads(answer.body))
            expect(model in text and "not found" in text, f"does not say that {model} was not found: {answer.body}")


for case in UNKNOWN:
    add_unknown(*case)


@check("as direct: body without Content-Type")
def no_content_type(world):
    compare(world.a.url, world.solo.url, "POST", "/api/chat", json.dumps(CHAT).encode(), {})


@check("as direct: Content-Type text/plain, as a browser's fetch sends it")
def text_plain(world):
    compare(world.a.url, world.solo.url, "POST", "/api/chat", json.dumps(CHAT).encode(),
            {"Content-Type": "text/plain;charset=UTF-8"})
