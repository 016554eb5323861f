"""The manifests: Kubernetes' own resources against its schemas, the rest field by field against what is documented.

No schema of KubeRay or the Prometheus operator comes in a package, so `DOCUMENTED` is copied from their API references.
"""

import re
import tomllib
from collections.abc import Iterator
from typing import Any

import kubernetes_validate
import pytest

from serving.config import Config, parse
from tests.deploy.documents import DEPLOY, ROOT, STOPS_S, document, documents

FOLDER = DEPLOY / "kubernetes"
RELEASE = "1.33"  # of Kubernetes
NOT_OF_KUBERNETES = ("ray.io/v1", "monitoring.coreos.com/v1", "kustomize.config.k8s.io/v1beta1")
RESOURCES = {f"{one['kind']} {one.get('metadata', {}).get('name', '')}".strip(): one
             for path in sorted(FOLDER.glob("*.yaml")) for one in documents(path)}  # fmt: skip
CLUSTER = RESOURCES["RayCluster gaugeway"]["spec"]
HEAD = CLUSTER["headGroupSpec"]
(WORKERS,) = CLUSTER["workerGroupSpecs"]
PODS = {"head": HEAD["template"], "workers": WORKERS["template"]}

# Fields by the path of their parent, of KubeRay 1.5 (ray.io/v1) and the Prometheus operator (monitoring.coreos.com/v1).
DOCUMENTED = {
    "RayCluster.spec": "suspend managedBy autoscalerOptions headServiceAnnotations enableInTreeAutoscaling authOptions"
    " gcsFaultToleranceOptions headGroupSpec rayVersion workerGroupSpecs upgradeStrategy",
    "RayCluster.spec.headGroupSpec": "template headService enableIngress rayStartParams serviceType resources labels",
    "RayCluster.spec.workerGroupSpecs": "suspend groupName replicas minReplicas maxReplicas idleTimeoutSeconds"
    " rayStartParams template scaleStrategy numOfHosts resources labels",
    "PodMonitor.spec": "jobLabel podTargetLabels podMetricsEndpoints selector namespaceSelector sampleLimit",
    "PodMonitor.spec.podMetricsEndpoints": "port portNumber path scheme params interval scrapeTimeout honorLabels"
    " relabelings metricRelabelings",
}


@pytest.mark.parametrize("name", [n for n, one in RESOURCES.items() if one["apiVersion"] not in NOT_OF_KUBERNETES])
def test_a_resource_is_of_kubernetes_schema(name: str) -> None:
    kubernetes_validate.validate(RESOURCES[name], RELEASE, strict=True)


@pytest.mark.parametrize("template", PODS.values(), ids=PODS)
def test_a_pod_of_the_ray_cluster_is_of_kubernetes_schema(template: dict[str, Any]) -> None:
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "x", **template["metadata"]},
        "spec": template["spec"],
    }
    kubernetes_validate.validate(pod, RELEASE, strict=True)


def test_the_schema_finds_what_is_wrong() -> None:
    """The control of the tests above."""
    service = RESOURCES["Service gaugeway"]
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate({**service, "spec": {**service["spec"], "selektor": {}}}, RELEASE, strict=True)


@pytest.mark.parametrize("path", DOCUMENTED)
def test_fields_of_others_are_documented(path: str) -> None:
    kind, *steps = path.split(".")
    found = [one for name, one in RESOURCES.items() if name.startswith(kind)]
    for step in steps:
        found = [inner for one in found for inner in (one[step] if isinstance(one[step], list) else [one[step]])]
    assert found and {key for one in found for key in one} <= set(DOCUMENTED[path].split())


