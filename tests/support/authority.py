"""A certificate authority of the tests' own, and certificates by it."""

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme


class Authority:
    """A CA that nobody but the test trusts; each one is another."""

    def __init__(self) -> None:
        self._ca = trustme.CA(organization_name="example")

    def ca_file(self, directory: Path) -> Path:
        """Write the CA's certificate, which a client has to trust, and give its path."""
        path = directory / "ca.pem"
        path.write_bytes(self._ca.cert_pem.bytes())
        return path

    def server(self, directory: Path, *names: str, expired: bool = False) -> tuple[Path, Path]:
        """Write the certificate of a server of these names and addresses, and its key; give both paths."""
        yesterday = datetime.now(UTC) - timedelta(days=1)
        leaf = self._ca.issue_cert(*names, organization_name="example", not_after=yesterday if expired else None)
        return _written(leaf, directory, f"expired-{names[0]}" if expired else names[0])

    def server_context(self, directory: Path, *names: str, expired: bool = False) -> ssl.SSLContext:
        """Give a server's side of TLS, showing a certificate as `server` makes it."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*self.server(directory, *names, expired=expired))
        return context

    def client(self, directory: Path, name: str) -> tuple[Path, Path]:
        """Write a client's certificate, whose subject has this common name, and its key; give both paths."""
        # Without a subject alternative name the certificate would have an empty list of them, which no one may send.
        leaf = self._ca.issue_cert("client.example.com", common_name=name, organization_name="example")
        return _written(leaf, directory, f"client-{name}")


def _written(leaf: trustme.LeafCert, directory: Path, name: str) -> tuple[Path, Path]:
    """Write the chain, which all may read, and the key, which only its owner may."""
    chain, key = directory / f"{name}.pem", directory / f"{name}.key"
    chain.write_bytes(b"".join(pem.bytes() for pem in leaf.cert_chain_pems))
    key.touch(mode=0o600)
    key.write_bytes(leaf.private_key_pem.bytes())
    return chain, key
