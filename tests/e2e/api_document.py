"""The admin API against its own document: schemathesis makes calls of all kinds, most of them wrong, and each answer must be one
that the document has, in the form that it has there."""

import os
import subprocess
import sys

from checks import check, expect
from fleet import Front, fetch, fetch_json
from pretend import Host, Hosts

CHECKS = ("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance")
# Streams do not end; an upgrade would end the process that is asked.
LEFT_OUT = "(stream|events|upgrade)"
TOKEN = "e2e-token"
MODELS = {"llama3.2:3b": 2 * 10**9, "mistral:7b": 4 * 10**9}


@check("admin API: each answer is one of its OpenAPI document")
def document(world):
    directory = os.path.join(world.directory, "api-document")
    os.makedirs(directory)
    token = os.path.join(directory, "token")
    with open(token, "w") as file:
        file.write(TOKEN)
    hosts = Hosts([Host(MODELS, ["mistral:7b"]), Host(MODELS)])
    servers = "\n".join(f'      - {{ name: s{number}, url: "{host.url}" }}' for number, host in enumerate(hosts.hosts))
    yaml = "\n".join([
        "routes: [{ name: all, upstream: fleet }]",
        "upstreams:",
        "  fleet:",
        "    kind: ollama",
        "    recovery: { quiet: 0s, timeout: 2s }",
        "    servers:",
        servers,
        "server: { data_dir: ./data }",
    ])

    class Ours(Front):
        def save(self, text):
            super().save(text.replace("admin: { address:", f'admin: {{ token_file: "{token}", address:'))

    front = world.keep(Ours(world.binary, "front", directory, yaml))
    url = f"{front.admin}/api/orchestrator/openapi.json"
    paths = fetch_json(url)["paths"]
    expect(len(paths) > 70, f"only {len(paths)} paths")
    program = os.path.join(os.path.dirname(sys.executable), "schemathesis")
    command = [program, "run", url, "--exclude-path-regex", LEFT_OUT, "--checks", ",".join(CHECKS), "--max-examples", "15",
               "--seed", "1", "--request-timeout", "60", "--continue-on-failure", "-H", f"Authorization: Bearer {TOKEN}"]
    ran = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=400)
    expect(ran.returncode == 0, (ran.stdout + ran.stderr)[-6000:])
    # Some of the calls took servers out; the process is still there.
    expect(fetch(front.admin + "/health/live") == b"ok\n", "it does not live")
