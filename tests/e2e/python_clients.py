"""The Python packages `ollama` and `openai`, unchanged, with Arriero as their server."""

import re

import httpx
import ollama
import openai
import requests

from checks import check, expect, expect_equal
from images import png, png_base64
from wire import send

OPTIONS = {"num_predict": 8, "temperature": 0, "seed": 7}
HELLO = [{"role": "user", "content": "Hello"}]
PICTURE = 300_000
NOT_FOUND = re.compile("model ['\"]nope['\"] not found")  # the quotes depend on the version of Ollama


def native(world):
    return ollama.Client(host=world.fleet.url, timeout=60)


def openai_client(world, bodies=None):
    def keep(request):
        if bodies is not None:
            bodies.append(request.read())

    return openai.OpenAI(
        base_url=world.fleet.url + "/v1", api_key="ollama", max_retries=0, timeout=60,
        http_client=httpx.Client(event_hooks={"request": [keep]}))


@check("ollama-python: chat")
def chat(world):
    answer = native(world).chat("tiny:1", HELLO, options=OPTIONS)
    expect(answer.done and answer.message.content, f"an unfinished or empty answer: {answer}")
    expect_equal(answer.eval_count, 8, "eval_count")


@check("ollama-python: chat, streamed")
def chat_stream(world):
    parts = list(native(world).chat("tiny:2", HELLO, stream=True, options=OPTIONS))
    expect(len(parts) > 4, f"only {len(parts)} parts")
    expect(parts[-1].done and not any(part.done for part in parts[:-1]), "not exactly the last part is done")


@check("ollama-python: generate with an image of 300 kB")
def generate_image(world):
    answer = native(world).generate("tiny:1", "What is this?", images=[png(PICTURE * 3 // 4)], options=OPTIONS)
    expect(answer.done, "not done")


@check("ollama-python: chat with an image of 300 kB, streamed")
def chat_image(world):
    message = {"role": "user", "content": "What is this?", "images": [png(PICTURE * 3 // 4)]}
    parts = list(native(world).chat("tiny:2", [message], stream=True, options=OPTIONS))
    expect(parts[-1].done, "not done")


@check("ollama-python: embed")
def embed(world):
    answer = native(world).embed("tiny:1", ["one", "two"])
    expect_equal([len(vector) for vector in answer.embeddings], [64, 64], "lengths of the vectors")


@check("ollama-python: list")
def models(world):
    found = sorted(model.model for model in native(world).list().models)
    expect_equal(found, ["both:1", "tiny:1", "tiny:2"], "models")


@check("ollama-python: show")
def show(world):
    answer = native(world).show("tiny:2")
    expect_equal(answer.details.family, "llama", "family")


@check("ollama-python: ps")
def ps(world):
    native(world).generate("tiny:1")  # loads it
    expect(native(world).ps().models is not None, "no list")


@check("ollama-python: unknown model")
def unknown(world):
    try:
        native(world).chat("nope", HELLO)
    except ollama.ResponseError as error:
        expect_equal(error.status_code, 404, "status")
        expect(NOT_FOUND.search(error.error), f"another message: {error.error}")
    else:
        raise AssertionError("no error")


@check("openai-python: chat")
def openai_chat(world):
    answer = openai_client(world).chat.completions.create(model="tiny:1", messages=HELLO, max_tokens=8, seed=7)
    expect_equal(answer.usage.completion_tokens, 8, "completion_tokens")


@check("openai-python: chat, streamed, with usage")
def openai_stream(world):
    parts = list(openai_client(world).chat.completions.create(
        model="tiny:2", messages=HELLO, max_tokens=8, stream=True, stream_options={"include_usage": True}))
    expect(len(parts) > 4, f"only {len(parts)} parts")
    expect_equal(parts[-1].usage.completion_tokens, 8, "completion_tokens of the last part")


@check("openai-python: chat with an image of 300 kB before the model")
def openai_image(world):
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + png_base64(PICTURE)}}
    messages = [{"role": "user", "content": [{"type": "text", "text": "What is this?"}, picture]}]
    for stream in (False, True):
        bodies = []
        answer = openai_client(world, bodies).chat.completions.create(
            model="tiny:2", messages=messages, max_tokens=8, stream=stream)
        if stream:
            expect(len(list(answer)) > 4, "few parts")
        body = bodies[0]
        expect(body.index(b'"model"') > 290_000 > body.index(b'"messages"'),
               "this client does not send the model behind the image any more: the check lost its point")


@check("openai-python: models.list and models.retrieve")
def openai_models(world):
    found = sorted(model.id for model in openai_client(world).models.list())
    expect_equal(found, ["both:1", "tiny:1", "tiny:2"], "models")
    expect_equal(openai_client(world).models.retrieve("tiny:2").id, "tiny:2", "id")


@check("openai-python: embeddings")
def openai_embeddings(world):
    answer = openai_client(world).embeddings.create(model="tiny:1", input="one")
    expect_equal(len(answer.data[0].embedding), 64, "length of the vector")


@check("openai-python: unknown model")
def openai_unknown(world):
    try:
        openai_client(world).chat.completions.create(model="nope", messages=HELLO)
    except openai.NotFoundError as error:
        expect(NOT_FOUND.search(error.body["message"]), f"another message: {error.body}")
    else:
        raise AssertionError("no error")


@check("requests: a chunked body of 1 MB without Content-Type, model last")
def requests_chunked(world):
    def pieces():
        yield b'{"prompt":"What is this?","stream":false,"options":{"num_predict":4},"images":["'
        picture = png_base64(1_000_000).encode()
        for start in range(0, len(picture), 50_001):
            yield picture[start:start + 50_001]
        yield b'"],"mod'
        yield b'el":"tiny:2"}'

    answer = requests.post(world.fleet.url + "/api/generate", data=pieces(), timeout=60)
    expect_equal(answer.status_code, 200, f"status ({answer.text[:200]})")
    expect(answer.json()["done"], "not done")


@check("httpx: keep-alive, requests for different models on one connection")
def httpx_keepalive(world):
    with httpx.Client(timeout=60) as client:
        for model in ("tiny:1", "tiny:2", "tiny:1", "nope", "tiny:2"):
            answer = client.post(world.fleet.url + "/api/generate", json={
                "model": model, "prompt": "Hi", "stream": False, "options": {"num_predict": 2}})
            expect_equal(answer.status_code, 404 if model == "nope" else 200, f"status for {model}")
            if model != "nope":
                expect_equal(answer.json()["model"], model, "model in the answer")


@check("HEAD / as the ollama command line sends it")
def head(world):
    expect_equal(send(world.fleet.url, "HEAD", "/").status, 200, "status")
