"""What deploy/ holds, linted by hand: no container engine ran it."""

from __future__ import annotations

import configparser
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from muster.cli import app
from muster.job import load_job

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
KUBERNETES = [
    document
    for name in ("server.yaml", "state-server.yaml", "workers.yaml")
    for document in yaml.safe_load_all((DEPLOY / "kubernetes" / name).read_text("utf-8"))
]
COMPOSE = yaml.safe_load((DEPLOY / "compose.yml").read_text("utf-8"))
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))


def parse(arguments: list[str]) -> None:
    """Parses a command line as `muster` would, and runs nothing."""
    command: Any = typer.main.get_command(app)
    context = command.make_context("muster", ["schema"])
    rest = list(arguments)
    while hasattr(command, "get_command"):
        command = command.get_command(context, rest[0])
        assert command is not None, f"muster has no command {rest[0]}"
        rest.pop(0)
    command.make_context(command.name, rest)


def of_kind(*kinds: str) -> list[dict[str, Any]]:
    return [document for document in KUBERNETES if document["kind"] in kinds]


def containers() -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Every container, with its pod's spec."""
    for workload in of_kind("StatefulSet", "Deployment"):
        pod = workload["spec"]["template"]["spec"]
        for container in pod["containers"]:
            yield workload, container


def test_every_command_line_is_one_that_muster_takes() -> None:
    lines = [service["command"] for service in COMPOSE["services"].values() if "entrypoint" not in service]
    shell = COMPOSE["services"]["certs"]["command"][0].replace("$$name", "worker-0")
    lines += [shlex.split(found) for found in re.findall(r"muster ((?:certs) [^;&]+?)(?= &&|;)", shell)]
    lines += [container["args"] for _, container in containers()]
    for unit in UNITS:
        start = re.search(r"^ExecStart=/opt/muster/bin/muster (.*)$", unit.read_text("utf-8"), re.M)
        assert start is not None
        lines.append(shlex.split(start[1].replace("${MUSTER_SERVER}", "host:1")))
    assert len(lines) == 6 + 2 + 4 + 2
    for line in lines:
        parse([str(word) for word in line])


def test_a_wrong_command_line_would_be_found() -> None:
    with pytest.raises(Exception, match="No such option: --no-such-option"):
        parse(["state-server", "--no-such-option"])
    with pytest.raises(AssertionError, match="no command"):
        parse(["serves"])


def test_the_four_workers_have_the_quotas_of_the_paper() -> None:
    quotas = [COMPOSE["services"][f"worker-{i}"]["cpus"] for i in range(4)]
    assert quotas == [1.0, 0.5, 0.25, 0.125]
    job = load_job(DEPLOY / "esync.yml")
    assert job.algorithm.name == "esync" and list(job.population.quotas) == quotas  # what a simulation sees
    (mounted,) = [v for v in COMPOSE["services"]["server"]["volumes"] if v.endswith(":/job.yml:ro")]
    assert mounted == "./esync.yml:/job.yml:ro"
    assert "7434:7434" in COMPOSE["services"]["server"]["ports"]  # of the state server in its process


def test_compose_refers_to_what_it_declares() -> None:
    for name, service in COMPOSE["services"].items():
        assert service["image"] == "muster:0.1.0" and service["read_only"] and service["cap_drop"] == ["ALL"]
        assert "no-new-privileges:true" in service["security_opt"] and not service.get("privileged"), name
        assert set(service.get("depends_on", {})) <= set(COMPOSE["services"])
        assert set(service["networks"]) <= set(COMPOSE["networks"])
        for volume in service["volumes"]:
            source = volume.partition(":")[0]
            found = (DEPLOY / source).exists() if source.startswith(".") else source in COMPOSE["volumes"]
            assert found, volume


def test_what_waits_to_be_healthy_has_a_port_to_be_healthy_on() -> None:
    for service in COMPOSE["services"].values():
        for other, needs in service.get("depends_on", {}).items():
            if needs["condition"] == "service_healthy":
                port = COMPOSE["services"][other]["environment"]["MUSTER_HEALTH"]
                assert any(
                    published.endswith(f":{port}") for published in COMPOSE["services"][other]["ports"]
                )


