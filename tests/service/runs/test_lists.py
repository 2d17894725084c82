"""Lists of runs and events: every filter, patterns, sorts, pages; devices, blueprints and the greeting."""

from __future__ import annotations

from typing import Any

import pytest

from tapeline.ids import new_id

NAMES = ["test-run", "FOOtest-runBAR", "%test_run", "%test9run", "%test__run", "ÄRGER", "back\\slash", "test9run"]


@pytest.fixture
async def made(runs: Any) -> list[dict[str, Any]]:
    """Eight runs of two projects, the odd ones stopped."""
    found = []
    for i, name in enumerate(NAMES):
        run = await runs.create(name=name, project_id=f"p{i % 2}", version=f"1.{i}", task_type="a" if i < 4 else "b")
        if i % 2:
            await runs.ask("stop", run=run["id"])
        found.append(run)
    return found


async def listed(runs: Any, **fields: Any) -> list[str]:
    return [run["name"] for run in (await runs.view("list", limit=100, **fields))["items"]]


async def test_the_newest_come_first_and_ten_are_given(runs: Any, made: Any) -> None:
    assert await listed(runs) == NAMES[::-1]
    assert await listed(runs, sort=["created_at:asc"]) == NAMES
    assert await listed(runs, sort=["id:asc"], offset=6) == NAMES[6:]
    assert len((await runs.view("list", limit=3))["items"]) == 3
    assert (await runs.view("list", limit=0))["items"] == []


@pytest.mark.parametrize(
    ("pattern", "matching"),
    [
        ("%test-run%", ["test-run", "FOOtest-runBAR"]),
        ("\\%test_run", ["%test_run", "%test9run"]),
        ("test\\_run", []),
        ("TEST9RUN", ["test9run"]),
        ("ärger", ["ÄRGER"]),
        ("Ä%", ["ÄRGER"]),
        ("back\\\\slash", ["back\\slash"]),
        ("back\\slash", ["back\\slash"]),
        ("%", NAMES),
    ],
)
async def test_patterns_match_whole_names_whatever_their_case(
    runs: Any, made: Any, pattern: str, matching: list[str]
) -> None:
    assert await listed(runs, name_ilikes=[pattern], sort=["id:asc"]) == matching


async def test_a_lone_backslash_at_the_end_is_refused(runs: Any) -> None:
    assert (await runs.refused("list", name_ilikes=["x\\"])).code == "invalid"
    assert (await runs.refused("list", name_ilikes=["x" * 1025])).code == "invalid"


async def test_filters_are_anded_and_their_values_ored(runs: Any, made: Any) -> None:
    ids = [run["id"] for run in made]
    assert await listed(runs, project_ids=["p0"], task_types=["a"], sort=["id:asc"]) == [NAMES[0], NAMES[2]]
    assert await listed(runs, versions=["1.3", "1.5"], sort=["id:asc"]) == [NAMES[3], NAMES[5]]
    assert await listed(runs, ids=[ids[2], new_id(), "no uuid"]) == [NAMES[2]]
    assert await listed(runs, numbers=[1, 99]) == [NAMES[0]]
    assert await listed(runs, id_after=ids[5], sort=["id:asc"]) == NAMES[6:]
    assert len(await listed(runs, statuses=["job_terminated"])) == 4
    assert await listed(runs, user_ids=["nobody"]) == []
    assert len(await listed(runs, user_ids=["ann"])) == 8
    for empty in ("ids", "project_ids", "statuses", "versions", "name_ilikes", "blueprint_ids", "user_ids"):
        assert await listed(runs, **{empty: []}) == []


async def test_pages_by_time_are_strict(runs: Any, made: Any) -> None:
    runs_listed = (await runs.view("list", limit=100, sort=["created_at:asc"]))["items"]
    third = runs_listed[2]["created_at"]
    assert await listed(runs, created_after=third, sort=["id:asc"]) == NAMES[3:]
    assert await listed(runs, created_before=third, sort=["id:asc"]) == NAMES[:2]
    assert await listed(runs, created_before=third.replace("Z", "+00:00"), sort=["id:asc"]) == NAMES[:2]


