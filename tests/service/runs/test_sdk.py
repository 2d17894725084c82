"""The SDK against the real service, on SQLite and on PostgreSQL: lists, what runs keep, and every bad input."""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from tapeline import sdk as tl
from tapeline import subjects
from tapeline.bus import answer
from tapeline.clock import SystemClock
from tapeline.home import Home
from tapeline.ids import new_id
from tapeline.runs.app import build
from tapeline.runs.blueprint.builtin import SELFTEST
from tapeline.sdk.client import Client, use
from tapeline.sdk.settings import Settings
from tapeline.sdk.transport import NoAnswer
from tapeline.testing.hosted import Hosted, hosted
from tapeline.testing.postgres import PostgresServer
from tapeline.testing.server import NatsServer

NAMES = ["test-run", "FOOtest-runBAR", "%test_run", "%test9run", "ÄRGER", "back\\slash", "a_b", "aXb", "TEST_RUN"]


@pytest.fixture(params=["sqlite", "postgresql"])
def open_service(request: pytest.FixtureRequest, server: NatsServer, tmp_path: Path) -> Iterator[Any]:
    """Opens the service with its tables in one database or the other."""
    if request.param == "sqlite":
        yield lambda: hosted(server, build, tmp_path, "runs")
        return
    postgres: PostgresServer = request.getfixturevalue("postgres")
    url = postgres.make_database()
    yield lambda: hosted(server, build, tmp_path, "runs", database_url=url)
    postgres.drop_database(url)


class InProcess:
    """The wire to a service in this process: it answers on its own event loop, the SDK waits on another."""

    def __init__(self, host: Hosted, team: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._clock, self._team = SystemClock(), team
        self._verbs = {(verb.service, verb.name): verb for verb in host.service.verbs if verb.audience == "user"}

    async def request(self, subject: str, body: bytes, timeout_s: float) -> bytes:
        user, service, name = subjects.asked(subject)
        if (verb := self._verbs.get((service, name))) is None:
            raise NoAnswer("no service is there", sent=False)
        forwarded = subjects.forwarded(subjects.Principal(self._team, user), service, name)
        asked = answer(verb, forwarded, body, {}, self._clock)
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(asked, self._loop))

    async def subscribe(self, subject: str, heard: Callable[[bytes], None]) -> Any:
        async def end() -> None:
            pass

        return end

    async def close(self) -> None:
        pass


def client_of(host: Hosted, folder: Path, team: str) -> Client:
    settings = Settings("test", team, "ann", cast(Any, None), Home(folder / team), {})
    wire = InProcess(host, team)
    return Client(settings, timeout_s=20, transport=lambda *_: wire)


@pytest.fixture
async def client(host: Hosted, tmp_path: Path) -> AsyncIterator[Client]:
    made = client_of(host, tmp_path, "contoso")
    use(made)
    yield made
    use(None)
    await asyncio.to_thread(made.close)


def create(name: str = "demo", **changes: Any) -> str:
    fields: dict[str, Any] = {
        "name": name, "version": "1", "resources": tl.Resources(cpu="500m", memory="64Mi"), "config": {"steps": 3},
        "task_type": "training", "blueprint_id": SELFTEST.id, "project_id": "default",
    }  # fmt: skip
    return tl.create_run(**(fields | changes))


def like(pattern: str, text: str) -> bool:
    """What a pattern means, told in another way."""
    parts, i = [], 0
    while i < len(pattern):
        if pattern[i] == "\\" and i + 1 < len(pattern) and pattern[i + 1] in "%_\\":
            i += 1
            parts.append(re.escape(pattern[i]))
        else:
            parts.append({"%": ".*", "_": "."}.get(pattern[i]) or re.escape(pattern[i]))
        i += 1
    return re.fullmatch("".join(parts), text, re.IGNORECASE | re.DOTALL) is not None


