"""The image and the deployments with Compose."""

import os
import re

from check import ROOT, check
from files import configuration, judge, load, path, read, same

PRODUCTION = "docker-compose.prod.yml"


def instructions():
    """(word, arguments) of the Dockerfile, continued lines joined."""
    text = re.sub(r"\\\n", " ", re.sub(r"^\s*#.*\n", "", read("Dockerfile"), flags=re.MULTILINE))
    return [tuple(line.split(None, 1)) for line in text.splitlines() if line.strip()]


def final_stage():
    steps = instructions()
    last = max(index for index, (word, _) in enumerate(steps) if word == "FROM")
    return steps[last:]


@check("image: hadolint has nothing to say")
def lint(_):
    judge("hadolint", "Dockerfile")


@check("image: the last stage has no shell, no root, and is asked for its health by the binary itself")
def last_stage(_):
    steps = final_stage()
    if not re.match(r"gcr\.io/distroless/[\w-]+:nonroot$", steps[0][1]):
        raise AssertionError(f"it begins with {steps[0][1]}")
    for word, arguments in steps:
        if word == "RUN":
            raise AssertionError(f"RUN needs a shell: {arguments}")
        if word in ("CMD", "ENTRYPOINT") and not arguments.startswith("["):
            raise AssertionError(f"{word} needs a shell: {arguments}")
    same([arguments for word, arguments in steps if word == "USER"], ["65532:65532"], "its user")
    health, = [arguments for word, arguments in steps if word == "HEALTHCHECK"]
    if not re.search(r'--start-period=120s --retries=5 CMD \["arriero", "health"\]$', health):
        raise AssertionError(f"HEALTHCHECK {health}")
    labels = " ".join(arguments for word, arguments in steps if word == "LABEL")
    for label in ("title", "description", "licenses", "version", "revision"):
        if f"org.opencontainers.image.{label}=" not in labels:
            raise AssertionError(f"no label {label}")


@check("image: the stand-ins of the dependency layer are the manifest's, and the builder gets every file that it copies")
def build_stage(_):
    manifest = read("Cargo.toml")
    benches = set()
    for block in manifest.split("[[bench]]")[1:]:
        block = block.split("\n[")[0]
        named = re.search(r'^path = "(.+)"$', block, re.MULTILINE)
        benches.add(named[1] if named else f"benches/{re.search(r'name = .(.+).$', block, re.MULTILINE)[1]}.rs")
    touched = next(arguments for _, arguments in instructions() if "touch " in arguments)
    same(set(re.search(r"touch ([^&]+)", touched)[1].split()) - {"src/lib.rs"}, benches, "the benches")
    allowed = {line[1:] for line in read(".dockerignore").splitlines() if line.startswith("!")}
    copied = {source for word, arguments in instructions() if word == "COPY" and "--from" not in arguments
              for source in arguments.split()[:-1]}
    same(copied - allowed, set(), "files that .dockerignore keeps from the builder")
    for source in copied:
        if not os.path.exists(path(source)):
            raise AssertionError(f"COPY {source}: no such file")


@check("image: the compiler is the one that the repository asks for, and the version is the crate's")
def versions(_):
    wanted = re.search(r'^rust-version = "(.+)"', read("Cargo.toml"), re.MULTILINE)[1]
    same(re.search(r"rust:([\d.]+)-", read("Dockerfile"))[1], wanted, "Rust")
    version = re.search(r'^version = "(.+)"', read("Cargo.toml"), re.MULTILINE)[1]
    same(re.search(r"ARG VERSION=(\S+)", read("Dockerfile"))[1], version, "the version")


@check("image: it listens where it says, and a new commit alone builds no dependency anew")
def port_and_commit(_):
    steps = final_stage()
    exposed, = [arguments for word, arguments in steps if word == "EXPOSE"]
    same([arguments for word, arguments in steps if word == "ENV"], [f"PORT={exposed}"], "the port without a file")
    same(set(re.findall(r"address: \S+:(\d+)", read("conf", "docker", "arriero.yaml").split("routes:")[0])), {exposed}, "the port of the file")
    builder = instructions()[: -len(steps)]
    dependencies = next(index for index, (word, arguments) in enumerate(builder) if word == "RUN" and "touch " in arguments)
    commit, = [index for index, (word, arguments) in enumerate(builder) if word == "ARG" and arguments.startswith("REVISION")]
    told, = [index for index, (word, arguments) in enumerate(builder) if word == "RUN" and 'ARRIERO_REVISION="$REVISION" cargo build' in arguments]
    same(dependencies < commit < told, True, "whether the commit comes in behind the dependencies")


