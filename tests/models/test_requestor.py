"""An association's thread leaves responses to the sender that waits for them, and aborts only where he does not."""

from __future__ import annotations

import threading
import time

import pytest
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE

from models.requestor import without_races


def test_a_response_is_left_for_the_one_who_waits():
    association = Association(AE(), mode="requestor")
    without_races(association)
    response = C_STORE()
    association.dimse.msg_queue.put((1, response))
    assert association.dimse.get_msg() == (None, None)
    assert association.dimse.get_msg(block=True) == (1, response)


class SlowToLook(Association):
    """Gives another thread the time to come between abort's look whether it was called before and its note of it."""

    @property
    def is_released(self) -> bool:
        time.sleep(0.1)
        return False

    @is_released.setter
    def is_released(self, value: bool) -> None:
        pass


@pytest.mark.parametrize(("takes_races_out", "aborts"), [(False, 2), (True, 1)])
def test_a_silent_peer_is_aborted_once(takes_races_out: bool, aborts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[int] = []
    association = SlowToLook(AE(), mode="requestor")
    monkeypatch.setattr(association.acse, "send_abort", sent.append)
    monkeypatch.setattr(association, "kill", lambda: None)
    if takes_races_out:
        without_races(association)
    # The sender whose DIMSE timeout is over, and the reactor whose network timeout is.
    both = [threading.Thread(target=association.abort) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join(10)
    assert len(sent) == aborts