def naive(runs: list[tl.Run], asked: dict[str, Any]) -> list[str]:
    """What a list of runs is, told in another way."""
    columns = {
        "ids": "id", "project_ids": "project_id", "statuses": "status", "task_types": "task_type",
        "versions": "version", "user_ids": "user_id", "blueprint_ids": "blueprint_id",
    }  # fmt: skip
    found = list(runs)
    for name, column in columns.items():
        if name in asked:
            found = [run for run in found if getattr(run, column) in asked[name]]
    if "name_ilikes" in asked:
        found = [run for run in found if any(like(each, str(run.name)) for each in asked["name_ilikes"])]
    if "created_after" in asked:
        found = [run for run in found if cast(Any, run.created_at) > asked["created_after"]]
    if "created_before" in asked:
        found = [run for run in found if cast(Any, run.created_at) < asked["created_before"]]
    if "id_after" in asked:
        found = [run for run in found if str(run.id) > asked["id_after"]]
    order = list(asked.get("sort", ["created_at:desc"]))
    order += [f"id:{order[0].split(':')[1]}"] if not any(each.startswith("id") for each in order) else []
    for each in reversed(order):
        field, direction = each.split(":")
        found.sort(key=lambda run: getattr(run, field), reverse=direction == "desc")
    return [str(run.id) for run in found]


async def test_lists_and_pages_are_what_a_naive_reader_finds(client: Client) -> None:
    def work() -> None:
        draw = random.Random(7)
        for i in range(24):
            create(NAMES[i % len(NAMES)], project_id=f"p{i % 3}", version=f"1.{i % 4}", task_type="ab"[i % 2])
        for run in tl.get_runs(limit=24)[::5]:
            run.stop()
        runs = list(tl.get_runs(limit=100, sort=["id:asc"]))
        assert len(runs) == 24
        times = [cast(datetime, run.created_at) for run in runs]
        choices: dict[str, Callable[[], Any]] = {
            "ids": lambda: [run.id for run in draw.sample(runs, 9)] + ["no uuid", new_id()],
            "project_ids": lambda: draw.sample(["p0", "p1", "p2", "p9"], 2),
            "statuses": lambda: draw.sample(["run_created", "job_submitted", "job_pending", "job_terminated"], 3),
            "task_types": lambda: [draw.choice("ab")],
            "versions": lambda: draw.sample(["1.0", "1.1", "1.2", "1.3"], 2),
            "user_ids": lambda: draw.sample(["ann", "bob"], 1),
            "blueprint_ids": lambda: [SELFTEST.id],
            "name_ilikes": lambda: draw.sample(
                ["%test-run%", "\\%test_run", "test\\_run", "TEST%", "ärger", "back\\\\slash", "a_b", "a\\_b", "%"], 2
            ),
            "created_after": lambda: draw.choice(times),
            "created_before": lambda: draw.choice(times),
            "id_after": lambda: draw.choice(runs).id,
            "sort": lambda: draw.choice(
                [["id:asc"], ["id:desc"], ["created_at:asc"], ["created_at:desc"], ["created_at:desc", "id:asc"]]
            ),
        }  # fmt: skip
        # Statuses move on by themselves until the service has looked at every run.
        settled = {"job_pending", "job_terminated"}
        end = time.monotonic() + 30
        while not {run.status for run in tl.get_runs(limit=100)} <= settled and time.monotonic() < end:
            time.sleep(0.02)
        runs = list(tl.get_runs(limit=100, sort=["id:asc"]))
        for _ in range(40):
            asked = {name: choices[name]() for name in draw.sample(list(choices), draw.randint(0, 4))}
            wanted = naive(runs, asked)
            assert [run.id for run in tl.get_runs(**asked, limit=100)] == wanted, asked
            size, start = draw.randint(1, 7), draw.randint(0, 5)
            assert [run.id for run in tl.get_runs(**asked, limit=size, offset=start)] == wanted[start : start + size]
            filters = {name: value for name, value in asked.items() if name != "sort"}
            assert tl.count_runs(**filters) == len(wanted)
        paged: list[str] = []
        while page := tl.get_runs(sort=["id:asc"], limit=5, id_after=paged[-1] if paged else ""):
            paged += [str(run.id) for run in page]
        assert paged == [run.id for run in runs]
        before, seen = datetime.now(UTC) + timedelta(days=1), []
        while some := tl.get_runs(limit=7, created_before=before):
            seen += [run.id for run in some]
            before = cast(datetime, some[-1].created_at)
        assert seen == [run.id for run in sorted(runs, key=lambda run: str(run.created_at), reverse=True)]
        (one,) = tl.get_runs(limit=1, select=["name"])
        assert (one.name, one.id, one.status) == (runs[-1].name, None, None)
        assert tl.get_runs(ids=[]) == [] == tl.get_runs(limit=0)
        assert tl.Run.from_names("aXb", "p1").name == "aXb"

    await asyncio.to_thread(work)


