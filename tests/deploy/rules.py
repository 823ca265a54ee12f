"""The rules of Prometheus and what Alertmanager does with the alerts. Whether the metrics that they look at exist is seen in
tests/e2e/prometheus.py, with a real Prometheus."""

import re

from check import check
from files import judge, load, path, read, same


# Each file of rules, and where its alerts are explained.
FILES = {"rules.yml": "monitoring.md", "gpu-rules.yml": "gpu.md"}


def alerts(*files):
    return {rule["alert"]: rule for file in files or FILES for group in load("conf", "prometheus", file)["groups"]
            for rule in group["rules"] if "alert" in rule}


@check("Prometheus: its files are right, as promtool sees it")
def promtool(_):
    judge("promtool", "check", "config", path("conf", "prometheus", "prometheus.yml"))
    same(load("conf", "prometheus", "prometheus.yml")["rule_files"], list(FILES), "the rules that Prometheus reads")
    judge("promtool", "check", "rules", *[path("conf", "prometheus", file) for file in FILES])


@check("Prometheus: each alert fires when it should and not before")
def tested(_):
    for file in FILES:
        test = file.replace(".yml", "_test.yml")
        judge("promtool", "test", "rules", path("conf", "prometheus", test))
        fired = set(re.findall(r"labels: '\{alertname=\"(\w+)\"", read("conf", "prometheus", test)))
        same(alerts(file).keys() - fired, set(), f"alerts of {file} without a test")


@check("Prometheus: each alert has a severity, words, and a place in the documentation that says what to do")
def explained(_):
    for file, page in FILES.items():
        headings = {heading for heading in re.findall(r"^#+ +(Arriero[A-Z]\w+)$", read("docs", page), re.MULTILINE)}
        same(headings, set(alerts(file)), f"the alerts that docs/{page} explains")
        for name, rule in alerts(file).items():
            if rule["labels"]["severity"] not in ("critical", "warning", "info"):
                raise AssertionError(f"{name}: {rule['labels']}")
            words = rule["annotations"]
            same(sorted(words), ["description", "runbook", "summary"], f"{name}: its annotations")
            same(words["runbook"], f"docs/{page}#{name.lower()}", f"{name}: where it is explained")


@check("Prometheus: requests that failed are those of the reasons that Arriero itself counts as failures")
def failures(_):
    # As `Reason::is_failure` has it: answered with 5xx, or failed behind a good status. Who asks only for what is kept gets 504 by
    # RFC 9111, and nothing has failed.
    reasons = re.findall(r'^ +\w+, "(\w+)", (?:Some\((\d+)\)|None), ', read("src", "policy", "failure.rs"), re.MULTILINE)
    if len(reasons) < 40:
        raise AssertionError(f"only {len(reasons)} reasons are found in the source")
    wanted = {word for word, status in reasons if status.startswith("5") or word in ("upstream_error", "stream_error")} - {"not_kept"}
    rule, = [rule for group in load("conf", "prometheus", "rules.yml")["groups"] for rule in group["rules"]
             if rule.get("record") == "arriero:requests_failed:rate5m"]
    same(set(re.search(r'reason=~"([^"]+)"', rule["expr"])[1].split("|")), wanted, "the reasons")


@check("Alertmanager: its file is right, and who is told of what")
def routes(_):
    file = path("conf", "alertmanager", "alertmanager.yml")
    judge("amtool", "check-config", file)
    for severity, receiver in (("critical", "on-call"), ("warning", "everybody"), ("info", "nobody")):
        told = judge("amtool", "config", "routes", "test", f"--config.file={file}", f"severity={severity}")
        same(told.split("\n")[0], receiver, severity)
    known = alerts()
    for rule in load("conf", "alertmanager", "alertmanager.yml")["inhibit_rules"]:
        for matcher in rule["source_matchers"] + rule["target_matchers"]:
            name = re.match(r'alertname (!?=~?) "(.+)"', matcher)
            for one in name[2].split("|") if name else []:
                if one != "Arriero.+" and one not in known:
                    raise AssertionError(f"there is no alert {one}")
