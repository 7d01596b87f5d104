"""The one TLS context of all sources: certificate and host name are verified, always."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from syncagent.errors import FailureKind, SourceError
from syncagent.files import sorted_lines as files
from syncagent.sources import read_secret, secret_path

if TYPE_CHECKING:
    from syncagent.sources.connection_keys import ConnectionKeys


_MOST = 16 << 20
"""The most octets that a file of authorities has; OpenSSL opens it by its name, and reads it to its end."""


def context(config: ConnectionKeys) -> ssl.SSLContext:
    """Give the standard library's strict context: our authority or the system's, and our own certificate if any.

    Raises SourceError where a file cannot be used, or a key lies open to others.
    """
    try:
        if config.ca_file:
            files.check_small(config.ca_file, _MOST)
        made = ssl.create_default_context(cafile=str(config.ca_file) if config.ca_file else None)
    except (OSError, ssl.SSLError) as error:
        text = f"ca_file {config.ca_file} cannot be used: {getattr(error, 'strerror', None) or error}"
        raise SourceError(text, kind=FailureKind.BROKEN) from None
    if config.client_cert_file:
        certificate, key = secret_path(config.client_cert_file), config.client_key_file or config.client_cert_file
        read_secret(key)  # raises where it lies open to others
        try:
            files.check_small(certificate, _MOST)
            made.load_cert_chain(certificate, secret_path(key), password=_no_password)
        except (OSError, ssl.SSLError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            text = f"client_cert_file {certificate} and its key cannot be used: {why}"
            raise SourceError(text, kind=FailureKind.BROKEN) from None
    return made


def _no_password() -> str:
    raise ValueError("the key is encrypted, and nobody is here to give its password")
