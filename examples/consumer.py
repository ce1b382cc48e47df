"""
Follow one stream into a database, and miss nothing: not when nodes die, not when this program does.

The position is kept by the application, in the same SQLite transaction as what it did with the messages, so that each
one has its effect exactly once, however often the program is killed and started again. Run it with the URLs of your
nodes (``python -m server_fixture up`` prints those of a cluster on this machine)::

    python examples/consumer.py --stream ticker --db ticker.db ws://127.0.0.1:PORT/ [more URLs]

Ctrl-C or SIGTERM ends it. With ``--count N`` it ends once N messages are in the database.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sqlite3
import sys
from collections.abc import Sequence

import resilient_ws
from resilient_ws import Position

SCHEMA = """
CREATE TABLE IF NOT EXISTS messages (
    stream TEXT, epoch TEXT, number INTEGER, data, PRIMARY KEY (stream, epoch, number)
);
CREATE TABLE IF NOT EXISTS positions (stream TEXT PRIMARY KEY, epoch TEXT, number INTEGER);
CREATE TABLE IF NOT EXISTS reloads (stream TEXT, first INTEGER, last INTEGER, reason TEXT);
"""
SAVE = "INSERT OR REPLACE INTO positions VALUES (?, ?, ?)"


class Store:
    """What was received of one stream, and how far: both change in one transaction."""

    def __init__(self, path: str, stream: str) -> None:
        self._db = sqlite3.connect(path)
        self._db.executescript(SCHEMA)
        self._stream = stream

    def close(self) -> None:
        self._db.close()

    def start(self) -> Position | str:
        """Return where to go on; the beginning of the stream where nothing is known."""
        row = self._db.execute("SELECT epoch, number FROM positions WHERE stream = ?", (self._stream,)).fetchone()
        return "earliest" if row is None else Position(*row)

    def count(self) -> int:
        found: int = self._db.execute("SELECT count(*) FROM messages").fetchone()[0]
        return found

    def add(self, messages: Sequence[resilient_ws.Message]) -> None:
        """Keep the messages and the position behind them."""
        last = messages[-1].position
        with self._db:
            self._db.executemany(
                "INSERT INTO messages VALUES (?, ?, ?, ?)", [(m.stream, m.epoch, m.offset, m.data) for m in messages]
            )
            self._db.execute(SAVE, (self._stream, last.epoch, last.offset))

    def reload(self, gap: resilient_ws.Gap) -> None:
        """
        Pass messages that the server cannot replay.

        A real application loads here, by some other way, the state that they carried.
        """
        with self._db:
            self._db.execute("INSERT INTO reloads VALUES (?, ?, ?, ?)", (gap.stream, gap.first, gap.last, gap.reason))
            self._db.execute(SAVE, (self._stream, gap.epoch, gap.next - 1))


def follow(ws: resilient_ws.Client, store: Store, count: int | None) -> None:
    """Take messages until the session ends or ``count`` are stored; asking for the next ones acks those before."""
    while count is None or store.count() < count:
        try:
            store.add(ws.recv_many(100))
        except resilient_ws.Gap as gap:
            print(f"reloading: {gap}", file=sys.stderr)
            store.reload(gap)
        except resilient_ws.SessionLost as lost:
            # Nothing to do here: the new session goes on from the positions of the old one. What is gone is the private
            # stream, which this program does not use.
            print(f"going on: {lost}", file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    """Run until Ctrl-C, SIGTERM, the server's goodbye or ``--count``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("urls", nargs="+", metavar="URL", help="nodes that serve the stream")
    parser.add_argument("--stream", required=True)
    parser.add_argument("--db", default="consumer.db", metavar="FILE")
    parser.add_argument("--count", type=int, help="end when so many messages are stored")
    options = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the same as Ctrl-C
    with contextlib.closing(Store(options.db, options.stream)) as store:
        try:
            start = {options.stream: store.start()}
            with resilient_ws.connect(options.urls, subscribe=start, open_timeout=30.0) as ws:
                print(f"following {options.stream} from {store.start()}", flush=True)
                follow(ws, store, options.count)
        except (KeyboardInterrupt, resilient_ws.SessionClosed):
            pass
        except resilient_ws.ResilientWSError as error:
            print(f"{error} (worth another try: {'yes' if error.retryable else 'no'})", file=sys.stderr)
            return 1
        except (TypeError, ValueError) as error:
            parser.error(str(error))
        print(f"{store.count()} messages stored, next time from {store.start()}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
