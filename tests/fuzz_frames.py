"""
``python -m tests.fuzz_frames --seconds 600``: streams of bytes, good and bad, through the frame path, without an end.

Each stream is read in pieces and at once, and held against the oracle, which shares no code with it. What differs is
printed with its seed; the exit status is 1 then.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from random import Random, SystemRandom
from typing import Any

from resilient_ws.deflating import Agreement, Inflater
from resilient_ws.framing import MAX_PINGS, Decoder
from tests.frame_oracle import Context, Reading
from tests.frame_streams import Stream, draw_reads, draw_stream

MakeDecoder = Callable[[int, "Inflater | None"], Decoder]
MAX_GROWTH = 128 << 10
"""KiB by which the process may grow over the whole run."""


def main() -> int:
    """Run what the arguments say."""
    args = _parser().parse_args()
    first = SystemRandom().randrange(1 << 40) if args.seed is None else args.seed
    print(f"seeds from {first} on", flush=True)
    counts: Counter[str] = Counter()
    before, deadline = _peak(), time.monotonic() + args.seconds
    seed = first
    while time.monotonic() < deadline and seed != first + args.streams:
        for what in problems_of(seed, counts):
            counts["findings"] += 1
            print(f"seed {seed}: {what}\nagain: python -m tests.fuzz_frames --seed {seed} --streams 1", flush=True)
        seed += 1
        counts["streams"] += 1
    growth = _peak() - before
    if growth > MAX_GROWTH:
        counts["findings"] += 1
        print(f"the process grew by {growth} KiB, at most {MAX_GROWTH} are expected")
    report = {"first": first, **dict(sorted(counts.items())), "findings": counts["findings"], "growth_kib": growth}
    print(", ".join(f"{name} {value}" for name, value in report.items()))
    if args.json:
        Path(args.json).write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    return int(counts["findings"] > 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz_frames", description=__doc__)
    add = parser.add_argument
    add("--seconds", type=float, default=60.0, help="how long (default %(default)s)")
    add("--streams", type=int, default=-1, help="at most so many streams")
    add("--seed", type=int, help="the first one; default: one that nobody has run before")
    add("--json", metavar="FILE", help="write the figures there")
    return parser


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def problems_of(seed: int, counts: Counter[str], make: MakeDecoder = Decoder) -> list[str]:
    """
    Run one stream; count what it was.

    Args:
        seed: Which one.
        counts: Messages and endings are added to it.
        make: What is tested.

    Returns:
        What is wrong with the frame path, in words.
    """
    rng = Random(seed)
    stream = draw_stream(rng)
    context = None if stream.window is None else Context(takeover=stream.takeover, bits=stream.window)
    oracle = Reading(stream.limit, context).read(stream.wire)
    counts["messages"] += len(oracle.messages)
    counts[f"code {min(oracle.codes)}" if oracle.codes else "closed" if oracle.closed else "open"] += 1
    found = []
    for how, reads in (("at once", [stream.wire]), ("in pieces", draw_reads(rng, stream.wire))):
        try:
            decoder, messages = read(stream, reads, make)
        except Exception as error:
            found.append(f"{how}: {type(error).__name__}: {error}")
        else:
            found += [f"{how}: {what}" for what in _differences(decoder, messages, oracle, stream)]
    return found


def read(stream: Stream, reads: Iterable[bytes], make: MakeDecoder) -> tuple[Decoder, list[Any]]:
    """Feed a decoder."""
    inflater = None
    if stream.window is not None:
        agreement = Agreement(server_no_context_takeover=not stream.takeover, server_max_window_bits=stream.window)
        inflater = Inflater(agreement)
    decoder = make(stream.limit, inflater)
    return decoder, [message for data in reads for message in decoder.feed(data)]


def _differences(decoder: Decoder, messages: list[Any], oracle: Reading, stream: Stream) -> list[str]:
    found = []
    if messages != oracle.messages:
        found.append(f"{len(messages)} messages, the oracle has {len(oracle.messages)}, or they differ")
    if stream.truth is not None and (messages != stream.truth or decoder.is_over):
        found.append(f"a good stream of {len(stream.truth)} messages gave {len(messages)}, failure {decoder.failure}")
    code = None if decoder.failure is None else decoder.failure[0]
    if (code is None) != (not oracle.codes) or (code is not None and code not in oracle.codes):
        found.append(f"failure {decoder.failure}, the oracle says {sorted(oracle.codes)}")
    if [*decoder.pings] != oracle.pings[-MAX_PINGS:]:
        found.append(f"{len(decoder.pings)} pings, the oracle has {len(oracle.pings)}, or they differ")
    if (decoder.pong, decoder.closed) != (oracle.pong, oracle.closed):
        found.append("another pong or close frame than the oracle's")
    if not decoder.is_over and decoder.has_partial != oracle.is_partial:
        found.append(f"has_partial is {decoder.has_partial}")
    return found


if __name__ == "__main__":
    sys.exit(main())