async def test_only_what_is_selected_is_given(runs: Any, made: Any) -> None:
    (run,) = (await runs.view("list", limit=1, select=["name", "number"]))["items"]
    assert {key for key, value in run.items() if value is not None} == {"name", "number"}
    (run,) = (await runs.view("list", limit=1, select=["*"]))["items"]
    assert run["config"] == {"steps": 10}
    assert (await runs.refused("list", select=[])).code == "invalid"
    assert (await runs.refused("list", select=["nonsense"])).code == "invalid"
    assert (await runs.refused("list", sort=["id:asc", "id:desc"])).code == "invalid"
    assert (await runs.refused("list", limit=-1)).code == "invalid"


async def test_events_are_told_in_order_and_from_a_sequence(runs: Any, made: Any) -> None:
    await runs.ask("set_notes", run="2", notes="n")
    page = (await runs.view("events", run="2", sort="sequence:asc"))["items"]
    assert [event["sequence"] for event in page] == list(range(1, len(page) + 1))
    assert page[0]["details"]["type"] == "RunCreated"
    assert page[0]["status"] == "run_created"
    assert (page[-1]["details"]["notes"], page[-1]["status"]) == ("n", "job_terminated")
    assert len({event["id"] for event in page}) == len(page)
    after = (await runs.view("events", run="2", sort="sequence:asc", after=2))["items"]
    assert after == page[2:]
    assert (await runs.view("events", run="2", limit=1))["items"] == [page[-1]]
    assert (await runs.view("events", run="2", limit=1, offset=1))["items"] == [page[-2]]


async def test_a_run_is_named_by_its_id_or_its_number(runs: Any, made: Any) -> None:
    assert (await runs.view("get", run=made[2]["id"]))["number"] == 3
    assert (await runs.view("get", run="3"))["id"] == made[2]["id"]
    for missing in ("99", "0", "no-such-run", new_id()):
        assert (await runs.refused("get", run=missing)).code == "not_found"


async def test_devices_are_shown_to_their_teams(runs: Any, agent: Any) -> None:
    (device,) = (await runs.view("devices"))["items"]
    assert device == {
        "agent": "a1", "device": "cpu0", "kind": "cpu", "type": "", "online": True, "busy": False, "run_id": None,
        "memory": 8 * 2**30, "cores": 4,
    }  # fmt: skip
    made = await runs.create()
    await agent.take()
    (device,) = (await runs.view("devices"))["items"]
    assert (device["busy"], device["run_id"]) == (True, made["id"])
    await agent.announce(leaving=True)
    assert (await runs.view("devices"))["items"] == []


async def test_an_announcement_that_says_nothing_new_is_no_event(runs: Any, agent: Any, host: Any) -> None:
    before = (await host.platform.log.head()).position
    await agent.announce(disk_free_bytes=5)
    assert (await host.platform.log.head()).position == before
    await agent.announce(host="other")
    assert (await host.platform.log.head()).position == before + 1


async def test_blueprints_are_found_by_name_and_version_pattern(runs: Any) -> None:
    found = (await runs.view("blueprints"))["items"]
    assert [one["name"] for one in found] == ["canvas", "selftest", "attached"]
    assert (await runs.view("blueprints", name="canvas", version_ilike="1.%"))["items"] == [found[0]]
    assert (await runs.view("blueprints", name="canvas", version_ilike="2.%"))["items"] == []
    assert (await runs.view("blueprints", name="nonsense"))["items"] == []
    await runs.ask("validate_config", blueprint_id=found[1]["id"], config={"steps": 3})
    assert (await runs.refused("validate_config", blueprint_id=found[1]["id"], config={"steps": 0.5})).code == "invalid"


async def test_the_greeting_says_who_the_caller_is(runs: Any) -> None:
    view = await runs.view("hello", sdk_version="9", contracts="1.7")
    assert (view["team"], view["user"], view["contracts"]) == ("main", "ann", "1.0")
    assert (await runs.refused("hello", contracts="2.0")).code == "version_mismatch"


async def test_a_page_is_cut_where_a_message_is_full_and_says_so(runs: Any) -> None:
    for _ in range(12):
        await runs.create(notes="n" * 60_000)
    page = await runs.view("list", limit=12)
    assert 1 < len(page["items"]) < 12
    assert page["next"] == str(len(page["items"]))
    rest = await runs.view("list", limit=12, offset=len(page["items"]))
    assert [run["number"] for run in page["items"] + rest["items"]] == list(range(12, 0, -1))
    assert rest["next"] is None
