"""The dashboards: in the form that Grafana has for them, and about metrics that exist. Whether their queries find series is seen
in tests/e2e/prometheus.py, with a real Prometheus."""

import glob
import json
import re

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from check import check
from files import path, read, same

# What Grafana reads and its published types lack: where the data source of an annotation is Prometheus, and what a variable's
# query is called in the editor.
UNTYPED = {".annotations.list[].step", ".annotations.list[].titleFormat", ".annotations.list[].textFormat",
           ".templating.list[].definition"}


def boards():
    for name in sorted(glob.glob(path("conf", "grafana", "dashboards", "*.json"))):
        with open(name) as file:
            yield name.rsplit("/", 1)[1], json.load(file)


def panels(board):
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def lost(before, after, place=""):
    """The places of what is in `before` and did not come through."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key, value in before.items():
            if key in after:
                yield from lost(value, after[key], f"{place}.{key}")
            elif value not in (None, {}, []):
                yield f"{place}.{key}"
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for one, other in zip(before, after):
            yield from lost(one, other, f"{place}[]")
    elif before != after:
        yield f"{place} = {before!r}"


@check("Grafana: five dashboards, each in the form that Grafana's types have for it, panel by panel")
def typed(_):
    register_default_plugins()
    same([name for name, _ in boards()], ["fleet.json", "gpu.json", "models.json", "overview.json", "requests.json"], "the dashboards")
    for name, board in boards():
        through = json.loads(JSONEncoder(sort_keys=True).encode(Dashboard.from_json(board)))
        same(set(lost(board, through)) - UNTYPED, set(), f"{name}: keys that Grafana does not know")


@check("Grafana: dashboards and panels have names, places of their own, and the data source that is chosen")
def placed(_):
    uids = [board["uid"] for _, board in boards()]
    same(len(set(uids)), len(uids), "the number of uids")
    for name, board in boards():
        same(board["templating"]["list"][0]["name"], "datasource", f"{name}: its first variable")
        numbers = [panel["id"] for panel in board["panels"]]
        same(len(set(numbers)), len(numbers), f"{name}: the number of ids")
        taken = set()
        for panel in board["panels"]:
            at = panel["gridPos"]
            cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
            if cells & taken or at["x"] + at["w"] > 24:
                raise AssertionError(f"{name}: {panel['title']} lies on another")
            taken |= cells
        for panel in panels(board):
            if not panel["title"] or not panel["description"]:
                raise AssertionError(f"{name}: panel {panel['id']} does not say what it shows")
            for target in panel["targets"]:
                same((panel["datasource"], target["datasource"]), ({"type": "prometheus", "uid": "${datasource}"},) * 2,
                     f"{name}: {panel['title']}")


@check("Grafana and Prometheus: each metric that Arriero has is shown or watched, and no other")
def complete(_):
    # Those of `arriero gpu-agent`, a program of its own, come last; some of them Arriero tells, too.
    own, agent = read("src", "telemetry", "names.rs").split("pub mod gpu {")
    known, others = (set(re.findall(r'"((?:arriero|process)_\w+)"', text)) for text in (own, agent))
    if len(known) < 50:
        raise AssertionError(f"only {len(known)} metrics are found in the source")
    queries = [target["expr"] for _, board in boards() for panel in panels(board) for target in panel["targets"]]
    queries += [note["expr"] for _, board in boards() for note in board["annotations"]["list"]]
    queries += [read("conf", "prometheus", name) for name in ("rules.yml", "gpu-rules.yml")]
    used = {re.sub(r"_(?:total|bucket)$", "", name) for query in queries
            for name in re.findall(r"(?<![\w:])((?:arriero|process)_[a-z_]+)(?![\w:])", query)}
    same(used - known - others, set(), "metrics that do not exist")
    same(known - used, set(), "metrics that nobody sees")
