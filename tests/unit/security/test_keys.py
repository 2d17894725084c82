import os
import stat

import pytest

from tapeline.errors import TapelineError
from tapeline.security.keys import (
    Credentials,
    create_key,
    is_public_key,
    read_credentials,
    verify,
    write_credentials,
)


def user(**more):
    return Credentials(create_key(), "user", team="main", user="me", **more)


def test_a_new_key_is_one_that_nats_knows():
    key = create_key()
    assert is_public_key(key.public)
    assert key.seed.reveal().startswith("SU")
    assert create_key().public != key.public


def test_a_credential_file_gives_back_the_identity_that_was_written(tmp_path):
    made = user(server="nats://127.0.0.1:4222", ca="/etc/ca.pem")
    written = write_credentials(tmp_path / "creds" / "me.nk", made)
    read = read_credentials(tmp_path / "creds" / "me.nk")
    assert read == written
    assert (read.team, read.user, read.server, read.ca) == ("main", "me", "nats://127.0.0.1:4222", "/etc/ca.pem")


def test_a_credential_file_is_for_its_owner_alone_under_any_umask(tmp_path):
    before = os.umask(0)
    try:
        write_credentials(tmp_path / "creds" / "me.nk", user())
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "creds" / "me.nk").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "creds").stat().st_mode) == 0o700


def test_a_credential_file_is_never_overwritten(tmp_path):
    path = tmp_path / "me.nk"
    first = write_credentials(path, user())
    with pytest.raises(TapelineError) as refused:
        write_credentials(path, user())
    assert refused.value.code == "already_exists"
    assert read_credentials(path) == first


def test_a_link_is_not_followed_when_writing_or_reading(tmp_path):
    path = tmp_path / "me.nk"
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(TapelineError) as refused:
        write_credentials(path, user())
    assert refused.value.code == "already_exists"
    assert not (tmp_path / "elsewhere").exists()
    write_credentials(tmp_path / "elsewhere", user())
    with pytest.raises(TapelineError) as refused:
        read_credentials(path)
    assert refused.value.code == "forbidden"


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o610, 0o666])
def test_a_credential_file_that_others_may_open_is_refused(tmp_path, mode):
    path = tmp_path / "me.nk"
    write_credentials(path, user())
    path.chmod(mode)
    with pytest.raises(TapelineError) as refused:
        read_credentials(path)
    assert refused.value.code == "forbidden"
    assert refused.value.message == f"credential file {path} has mode {mode:04o}"
    assert refused.value.hint == f"chmod 600 {path}"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_credential_file_of_a_foreign_owner_is_refused(tmp_path):
    path = tmp_path / "me.nk"
    write_credentials(path, user())
    os.chown(path, 12345, 12345)
    with pytest.raises(TapelineError, match="belongs to user 12345") as refused:
        read_credentials(path)
    assert refused.value.code == "forbidden"


def test_a_missing_credential_file_says_where_it_looked(tmp_path):
    with pytest.raises(TapelineError, match="looked in") as refused:
        read_credentials(tmp_path / "me.nk")
    assert refused.value.code == "unauthenticated"
    assert "tapeline up" in refused.value.hint


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_what_is_no_plain_file_is_refused_without_waiting(tmp_path, kind):
    path = tmp_path / "me.nk"
    path.mkdir(mode=0o700) if kind == "folder" else os.mkfifo(path, 0o600)
    with pytest.raises(TapelineError) as refused:
        read_credentials(path)
    assert refused.value.code == "forbidden"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: "",
        lambda text: text.replace("SU", "SA"),
        lambda text: text.replace("# user me\n", ""),
        lambda text: text.replace("# team main", "# team a.b"),
        lambda text: text.replace("-----BEGIN", "SUAX\n-----BEGIN"),
        lambda text: text.replace("# role user", "# role king"),
        lambda text: text + "x" * 20_000,
    ],
)
def test_a_file_that_holds_no_identity_is_refused_without_repeating_it(tmp_path, spoil):
    path = tmp_path / "me.nk"
    seed = write_credentials(path, user()).key.seed.reveal()
    path.write_text(spoil(path.read_text()))
    with pytest.raises(TapelineError) as refused:
        read_credentials(path)
    assert refused.value.code == "invalid"
    assert seed not in str(refused.value)
    assert seed[10:40] not in str(refused.value)


def test_a_seed_with_one_wrong_letter_is_refused(tmp_path):
    path = tmp_path / "me.nk"
    seed = write_credentials(path, user()).key.seed.reveal()
    wrong = seed[:20] + ("A" if seed[20] != "A" else "B") + seed[21:]
    path.write_text(path.read_text().replace(seed, wrong))
    with pytest.raises(TapelineError, match="checksum"):
        read_credentials(path)


def test_the_text_of_an_identity_never_shows_its_seed():
    made = user()
    for text in (repr(made), str(made), repr(made.key), str(made.key.seed), f"{made.key.seed}"):
        assert made.key.seed.reveal() not in text


def test_a_signature_is_known_by_the_public_key_alone():
    made = Credentials(create_key(), "seal")
    signature = made.sign(b"root of the log")
    assert verify(made.key.public, b"root of the log", signature)
    assert not verify(made.key.public, b"another root", signature)
    assert not verify(create_key().public, b"root of the log", signature)


def test_each_role_has_an_inbox_of_its_own():
    key = create_key()
    assert user().inbox == "_IN.me"
    assert Credentials(key, "agent", agent="local").inbox == "_IN"
    assert Credentials(key, "service", service="runs").inbox == "_INS.runs"
    assert Credentials(key, "replay").inbox == "_INR"
    assert Credentials(key, "admin").inbox == "_INA"
    with pytest.raises(TapelineError, match="only signs"):
        _ = Credentials(key, "seal").inbox
