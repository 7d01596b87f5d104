"""TLS as the standard library has it by default: certificate and host name are verified, always."""

from __future__ import annotations

import ssl
from typing import Any

import ldap3

from syncagent.errors import FailureKind


class StrictTls(ldap3.Tls):  # type: ignore[misc] # untyped
    """TLS by the standard library's default context, which checks certificate and host name itself."""

    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__(validate=ssl.CERT_REQUIRED)
        self.context, self.trouble, self.kind = context, "", FailureKind.TEMPORARY

    def wrap_socket(self, connection: Any, do_handshake: bool = False) -> None:  # noqa: ARG002, ANN401, FBT001, FBT002
        """Put TLS on the connection's socket, handshake and all; ldap3 calls this, for ldaps and StartTLS."""
        plain, host = connection.socket, connection.server.host
        try:
            connection.socket = self.context.wrap_socket(plain, server_hostname=host)
        except (ssl.SSLError, OSError) as error:
            plain.close()
            self.trouble = f"no TLS: {getattr(error, 'reason', None) or error}; is it a port for TLS?"
            if isinstance(error, ssl.SSLCertVerificationError):
                self.kind = FailureKind.BROKEN
                self.trouble = (
                    f"its certificate is not accepted: {error.verify_message.rstrip('.')}; see ca_file, and whether"
                    f" the certificate is for {host} and still valid"
                )
            raise