async def test_a_run_keeps_what_it_is_given(client: Client, tmp_path: Path) -> None:
    def work() -> None:
        run = tl.Run.from_id(create())
        run.stop()
        run.add_input_value({"n": np.int64(3)})
        run.add_input_value({"n": 3})
        run.add_output_value({"score": np.float32(0.5)})
        run.set_parameters({"lr": 0.1})
        run.set_description("as ever")
        assert run.constants == {"inputs": [{"n": 3}], "outputs": [{"score": 0.5}], "parameters": {"lr": 0.1}}
        assert (run.description, tl.Run.from_id(str(run.id)).notes) == ("as ever", "as ever")
        vectors = np.random.default_rng(3).normal(size=(8, 5))
        (train,) = run.add_metrics({"loss": np.arange(8.0), "emb": vectors}, {"loss": tl.Schema(unit="nats")})
        metrics = {"loss": [1.0, 2.0], "emb": vectors[:2], "example_id": [7, 0]}
        (val,) = run.add_metrics_data(metrics, {}, train["url"], "val", "stream")
        assert run.metrics == [train, val]
        assert (val["row_count"], val["stream_name"]) == (2, "stream")
        table = tl.Table.from_url(val["url"])
        assert (table.name, len(table), table.columns[-1]) == ("val", 2, "foreign_table_id")
        assert table.join()["foreign_loss"].tolist() == [7.0, 0.0]
        assert tl.Table.from_url(train["url"]).schema["loss"].unit == "nats"
        assert tl.Table.from_url(train["url"])[1]["loss"] == 1.0
        other = tl.Run.from_id(create())
        other.update_metrics([train])
        other.add_metrics_table(table)
        other.add_metrics_table(table)
        assert [each.url for each in other.metrics_tables] == [train["url"], val["url"]]
        other.add_input_table(train["url"])
        other.add_input_table(tl.Table.from_url(train["url"]))
        other.add_input_table("tapeline://contoso/tables/none-yet")
        assert [each["num_examples"] for each in other.inputs] == [8, -1]
        made = run.reduce_embeddings_per_dataset()
        assert set(made) == {train["url"], val["url"]}
        reduced = tl.Table.from_url(made[train["url"]])["emb"]
        centred = vectors - vectors.mean(axis=0)
        axes = np.linalg.svd(centred)[2][:2]
        axes *= np.sign(axes[np.arange(2), np.abs(axes).argmax(axis=1)])[:, None]
        assert np.abs(reduced - centred @ axes.T).max() < 1e-9
        assert {each["url"] for each in run.metrics} == set(made.values())
        copy = run.copy(project_name="Other Project")
        assert (copy.project_id, copy.constants, copy.metrics) == ("other-project", run.constants, run.metrics)
        assert tl.Run.from_url(f"tapeline://contoso/other-project/runs/{run.name}_copy").id == copy.id
        assert tl.Run.from_url(run.url).id == run.id == tl.Run.from_url(run.bulk_data_url).id
        assert run.created == cast(datetime, run.created_at).isoformat() < str(run.last_modified)

    await asyncio.to_thread(work)


async def test_the_twin_of_the_sdk_is_awaited(client: Client) -> None:
    id = await tl.aio.create_run(
        name="demo", version="1", resources=tl.Resources(cpu="1", memory="64Mi"), config={"steps": 3},
        task_type="training", blueprint_id=await tl.aio.lookup_blueprint_id("selftest"), project_id="default",
    )  # fmt: skip
    run = await tl.aio.Run.from_id(id)
    await run.stop()
    await run.set_parameters({"lr": 1})
    assert (run.name, await run.parameters(), run.sync.id) == ("demo", {"lr": 1}, id)
    watched = [event.sequence async for event in run.watch()]
    assert watched == list(range(1, len(await run.get_events()) + 1))
    (listed,) = await tl.aio.get_runs()
    copied = await listed.copy()
    assert await tl.aio.count_runs() == 2
    await copied.delete()
    with pytest.raises(tl.RunDoesNotExistError):
        await copied.reload()


Refused = tuple[str, Callable[[], Any], type[BaseException], str | None]


