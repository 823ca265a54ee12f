"""Token quotas before a real Ollama: what it tells is charged, and clients know a refusal for what it is."""

import ollama
import openai

from checks import check, expect, expect_equal, wait_until
from fleet import Front, fetch_json

HELLO = [{"role": "user", "content": "Hello"}]


def limited(world, name, limit):
    """Arriero with a quota of each value of the field `x-team`."""
    return world.keep(Front(world.binary, name, world.directory, "\n".join([
        "routes: [{ name: all, match: { path: / }, upstream: fleet }]",
        f"upstreams: {{ fleet: {{ kind: ollama, servers: [{{ name: a, url: '{world.a.url}' }}] }} }}",
        f"quotas: [{{ name: team, key: 'header:x-team', limit: {limit}, every: month }}]",
    ])))


def used(front, team):
    """What a team has used, once it has used something."""
    def rows():
        return fetch_json(f"{front.admin}/api/orchestrator/quotas?key=header:x-team={team}")["quotas"]
    wait_until(rows, 10, f"{team} is charged")
    return rows()[0]["promptTokens"], rows()[0]["outputTokens"]


@check("quotas: the clients of OpenAI and of Ollama are charged what Ollama tells, and see a 429 as theirs")
def charged_and_refused(world):
    front = limited(world, "quotas", 1)

    def of_openai(team):
        return openai.OpenAI(base_url=front.url + "/v1", api_key="ollama", max_retries=0, timeout=60,
                             default_headers={"X-Team": team}).chat.completions

    def of_ollama(team):
        return ollama.Client(host=front.url, timeout=60, headers={"X-Team": team})

    answer = of_openai("one").create(model="tiny:1", messages=HELLO, max_tokens=8)
    expect_equal(used(front, "one"), (answer.usage.prompt_tokens, answer.usage.completion_tokens), "tokens, not streamed")
    parts = list(of_openai("two").create(model="tiny:1", messages=HELLO, max_tokens=8, stream=True,
                                         stream_options={"include_usage": True}))
    expect_equal(used(front, "two"), (parts[-1].usage.prompt_tokens, parts[-1].usage.completion_tokens), "tokens, streamed")
    list(of_openai("three").create(model="tiny:1", messages=HELLO, max_tokens=8, stream=True))
    prompt, output = used(front, "three")
    # Ollama holds back a piece that is no whole letter yet.
    expect(prompt == 0 and 1 <= output <= 8, f"tokens of a stream that tells none: {prompt}, {output}")
    last = list(of_ollama("four").chat("tiny:1", HELLO, stream=True, options={"num_predict": 8}))[-1]
    expect_equal(used(front, "four"), (last.prompt_eval_count, last.eval_count), "tokens, native")
    embedded = of_ollama("five").embed("tiny:1", "Hello")
    expect_equal(used(front, "five"), (embedded.prompt_eval_count, 0), "tokens of an embedding")

    try:
        of_openai("one").create(model="tiny:1", messages=HELLO)
    except openai.RateLimitError as error:
        expect("the token quota `team` is used up" in str(error), f"another message: {error}")
        expect_equal(error.response.headers["x-arriero-reason"], "quota_exceeded", "reason")
        expect(int(error.response.headers["retry-after"]) > 0, "no time to come again")
    else:
        raise AssertionError("openai: no error")
    try:
        of_ollama("four").chat("tiny:1", HELLO)
    except ollama.ResponseError as error:
        expect_equal(error.status_code, 429, "status")
        expect("the token quota `team` is used up" in error.error, f"another message: {error.error}")
    else:
        raise AssertionError("ollama: no error")
    front.process.stop()
