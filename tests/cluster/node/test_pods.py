"""Pods, Jobs and Deployments on the process node, through a real API server."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import ssl
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from tests.cluster.node.conftest import NodeProcess, Pods, eventually

from rapidfireai.cluster.control_plane import ControlPlane
from rapidfireai.cluster.node import tokens
from rapidfireai.cluster.node.api import Api
from rapidfireai.cluster.node.environment import Place
from rapidfireai.cluster.node.tokens import ProjectedVolume

pytestmark = pytest.mark.integration

# Kubernetes turns "$$" into "$".
BUSY = "echo $$$$; while :; do sleep 0.1; done"
SERVER = "python -m http.server 8000 --bind $POD_IP"
POD_IP = {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}


def template(node: NodeProcess, script: str, **container: Any) -> dict[str, Any]:
    spec = {"name": "c", "image": "none", "command": ["sh", "-c", script], **container}
    return {
        "metadata": {"labels": {"app": "web"}},
        "spec": {
            "nodeSelector": {"kubernetes.io/hostname": node.name},
            "terminationGracePeriodSeconds": 5,
            "containers": [spec],
        },
    }


def job(name: str, pod: dict[str, Any], policy: str, **spec: Any) -> dict[str, Any]:
    pod["spec"]["restartPolicy"] = policy
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": {"template": pod, **spec}}


def lives(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def pid_of(pods: Pods, name: str) -> int:
    """The pid that the pod's program printed first."""
    return int(eventually(lambda: pods.log(name).split("\n")[0], str.isdigit))


def test_a_job_completes(node: NodeProcess, pods: Pods) -> None:
    pods.apply(job("hello", template(node, "echo hello"), "Never"))
    assert "condition met" in pods.kubectl("wait", "--for=condition=Complete", "job/hello", "--timeout=30s")
    assert pods.log("job/hello") == "hello\n"


def test_a_job_fails_after_its_back_off_limit(node: NodeProcess, pods: Pods) -> None:
    pods.apply(job("bad", template(node, "exit 7"), "Never", backoffLimit=0))
    assert "condition met" in pods.kubectl("wait", "--for=condition=Failed", "job/bad", "--timeout=30s")
    pod = json.loads(pods.kubectl("get", "pods", "--output=json"))["items"][0]
    assert pod["status"]["phase"] == "Failed"
    assert pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 7


def test_a_crashing_container_backs_off(node: NodeProcess, pods: Pods) -> None:
    pods.create("crash", "echo once; exit 3", on=node, restartPolicy="OnFailure")
    seen = eventually(lambda: pods.state("crash"), lambda state: state.get("reason") == "CrashLoopBackOff")
    assert seen["message"] == "back-off 10s restarting failed container=c"
    assert (seen["restarts"], seen["last"]["exitCode"], seen["last"]["reason"]) == (1, 3, "Error")
    assert pods.phase("crash") == "Running"
    assert ("BackOff", "Back-off restarting failed container c") in pods.events("crash")


