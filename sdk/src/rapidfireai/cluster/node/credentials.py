"""The node's certificates, asked for through the API as a kubelet does: the cluster's authority signs them."""

from __future__ import annotations

import asyncio
import base64
import ipaddress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from kubernetes.aio.client.exceptions import ApiException

from rapidfireai.cluster.node.api import Api, now, persist, reason_of
from rapidfireai.errors import RapidFireError

CLIENT_SIGNER = "kubernetes.io/kube-apiserver-client-kubelet"
SERVER_SIGNER = "kubernetes.io/kubelet-serving"
ADDRESS = "127.0.0.1"
_PATH = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
_RENEW_BEFORE = timedelta(days=30)
_DEADLINE_SECONDS = 60.0


class CredentialsError(RapidFireError):
    """The node has no certificate and gets none; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """Files of the node: `kubeconfig` for its client, the others for its server."""

    kubeconfig: Path
    authority: Path
    certificate: Path
    key: Path


async def obtain(home: Path, name: str, bootstrap: Path) -> Credentials:
    """Return the node's credentials; they are made anew when they end within a month or are another cluster's.

    Args:
        home: They lie in `home/pki`.
        name: The node's.
        bootstrap: The kubeconfig of somebody who may create and approve certificate signing requests.

    Raises:
        CredentialsError: If `bootstrap` is no kubeconfig with a certificate authority, or may not do that.
    """
    directory = home / "pki"
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    cluster = _cluster(bootstrap)
    made = Credentials(*(directory / each for each in ("kubeconfig", "ca.crt", "kubelet.crt", "kubelet.key")))
    client = directory / "client.crt"
    _write(made.authority, base64.b64decode(cluster["certificate-authority-data"]))
    async with await Api.connect(bootstrap) as administrator:
        if not _is_good(client, made.authority):
            await _obtain(administrator, administrator, CLIENT_SIGNER, name, client)
        # The API server may have moved to another port since.
        _write(made.kubeconfig, _kubeconfig(cluster, client))
        if not _is_good(made.certificate, made.authority):
            async with await Api.connect(made.kubeconfig) as node:
                await _obtain(administrator, node, SERVER_SIGNER, name, made.certificate)
    return made


def _cluster(kubeconfig: Path) -> dict[str, Any]:
    try:
        parsed = yaml.safe_load(kubeconfig.read_text())
        cluster: dict[str, Any] = dict(parsed["clusters"][0]["cluster"])
        if "certificate-authority" in cluster:
            content = (kubeconfig.parent / cluster.pop("certificate-authority")).read_bytes()
            cluster["certificate-authority-data"] = base64.b64encode(content).decode()
    except (OSError, yaml.YAMLError, KeyError, IndexError, TypeError) as error:
        raise CredentialsError(f"--kubeconfig {kubeconfig}: not a usable kubeconfig: {error!r}") from error
    if "certificate-authority-data" not in cluster:
        raise CredentialsError(
            f"--kubeconfig {kubeconfig}: the cluster has no certificate-authority; the node needs one"
        )
    return cluster


def _is_good(certificate: Path, authority: Path) -> bool:
    try:
        found = x509.load_pem_x509_certificate(certificate.read_bytes())
        serialization.load_pem_private_key(certificate.with_suffix(".key").read_bytes(), None)
        found.verify_directly_issued_by(x509.load_pem_x509_certificate(authority.read_bytes()))
    except Exception:
        return False
    return found.not_valid_after_utc - now() > _RENEW_BEFORE


async def _obtain(administrator: Api, requester: Api, signer: str, node: str, target: Path) -> None:
    """Make a key, have its certificate signed, and write both."""
    key = ec.generate_private_key(ec.SECP256R1())
    try:
        certificate = await persist(
            lambda: _signed(administrator, requester, _request(key, signer, node)), "certificate signing request"
        )
    except ApiException as error:
        raise CredentialsError(
            f"no certificate for node {node}: {reason_of(error)}; --kubeconfig has to be an administrator's, who may "
            f"create and approve certificate signing requests"
        ) from error
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    _write(target.with_suffix(".key"), pem)
    _write(target, certificate)


async def _signed(administrator: Api, requester: Api, request: dict[str, Any]) -> bytes:
    created = await requester.call("POST", _PATH, body=request)
    name = created["metadata"]["name"]
    await _approve(administrator, name)
    certificate = await _issued(administrator, name)
    await administrator.call("DELETE", f"{_PATH}/{name}")
    return certificate


def _request(key: ec.EllipticCurvePrivateKey, signer: str, node: str) -> dict[str, Any]:
    subject = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "system:nodes")]
    subject.append(x509.NameAttribute(NameOID.COMMON_NAME, f"system:node:{node}"))
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(subject))
    usages = ["digital signature", "client auth"]
    if signer == SERVER_SIGNER:
        alternative = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(ADDRESS))])
        builder = builder.add_extension(alternative, critical=False)
        usages = ["digital signature", "server auth"]
    pem = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    return {
        "apiVersion": "certificates.k8s.io/v1",
        "kind": "CertificateSigningRequest",
        "metadata": {"generateName": f"{node}-"},
        "spec": {"request": base64.b64encode(pem).decode(), "signerName": signer, "usages": usages},
    }


async def _approve(administrator: Api, name: str) -> None:
    """Approve a request; the controller manager may be doing the same."""
    condition = {"type": "Approved", "status": "True", "reason": "ProcessNode", "message": "Requested at its start"}
    while True:
        request = await administrator.get(f"{_PATH}/{name}")
        status = request.setdefault("status", {})
        if any(each["type"] == "Approved" for each in status.get("conditions") or ()):
            return
        status["conditions"] = [condition]
        try:
            await administrator.call("PUT", f"{_PATH}/{name}/approval", body=request)
        except ApiException as error:
            if error.status != 409:
                raise


async def _issued(administrator: Api, name: str) -> bytes:
    try:
        async with asyncio.timeout(_DEADLINE_SECONDS):
            while True:
                status = (await administrator.get(f"{_PATH}/{name}")).get("status") or {}
                if status.get("certificate"):
                    return base64.b64decode(status["certificate"])
                for each in status.get("conditions") or ():
                    if each["type"] in {"Failed", "Denied"}:
                        raise CredentialsError(f"the cluster refuses the certificate {name}: {each.get('message')}")
                await asyncio.sleep(0.1)
    except TimeoutError as error:
        raise CredentialsError(
            f"the controller manager has not signed {name} within {_DEADLINE_SECONDS:g} s"
        ) from error


def _kubeconfig(cluster: dict[str, Any], client: Path) -> bytes:
    user = {"client-certificate": str(client), "client-key": str(client.with_suffix(".key"))}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "node",
        "contexts": [{"name": "node", "context": {"cluster": "cluster", "user": "node"}}],
        "clusters": [{"name": "cluster", "cluster": cluster}],
        "users": [{"name": "node", "user": user}],
    }
    return yaml.safe_dump(config).encode()


def _write(path: Path, content: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(content)
