#!/usr/bin/env python3
"""Checks that the documentation and the examples are true.

- Links from one Markdown file to another file, and to a heading in it, lead somewhere.
- Every ```yaml block is YAML. One with `version:` is a whole configuration and passes `arriero check`; one that has
  only some of a configuration's blocks passes with the others filled in. ```yaml not-config is exempt.
- conf/ and examples/: every YAML file that says `version: 1` passes `arriero check`; Compose files name an image or
  a build for each service and mount files that exist.
- examples/alerts: its receiver takes a message of Arriero.
- examples/: what each README says to start and to run does what it says, before simulated Ollama servers.
- Every `arriero VERB` in a shell block is a verb that `arriero --help` names.
- Tests that docs/security.md names as a proof exist.
- The book is built without a warning, has every page, and none of its links is dead.

usage: check.py [--arriero BINARY] [--mdbook BINARY]     without one, what needs it is left out
Needs PyYAML (`make docs` brings it). The last line is `docs: N passed, N failed`.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile

import alerts
import book
import examples
import yaml

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BLOCKS = {"version", "listeners", "routes", "upstreams", "defaults", "auth", "notifications", "admin", "server",
          "telemetry", "history", "quotas", "cluster"}
SKIPPED_FOLDERS = {".git", "target", "node_modules", "data"}

# What a fragment is completed with.
BASE = {
    "version": 1,
    "listeners": [{"address": "127.0.0.1:8080"}],
    "routes": [{"name": "all", "match": {"path": "/"}, "upstream": "fleet"}],
    "upstreams": {
        "fleet": {"kind": "ollama", "servers": [{"url": "http://127.0.0.1:11434"}]},
        "web": {"kind": "http", "servers": [{"url": "http://127.0.0.1:3000"}]},
    },
}


class Yaml12(yaml.SafeLoader):
    """Reads `on` and `off` as the words that they are since YAML 1.2; PyYAML makes them true and false."""


Yaml12.yaml_implicit_resolvers = {
    letter: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Yaml12.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^(?:true|false)$"), list("tf"))

passed = 0
failed = 0


def result(name, error=None):
    global passed, failed
    if error is None:
        passed += 1
    else:
        failed += 1
        print(f"FAIL  {name}\n      " + error.strip().replace("\n", "\n      "), flush=True)


def files(*endings):
    for folder, folders, names in os.walk(ROOT):
        folders[:] = sorted(set(folders) - SKIPPED_FOLDERS)
        for name in sorted(names):
            if name.endswith(endings):
                yield os.path.join(folder, name)


def relative(path):
    return os.path.relpath(path, ROOT)


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


# Markdown

FENCE = re.compile(r"^( *)(```+)([^\n`]*)\n(.*?)^\1\2 *$", re.MULTILINE | re.DOTALL)


def blocks(text):
    """(line, words after the fence, content) of each fenced block."""
    for match in FENCE.finditer(text):
        indent = len(match[1])
        content = "".join(line[indent:] if line.strip() else line for line in match[4].splitlines(keepends=True))
        yield text.count("\n", 0, match.start()) + 1, match[3].strip(), content


def anchors(text):
    """The anchors that a Markdown viewer gives the headings."""
    seen = {}
    for line in FENCE.sub("", text).splitlines():
        heading = re.match(r"#{1,6} +(.*?) *#*$", line)
        if heading:
            words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading[1])
            anchor = re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")
            count = seen.get(anchor, 0)
            seen[anchor] = count + 1
            yield f"{anchor}-{count}" if count else anchor


def check_links(path, text):
    bare = FENCE.sub("", text)
    bare = re.sub(r"`[^`\n]*`", "", bare)
    for link in re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", bare):
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        there = os.path.normpath(os.path.join(os.path.dirname(path), target)) if target else path
        name = f"{relative(path)}: link to {link}"
        if not os.path.exists(there):
            result(name, "no such file")
        elif anchor and anchor not in set(anchors(read(there))):
            result(name, f"no such heading in {relative(there)}")
        else:
            result(name)


def check_blocks(path, text, arriero):
    for line, words, content in blocks(text):
        place = f"{relative(path)}:{line}"
        language, *marks = words.split() or [""]
        if language == "yaml":
            check_yaml_block(place, content, "not-config" in marks, arriero)
        elif language in ("sh", "console") and arriero:
            check_verbs(place, content, arriero)


def check_yaml_block(place, content, exempt, arriero):
    try:
        value = yaml.load(content, Yaml12)
    except yaml.YAMLError as error:
        result(f"{place}: yaml block", str(error))
        return
    if exempt or not isinstance(value, dict) or "services" in value:
        result(f"{place}: yaml block")
        return
    unknown = set(value) - BLOCKS
    if unknown:
        result(f"{place}: yaml block", f"no block of a configuration: {sorted(unknown)} (mark it not-config?)")
        return
    if not arriero:
        return
    if "version" not in value:
        content = yaml.safe_dump(complete(value), sort_keys=False)
    check_config(f"{place}: configuration", content, arriero)


def complete(fragment):
    """A fragment with the blocks that it leaves out; every upstream has a route and every route an upstream."""
    whole = BASE | fragment
    routes = fragment.get("routes", [] if "upstreams" in fragment else BASE["routes"])
    named = {route["upstream"] for route in routes if "upstream" in route}
    upstreams = {name: BASE["upstreams"][name] for name in named & BASE["upstreams"].keys()} | fragment.get("upstreams", {})
    extra = [{"name": f"to-{name}", "match": {"path": f"/to-{name}/"}, "upstream": name}
             for name in upstreams if name not in named]
    return whole | {"routes": extra + routes, "upstreams": upstreams}


def check_config(name, content, arriero, beside=None):
    """`beside` is the folder of a file that may name others in it."""
    with tempfile.TemporaryDirectory() as folder:
        if beside:
            shutil.copytree(beside, folder, dirs_exist_ok=True)
        # Secrets are named by their path in production; here they lie beside the file.
        for secret in set(re.findall(r"/run/secrets/([\w.-]+)", content)):
            with open(os.path.join(folder, secret), "w") as file:
                file.write("a-token-of-more-than-thirty-two-characters\n")
            os.chmod(os.path.join(folder, secret), 0o600)
        content = content.replace("/run/secrets/", folder + "/")
        path = os.path.join(folder, "arriero.yaml")
        with open(path, "w") as file:
            file.write(content)
        done = subprocess.run([arriero, "check", "-c", path], capture_output=True, text=True, timeout=60,
                              stdin=subprocess.DEVNULL, env=os.environ | variables(content))
    result(name, None if done.returncode == 0 else done.stdout + done.stderr)


def variables(content):
    """A value for each ${VAR} that has no default."""
    return {name: "127.0.0.1" for name in re.findall(r"\$\{(\w+)\}", content) if name not in os.environ}


VERBS = {}


def check_verbs(place, content, arriero):
    if not VERBS:
        help_text = subprocess.run([arriero, "--help"], capture_output=True, text=True, timeout=60,
                                   stdin=subprocess.DEVNULL).stdout
        VERBS.update({verb: True for verb in re.findall(r"^  ([a-z-]+)  ", help_text, re.MULTILINE)})
    for verb in re.findall(r"^\s*(?:\$ )?(?:[A-Z_]+=\S+ )*arriero ([a-z][a-z-]*)", content, re.MULTILINE):
        result(f"{place}: arriero {verb}", None if verb in VERBS else f"no such verb; there are {sorted(VERBS)}")


# Proofs

def check_proofs(path):
    """`file::test` in code is a test in tests/, `module::test` one beside that module in src/."""
    for name in sorted(set(re.findall(r"`([a-z0-9_]+(?:::[a-z0-9_]+)+)`", read(path)))):
        *place, test = name.split("::")
        under = os.path.join(ROOT, "tests" if os.path.exists(os.path.join(ROOT, "tests", place[0] + ".rs")) else "src", *place)
        sources = [under + ending for ending in (".rs", "_tests.rs", "/mod.rs", "/tests.rs")]
        if "/tests/" in under + "/" and os.path.isdir(under):
            sources += [os.path.join(under, file) for file in os.listdir(under)]
        there = any(re.search(rf"\bfn {test}\b", read(file)) for file in sources if os.path.isfile(file))
        result(f"{relative(path)}: the test {name}", None if there else "no such test")


# YAML files

def check_yaml_file(path, arriero):
    text = read(path)
    try:
        value = yaml.load(text, Yaml12)
    except yaml.YAMLError as error:
        result(f"{relative(path)}: YAML", str(error))
        return
    if not isinstance(value, dict):
        result(f"{relative(path)}: YAML", "no map")
    elif "services" in value:
        check_compose(path, value)
    elif "version" in value:
        if arriero:
            check_config(f"{relative(path)}: configuration", text, arriero, os.path.dirname(path))
    else:
        result(f"{relative(path)}: YAML")


def check_compose(path, value):
    for name, service in value["services"].items():
        label = f"{relative(path)}: service {name}"
        problems = []
        if not service.get("image") and not service.get("build"):
            problems.append("neither image nor build")
        for volume in service.get("volumes", []):
            source = volume.split(":")[0] if isinstance(volume, str) else volume.get("source", "")
            if source.startswith("."):
                if not os.path.isdir(os.path.join(os.path.dirname(path), source)):
                    problems.append(f"{source} is no folder (a single file could not be reloaded)")
            elif source not in (value.get("volumes") or {}):
                problems.append(f"volume {source} is not declared")
        for other in service.get("depends_on", {}):
            if other not in value["services"]:
                problems.append(f"depends on {other}, which is no service")
        build = service.get("build")
        if build:
            context = build if isinstance(build, str) else build.get("context", ".")
            dockerfile = "Dockerfile" if isinstance(build, str) else build.get("dockerfile", "Dockerfile")
            if not os.path.exists(os.path.join(os.path.dirname(path), context, dockerfile)):
                problems.append(f"no {dockerfile} in {context}")
        result(label, "\n".join(problems) or None)


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--arriero", help="the binary whose `check` decides about configurations")
    arguments.add_argument("--mdbook", help="the program that makes the book")
    arguments = arguments.parse_args()
    arriero = arguments.arriero
    if arriero:
        arriero = os.path.abspath(arriero)
    for path in files(".md"):
        text = read(path)
        check_links(path, text)
        check_blocks(path, text, arriero)
    check_proofs(os.path.join(ROOT, "docs", "security.md"))
    for path in files(".yaml", ".yml"):
        if relative(path).split(os.sep)[0] in ("conf", "examples") or os.path.dirname(path) == ROOT:
            check_yaml_file(path, arriero)
    if arguments.mdbook:
        book.check(ROOT, arguments.mdbook, result)
    if arriero:
        result("examples/alerts: a message arrives", alerts.check(ROOT, arriero))
        examples.check_all(ROOT, arriero, result)
    print(f"docs: {passed} passed, {failed} failed")
    return 0 if failed == 0 and passed > 0 else 1


if __name__ == "__main__":
    sys.exit(main())
