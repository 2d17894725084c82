import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapeline import subjects
from tapeline.errors import TapelineError
from tapeline.home import Home
from tapeline.security import accounts as principals
from tapeline.security.accounts import Accounts, AccountsFile
from tapeline.security.keys import create_key
from tapeline.server_config import ServerSettings, check_free, check_version, render

FILE = Path("teams.toml")


def key():
    return create_key().public


def accounts():
    services = {name: (key(),) for name in subjects.SERVICES}
    empty = Accounts(key(), key(), key(), services)
    made = principals.add_user(principals.add_team(empty, "main"), "main", "me", key())
    return principals.add_agent(made, "local", ["main"], key())


def refusal(call, *args):
    with pytest.raises(TapelineError) as refused:
        call(*args)
    return refused.value


def test_accounts_come_back_from_their_file_as_they_were():
    made = accounts()
    assert principals.read_toml(principals.write_toml(made), FILE) == made


slugs = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,62}", fullmatch=True).filter(
    lambda text: text not in subjects.RESERVED_SLUGS
)


@given(st.sets(slugs, max_size=5), slugs)
def test_accounts_of_any_legal_names_come_back_from_their_file(teams, user):
    made = accounts()
    for team in teams - {"main"}:
        made = principals.add_user(principals.add_team(made, team), team, user, key())
    assert principals.read_toml(principals.write_toml(made), FILE) == made


def test_a_team_is_made_once():
    assert refusal(principals.add_team, accounts(), "main").code == "already_exists"


def test_agents_may_be_enrolled_for_a_team_as_it_is_made():
    made = principals.add_team(accounts(), "contoso", ["local"])
    assert made.agents["local"].teams == ("main", "contoso")
    assert principals.read_toml(principals.write_toml(made), FILE) == made
    refused = refusal(principals.add_team, made, "fabrikam", ["gone"])
    assert (refused.code, refused.hint) == ("not_found", "agents are: local")


@pytest.mark.parametrize("name", ["", "A", "a.b", "a b", "*", ">", "-a", "platform", "x" * 64, "a\n"])
def test_a_name_that_no_subject_can_hold_is_refused(name):
    made = accounts()
    assert refusal(principals.add_team, made, name).code == "invalid"
    assert refusal(principals.add_user, made, "main", name, key()).code == "invalid"
    assert refusal(principals.add_agent, made, name, ["main"], key()).code == "invalid"


def test_a_user_of_an_unknown_team_is_refused_with_the_teams_that_exist():
    refused = refusal(principals.add_user, accounts(), "contoso", "ann", key())
    assert (refused.code, refused.message) == ("not_found", "no team is named 'contoso'")
    assert "main" in refused.hint


def test_a_revoked_user_is_gone_and_cannot_be_revoked_twice():
    left = principals.revoke_user(accounts(), "main", "me")
    assert left.teams == {"main": {}}
    assert refusal(principals.revoke_user, left, "main", "me").code == "not_found"


def test_a_revoked_agent_acts_for_no_team():
    made = accounts()
    assert made.may_act_for("local", "main")
    assert not made.may_act_for("local", "contoso")
    assert not principals.revoke_agent(made, "local").may_act_for("local", "main")
    assert refusal(principals.revoke_agent, made, "other").code == "not_found"


def test_an_agent_is_for_teams_that_exist():
    made = accounts()
    assert refusal(principals.add_agent, made, "a1", ["main", "contoso"], key()).code == "not_found"
    assert refusal(principals.add_agent, made, "a1", [], key()).code == "invalid"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("[platform]", "[platform"),
        ('admin = "U', 'admin = "X'),
        ('me = ["', 'me = ["U", "'),
        ("[teams.main.users]", "[teams.platform.users]"),
        ('teams = ["main"]', 'teams = ["other"]'),
        ("runs = ", "walks = "),
    ],
)
def test_a_spoiled_accounts_file_is_refused(old, new):
    text = principals.write_toml(accounts())
    assert old in text
    assert refusal(principals.read_toml, text.replace(old, new), FILE).code == "invalid"


def test_one_key_for_two_principals_is_refused():
    made = accounts()
    twice = principals.add_user(made, "main", "eve", made.teams["main"]["me"][0])
    assert "two principals" in refusal(principals.read_toml, principals.write_toml(twice), FILE).message


def test_a_replaced_accounts_file_is_read_again(tmp_path):
    path = tmp_path / "teams.toml"
    made = accounts()
    path.write_text(principals.write_toml(made))
    now = AccountsFile(path)
    assert now() is now()
    beside = tmp_path / "new"
    beside.write_text(principals.write_toml(principals.revoke_agent(made, "local")))
    beside.replace(path)
    assert not now().may_act_for("local", "main")


def test_the_configuration_holds_public_keys_alone(tmp_path):
    text = render(accounts(), ServerSettings(), Home(tmp_path))
    assert re.search(r"\bS[A-Z2-7]{57}\b", text) is None
    assert "sync_interval: always" in text


@pytest.mark.parametrize("host", ["0.0.0.0", "10.0.0.5", "::", "bus.example.com"])
def test_a_server_beyond_this_machine_needs_tls(tmp_path, host):
    refused = refusal(render, accounts(), ServerSettings(host=host, port=4222), Home(tmp_path))
    assert refused.message == f"refusing to listen on {host}:4222 without TLS"
    secured = ServerSettings(host=host, port=4222, tls_cert="cert.pem", tls_key="key.pem")
    assert 'min_version: "1.3"' in render(accounts(), secured, Home(tmp_path))


def test_a_home_with_a_line_break_cannot_add_lines_to_the_configuration():
    assert refusal(render, accounts(), ServerSettings(), Home(Path('/a\n"b'))).code == "invalid"


@pytest.mark.parametrize("version", ["2.15.0", "2.12.4", "1.99.99", "nonsense"])
def test_an_old_server_is_refused(version):
    assert "2.15.1 or newer" in refusal(check_version, version).message


@pytest.mark.parametrize("version", ["2.15.1", "v2.15.2", "2.16.0-RC.1", "3.0.0"])
def test_a_new_server_is_taken(version):
    check_version(version)


def test_a_full_disk_is_refused():
    gib = 1024**3
    check_free(gib)
    refused = refusal(check_free, int(0.6 * gib))
    assert (refused.code, refused.message) == ("insufficient_storage", "0.6 GiB free, at least 1 GiB needed")
