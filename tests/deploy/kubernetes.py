"""The files for Kubernetes."""

import os

import yaml

from check import check
from files import configuration, judge, load, path, read, same

FOLDER = ("deploy", "kubernetes")
# Kinds of others, whose schema is not Kubernetes' own.
FOREIGN = {"Kustomization", "ServiceMonitor"}
VERSIONS = ("1.29", "1.37")


def documents():
    for name in sorted(os.listdir(path(*FOLDER))):
        if name.endswith(".yaml") and name not in ("arriero.yaml", "kustomization.yaml"):
            yield from ((name, document) for document in yaml.safe_load_all(read(*FOLDER, name)))


def one(kind, name="arriero"):
    found, = [document for _, document in documents() if document["kind"] == kind and document["metadata"]["name"] == name]
    return found


@check("Kubernetes: each file is what its schema allows, in an old version and in a new one")
def schema(_):
    files = sorted({path(*FOLDER, name) for name, document in documents() if document["kind"] not in FOREIGN})
    files += [path(*FOLDER, "cluster", name) for name in ("valkey.yaml", "network.yaml")]
    for version in VERSIONS:
        judge("kubernetes-validate", "--strict", "-k", version, *files)


@check("Kubernetes: kustomize takes every file, and its ConfigMap keeps its name")
def kustomization(_):
    for folder in (FOLDER, (*FOLDER, "monitoring"), (*FOLDER, "cluster")):
        declared = load(*folder, "kustomization.yaml")
        there = {name for name in os.listdir(path(*folder)) if name.endswith(".yaml")} - {"kustomization.yaml"}
        files = {file for generator in declared.get("configMapGenerator", []) for file in generator["files"]}
        same((set(declared["resources"]) - {".."}) | files, there, f"what {'/'.join(folder)} takes")
    declared = load(*FOLDER, "kustomization.yaml")
    same(declared["generatorOptions"], {"disableNameSuffixHash": True}, "the generator")
    same([generator["name"] for generator in declared["configMapGenerator"]], ["arriero"], "the map")
    pod = one("Deployment")["spec"]["template"]["spec"]
    same([image["name"] for image in declared["images"]], [pod["containers"][0]["image"]], "the image")


