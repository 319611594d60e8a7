"""Compose, Prometheus, Grafana and Kubernetes: schemas, and what the files say about each other."""

import json
import shutil
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from serving.cli.config_file import read_config_file
from serving.cli.serve import MAX_DRAIN_SECONDS, ServeOptions
from serving.command_line import option_specs
from serving.http.keys import PUBLIC_PATHS
from serving.pipeline.rules.document import read_rules
from tests.deploy.containers import ROOT, run

DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
FIXTURES = ROOT / "tests" / "fixtures"
SHUTDOWN_SECONDS = 25  # that a stop takes at most, whatever hangs
SHIP_SECONDS = 15  # for the last files of the log
PRIVATE_KINDS = ("ServiceMonitor", "Kustomization")  # not of Kubernetes itself


def read(file: Path) -> Any:
    return yaml.safe_load(file.read_text())


def manifests() -> dict[str, dict[str, Any]]:
    """File name → manifest; each file has one."""
    return {file.name: read(file) for file in sorted(KUBERNETES.glob("*.yaml"))}


def test_compose_follows_the_specification() -> None:
    compose = read(DEPLOY / "compose.yaml")
    del compose["name"]  # younger than the schema
    jsonschema.validate(compose, json.loads((FIXTURES / "compose_schema.json").read_text()))
    services = compose["services"]
    for service in services.values():
        for volume in service["volumes"]:
            source = volume.partition(":")[0]
            is_file = source.startswith(".")
            bundle = source == "../bundle"  # the export makes it
            assert bundle or ((DEPLOY / source).exists() if is_file else source in compose["volumes"]), source
    assert services["sextet"]["command"] == ["--config", "/etc/sextet/serve.toml"]
    mounts = dict(volume.split(":")[:2] for volume in services["sextet"]["volumes"])
    assert mounts["./compose"] == "/etc/sextet"
    options = serve_options(DEPLOY / "compose" / "serve.toml")
    assert options["bundle"] == mounts["../bundle"]
    assert options["log"].startswith(mounts["state"])
    assert options["rules"] == "/etc/sextet/rules.toml"
    assert read_rules(DEPLOY / "compose" / "rules.toml") == {}  # examples alone
    keys = options["admin_key_file"].replace("/etc/sextet", "deploy/compose")
    assert f"> {keys}\n" in (DEPLOY / "compose" / "serve.toml").read_text()
    assert f"/{keys}" in (ROOT / ".gitignore").read_text().split()
    assert services["sextet"]["stop_grace_period"] == f"{SHUTDOWN_SECONDS + 5}s"
    assert all(port.startswith("127.0.0.1:") for s in services.values() for port in s.get("ports", ()))


def test_prometheus_scrapes_the_service_and_reads_the_rules() -> None:
    compose, prometheus = read(DEPLOY / "compose.yaml"), read(DEPLOY / "prometheus.yml")
    mounted = [volume.split(":")[1] for volume in compose["services"]["prometheus"]["volumes"]]
    assert set(prometheus["rule_files"]) < set(mounted)
    (target,) = prometheus["scrape_configs"][0]["static_configs"][0]["targets"]
    assert target == "sextet:8000"


def test_grafana_finds_prometheus_and_the_dashboard() -> None:
    (source,) = read(DEPLOY / "grafana/provisioning/datasources/prometheus.yml")["datasources"]
    (provider,) = read(DEPLOY / "grafana/provisioning/dashboards/sextet.yml")["providers"]
    grafana = read(DEPLOY / "compose.yaml")["services"]["grafana"]
    assert (DEPLOY / "grafana" / "sextet.json").is_file()
    assert source["url"] == "http://prometheus:9090"
    assert f"./grafana:{provider['options']['path']}:ro" in grafana["volumes"]
    assert grafana["environment"]["GF_PATHS_PROVISIONING"] == f"{provider['options']['path']}/provisioning"


@pytest.mark.parametrize("name", sorted(set(manifests())))
def test_manifests_follow_the_schemas_of_kubernetes(name: str) -> None:
    document = json.loads((FIXTURES / "kubernetes_schemas.json").read_text())
    manifest = manifests()[name]
    if manifest["kind"] not in PRIVATE_KINDS:
        schema = {**document["kinds"][manifest["kind"]], "$defs": document["$defs"]}
        jsonschema.validate(manifest, schema, jsonschema.Draft202012Validator)