def test_a_deployment_becomes_available_and_rolls_over(node: NodeProcess, pods: Pods) -> None:
    probe = {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 1}
    ports = [{"name": "http", "containerPort": 8000}]
    pod = template(node, f"exec {SERVER}", env=[POD_IP], ports=ports, readinessProbe=probe)
    spec = {"replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "template": pod}
    pods.apply({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": spec})
    assert "successfully rolled out" in pods.kubectl("rollout", "status", "deployment/web", "--timeout=60s")
    addresses = pods.kubectl("get", "pods", "-o", "jsonpath={.items[*].status.podIP}").split()
    assert len(set(addresses)) == 2
    assert all(each.startswith("127.") and each != "127.0.0.1" for each in addresses)
    pods.kubectl("rollout", "restart", "deployment/web")
    assert "successfully rolled out" in pods.kubectl("rollout", "status", "deployment/web", "--timeout=60s")
    after = pods.kubectl("get", "pods", "-o", "jsonpath={.items[*].status.podIP}").split()
    eventually(
        lambda: pods.kubectl("get", "pods", "-o", "jsonpath={.items[*].status.podIP}").split(),
        lambda seen: len(seen) == 2 and not set(seen) & set(addresses),
        more=lambda: str(after),
    )


def test_the_environment_has_what_the_pod_names_and_none_of_the_nodes_own(node: NodeProcess, pods: Pods) -> None:
    pods.kubectl("create", "secret", "generic", "keys", "--from-literal=token=s3cret")
    pods.kubectl("create", "configmap", "settings", "--from-literal=COLOUR=blue", "--from-literal=depth=4")

    def field(path: str) -> dict[str, Any]:
        return {"fieldRef": {"fieldPath": path}}

    env = [
        POD_IP,
        {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "token"}}},
        {"name": "NONE", "valueFrom": {"secretKeyRef": {"name": "absent", "key": "x", "optional": True}}},
        {"name": "NAME", "valueFrom": field("metadata.name")},
        {"name": "LABEL", "valueFrom": field("metadata.labels['app']")},
        {"name": "NOTE", "valueFrom": field("metadata.annotations['note']")},
        {"name": "NODE", "valueFrom": field("spec.nodeName")},
        {"name": "ACCOUNT", "valueFrom": field("spec.serviceAccountName")},
        {"name": "CPUS", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
        {"name": "MIB", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
        {"name": "URL", "value": "http://$(POD_IP):80/$$(POD_IP)/$(MISSING)"},
    ]
    container = {
        "command": ["python", "-c", "import json, os; print(json.dumps(dict(os.environ)))"],
        "env": env,
        "envFrom": [{"configMapRef": {"name": "settings"}, "prefix": "S_"}],
        "resources": {"limits": {"cpu": "1500m", "memory": "64Mi"}},
    }
    pods.create("env", "", on=node, restartPolicy="Never", container=container)
    status = pods.wait("env", "Succeeded")["status"]
    found = json.loads(pods.log("env"))
    expected = {
        "POD_IP": status["podIP"],
        "TOKEN": "s3cret",
        "NAME": "env",
        "LABEL": "env",
        "NOTE": 'a "quoted" note',
        "NODE": node.name,
        "ACCOUNT": "default",
        "CPUS": "2",
        "MIB": "64",
        "URL": f"http://{status['podIP']}:80/$(POD_IP)/$(MISSING)",
        "S_COLOUR": "blue",
        "S_depth": "4",
        "CUDA_VISIBLE_DEVICES": "",
    }
    assert {name: found.get(name) for name in expected} == expected
    assert "NONE" not in found
    assert found["PATH"].split(":")[0] == str(Path(os.sys.executable).parent)  # type: ignore[attr-defined]
    assert not {"KUBECONFIG", "HF_TOKEN", "VIRTUAL_ENV"} & found.keys()
    assert found["HOME"].startswith(str(node.home))


def test_a_missing_secret_is_named_and_waited_for(node: NodeProcess, pods: Pods) -> None:
    env = [{"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "later", "key": "token"}}}]
    pods.create("patient", "echo $TOKEN", on=node, restartPolicy="Never", container={"env": env})
    seen = eventually(lambda: pods.state("patient"), lambda state: state.get("reason") == "CreateContainerConfigError")
    assert seen["message"] == 'secret "later" not found'
    pods.kubectl("create", "secret", "generic", "later", "--from-literal=token=here")
    pods.wait("patient", "Succeeded")
    assert pods.log("patient") == "here\n"


def test_the_token_is_bound_to_the_pod(node: NodeProcess, pods: Pods, control_plane: ControlPlane) -> None:
    pods.create("who", 'cat "$RAPIDFIRE_SERVICEACCOUNT_DIR/token"', on=node, restartPolicy="Never")
    uid = pods.wait("who", "Succeeded")["metadata"]["uid"]
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": pods.log("who")}}
    user = json.loads(pods.kubectl("create", "-o", "json", "-f", "-", stdin=json.dumps(review)))["status"]["user"]
    assert user["extra"]["authentication.kubernetes.io/pod-name"] == ["who"]
    assert user["extra"]["authentication.kubernetes.io/pod-uid"] == [uid]
    assert user["extra"]["authentication.kubernetes.io/node-name"] == [node.name]


def test_a_pod_speaks_to_the_api_server_with_its_own_account(node: NodeProcess, pods: Pods) -> None:
    program = (
        "import asyncio, os\n"
        "from kubernetes import aio\n"
        "from rapidfireai.kube import connect\n"
        "async def main():\n"
        "    async with await connect() as client:\n"
        "        review = await aio.client.AuthenticationV1Api(client).create_self_subject_review({})\n"
        "        print(review.status.user_info.username)\n"
        "asyncio.run(main())\n"
    )
    pods.create("self", "", on=node, restartPolicy="Never", container={"command": ["python", "-c", program]})
    pod = pods.wait("self", "Succeeded")
    assert pods.log("self") == f"system:serviceaccount:{pod['metadata']['namespace']}:default\n"


def test_without_automount_there_is_no_account(node: NodeProcess, pods: Pods) -> None:
    script = "echo [$RAPIDFIRE_SERVICEACCOUNT_DIR]"
    pods.create("bare", script, on=node, restartPolicy="Never", automountServiceAccountToken=False)
    pods.wait("bare", "Succeeded")
    assert pods.log("bare") == "[]\n"


def test_logs_are_cut_as_asked_and_the_last_runs_kept(node: NodeProcess, pods: Pods) -> None:
    script = "echo one; echo two; while [ ! -e $HOME/go ]; do sleep 0.1; done; rm $HOME/go; printf end; exit 1"
    pods.create("talk", script, on=node, restartPolicy="OnFailure")
    eventually(lambda: pods.log("talk"), lambda seen: seen == "one\ntwo\n")
    assert pods.log("talk", "--tail=1") == "two\n"
    time_of_line, text = pods.log("talk", "--tail=1", "--timestamps").split(" ", 1)
    assert (text, time_of_line[-1]) == ("two\n", "Z")
    assert pods.log("talk", "--limit-bytes=5") == "one\nt"
    assert pods.log("talk", "--since=1h") == "one\ntwo\n"
    uid = pods.get("talk")["metadata"]["uid"]
    (node.home / "pods" / uid / "home" / "go").touch()
    eventually(lambda: pods.state("talk"), lambda state: state["restarts"] == 1 and state["kind"] == "running")
    assert pods.log("talk", "--previous") == "one\ntwo\nend"


def test_a_followed_log_ends_with_its_container(node: NodeProcess, pods: Pods) -> None:
    pods.create("brief", "echo a; sleep 2; echo b", on=node, restartPolicy="Never")
    eventually(lambda: pods.state("brief")["kind"], lambda kind: kind == "running")
    assert pods.log("brief", "-f") == "a\nb\n"


def test_sigterm_gives_the_program_its_grace(node: NodeProcess, pods: Pods, tmp_path: Path) -> None:
    handler = f"echo asked >> {tmp_path}/asked; sleep 1; touch {tmp_path}/done; exit 0"
    pods.create("polite", f"trap '{handler}' TERM; {BUSY}", on=node, terminationGracePeriodSeconds=20)
    pid = pid_of(pods, "polite")
    pods.kubectl("delete", "pod", "polite", "--timeout=20s")
    assert (tmp_path / "done").exists()
    assert len((tmp_path / "asked").read_text().splitlines()) == 1
    assert not lives(pid)
    assert ("Killing", "Stopping container c") in pods.events("polite")


def test_a_program_that_ignores_sigterm_is_killed_with_its_children(node: NodeProcess, pods: Pods) -> None:
    # The child leaves the session and the parent: only its environment says whose it is.
    script = (
        "trap '' TERM; echo $$$$; setsid sh -c 'trap \"\" TERM; echo $$$$; sleep 100' & while :; do sleep 0.1; done"
    )
    pods.create("stubborn", script, on=node, terminationGracePeriodSeconds=1)
    pids = [int(each) for each in eventually(lambda: pods.log("stubborn").split(), lambda seen: len(seen) == 2)]
    started = time.monotonic()
    pods.kubectl("delete", "pod", "stubborn", "--timeout=20s")
    assert time.monotonic() - started < 10
    assert [lives(pid) for pid in pids] == [False, False]


def test_a_forced_deletion_leaves_no_process(node: NodeProcess, pods: Pods) -> None:
    pods.create("forced", f"trap '' TERM; {BUSY}", on=node)
    pid = pid_of(pods, "forced")
    pods.kubectl("delete", "pod", "forced", "--force", "--grace-period=0")
    eventually(lambda: lives(pid), lambda alive: not alive)


def test_a_killed_process_is_replaced_in_the_same_pod(node: NodeProcess, pods: Pods) -> None:
    pods.create("phoenix", "echo $$$$; exec sleep 100", on=node, restartPolicy="OnFailure")
    first, uid = pid_of(pods, "phoenix"), pods.get("phoenix")["metadata"]["uid"]
    os.kill(first, signal.SIGKILL)
    seen = eventually(
        lambda: pods.state("phoenix"), lambda state: state["restarts"] == 1 and state["kind"] == "running"
    )
    assert (seen["last"]["exitCode"], seen["last"]["reason"]) == (137, "Error")
    assert pods.get("phoenix")["metadata"]["uid"] == uid
    assert pid_of(pods, "phoenix") != first


def test_init_containers_run_first_and_in_order(node: NodeProcess, pods: Pods, tmp_path: Path) -> None:
    init = [
        {"name": name, "image": "none", "command": ["sh", "-c", f"echo {name} >> {tmp_path}/order"]}
        for name in ("first", "second")
    ]
    pods.create("ordered", f"cat {tmp_path}/order", on=node, restartPolicy="Never", initContainers=init)
    status = pods.wait("ordered", "Succeeded")["status"]
    assert pods.log("ordered", "--container=c") == "first\nsecond\n"
    assert [each["ready"] for each in status["initContainerStatuses"]] == [True, True]


def test_a_failed_init_container_fails_a_pod_that_never_restarts(node: NodeProcess, pods: Pods) -> None:
    init = [{"name": "setup", "image": "none", "command": ["false"]}]
    pods.create("broken", "echo never", on=node, restartPolicy="Never", initContainers=init)
    pods.wait("broken", "Failed")
    assert pods.state("broken")["kind"] == "waiting"


def test_liveness_restarts_and_startup_holds_it_back(node: NodeProcess, pods: Pods) -> None:
    probes = {
        "startupProbe": {
            "exec": {"command": ["sh", "-c", "test -e $HOME/up"]},
            "periodSeconds": 1,
            "failureThreshold": 60,
        },
        "livenessProbe": {
            "exec": {"command": ["sh", "-c", "echo sick; false"]},
            "periodSeconds": 1,
            "failureThreshold": 1,
        },
    }
    pods.create("sick", "rm -f $HOME/up; echo $$$$; exec sleep 100", on=node, container=probes)
    first = pid_of(pods, "sick")
    assert pods.state("sick")["restarts"] == 0
    (node.home / "pods" / pods.get("sick")["metadata"]["uid"] / "home" / "up").touch()
    eventually(lambda: pods.state("sick"), lambda state: state["restarts"] == 1)
    assert not lives(first)
    events = eventually(lambda: pods.events("sick"), lambda seen: len(seen) >= 5)
    assert ("Unhealthy", "Liveness probe failed: sick") in events
    assert ("Killing", "Container c failed liveness probe, will be restarted") in events


def test_a_container_that_a_probe_ended_well_is_not_done(node: NodeProcess, pods: Pods) -> None:
    probe = {"livenessProbe": {"exec": {"command": ["false"]}, "periodSeconds": 1, "failureThreshold": 1}}
    script = f"trap 'exit 0' TERM; {BUSY}"
    pods.apply(job("obedient", template(node, script, **probe), "OnFailure"))
    name = eventually(lambda: pods.kubectl("get", "pods", "-o", "name"), bool).strip().removeprefix("pod/")
    seen = eventually(lambda: pods.state(name), lambda state: state["restarts"] >= 1)
    assert seen["last"]["exitCode"] == 0
    assert pods.phase(name) == "Running"


def test_a_hook_runs_before_sigterm(node: NodeProcess, pods: Pods, tmp_path: Path) -> None:
    hook = {"lifecycle": {"preStop": {"exec": {"command": ["sh", "-c", f"echo hook >> {tmp_path}/order"]}}}}
    script = f"trap 'echo term >> {tmp_path}/order; exit 0' TERM; {BUSY}"
    pods.create("hooked", script, on=node, container=hook)
    pid_of(pods, "hooked")
    pods.kubectl("delete", "pod", "hooked", "--timeout=20s")
    assert (tmp_path / "order").read_text() == "hook\nterm\n"


def test_a_pod_that_outlives_its_deadline_fails(node: NodeProcess, pods: Pods) -> None:
    pods.create("late", "exec sleep 100", on=node, activeDeadlineSeconds=1)
    assert pods.wait("late", "Failed")["status"]["reason"] == "DeadlineExceeded"


async def test_tokens_are_renewed_before_they_expire(
    control_plane: ControlPlane, pods: Pods, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pods.kubectl("run", "idle", "--image=none", "--overrides", '{"spec": {"schedulerName": "nobody"}}')
    pod = pods.get("idle")
    monkeypatch.setattr(tokens, "_RENEW_AT", 0.001)
    async with await Api.connect(control_plane.kubeconfig) as api:
        volume = ProjectedVolume(api, pod, pod["spec"]["volumes"][0], tmp_path, Place("n", "127.1.1.1", {}))
        await volume.write()
        first = (tmp_path / "token").read_text()
        fresh = asyncio.create_task(volume.keep_fresh())
        async with asyncio.timeout(30):
            while (tmp_path / "token").read_text() == first:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        fresh.cancel()
    assert (tmp_path / "token").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "namespace").read_text() == pod["metadata"]["namespace"]
    assert "BEGIN CERTIFICATE" in (tmp_path / "ca.crt").read_text()


def test_readiness_follows_the_probe(node: NodeProcess, pods: Pods) -> None:
    script = "while [ ! -e $HOME/go ]; do sleep 0.1; done; " + f"exec {SERVER}"
    probe = {"tcpSocket": {"port": 8000}, "periodSeconds": 1}
    pods.create("slow", script, on=node, container={"env": [POD_IP], "readinessProbe": probe})
    pod = pods.wait("slow", "Running")
    conditions = {each["type"]: each for each in pod["status"]["conditions"]}
    assert conditions["Ready"]["status"] == conditions["ContainersReady"]["status"] == "False"
    assert conditions["Ready"]["message"] == "containers with unready status: [c]"
    assert conditions["Initialized"]["status"] == conditions["PodScheduled"]["status"] == "True"
    (node.home / "pods" / pod["metadata"]["uid"] / "home" / "go").touch()
    assert "condition met" in pods.kubectl("wait", "--for=condition=Ready", "pod/slow", "--timeout=30s")


@pytest.mark.parametrize(
    ("volume", "path", "sentence"),
    [
        ({"emptyDir": {}}, "/cache", "cannot mount an emptyDir at /cache; mount it at /tmp and let the program use"),
        ({"hostPath": {"path": "/etc"}}, "/data", "set mountPath to /etc instead of /data"),
        (
            {"configMap": {"name": "x"}},
            "/conf",
            "a configMap volume at /conf; take its keys as environment",
        ),
    ],
)
def test_a_mount_elsewhere_is_refused_with_what_to_write(
    node: NodeProcess, pods: Pods, volume: dict[str, Any], path: str, sentence: str
) -> None:
    mount = {"volumeMounts": [{"name": "v", "mountPath": path}]}
    pods.create("moved", "true", on=node, container=mount, volumes=[{"name": "v", **volume}])
    seen = eventually(lambda: pods.state("moved"), lambda state: bool(state.get("message")))
    assert seen["reason"] == "ContainerCreating"
    assert sentence in seen["message"]
    eventually(lambda: pods.events("moved"), lambda events: any(each[0] == "FailedMount" for each in events))
    assert pods.phase("moved") == "Pending"
    pods.kubectl("delete", "pod", "moved", "--timeout=20s")
    assert pods.get("moved") == {}


def test_a_container_without_a_command_is_refused(node: NodeProcess, pods: Pods) -> None:
    pods.create("image", "", on=node, container={"command": []})
    seen = eventually(lambda: pods.state("image"), lambda state: bool(state.get("message")))
    assert seen["reason"] == "CreateContainerConfigError"
    assert "container c has no command: the process node does not use images" in seen["message"]


def test_a_program_that_is_not_there_is_named(node: NodeProcess, pods: Pods) -> None:
    pods.create("typo", "", on=node, restartPolicy="Never", container={"command": ["pyhton"]})
    pods.wait("typo", "Failed")
    seen = pods.state("typo")
    assert (seen["exitCode"], seen["reason"]) == (128, "StartError")
    assert "cannot run 'pyhton'" in seen["message"]


def test_a_claim_is_mounted_at_the_path_of_its_volume(node: NodeProcess, pods: Pods, tmp_path: Path) -> None:
    path, name = str(tmp_path / "data"), f"v-{tmp_path.name[:20].replace('_', '-')}"
    size, modes = {"storage": "1Gi"}, ["ReadWriteOnce"]
    pods.apply(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": name},
            "spec": {"capacity": size, "accessModes": modes, "storageClassName": "", "hostPath": {"path": path}},
        },
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "data"},
            "spec": {
                "resources": {"requests": size},
                "accessModes": modes,
                "storageClassName": "",
                "volumeName": name,
            },
        },
    )
    mount = {"volumeMounts": [{"name": "v", "mountPath": path}, {"name": "tmp", "mountPath": "/tmp"}]}
    volumes = [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}, {"name": "tmp", "emptyDir": {}}]
    script = f"echo kept > {path}/file; touch $TMPDIR/scratch; ls $TMPDIR"
    pods.create("owner", script, on=node, restartPolicy="Never", container=mount, volumes=volumes)
    pods.wait("owner", "Succeeded")
    assert (tmp_path / "data" / "file").read_text() == "kept\n"
    assert pods.log("owner") == "scratch\n"
    pods.kubectl("delete", "persistentvolume", name, "--wait=false")


def test_slots_limit_how_many_pods_run_at_once(node: NodeProcess, pods: Pods) -> None:
    slot = {"resources": {"limits": {"rapidfire.ai/slot": 1}}}
    answer = pods.kubectl("get", "node", node.name, "-o", r"jsonpath={.status.allocatable.rapidfire\.ai/slot}")
    total = int(answer)
    names = [f"slot-{number}" for number in range(total + 1)]
    for name in names:
        pods.create(name, "exec sleep 100", on=node, container=slot)
    phases = eventually(lambda: sorted(map(pods.phase, names)), lambda seen: seen.count("Running") == total)
    assert phases.count("Pending") == 1
    waiting = next(name for name in names if pods.phase(name) == "Pending")
    eventually(lambda: str(pods.events(waiting)), lambda seen: "Insufficient rapidfire.ai/slot" in seen)
    pods.kubectl("delete", "pod", next(name for name in names if name != waiting))
    pods.wait(waiting, "Running")


@pytest.mark.parametrize(("client", "status"), [("apiserver-kubelet", 404), ("admin", 403)])
def test_the_node_answers_the_api_server_alone(
    node: NodeProcess, pods: Pods, control_plane: ControlPlane, client: str, status: int
) -> None:
    port = pods.kubectl("get", "node", node.name, "-o", "jsonpath={.status.daemonEndpoints.kubeletEndpoint.Port}")
    pki = control_plane.pki
    context = ssl.create_default_context(cafile=pki / "ca.crt")
    url = f"https://127.0.0.1:{port}/containerLogs/default/nothing/c"
    with pytest.raises(httpx.TransportError):  # without a certificate there is no connection
        httpx.get(url, verify=context, trust_env=False)
    context.load_cert_chain(pki / f"{client}.crt", pki / f"{client}.key")
    assert httpx.get(url, verify=context, trust_env=False).status_code == status


def test_exec_is_answered_with_a_sentence(node: NodeProcess, pods: Pods) -> None:
    pods.create("shell", "exec sleep 100", on=node)
    pods.wait("shell", "Running")
    assert "the process node does not do exec" in pods.kubectl("exec", "shell", "--", "ls")