@check("Kubernetes: the configuration passes, and the pod fits it")
def fits(arriero):
    text = read(*FOLDER, "arriero.yaml")
    configuration(arriero, text)
    config = yaml.safe_load(text)
    pod = one("Deployment")["spec"]["template"]["spec"]
    container, = pod["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    same(ports["http"], int(config["listeners"][0]["address"].rsplit(":")[1]), "the port for clients")
    same(ports["admin"], int(config["admin"]["address"].rsplit(":")[1]), "the admin port")
    drain = sum(int(config["server"][key].removesuffix("s")) for key in ("drain_delay", "drain"))
    if pod["terminationGracePeriodSeconds"] <= drain:
        raise AssertionError("it is killed before it has drained")
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    for mount in mounts.values():
        if "subPath" in mount:
            raise AssertionError(f"{mount['mountPath']} would never change")
    for file in (config["admin"]["token_file"], container["args"][-1]):
        if os.path.dirname(file) not in mounts:
            raise AssertionError(f"{file} is not mounted")
    if config["server"]["data_dir"] not in mounts:
        raise AssertionError("data_dir cannot be written")


@check("Kubernetes: three instances differ from the others in their number and their Valkey alone, and reach it")
def cluster(arriero):
    folder = (*FOLDER, "cluster")
    text = read(*folder, "arriero.yaml")
    configuration(arriero, text)
    config = yaml.safe_load(text)
    redis = config.pop("cluster")["redis"]
    same(config, yaml.safe_load(read(*FOLDER, "arriero.yaml")), "the rest of the configuration")
    same(load(*folder, "kustomization.yaml")["replicas"], [{"name": "arriero", "count": 3}], "the instances")
    valkey = {document["kind"]: document for document in yaml.safe_load_all(read(*folder, "valkey.yaml"))}
    service, pod = valkey["Service"], valkey["Deployment"]["spec"]["template"]
    same(redis, f"redis://{service['metadata']['name']}:{service['spec']['ports'][0]['port']}", "where Valkey is")
    same(service["spec"]["selector"], pod["metadata"]["labels"], "whom the Service finds")
    container, = pod["spec"]["containers"]
    same(container["ports"], [{"name": "valkey", "containerPort": 6379}], "its port")
    may = container["securityContext"]
    same((may["allowPrivilegeEscalation"], may["readOnlyRootFilesystem"], may["capabilities"]), (False, True, {"drop": ["ALL"]}), "what it may do")
    policies = {document["metadata"]["name"]: document["spec"] for document in yaml.safe_load_all(read(*folder, "network.yaml"))}
    labels = one("Deployment")["spec"]["selector"]["matchLabels"]
    same(policies["arriero-to-valkey"]["podSelector"]["matchLabels"], labels, "who may connect")
    same(policies["arriero-to-valkey"]["egress"][0]["to"][0]["podSelector"]["matchLabels"], pod["metadata"]["labels"], "where to")
    same(policies["valkey"]["ingress"][0]["from"][0]["podSelector"]["matchLabels"], labels, "whom Valkey lets in")
    same(policies["valkey"]["podSelector"]["matchLabels"], pod["metadata"]["labels"], "which pods that are")


@check("Kubernetes: probes ask the paths that are meant for them; the pod may do nothing that it need not")
def careful(_):
    pod = one("Deployment")["spec"]["template"]["spec"]
    container, = pod["containers"]
    asked = {probe: container[f"{probe}Probe"]["httpGet"] for probe in ("startup", "liveness", "readiness")}
    live, ready = ({"path": f"/health/{word}", "port": "admin"} for word in ("live", "ready"))
    same(asked, {"startup": live, "liveness": live, "readiness": ready}, "the probes")
    same(container["securityContext"], {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
                                        "capabilities": {"drop": ["ALL"]}}, "what the container may do")
    same((pod["securityContext"]["runAsNonRoot"], pod["securityContext"]["runAsUser"]), (True, 65532), "its user")
    same(one("PodDisruptionBudget")["spec"]["minAvailable"], 1, "pods that stay")


@check("Kubernetes: Services, NetworkPolicy and ServiceMonitor find the pods, the ports and each other")
def connected(_):
    labels = one("Deployment")["spec"]["template"]["metadata"]["labels"]
    ports = {port["name"] for port in one("Deployment")["spec"]["template"]["spec"]["containers"][0]["ports"]}
    selectors = [one("Deployment")["spec"]["selector"]["matchLabels"], one("Service")["spec"]["selector"],
                 one("Service", "arriero-admin")["spec"]["selector"], one("PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
                 one("NetworkPolicy")["spec"]["podSelector"]["matchLabels"]]
    for selector in selectors:
        same(selector.items() <= labels.items(), True, f"whether {selector} finds the pods")
    for service in (one("Service"), one("Service", "arriero-admin")):
        same({port["targetPort"] for port in service["spec"]["ports"]} <= ports, True, "whether the ports exist")
    opened = {port["port"] for rule in one("NetworkPolicy")["spec"]["ingress"] for port in rule["ports"]}
    same(opened, ports, "the ports that are open")
    monitor = load(*FOLDER, "monitoring", "servicemonitor.yaml")
    same((monitor["apiVersion"], monitor["kind"]), ("monitoring.coreos.com/v1", "ServiceMonitor"), "the monitor")
    # kustomize puts this label on all that it makes.
    pairs = load(*FOLDER, "kustomization.yaml")["labels"][0]["pairs"]
    admin = one("Service", "arriero-admin")
    same(monitor["spec"]["selector"]["matchLabels"].items() <= (admin["metadata"]["labels"] | pairs).items(), True,
         "whether the monitor finds the Service")
    same([endpoint["port"] for endpoint in monitor["spec"]["endpoints"]], [port["name"] for port in admin["spec"]["ports"]], "its port")
    same(pairs[monitor["spec"]["jobLabel"]], "arriero", "the name of the job")
