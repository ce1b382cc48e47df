"""The two objects that a user holds, and the events."""

from __future__ import annotations

import typing
from collections.abc import Callable

import attrs
import pytest

from resilient_ws import events
from resilient_ws.events import Message, Receipt
from resilient_ws.exceptions import Rejected
from resilient_ws.frames import Position


class Recorder:
    """An owner that notes what it is asked and answers what it was told."""

    def __init__(self, outcome: Exception | bool = False) -> None:
        self.outcome = outcome
        self.asked: list[tuple[object, ...]] = []

    def _ack(self, message: Message) -> None:
        self.asked.append(("ack", message))

    def _outcome(self, receipt: Receipt) -> Exception | bool:
        return self.outcome

    def _wait(self, receipt: Receipt, timeout: float | None) -> None:
        self.asked.append(("wait", timeout))
        if self.outcome is False:
            raise TimeoutError("not yet")

    def _when_done(self, receipt: Receipt, callback: Callable[[Receipt], object]) -> None:
        self.asked.append(("when done", callback))


def test_message_names_the_place_after_it() -> None:
    """A message's position is what ``subscribe`` takes to go on behind it."""
    message = Message("ticker", "e1", 7, '{"a": 1}', Recorder())
    assert message.position == Position("e1", 7)
    assert message.json() == {"a": 1}


def test_message_asks_its_owner_to_ack() -> None:
    """An ack is the owner's to carry out."""
    owner = Recorder()
    message = Message("ticker", "e1", 7, b"x", owner)
    message.ack()
    assert owner.asked == [("ack", message)]


def test_message_does_not_show_its_payload() -> None:
    """The payload may be a secret: a message's repr names its type only."""
    assert repr(Message("ticker", "e1", 7, "secret", Recorder())) == "Message(stream='ticker', offset=7, str)"


def test_receipt_of_a_committed_message() -> None:
    """A committed message's receipt is done and its result is nothing."""
    owner = Recorder(outcome=True)
    receipt = Receipt("p", "orders", 3, owner)
    assert receipt.done()
    receipt.result(0.0)
    assert owner.asked == [("wait", 0.0)]
    assert repr(receipt) == "Receipt(stream='orders', seq=3, done=True)"


def test_receipt_of_a_rejected_message_raises() -> None:
    """A refused message's receipt is done, and its result is the refusal."""
    error = Rejected("orders", 3, "forbidden")
    receipt = Receipt("p", "orders", 3, Recorder(outcome=error))
    assert receipt.done()
    with pytest.raises(Rejected) as caught:
        receipt.result()
    assert caught.value is error


def test_receipt_that_is_not_known_yet() -> None:
    """While nothing is known the receipt is not done, and waiting may time out."""
    receipt = Receipt("p", "orders", 3, Recorder())
    assert not receipt.done()
    with pytest.raises(TimeoutError):
        receipt.result(0.1)


def test_receipt_hands_its_callback_on() -> None:
    """Who calls back, and when, is the owner's to decide."""
    owner = Recorder()
    Receipt("p", "orders", 3, owner).add_done_callback(print)
    assert owner.asked == [("when done", print)]


@pytest.mark.parametrize("event", typing.get_args(events.Event), ids=lambda event: event.__name__)
def test_event_is_a_frozen_value_without_payload(event: type) -> None:
    """Every event is a frozen value whose fields are numbers, words and yes or no, never a payload."""
    assert event.__setattr__ is not object.__setattr__
    fields = attrs.fields(attrs.resolve_types(event))
    assert {field.type for field in fields} <= {bool, int, float, str, int | None}
    assert all(field.kw_only for field in fields)