def compose_files():
    yield PRODUCTION
    for folder, _, names in os.walk(path("examples")):
        for name in names:
            if re.fullmatch(r"(docker-)?compose.*\.ya?ml", name):
                yield os.path.relpath(os.path.join(folder, name), ROOT)


@check("Compose: every file is what the Compose specification allows")
def schema(_):
    judge("check-jsonschema", "--builtin-schema", "vendor.compose-spec", *compose_files())


@check("YAML: yamllint has nothing to say")
def yaml_lint(_):
    rules = ("{extends: default, rules: {line-length: disable, document-start: disable, braces: {max-spaces-inside: 1}, "
             "brackets: {max-spaces-inside: 0}, comments: {min-spaces-from-content: 1, require-starting-space: false}, comments-indentation: disable, "
             "truthy: {allowed-values: ['true', 'false', 'on', 'off'], check-keys: false}, "
             "indentation: {indent-sequences: whatever}}}")
    judge("yamllint", "--strict", "-d", rules, PRODUCTION, "conf", "examples", "deploy")


@check("Compose: each service starts again, is asked for its health, has limits, and keeps its log small")
def services(_):
    deployment = load(PRODUCTION)
    for name, service in deployment["services"].items():
        same(service.get("restart"), "always", f"{name}: restart")
        health = service["healthcheck"]
        same((health["start_period"], health["retries"]), ("120s", 5), f"{name}: its health check")
        if "memory" not in service["deploy"]["resources"]["limits"]:
            raise AssertionError(f"{name} has no limit of memory")
        logging = service["logging"]
        same((logging["driver"], sorted(logging["options"])), ("json-file", ["max-file", "max-size"]), f"{name}: its log")
        if ":latest" in service["image"] and "build" not in service and "${" not in service["image"]:
            raise AssertionError(f"{name}: an image without a version")
        for secret in service.get("secrets", []):
            same(deployment["secrets"][secret], {"file": f"./secrets/{secret}"}, f"{name}: secret {secret}")
        for network in service["networks"]:
            if network not in deployment["networks"]:
                raise AssertionError(f"{name}: no network {network}")
    arriero = deployment["services"]["arriero"]
    same((arriero["read_only"], arriero["cap_drop"]), (True, ["ALL"]), "what Arriero may do")
    if not any(volume.endswith(":/etc/arriero:ro") for volume in arriero["volumes"]):
        raise AssertionError("the folder of the configuration is not mounted")
    drain = 300
    if int(arriero["stop_grace_period"].removesuffix("s")) <= drain:
        raise AssertionError("it is killed before it has drained")


@check("Compose: Arriero counts on what the servers are started with")
def numbers(arriero):
    services = load(PRODUCTION)["services"]
    text = read("conf", "compose", "arriero.yaml")
    for key, variable in (("max_in_flight_per_model", "OLLAMA_NUM_PARALLEL"), ("max_loaded", "OLLAMA_MAX_LOADED_MODELS")):
        value, = {services[name]["environment"][variable] for name in ("arriero", "ollama-1", "ollama-2")}
        same(set(re.findall(rf"{key}: (\S+)", text)), {value}, key)
    for name in re.findall(r"url: http://([\w-]+):11434", text):
        devices = services[name]["deploy"]["resources"]["reservations"]["devices"]
        same(devices[0]["capabilities"], ["gpu"], f"{name}: its GPU")
    configuration(arriero, text)
    configuration(arriero, text, OLLAMA_NUM_PARALLEL="8", OLLAMA_MAX_LOADED_MODELS="1", GPU_MEMORY="80GiB")
    configuration(arriero, read("conf", "docker", "arriero.yaml"))


@check("Compose: Prometheus, Alertmanager and Grafana name each other as the services are named")
def names(_):
    services = load(PRODUCTION)["services"]
    addresses = re.findall(r'"([\w-]+):(\d+)"', read("conf", "prometheus", "prometheus.yml"))
    addresses += re.findall(r"http://([\w-]+):(\d+)", read("conf", "grafana", "provisioning", "datasources", "prometheus.yml"))
    for host, port in addresses:
        service = services["prometheus" if host == "localhost" else host]
        inside = {published.rsplit(":", 1)[1] for published in service["ports"]}
        if port not in inside:
            raise AssertionError(f"{host} does not listen on {port}")
        if "monitoring" not in service["networks"]:
            raise AssertionError(f"{host} cannot be reached")
    provider, = load("conf", "grafana", "provisioning", "dashboards", "arriero.yml")["providers"]
    mounts = [volume.split(":")[1] for volume in services["grafana"]["volumes"]]
    if provider["options"]["path"] not in mounts:
        raise AssertionError(f"{provider['options']['path']} is not mounted")