def register(**changes: Any) -> str:
    fields: dict[str, Any] = {"name": "b", "version": "1.0.0", "schema": {"type": "object"}, "entrypoint": "m:f"}
    return tl.register_blueprint(**(fields | changes))


def refusals(run: tl.Run, other_team: tl.Run, url: str) -> list[Refused]:
    """What a user can get wrong: the call, the class of the seed, and the code."""
    return [
        ("status", lambda: tl.get_runs(statuses=["job_runing"]), ValueError, "invalid"),  # type: ignore[list-item]
        ("sort", lambda: tl.get_runs(sort=["name:asc"]), ValueError, "invalid"),  # type: ignore[list-item]
        ("sort twice", lambda: tl.get_runs(sort=["id:asc", "id:desc"]), ValueError, "invalid"),
        ("select", lambda: tl.get_runs(select=["colour"]), ValueError, "invalid"),  # type: ignore[list-item]
        ("select nothing", lambda: tl.get_runs(select=[]), ValueError, "invalid"),
        ("limit", lambda: tl.get_runs(limit=-1), ValueError, "invalid"),
        ("offset", lambda: tl.get_runs(offset=-1), ValueError, "invalid"),
        ("limit of events", lambda: run.get_events(limit=1.5), ValueError, "invalid"),  # type: ignore[arg-type]
        ("sort of events", lambda: run.get_events(sort=["id:asc"]), ValueError, "invalid"),  # type: ignore[list-item]
        ("pattern", lambda: tl.get_runs(name_ilikes=["x\\"]), ValueError, "invalid"),
        ("long pattern", lambda: tl.get_runs(name_ilikes=["x" * 1025]), ValueError, "invalid"),
        ("id_after", lambda: tl.get_runs(id_after=3), TypeError, "invalid"),  # type: ignore[arg-type]
        ("a text for a list", lambda: tl.get_runs(ids="abc"), TypeError, "invalid"),  # type: ignore[arg-type]
        ("a time", lambda: tl.get_runs(created_after="now"), TypeError, "invalid"),  # type: ignore[arg-type]
        ("quantity", lambda: tl.Resources(cpu="5K", memory="64Mi"), tl.ValidationError, "invalid"),
        ("milli memory", lambda: tl.Resources(cpu="1", memory="500m"), tl.ValidationError, "invalid"),
        ("gpus", lambda: tl.Gpu(count=0, type="H200"), tl.ValidationError, "invalid"),
        ("sign", lambda: tl.Resources(cpu="-1", memory="1Gi"), tl.ValidationError, "invalid"),
        ("space", lambda: tl.Resources(cpu="1", memory="1 Gi"), tl.ValidationError, "invalid"),
        ("no quantity", lambda: tl.Resources(cpu="", memory="1Gi"), tl.ValidationError, "invalid"),
        ("cpu of 0", lambda: tl.Resources(cpu="0", memory="1Gi"), tl.ValidationError, "invalid"),
        ("a number for a quantity", lambda: tl.Resources(cpu=1, memory="1Gi"), tl.ValidationError, "invalid"),  # type: ignore[arg-type]
        ("limit of metrics", lambda: run.get_metrics(limit=-1), ValueError, "invalid"),
        ("tags", lambda: run.get_metrics(tags="loss"), TypeError, "invalid"),  # type: ignore[arg-type]
        ("steps", lambda: run.get_metrics(global_steps=[1.5]), TypeError, "invalid"),  # type: ignore[list-item]
        ("before", lambda: run.get_metrics(created_before=3), TypeError, "invalid"),  # type: ignore[arg-type]
        ("points", lambda: run.get_series("loss", points=1), ValueError, "invalid"),
        ("axis", lambda: run.get_series("loss", x="epoch"), ValueError, "invalid"),  # type: ignore[arg-type]
        ("moment on steps", lambda: run.get_series("loss", start=datetime.now(UTC)), ValueError, "invalid"),
        ("tag", lambda: run.get_columns(""), ValueError, "invalid"),
        ("kind of a frame", lambda: run.to_frame("points"), ValueError, "invalid"),  # type: ignore[arg-type]
        ("event", lambda: run.at(10_000), ValueError, "invalid"),
        ("since", lambda: next(run.watch(-1)), ValueError, "invalid"),
        ("select of checkpoints", lambda: tl.get_checkpoints(select=["files"]), ValueError, "invalid"),  # type: ignore[list-item]
        ("status of checkpoints", lambda: tl.get_checkpoints(statuses=["done"]), ValueError, "invalid"),  # type: ignore[list-item]
        ("SemVer of a model", lambda: tl.Checkpoint(id="x").create_model(name="m", version="1.0", summary=""),
         tl.ValidationError, "invalid"),
        ("checkpoint", lambda: tl.download_checkpoint(new_id(), "."), tl.NotFoundError, "not_found"),
        ("folder", lambda: tl.download_checkpoint(new_id(), "/nowhere"), FileNotFoundError, None),
        ("config that is a list", lambda: create(config=[1]), TypeError, "invalid"),
        ("config to validate", lambda: tl.validate_run_config(blueprint_id=SELFTEST.id, config={"stpes": 1}),
         tl.ValidationError, "invalid"),
        ("grace", lambda: run.stop(timedelta(milliseconds=999)), ValueError, "invalid"),
        ("long grace", lambda: run.stop(timedelta(hours=25)), ValueError, "invalid"),
        ("neither ids nor run_ids", lambda: tl.delete_checkpoints(), ValueError, "invalid"),
        ("no ids", lambda: tl.delete_checkpoints(ids=[]), ValueError, "invalid"),
        ("fields", lambda: run.reload(["colour"]), ValueError, "invalid"),
        ("no fields", lambda: run.reload([]), ValueError, "invalid"),
        ("no id", lambda: tl.Run(name="local").reload(), ValueError, "invalid"),
        ("no id of a checkpoint", lambda: tl.Checkpoint().pin(), ValueError, "invalid"),
        ("a number for a status", lambda: tl.Run(status=4.0), ValueError, "invalid"),  # type: ignore[arg-type]
        ("config", lambda: create(config={"stesp": 1}), tl.ValidationError, "invalid"),
        ("config with NaN", lambda: create(config={"step_s": float("nan")}), tl.ValidationError, "invalid"),
        ("large config", lambda: create(config={"x": "y" * 600_000}), tl.ValidationError, "too_large"),
        ("control character", lambda: create("a\x07b"), ValueError, "invalid"),
        ("project", lambda: create(project_id="No Slug"), tl.ValidationError, "invalid"),
        ("blueprint", lambda: create(blueprint_id=new_id()), tl.BlueprintDoesNotExistError, "not_found"),
        ("blueprint name", lambda: tl.lookup_blueprint_id("nope"), tl.BlueprintDoesNotExistError, "not_found"),
        ("no blueprint name", lambda: tl.lookup_blueprint_id(""), ValueError, "invalid"),
        ("schema", lambda: register(schema={"type": "objekt"}), tl.ValidationError, "invalid"),
        ("entrypoint", lambda: register(entrypoint="m"), tl.ValidationError, "invalid"),
        *[
            (f"version {each}", lambda each=each: register(version=each), tl.ValidationError, "invalid")  # type: ignore[misc]
            for each in ("1.0", "v1.0.0", "01.0.0", "", "1.0.0-")
        ],
        ("unknown id", lambda: tl.Run.from_id(new_id()), tl.RunDoesNotExistError, "not_found"),
        ("no uuid", lambda: tl.Run.from_id("nope"), tl.RunDoesNotExistError, "not_found"),
        ("another team's run", lambda: tl.Run.from_id(str(other_team.id)), tl.RunDoesNotExistError, "not_found"),
        ("stop another team's", lambda: tl.Run(id=other_team.id).stop(), tl.RunDoesNotExistError, "not_found"),
        ("delete a live one", lambda: run.delete(), tl.ConflictError, "conflict"),
        ("restart a live one", lambda: run.restart(), tl.ConflictError, "conflict"),
        ("pause without a job", lambda: run.pause(), tl.ConflictError, "conflict"),
        ("copy a live one", lambda: run.copy(), tl.ConflictError, "conflict"),
        ("fork without checkpoint", lambda: run.fork(), tl.ConflictError, "conflict"),
        ("if_exists", lambda: run.copy(if_exists="merge"), ValueError, "invalid"),  # type: ignore[arg-type]
        ("names and URL", lambda: run.copy("x", destination_url=tl.Url(run.url)), ValueError, "invalid"),
        ("name", lambda: tl.Run.from_names(), ValueError, "invalid"),
        ("unknown name", lambda: tl.Run.from_names("nope"), tl.RunDoesNotExistError, "not_found"),
        ("URL", lambda: tl.Run.from_url("file:///etc/passwd"), ValueError, "invalid"),
        ("URL that leads up", lambda: tl.Run.from_url("tapeline://contoso/runs/.."), ValueError, "invalid"),
        ("URL of another team", lambda: tl.Run.from_url("tapeline://other/runs/x"), ValueError, "invalid"),
        ("URL of no run", lambda: tl.Run.from_url(url), ValueError, "invalid"),
        ("table", lambda: tl.Table.from_url("tapeline://contoso/tables/none"), FileNotFoundError, "not_found"),
        ("metrics of another table", lambda: run.update_metrics([{"url": "tapeline://contoso/tables/none"}]),  # type: ignore[list-item,typeddict-item]
         FileNotFoundError, "not_found"),
        ("foreign table", lambda: run.add_metrics({"a": [1]}, foreign_table_url="tapeline://contoso/tables/none"),
         FileNotFoundError, "not_found"),
        ("URL of a foreign table", lambda: run.add_metrics({"a": [1]}, foreign_table_url="http://x"),
         ValueError, "invalid"),
        ("rows", lambda: run.add_metrics({"a": [1]}, foreign_table_url=url), tl.ValidationError, "invalid"),
        ("examples", lambda: run.add_metrics({"example_id": [9]}, None, url), tl.ValidationError, "invalid"),
        ("no columns", lambda: run.add_metrics({}), tl.ValidationError, "invalid"),
        ("lengths", lambda: run.add_metrics({"a": [1], "b": [1, 2]}), tl.ValidationError, "invalid"),
        ("objects", lambda: run.add_metrics({"a": [object()]}), tl.ValidationError, "invalid"),
        ("no such column", lambda: run.add_metrics({"a": [1]}, {"b": tl.Schema()}), tl.ValidationError, "invalid"),
        ("input", lambda: run.add_input_value([1]), TypeError, "invalid"),  # type: ignore[arg-type]
        ("input that is no JSON", lambda: run.add_input_value({"a": object()}), tl.ValidationError, "invalid"),
        ("parameters", lambda: run.set_parameters({"a": float("inf")}), tl.ValidationError, "invalid"),
        ("reducer", lambda: run.reduce_embeddings_per_dataset(method="tsne"), ValueError, "invalid"),
        # As Python itself tells it.
        ("keyword of a reducer", lambda: run.reduce_embeddings_per_dataset(perplexity=3), TypeError, None),
        ("no table with vectors", lambda: run.reduce_embeddings_by_foreign_table_url(
            "tapeline://contoso/tables/x"), ValueError, "invalid"),
        ("resources", lambda: create(resources={"cpu": "1"}), tl.ValidationError, "invalid"),
        ("long id", lambda: create(blueprint_id="x" * 300), ValueError, "invalid"),
    ]  # fmt: skip


