"""
A cluster of real server processes, with faults, that proves that a consumer survives.

What lives here: the name of the package. What never does: an import of what only the ``fixture`` extra installs; see
:mod:`server_fixture.extra`.
"""

from __future__ import annotations

__all__: list[str] = []