@pytest.mark.parametrize("template", PODS.values(), ids=PODS)
def test_a_pod_can_do_no_more_than_it_must(template: dict[str, Any]) -> None:
    spec = template["spec"]
    assert not spec["automountServiceAccountToken"]
    assert spec["securityContext"]["runAsNonRoot"] and spec["securityContext"]["seccompProfile"]
    user = re.search(r"^USER (\d+):(\d+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert user and [spec["securityContext"][key] for key in ("runAsUser", "runAsGroup")] == [
        int(n) for n in user.groups()
    ]
    for container in spec["containers"]:
        hardened = container["securityContext"]
        assert hardened["readOnlyRootFilesystem"] and not hardened["allowPrivilegeEscalation"]
        assert hardened["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["limits"]["memory"]
        assert {mount["mountPath"] for mount in container["volumeMounts"]} >= {"/data", "/tmp", "/dev/shm"}


def test_a_stop_gives_the_gateway_the_time_it_needs_to_drain() -> None:
    assert HEAD["template"]["spec"]["terminationGracePeriodSeconds"] >= STOPS_S


def test_no_secret_is_written_down() -> None:
    for variable in _variables():
        if re.search("TOKEN|SECRET|DATABASE|PASSWORD", variable["name"]):
            assert variable["valueFrom"]["secretKeyRef"]["name"] == "gaugeway", variable["name"]
    assert not any(name.startswith("Secret ") for name in RESOURCES)


def test_the_configuration_is_accepted_and_variables_name_its_keys() -> None:
    tree = tomllib.loads(RESOURCES["ConfigMap gaugeway"]["data"]["gaugeway.toml"])
    assert parse(tree).gateway.port == Config().gateway.port
    for variable in _variables():
        section, _, key = variable["name"].removeprefix("GAUGEWAY_").lower().partition("__")
        if variable["name"].startswith("GAUGEWAY_") and key:
            parse({section: {key: "x"}})


def test_both_containers_of_the_head_are_of_one_ray_and_one_gaugeway() -> None:
    ray, gaugeway = HEAD["template"]["spec"]["containers"]
    ours = {variable["name"]: variable for variable in gaugeway["env"]}
    theirs = {variable["name"]: variable for variable in ray["env"]}
    assert {name: ours[name] for name in ours.keys() & theirs.keys()} == {
        n: theirs[n] for n in ours.keys() & theirs.keys()
    }
    assert ray["volumeMounts"] == gaugeway["volumeMounts"]  # Ray's session and object store
    assert HEAD["template"]["spec"]["shareProcessNamespace"]  # without it `ray.init` waits for ever
    assert ours.keys() - theirs.keys() == {"GAUGEWAY_ALLOW_OPEN"}


def test_ports_are_those_of_the_configuration() -> None:
    config = Config()
    ours = {
        "http": config.gateway.port,
        "metrics": config.metrics.node_port,
        "controller": config.metrics.controller_port,
    }
    for template in PODS.values():
        assert {port["name"]: port["containerPort"] for port in template["spec"]["containers"][0]["ports"]} == ours
    rules = RESOURCES["NetworkPolicy gaugeway"]["spec"]["ingress"]
    assert {port["port"] for rule in rules for port in rule.get("ports", [])} == set(ours.values())
    assert RESOURCES["Service gaugeway"]["spec"]["ports"][0]["port"] == config.gateway.port


def test_selectors_meet_the_labels_that_kuberay_gives() -> None:
    given = {"ray.io/cluster": "gaugeway", "ray.io/node-type": "worker", "ray.io/group": WORKERS["groupName"]}
    wanted = [RESOURCES["Service gaugeway"]["spec"]["selector"],
              RESOURCES["PodDisruptionBudget gaugeway"]["spec"]["selector"]["matchLabels"],
              RESOURCES["NetworkPolicy gaugeway"]["spec"]["podSelector"]["matchLabels"],
              RESOURCES["PodMonitor gaugeway-node"]["spec"]["selector"]["matchLabels"],
              WORKERS["template"]["spec"]["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"]]  # fmt: skip
    assert all(selector.items() <= given.items() for selector in wanted)


def test_releases_are_those_of_the_project() -> None:
    lock, project = (ROOT / "requirements.lock").read_text(), tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert f"\nray=={CLUSTER['rayVersion']} " in lock or f"\nray[serve]=={CLUSTER['rayVersion']} " in lock
    (image,) = RESOURCES["Kustomization"]["images"]
    assert image["newTag"] == project["project"]["version"]
    assert {c["image"] for template in PODS.values() for c in template["spec"]["containers"]} == {image["name"]}


def test_every_file_is_named_in_the_kustomization() -> None:
    files = {path.name for path in FOLDER.glob("*.yaml")} - {"kustomization.yaml"}
    assert set(document(FOLDER / "kustomization.yaml")["resources"]) == files


def _variables() -> Iterator[dict[str, Any]]:
    for template in PODS.values():
        for container in template["spec"]["containers"]:
            yield from container["env"]
