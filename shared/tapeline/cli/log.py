"""`tapeline log` and `tapeline rebuild`: the event log of this instance, read as its operator."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tapeline.cli import output
from tapeline.cli.nouns import group
from tapeline.cli.output import Format, Json

if TYPE_CHECKING:
    from tapeline.log import EventLog
    from tapeline.replay import EventIndex

app = group("The event log.")


def register_top(app: typer.Typer) -> None:
    """Put `rebuild` at the top."""
    app.command()(rebuild)


@contextmanager
def quiet() -> Iterator[None]:
    """Lines about the work go to standard error, and only those that matter: the output may be JSON."""
    import structlog

    before = structlog.get_config()
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
    )
    try:
        yield
    finally:
        structlog.configure(**before)


@app.callback()
def log(context: typer.Context) -> None:
    """The event log."""
    context.with_resource(quiet())


def _run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


async def _opened(stack: AsyncExitStack, *, is_wide: bool) -> tuple[EventLog, EventIndex | None]:
    """The log, and with it the index of its events where the question would go over all of the log."""
    from tapeline import replay

    if is_wide:
        return await stack.enter_async_context(replay.opened_with_index())
    return await stack.enter_async_context(replay.opened()), None


@app.command()
def tail(
    n: Annotated[int, typer.Option("-n", help="How many events.", min=0)] = 20,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on for ever.")] = False,
    after: Annotated[int | None, typer.Option(help="Only after this position.", min=0)] = None,
    team: Annotated[str | None, typer.Option()] = None,
    kind: Annotated[str | None, typer.Option()] = None,
    aggregate: Annotated[str | None, typer.Option(metavar="REF", help="Only of this aggregate.")] = None,
    type: Annotated[str | None, typer.Option(help="Only events of this type.")] = None,
    format: Format = None,
    json: Json = False,
) -> None:
    """Show the last events of the log; Ctrl-C ends it and says at which position."""
    from tapeline import replay

    as_json = output.wants_lines(format, json)
    seen: int | None = None

    async def work() -> None:
        nonlocal seen
        async with AsyncExitStack() as stack:
            is_wide = after is None and aggregate is None and any((team, kind, type))
            log, index = await _opened(stack, is_wide=is_wide)
            seen = (await log.head()).position if after is None else after
            lines = replay.tail(
                log, n=n, follow=follow, after=after, team=team, kind=kind, aggregate=aggregate, type=type,
                index=index,
            )  # fmt: skip
            async for line in lines:
                if as_json:
                    output.line(line.to_json())
                else:
                    print("\t".join(line.cells()), flush=True)
                seen = max(seen, line.event.position)

    try:
        _run(work())
    except KeyboardInterrupt:
        if seen is None:
            raise
        # Not among the events, which may be read by a program.
        print(f"position {seen}", file=sys.stderr)


@app.command()
def show(
    place: Annotated[str, typer.Argument(metavar="REF|POS", help="<team>/<kind>/<id>, <kind>/<id>, or a position.")],
    raw: Annotated[bool, typer.Option("--raw", help="Commits as stored, with digest and chain check.")] = False,
    schema: Annotated[
        Literal["newest", "stored"], typer.Option(help="Events as today's code reads them, or as they were written.")
    ] = "newest",
    format: Format = None,
    json: Json = False,
) -> None:
    """Show every event of an aggregate, or one commit with its header, digest and chain check."""
    from tapeline import replay

    async def work() -> Sequence[replay.Line | replay.RawCommit | replay.ShownCommit]:
        async with replay.opened() as log:
            if raw:
                return await replay.show_raw(log, place)
            if place.isdigit():
                return [await replay.show_commit(log, int(place), schema=schema)]
            return await replay.show(log, place, schema=schema)

    found = _run(work())
    if output.wants_lines(format, json):
        if format is None:
            return output.document([each.to_json() for each in found])
        for each in found:
            output.line(each.to_json())
        return
    lines = []
    for each in found:
        if isinstance(each, replay.Line):
            lines.append(each)
            continue
        shown = each.fields() if isinstance(each, replay.ShownCommit) else each.to_json()
        output.fields(shown)
        print()
        lines += each.lines if isinstance(each, replay.ShownCommit) else ()
    if lines:
        output.table(replay.Line.COLUMNS, (line.cells() for line in lines))


@app.command()
def verify(
    after: Annotated[int, typer.Option(metavar="POS", min=0, help="Begin after this position.")] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="Begin at the last seal.")] = False,
    against: Annotated[
        str | None,
        typer.Option(metavar="sql|DIR", help="Compare digests with the table `commits`, or with this export."),
    ] = None,
    metrics: Annotated[bool, typer.Option("--metrics", help="Check the measurements instead.")] = False,
    json: Json = False,
) -> None:
    """Check the whole log: positions, sequences, chains, events, seals; exit 5 at a fault."""
    from tapeline import replay
    from tapeline.home import find_home

    async def work() -> replay.Report | replay.MetricsReport:
        home = find_home()
        async with AsyncExitStack() as stack:
            log, measured = await stack.enter_async_context(replay.opened_with_metrics(home))
            if metrics:
                from tapeline.store import LocalStore

                return await replay.verify_metrics(measured, LocalStore(home.store))
            other: replay.Recorded | None = None
            if against == "sql":
                from tapeline.replay.databases import databases

                engines = await stack.enter_async_context(databases(home, os.environ.get("TAPELINE_DATABASE_URL")))
                other = await replay.copy_in(engines)
            elif against is not None:
                other = replay.ExportedLog(Path(against))
            seals = replay.shelf(home).every((await log.head()).log_id)
            return await replay.verify(log, seals=seals, quick=quick, after=after, against=other)

    found = _run(work())
    if output.wants_json(json):
        output.document(found.to_json())
    else:
        print(found)
    if not found.ok:
        raise typer.Exit(5)


@app.command()
def lag(
    max_: Annotated[int | None, typer.Option("--max", metavar="N", help="Exit 5 above so many commits.")] = None,
    max_seconds: Annotated[float | None, typer.Option(metavar="S", help="Exit 5 above so many seconds.")] = None,
    gauges: Annotated[bool, typer.Option("--gauges", help="Print gauges in the OpenMetrics text format.")] = False,
    json: Json = False,
) -> None:
    """Show how far each projection and the backup are behind the log, how full it is, and its health: yellow above 5 s
    or 80 %, red above 60 s or 90 %; exit 5 also when the backup failed."""
    from tapeline import replay

    found, filled, backed = _run(replay.lag_of()), _run(replay.fill_of()), _run(replay.backup_of())
    health = replay.health(found, filled)
    if gauges:
        print(replay.gauges(found, filled))
    elif output.wants_json(json):
        output.document([*(each.to_json() for each in (*found, *filled)), backed.to_json(), health.to_json()])
    else:
        output.table(replay.Lag.COLUMNS, (each.cells() for each in found))
        for each in filled:
            print(each)
        print(backed)
        print(health)
    if not backed.backup.ok or any(each.is_over(max_, max_seconds) for each in found):
        raise typer.Exit(5)


def rebuild(
    name: Annotated[str, typer.Argument(help="A projection, or all.")] = "all",
    into: Annotated[str | None, typer.Option(metavar="URL", help="Another database; may hold {service}.")] = None,
    version: Annotated[int | None, typer.Option(help="Refuse to build any other version.")] = None,
    compare: Annotated[bool, typer.Option("--compare", help="Compare the rows of both at one position.")] = False,
    keep: Annotated[int, typer.Option(min=0, help="Earlier generations to keep.")] = 1,
    switch: Annotated[bool, typer.Option(help="Show what was built.")] = True,
    back: Annotated[bool, typer.Option("--back", help="Show the generation before, brought up to date.")] = False,
    format: Format = None,
    json: Json = False,
) -> None:
    """Build the read models from the log beside those that are served, then show them; exit 5 on a difference."""
    from tapeline import replay
    from tapeline.home import find_home

    def told(projection: str, position: int, end: int) -> None:
        if sys.stderr.isatty():
            print(f"\r{projection}: {position} of {end} positions ", end="", file=sys.stderr, flush=True)

    with quiet():
        found = replay.rebuild(
            find_home(), name, into=into, version=version, compare=compare, keep=keep, switch=switch, back=back,
            told=told,
        )  # fmt: skip
    if output.wants_lines(format, json):
        output.document([each.to_json() for each in found])
    else:
        output.table(
            ("service", "projection", "generation", "position", "rows before", "rows after", "equal"),
            (
                (each.service, each.name, each.generation, each.position, each.before, each.rows,
                 "-" if each.equal is None else each.equal)
                for each in found
            ),
        )  # fmt: skip
        for each in found:
            for difference in each.differences[:10]:
                print(f"{each.name}: {difference}")
    if any(each.differences for each in found):
        raise typer.Exit(5)
