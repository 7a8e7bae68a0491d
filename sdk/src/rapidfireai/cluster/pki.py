"""Certificates, keys and kubeconfigs of the local control plane."""

from __future__ import annotations

import base64
import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LIFETIME = datetime.timedelta(days=365)
_PEM = serialization.Encoding.PEM


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a client certificate speaks for.

    Attributes:
        user: The Kubernetes user name.
        groups: Its groups.
    """

    user: str
    groups: tuple[str, ...] = ()


CLIENTS = {
    "admin": Identity("admin", ("system:masters",)),
    "kube-controller-manager": Identity("system:kube-controller-manager"),
    "kube-scheduler": Identity("system:kube-scheduler"),
}
"""The control plane's own clients, by the name of their files."""


def _private_pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


class Authority:
    """A certificate authority in a directory; every file it writes is readable by its owner alone."""

    def __init__(self, directory: Path, name: str) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._name = name
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        usage = x509.KeyUsage(
            digital_signature=True,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=True,
            crl_sign=True,
            encipher_only=False,
            decipher_only=False,
        )
        certificate = (
            self._builder(self._subject, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.write(f"{name}.crt", certificate.public_bytes(_PEM))
        self.write(f"{name}.key", _private_pem(self._key))

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=5))
            .not_valid_after(now + LIFETIME)
            # Clients that verify strictly, Python from 3.13 on among them, want to see who signed whom.
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )

    def write(self, name: str, data: bytes) -> Path:
        """Write a file of the authority's directory with mode 0600 and return its path."""
        path = self.directory / name
        path.touch(mode=0o600)
        path.write_bytes(data)
        return path

    def issue(self, name: str, identity: Identity, hosts: Sequence[str] = ()) -> None:
        """Write `<name>.crt` and `<name>.key`: a client certificate, and a server's if `hosts` are given."""
        key = ec.generate_private_key(ec.SECP256R1())
        organizations = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in identity.groups]
        subject = x509.Name([*organizations, x509.NameAttribute(NameOID.COMMON_NAME, identity.user)])
        purpose = ExtendedKeyUsageOID.SERVER_AUTH if hosts else ExtendedKeyUsageOID.CLIENT_AUTH
        builder = self._builder(subject, key.public_key()).add_extension(
            x509.ExtendedKeyUsage([purpose]), critical=False
        )
        if hosts:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([_alternative_name(h) for h in hosts]), critical=False
            )
        self.write(f"{name}.crt", builder.sign(self._key, hashes.SHA256()).public_bytes(_PEM))
        self.write(f"{name}.key", _private_pem(key))

    def kubeconfig(self, name: str, server: str) -> Path:
        """Write `<name>.kubeconfig` for the client certificate `name` and return its path."""

        def encoded(file: str) -> str:
            return base64.b64encode((self.directory / file).read_bytes()).decode()

        text = f"""apiVersion: v1
kind: Config
current-context: rapidfire
contexts:
- {{name: rapidfire, context: {{cluster: rapidfire, user: {name}, namespace: default}}}}
clusters:
- name: rapidfire
  cluster: {{server: "{server}", certificate-authority-data: {encoded(f"{self._name}.crt")}}}
users:
- name: {name}
  user: {{client-certificate-data: {encoded(f"{name}.crt")}, client-key-data: {encoded(f"{name}.key")}}}
"""
        return self.write(f"{name}.kubeconfig", text.encode())


def _alternative_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def is_valid(directory: Path) -> bool:
    """Say whether the certificates in a directory are there and hold for another month."""
    try:
        authority = x509.load_pem_x509_certificate((directory / "ca.crt").read_bytes())
    except (OSError, ValueError):
        return False
    left = authority.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
    return left > datetime.timedelta(days=30)


def create(directory: Path, server: str, hosts: Sequence[str] = ()) -> Authority:
    """Write everything that the control plane and its clients need into `directory`.

    Args:
        directory: Made with mode 0700.
        server: The API server's URL, for the kubeconfigs.
        hosts: Further names and addresses under which the API server is reached.

    Returns:
        The authority, which may issue more.
    """
    authority = Authority(directory, "ca")
    service_accounts = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    authority.write("sa.key", _private_pem(service_accounts))
    public = service_accounts.public_key().public_bytes(_PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    authority.write("sa.pub", public)
    names = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "127.0.0.1", *hosts]
    authority.issue("apiserver", Identity("kube-apiserver"), hosts=names)
    authority.issue("apiserver-kubelet", Identity("kube-apiserver", ("system:masters",)))
    # The API server trusts the user headers of whoever this authority signed: it must be another one than the clients'.
    Authority(directory, "front-proxy-ca").issue("front-proxy", Identity("front-proxy-client"))
    for name, identity in CLIENTS.items():
        authority.issue(name, identity)
        authority.kubeconfig(name, server)
    return authority
