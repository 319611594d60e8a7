"""Compose, Prometheus, Grafana and Kubernetes: schemas, and what the files say about each other."""

import json
import shutil
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from serving.cli.config_file import read_config_file
from serving.cli.serve import ServeOptions
from serving.command_line import option_specs
from serving.command_line import run as run_command
from serving.http.keys import PUBLIC_PATHS
from tests.deploy.containers import ROOT, run

DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
FIXTURES = ROOT / "tests" / "fixtures"
SHUTDOWN_SECONDS = 40  # requests in flight 30, log and store 5 each
PRIVATE_KINDS = ("ServiceMonitor", "Kustomization")  # not of Kubernetes itself


def read(file: Path) -> Any:
    return yaml.safe_load(file.read_text())


def manifests() -> dict[str, dict[str, Any]]:
    """File name → manifest; each file has one."""
    return {file.name: read(file) for file in sorted(KUBERNETES.glob("*.yaml"))}


def flags(arguments: list[str]) -> list[str]:
    return [argument.partition("=")[0] for argument in arguments if argument.startswith("--")]


@pytest.fixture
def serve_help(capsys: pytest.CaptureFixture[str]) -> str:
    def serve(options: ServeOptions) -> int:
        return 0

    with pytest.raises(SystemExit, match="0"):
        run_command("serve", serve, arguments=["--help"])
    return capsys.readouterr().out


def test_compose_follows_the_specification(serve_help: str) -> None:
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
    assert all(flag in serve_help for flag in flags(services["sextet"]["command"]))
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
    (name,) = [volume["configMap"]["name"] for volume in pod["volumes"] if "configMap" in volume]
    assert name == by_kind["ConfigMap"]["metadata"]["name"] != "sextet"  # with a hash of its content
    assert pod["containers"][0]["image"] == "registry.example.com/sextet:0.1.0"


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
    sleep = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] >= sleep + SHUTDOWN_SECONDS
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


def test_the_options_in_the_pod_exist() -> None:
    specs = {spec.name: spec for spec in option_specs(ServeOptions)}
    options = {
        name: given.value for name, given in read_config_file(KUBERNETES / "serve.toml", specs).items()
    }
    pod = manifests()["deployment.yaml"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["resources"]["requests"]["cpu"] == str(options["workers"] * options["threads"])
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    files = {mounts["keys"] + "/" + name for name in manifests()["secret.yaml"]["stringData"]}
    assert {options["api_key_file"], options["admin_key_file"]} < files
    assert options["log"].startswith(mounts["state"])