async def test_every_bad_input_is_refused_as_the_pages_say(client: Client, host: Hosted, tmp_path: Path) -> None:
    stranger = client_of(host, tmp_path, "northwind")

    def work() -> None:
        use(stranger)
        other_team = tl.Run.from_id(create())
        use(client)
        run = tl.Run.from_id(create())
        (table,) = run.add_metrics({"emb": [[1.0, 2.0], [3.0, 5.0], [2.0, 9.0]]})
        wrong: list[str] = []
        for name, call, kind, code in refusals(run, other_team, table["url"]):
            try:
                call()
            except Exception as error:
                told = (type(error), getattr(error, "code", None), bool(getattr(error, "hint", None)))
                if not isinstance(error, kind) or (code is not None and told[1:] != (code, True)):
                    wrong.append(f"{name}: {told} {error}")
                # What an argument alone tells is plainly a ValueError or a TypeError, with its hint as a note.
                is_plain = kind in (ValueError, TypeError) and code and not isinstance(error, tl.ApiException)
                if is_plain and getattr(error, "__notes__", None) != [f"Hint: {error.hint}"]:  # type: ignore[attr-defined]
                    wrong.append(f"{name} shows no hint: {error}")
            else:
                wrong.append(f"{name} was accepted")
        assert not wrong, "\n".join(wrong)

    await asyncio.to_thread(work)
    await asyncio.to_thread(stranger.close)
