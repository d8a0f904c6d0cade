import base64
import hashlib
import hmac

import pytest

from upscaled.outgoing import signatures

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
"""The example of the specification."""


def test_the_example_of_the_specification_gets_its_signature() -> None:
    headers = signatures.headers(
        signatures.keys_of(SECRET),
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        1614265330,
        b'{"test": 2432232314}',
    )
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_several_secrets_sign_side_by_side() -> None:
    other = "whsec_" + base64.b64encode(32 * b"k").decode()
    keys = signatures.keys_of(f"{other} {SECRET}")
    signed = signatures.headers(keys, "id", 5, b"body")["webhook-signature"].split(" ")
    expected = [hmac.new(key, b"id.5.body", hashlib.sha256).digest() for key in keys]
    assert signed == ["v1," + base64.b64encode(mac).decode() for mac in expected]
    assert len(set(signed)) == 2


def test_without_a_secret_nothing_is_signed() -> None:
    assert "webhook-signature" not in signatures.headers((), "id", 5, b"body")


@pytest.mark.parametrize(
    "text",
    [
        "secret",
        "whsec_",
        "whsec_AAAA",
        "whsec_***",
        SECRET + " x",
        SECRET[6:],
        "whsec_" + 100 * "A",
    ],
)
def test_what_is_no_secret_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no "):
        signatures.keys_of(text)