def test_the_images_build_file() -> None:
    text = (DEPLOY / "Dockerfile").read_text("utf-8")
    joined = re.sub(r"\\\n\s*", "", text)
    lines = [line for line in joined.splitlines() if line and not line.startswith("#")]
    words = [line.split()[0] for line in lines]
    bases = [line.split()[1] for line in lines if line.startswith("FROM")]
    assert all(re.search(r":\d+\.\d+\.\d+-", base) for base in bases)  # a version that stays the same
    assert {"ADD", "MAINTAINER"}.isdisjoint(words) and "sudo" not in text and "apt-get" not in text
    last = lines[max(i for i, line in enumerate(lines) if line.startswith("FROM")) :]
    user = next(line.split()[1] for line in last if line.startswith("USER"))
    assert user.partition(":")[0] not in ("root", "0")
    order = [line.split()[0] for line in last]
    assert order.index("USER") < order.index("ENTRYPOINT") and "HEALTHCHECK" in order
    assert 'ENTRYPOINT ["muster"]' in last
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line[0] == "!"}
    for line in lines:
        if line.startswith("COPY") and "--from" not in line:
            for source in line.split()[1:-1]:
                assert (ROOT / source).exists() and source in kept, source


def test_the_health_check_of_the_image_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    import json
    import socket
    import subprocess

    (command,) = re.findall(r"CMD (\[\"python\", \"-c\".*\])", (DEPLOY / "Dockerfile").read_text("utf-8"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        for value, code in (({}, 0), ({"MUSTER_HEALTH": str(port)}, 0)):
            assert subprocess.run(["python3", *json.loads(command)[1:]], env=value).returncode == code
    gone = subprocess.run(
        ["python3", *json.loads(command)[1:]], env={"MUSTER_HEALTH": str(port)}, stderr=subprocess.DEVNULL
    )
    assert gone.returncode != 0


def test_pods_are_locked_down_and_bounded() -> None:
    for workload, container in containers():
        pod = workload["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] == 10001
        assert pod["automountServiceAccountToken"] is False
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False and context["readOnlyRootFilesystem"] is True
        assert context["capabilities"]["drop"] == ["ALL"]
        assert "memory" in container["resources"]["limits"] and container["resources"]["requests"]
        assert re.fullmatch(r"muster:\d+\.\d+\.\d+", container["image"])


def test_mounts_probes_and_services_refer_to_what_is_there() -> None:
    for workload, container in containers():
        spec = workload["spec"]
        pod = spec["template"]["spec"]
        volumes = {v["name"] for v in pod["volumes"]}
        volumes |= {claim["metadata"]["name"] for claim in spec.get("volumeClaimTemplates", ())}
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
        ports = {port["name"] for port in container.get("ports", ())}
        for probe in ("readinessProbe", "livenessProbe"):
            assert (probe in container) == bool(ports)
            if ports:
                how = container[probe].get("httpGet") or container[probe]["tcpSocket"]
                assert how["port"] in ports
        assert spec["selector"]["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items()
    pods = [w["spec"]["template"] for w in of_kind("StatefulSet", "Deployment")]
    for service in of_kind("Service"):
        chosen = service["spec"]["selector"]
        found = [p for p in pods if chosen.items() <= p["metadata"]["labels"].items()]
        assert len(found) == 1
        names = {port["name"] for c in found[0]["spec"]["containers"] for port in c.get("ports", ())}
        assert {port["targetPort"] for port in service["spec"].get("ports", ())} <= names
    for stateful in of_kind("StatefulSet"):
        assert stateful["spec"]["serviceName"] in {s["metadata"]["name"] for s in of_kind("Service")}


def test_secret_files_are_not_for_everybody() -> None:
    """Muster refuses a key that every user could read; 0440 with fsGroup is what a pod can give."""
    for workload in of_kind("StatefulSet", "Deployment"):
        for volume in workload["spec"]["template"]["spec"]["volumes"]:
            if "secret" in volume:
                assert volume["secret"]["defaultMode"] & 0o007 == 0


def test_the_kustomization_names_files_that_exist() -> None:
    body = yaml.safe_load((DEPLOY / "kubernetes" / "kustomization.yaml").read_text("utf-8"))
    files = [*body["resources"], *body["configMapGenerator"][0]["files"]]
    assert all((DEPLOY / "kubernetes" / file).exists() for file in files)
    assert body["configMapGenerator"][0]["name"] == "muster-job"


def test_the_job_can_run() -> None:
    assert load_job(DEPLOY / "kubernetes" / "job.yml").data.partition.num_clients == 4


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_systemd_units(unit: Path) -> None:
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(unit.read_text("utf-8"))
    service = parser["Service"]
    assert set(parser.sections()) == {"Unit", "Service", "Install"}
    assert service["User"] == "muster" and service["NoNewPrivileges"] == "yes"
    assert service["ProtectSystem"] == "strict" and service["CapabilityBoundingSet"] == ""
    assert service["Restart"] == "on-failure" and service["SuccessExitStatus"] == "130"
