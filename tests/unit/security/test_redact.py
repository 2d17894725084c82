import pytest

from tapeline.security.keys import create_key
from tapeline.security.redact import REDACTED, redact, redact_text


def cleaned(**event):
    return redact(None, "info", event)


def test_a_seed_is_replaced_wherever_it_stands():
    seed = create_key().seed.reveal()
    event = cleaned(
        event=f"read {seed}", nested={"a": [seed, {"b": (seed,)}]}, error=ValueError(seed), raw=seed.encode()
    )
    assert seed not in repr(event)
    assert event["event"] == f"read {REDACTED}"


def test_a_public_key_stays():
    public = create_key().public
    assert cleaned(event="x", key=public)["key"] == public


@pytest.mark.parametrize(
    "text",
    [
        "https://s3.example/b/k?X-Amz-Credential=AKIA/x&X-Amz-Signature=0123456789abcdef",
        "aws_secret_access_key = wJalrXUtnFEMI/K7MDENG0123456789abcdef",
        '{"secret_access_key": "wJalrXUtnFEMI0123456789abcdef"}',
        "password=0123456789abcdef",
    ],
)
def test_secrets_of_stores_and_signed_urls_are_replaced(text):
    assert "0123456789abcdef" not in redact_text(text)
    assert REDACTED in redact_text(text)


def test_a_field_named_as_a_secret_is_replaced_but_the_seed_of_a_generator_stays():
    assert cleaned(event="x", secret_key="k", seed=42) == {"event": "x", "secret_key": REDACTED, "seed": 42}


def test_plain_text_stays_as_it_is():
    text = "run 01993 of team main failed: loss is NaN at step 12 (see logs/host.log)"
    assert redact_text(text) == text
