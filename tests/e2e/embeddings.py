"""Embeddings that Arriero keeps: what it answers is what Ollama answers, whatever of it was known."""

import re

from checks import check, expect, expect_equal, wait_until
from fleet import Front, names
from wire import send

TEXTS = ["one", "twö", "three <b>", "four\nfive", "\u2028six", "seven" * 50]


def vectors(answer):
    """The embeddings of an answer as they are written."""
    return re.findall(r"\[-?[0-9.,e+-]+\]", answer.body.decode())


def told(answer):
    return answer.fields.get("Cache-Status")


@check("kept embeddings: known, new and mixed ones are Ollama's to the byte, in each of the three calls")
def kept(world):
    text = f"""routes: [{{ name: all, upstream: fleet, embeddings_cache: {{ scope: shared }} }}]
upstreams: {{ fleet: {{ kind: ollama, inventory: {{ interval: 1s }}, servers: [{{ url: "{world.a.url}" }}] }} }}
"""
    front = world.keep(Front(world.binary, "kept", world.directory, text))
    try:
        for path, one, many in (
            ("/api/embed", lambda text: {"model": "tiny:1", "input": text}, lambda texts: {"model": "tiny:1", "input": texts}),
            ("/v1/embeddings", lambda text: {"input": text, "model": "tiny:1", "user": "u"},
             lambda texts: {"input": texts, "model": "tiny:1"}),
            ("/api/embeddings", lambda text: {"model": "tiny:1", "prompt": text}, None),
        ):
            # The two new calls share what they know.
            texts = [f"{path} {text}" for text in TEXTS]

            def ask(body, expected):
                direct = send(world.a.url, "POST", path, body)
                got = send(front.url, "POST", path, body)
                expect_equal((got.status, got.content_type), (direct.status, direct.content_type), "status and Content-Type")
                expect_equal(vectors(got), vectors(direct), f"the embeddings of {path}")
                expect(told(got).startswith(expected), f"{path}: {told(got)}, not {expected}")
                return direct, got

            direct, got = ask(one(texts[1]), "arriero; fwd=miss; stored")
            expect_equal(got.masked(), direct.masked(), "what came from the server")
            direct, got = ask(one(texts[1]), "arriero; hit")
            if not many:
                expect_equal(got.body, direct.body, "what came from nobody")
                continue
            direct, got = ask(many(texts), "arriero; fwd=partial; stored")
            expect(len(vectors(got)) == len(texts), "all of them")
            wanted, found = (re.sub(rb'"(prompt_tokens|total_tokens|prompt_eval_count)":\d+', b"", answer.masked())
                             for answer in (direct, got))
            expect_equal(found, wanted, "all but the count of tokens")
            ask(many(texts[::-1]), "arriero; hit")
    finally:
        front.process.stop()


@check("kept embeddings: another model under the same name is noticed")
def changed(world):
    text = f"""routes: [{{ name: all, upstream: fleet, embeddings_cache: {{ scope: shared }} }}]
upstreams: {{ fleet: {{ kind: ollama, inventory: {{ interval: 1s }}, servers: [{{ url: "{world.a.url}" }}] }} }}
"""
    front = world.keep(Front(world.binary, "changed", world.directory, text))
    body = {"model": "changing", "input": "a"}
    try:
        send(world.a.url, "POST", "/api/create", {"model": "changing", "from": "tiny:1", "stream": False})
        wait_until(lambda: told(send(front.url, "POST", "/api/embed", body)) == "arriero; hit", 10, "it is known and kept")
        # Another digest: the same weights with a parameter of their own.
        change = {"model": "changing", "from": "tiny:1", "parameters": {"temperature": 0.5}, "stream": False}
        send(world.a.url, "POST", "/api/create", change)
        wait_until(lambda: told(send(front.url, "POST", "/api/embed", body)) == "arriero; fwd=miss; stored", 10, "the change is seen")
    finally:
        send(world.a.url, "DELETE", "/api/delete", {"model": "changing"})
        front.process.stop()
        # Those who check lists later count on what was there.
        for each in (world.solo, world.fleet):
            wait_until(lambda: "changing:latest" not in names(each.url), 20, f"{each.process.name} sees that it is gone")
