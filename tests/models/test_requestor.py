"""An association's thread leaves responses to the sender that waits for them."""

from __future__ import annotations

from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE

from models.requestor import keep_answers


def test_a_response_is_left_for_the_one_who_waits():
    association = Association(AE(), mode="requestor")
    keep_answers(association)
    response = C_STORE()
    association.dimse.msg_queue.put((1, response))
    assert association.dimse.get_msg() == (None, None)
    assert association.dimse.get_msg(block=True) == (1, response)
