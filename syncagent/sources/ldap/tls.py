"""TLS as the standard library has it by default: certificate and host name are verified, always."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

import ldap3

from syncagent.errors import FailureKind, SourceError
from syncagent.sources import read_secret, secret_path

if TYPE_CHECKING:
    from syncagent.sources.ldap import Config


class StrictTls(ldap3.Tls):  # type: ignore[misc] # untyped
    """TLS by the standard library's default context, which checks certificate and host name itself."""

    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__(validate=ssl.CERT_REQUIRED)
        self.context, self.trouble = context, ""

    def wrap_socket(self, connection: Any, do_handshake: bool = False) -> None:  # noqa: ARG002, ANN401, FBT001, FBT002
        """Put TLS on the connection's socket, handshake and all; ldap3 calls this, for ldaps and StartTLS."""
        plain, host = connection.socket, connection.server.host
        try:
            connection.socket = self.context.wrap_socket(plain, server_hostname=host)
        except (ssl.SSLError, OSError) as error:
            plain.close()
            if isinstance(error, ssl.SSLCertVerificationError):
                self.trouble = (
                    f"its certificate is not accepted: {error.verify_message.rstrip('.')}; see ca_file, and whether"
                    f" the certificate is for {host} and still valid"
                )
            raise


def context(config: Config) -> ssl.SSLContext:
    """Give the standard library's strict context: our authority or the system's, and our own certificate if any.

    Raises SourceError where a file cannot be used, or a key lies open to others.
    """
    try:
        made = ssl.create_default_context(cafile=str(config.ca_file) if config.ca_file else None)
    except (OSError, ssl.SSLError) as error:
        text = f"ca_file {config.ca_file} cannot be used: {getattr(error, 'strerror', None) or error}"
        raise SourceError(text, kind=FailureKind.BROKEN) from None
    if config.client_cert_file:
        key = config.client_key_file or str(config.client_cert_file)
        read_secret(key)  # raises where it lies open to others
        try:
            made.load_cert_chain(config.client_cert_file, secret_path(key), password=_no_password)
        except (OSError, ssl.SSLError, ValueError) as error:
            text = f"client_cert_file {config.client_cert_file} and its key cannot be used: {error}"
            raise SourceError(text, kind=FailureKind.BROKEN) from None
    return made


def _no_password() -> str:
    raise ValueError("the key is encrypted, and nobody is here to give its password")
