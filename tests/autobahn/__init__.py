"""The Autobahn fuzzing server's cases for a client, against the transport: ``python -m tests.autobahn``."""
