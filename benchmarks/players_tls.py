"""
TLS of the players: whom they trust. Imports nothing of ``resilient_ws``, so that no peer's process has it.
"""

from __future__ import annotations

import ssl


def trusting(certificate: str | None) -> ssl.SSLContext | None:
    """Return a context that trusts the benchmarks' server; None where there is no certificate."""
    return None if certificate is None else ssl.create_default_context(cafile=certificate)
