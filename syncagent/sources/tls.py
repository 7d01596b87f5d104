"""The TLS context of all sources. It always verifies the server's certificate and host name."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from syncagent.errors import FailureKind, SourceError
from syncagent.files import atomic
from syncagent.values.secrets import read_secret, secret_path

if TYPE_CHECKING:
    from pathlib import Path

    from syncagent.sources.connection_keys import ConnectionKeys
    from syncagent.values import SecretFile


_MAX_PEM = 16 << 20
"""Maximum octets of a PEM file: OpenSSL reads the whole file into memory."""


def context(config: ConnectionKeys) -> ssl.SSLContext:
    """Return the standard library's default client context with the configured CA file and client certificate.

    Raises SourceError if a file cannot be used, or if the key file is accessible to group or others.
    """
    tls = _verifying(config.ca_file)
    if config.client_cert_file:
        _load_certificate(tls, config.client_cert_file, config.client_key_file or config.client_cert_file)
    return tls


def _verifying(ca_file: Path | None) -> ssl.SSLContext:
    try:
        if ca_file:
            atomic.check_small(ca_file, _MAX_PEM)
        return ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
    except (OSError, ssl.SSLError) as error:
        text = f"ca_file {ca_file} cannot be used: {getattr(error, 'strerror', None) or error}"
        raise SourceError(text, kind=FailureKind.BROKEN) from None


def _load_certificate(tls: ssl.SSLContext, certificate: SecretFile, key: SecretFile) -> None:
    path = secret_path(certificate)
    read_secret(key)  # raises SourceError if group or others can read it
    try:
        atomic.check_small(path, _MAX_PEM)
        tls.load_cert_chain(path, secret_path(key), password=_no_passphrase)
    except (OSError, ssl.SSLError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        text = f"client_cert_file {path} and its key cannot be used: {why}"
        raise SourceError(text, kind=FailureKind.BROKEN) from None


def _no_passphrase() -> str:
    """Raise ValueError: OpenSSL would otherwise ask for a passphrase on the terminal."""
    raise ValueError("the key is encrypted: store it without a passphrase")