def test_a_wrong_manifest_is_refused() -> None:
    document = json.loads((FIXTURES / "kubernetes_schemas.json").read_text())
    manifest = manifests()["deployment.yaml"]
    manifest["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(jsonschema.ValidationError, match="readynessProbe"):
        jsonschema.validate(manifest, {**document["kinds"]["Deployment"], "$defs": document["$defs"]})


def test_kustomization_names_every_manifest() -> None:
    lines = (KUBERNETES / "kustomization.yaml").read_text().splitlines()
    named = {line.strip(" #-").split()[0] for line in lines if ".yaml" in line and "-" in line[:5]}
    assert named == set(manifests()) - {"kustomization.yaml"}


def test_kustomize_renders_the_manifests() -> None:
    if not shutil.which("kubectl"):
        pytest.skip("kubectl is not installed")
    rendered = list(yaml.safe_load_all(run("kubectl", "kustomize", str(KUBERNETES))))
    by_kind = {manifest["kind"]: manifest for manifest in rendered}
    pod = by_kind["Deployment"]["spec"]["template"]["spec"]
    mounted = {volume["configMap"]["name"] for volume in pod["volumes"] if "configMap" in volume}
    made = {each["metadata"]["name"] for each in rendered if each["kind"] == "ConfigMap"}
    assert mounted == made
    assert "sextet-rules" in made
    assert "sextet" not in made  # with a hash of its content
    assert pod["containers"][0]["image"] == "registry.example.com/sextet:0.2.0"


def test_the_pod_is_restricted_and_has_time_to_stop() -> None:
    pod = manifests()["deployment.yaml"]["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert f"USER {pod['securityContext']['runAsUser']}:" in (DEPLOY / "Dockerfile").read_text()
    for container in (*pod["initContainers"], *pod["containers"]):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
    (container,) = pod["containers"]
    assert "lifecycle" not in container  # drain_seconds does it, and closes the connections
    assert pod["terminationGracePeriodSeconds"] >= SHUTDOWN_SECONDS + SHIP_SECONDS
    startup, readiness = container["startupProbe"], container["readinessProbe"]
    # A worker listens when it is ready: the copy of the bundle and `load_timeout` of one bad version.
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 300
    drain = serve_options(KUBERNETES / "serve.toml")["drain_seconds"]
    assert MAX_DRAIN_SECONDS >= drain > readiness["periodSeconds"] * readiness["failureThreshold"]
    probes = {
        name: container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "liveness", "readiness")
    }
    assert probes == {"startup": "/healthz", "liveness": "/healthz", "readiness": "/readyz"}
    assert set(probes.values()) <= set(PUBLIC_PATHS)  # a probe has no key
    written = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
    assert written == {"/var/lib/sextet", "/tmp"}


def test_the_labels_of_the_manifests_agree() -> None:
    every = manifests()
    deployment = every["deployment.yaml"]["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    assert labels == deployment["selector"]["matchLabels"] == every["service.yaml"]["spec"]["selector"]
    assert labels == every["disruption.yaml"]["spec"]["selector"]["matchLabels"]
    assert labels == every["networkpolicy.yaml"]["spec"]["podSelector"]["matchLabels"]
    assert labels == every["servicemonitor.yaml"]["spec"]["selector"]["matchLabels"]
    keys = every["secret.yaml"]["stringData"]
    assert keys["metrics_key"] in keys["shop_keys"].split()


def serve_options(file: Path) -> dict[str, Any]:
    """Option → its value in a file of --config."""
    specs = {spec.name: spec for spec in option_specs(ServeOptions)}
    return {name: given.value for name, given in read_config_file(file, specs).items()}


def test_the_options_in_the_pod_exist() -> None:
    options = serve_options(KUBERNETES / "serve.toml")
    pod = manifests()["deployment.yaml"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["resources"]["requests"]["cpu"] == str(options["workers"] * options["threads"])
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    files = {mounts["keys"] + "/" + name for name in manifests()["secret.yaml"]["stringData"]}
    assert {options["api_key_file"], options["admin_key_file"]} < files
    assert options["log"].startswith(mounts["state"])
    assert options["rules"] == f"{mounts['rules']}/rules.toml"
    assert read_rules(KUBERNETES / "rules.toml") == {}  # examples alone


def test_the_pod_follows_its_rules() -> None:
    """A ConfigMap whose name changes, or a single mounted file, would hide a change from a running pod."""
    pod = manifests()["deployment.yaml"]["spec"]["template"]["spec"]
    (volume,) = [volume for volume in pod["volumes"] if volume["name"] == "rules"]
    (mount,) = [mount for mount in pod["containers"][0]["volumeMounts"] if mount["name"] == "rules"]
    assert "subPath" not in mount
    (generated,) = [
        generator for generator in manifests()["kustomization.yaml"]["configMapGenerator"]
        if generator["name"] == volume["configMap"]["name"]
    ]  # fmt: skip
    assert generated["options"]["disableNameSuffixHash"]
