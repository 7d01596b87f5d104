"""TLS for ldap3 with the standard library's default context, which verifies certificate and host name."""

from __future__ import annotations

import ssl
from typing import Any

import ldap3

from syncagent.errors import FailureKind


class StrictTls(ldap3.Tls):  # type: ignore[misc] # untyped
    """An ldap3.Tls that uses ``context``. ``error`` and ``kind`` describe the last failed handshake."""

    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__(validate=ssl.CERT_REQUIRED)
        self.context, self.error, self.kind = context, "", FailureKind.TEMPORARY

    def wrap_socket(self, connection: Any, do_handshake: bool = False) -> None:  # noqa: ARG002, ANN401, FBT001, FBT002
        """Start TLS on the connection's socket and do the handshake. ldap3 calls this for ldaps and for StartTLS.

        If that fails, closes the socket, sets ``error`` and ``kind``, and raises OSError (such as ssl.SSLError).
        """
        plain, host = connection.socket, connection.server.host
        try:
            connection.socket = self.context.wrap_socket(plain, server_hostname=host)
        except (ssl.SSLError, OSError) as error:
            plain.close()
            self.error = f"TLS handshake failed: {getattr(error, 'reason', None) or error}; is this a TLS port?"
            if isinstance(error, ssl.SSLCertVerificationError):
                self.kind = FailureKind.BROKEN
                self.error = (
                    f"server certificate rejected: {error.verify_message.rstrip('.')}; check ca_file, and that the"
                    f" certificate is for {host} and has not expired"
                )
            raise
