"""The client's session and the server's half on a fake network under virtual time: seeded, judged, with mutants."""

from __future__ import annotations
