"""Bad trades, killed imports, full disks and extended tapes on a whole instance: a half-imported tape is never seen."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tapeline import sdk as tl
from tapeline.home import Home
from tapeline.sdk import tapes

CSV: dict[str, Any] = {
    "format": "csv",
    "symbol": "X",
    "calendar": "24/7",
    "map": {"ts": "ts", "price": "px", "volume": "qty"},
}
AS_CSV = ["--format", "csv", "--symbol", "X", "--calendar", "24/7", "--map", "ts=ts,price=px,volume=qty"]
HEAD = "ts,px,qty\n"
START = 1_704_153_600  # 2024-01-02


def rows(*some: str, n: int = 150) -> str:
    """A file of good trades with some rows after them."""
    return HEAD + "".join(f"{START + k},10,{k + 1}\n" for k in range(n)) + "".join(f"{row}\n" for row in some)


def late(k: int, price: str = "10", volume: str = "1") -> str:
    return f"{START + 1000 + k},{price},{volume}"


@pytest.fixture(scope="module")
def home(shared_home: Home) -> Home:
    return shared_home


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files of this test."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", None)
    return folder


def stored(home: Home) -> set[Path]:
    """The artifacts in the store; parts of the log, which are kept there too, are none."""
    found = (path for path in home.store.rglob("*") if path.is_file())
    return {path for path in found if not set(path.name) - set("0123456789abcdef")}


@pytest.fixture
def untouched(home: Home, temporary: Path) -> Iterator[None]:
    """No tape is there that was not there before, and nothing is left in the store or in temporary folders."""

    def state() -> Any:
        return (
            [tape.name for tape in tl.get_tapes()],
            sorted(stored(home)),
        )

    before = state()
    yield
    assert state() == before
    assert list(temporary.iterdir()) == []


def command(*arguments: str, **more: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tapeline.cli", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more,
    )  # fmt: skip


# What is refused: a text or a maker of a file, options, the code, and words of the message.


def cut_zip(folder: Path) -> Path:
    whole, cut = folder / "whole.zip", folder / "cut.zip"
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.csv", rows())
    cut.write_bytes(whole.read_bytes()[:-40])
    return cut


def damaged_zip(folder: Path) -> Path:
    whole, damaged = folder / "whole.zip", folder / "damaged.zip"
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.csv", rows(n=5000))
    data = bytearray(whole.read_bytes())
    data[200:260] = bytes(60)
    damaged.write_bytes(data)
    return damaged


WIDE = HEAD.strip() + "".join(f",c{k}" for k in range(1_000_000)) + "\n1,2,3\n"


@dataclass(frozen=True)
class Refused:
    made: str | Callable[[Path], Path]
    code: str
    said: str
    options: dict[str, Any] = field(default_factory=dict)


REFUSED = {
    "unsorted, strictly": Refused(rows(late(5), late(2)), "tape_unsorted", "row 153", {"strict": True}),
    "prices that are NaN": Refused(rows(*(late(k, "nan") for k in range(9))), "too_many_bad_rows", "9 of 159"),
    "negative prices": Refused(rows(*(late(k, "-1") for k in range(9))), "too_many_bad_rows", "9 of 159"),
    "prices of zero": Refused(rows(*(late(k, "0") for k in range(9))), "too_many_bad_rows", "9 of 159"),
    "prices too large for a float": Refused(rows(late(0, "1e999"), late(1, "1e999")), "too_many_bad_rows", "2 of 152"),
    "a volume that is NaN": Refused(rows(late(0, volume="nan")), "invalid_volume", "row 152: the volume is nan"),
    "a negative volume": Refused(rows(late(0, volume="-3")), "invalid_volume", "row 152: the volume is -3"),
    "a volume over 2^53": Refused(rows(late(0, volume="9007199254740993000")), "invalid_volume", "row 152"),
    "a time of twenty digits": Refused(rows("99999999999999999999,10,1"), "timestamp_unit_ambiguous", "line 152"),
    "a time outside of int64": Refused(
        HEAD + "99999999999999999999,10,1\n", "invalid_row", "line 2", {"ts_unit": "ns"}
    ),
    "a time before 1970": Refused(HEAD + "-5,10,1\n", "invalid_timestamp", "row 2", {"ts_unit": "s"}),
    "a time after 2199": Refused(HEAD + "9000000000,10,1\n", "invalid_timestamp", "row 2", {"ts_unit": "s"}),
    "mixed units of time": Refused(rows("1704153700000,10,1"), "timestamp_unit_ambiguous", "line 152"),
    "mixed symbols, one of them asked for that is not there": Refused(
        "ts,px,qty,s\n1704153600,1,1,A\n", "empty_input", "no row",
        {"map": {"ts": "ts", "price": "px", "volume": "qty", "symbol": "s"}},
    ),
    "a truncated zip": Refused(cut_zip, "unsupported_format", "no complete zip archive"),
    "a damaged zip": Refused(damaged_zip, "unsupported_format", "no complete zip archive"),
    "a column that is not there": Refused(
        rows(), "column_missing", "no column 'Price'", {"map": {"ts": "ts", "price": "Price", "volume": "qty"}}
    ),
    "columns taken for one another": Refused(
        rows(), "timestamp_unit_ambiguous", "2 digits", {"map": {"ts": "px", "price": "ts", "volume": "qty"}}
    ),
    "a column that is mapped to nothing": Refused(
        rows(), "column_missing", "does not name volume", {"map": {"ts": "ts", "price": "px"}}
    ),
    "a million columns": Refused(WIDE, "limit_exceeded", "longer than 64 KiB"),
    "a million columns without header": Refused(
        WIDE, "limit_exceeded", "longer than 64 KiB", {"map": {"ts": "0", "price": "1", "volume": "2"}}
    ),
    "a file cut off in a row": Refused(rows() + f"{START + 5000}", "invalid_row", "line 152 lacks a column"),
    "a file cut off in a time": Refused(rows() + "17041", "invalid_row", "line 152"),
    "nothing": Refused("", "empty_input", "no row"),
}  # fmt: skip


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("name", REFUSED)
def test_bad_trades_are_refused_and_leave_nothing(tmp_path: Path, name: str) -> None:
    case = REFUSED[name]
    if isinstance(case.made, str):
        path = tmp_path / "in.csv"
        path.write_text(case.made)
    else:
        path = case.made(tmp_path)
    with pytest.raises(tl.errors.TapelineError) as caught:
        tapes.import_(path, name="bad", **(CSV | case.options))
    assert caught.value.code == case.code, caught.value
    assert case.said in caught.value.message
    assert caught.value.hint


@dataclass(frozen=True)
class Repaired:
    """What is imported, the count in the report, the trades that are left, and how many of them are void."""

    text: str
    counted: tuple[str, int]
    rows: int
    void: int = 0
    options: dict[str, Any] = field(default_factory=dict)


REPAIRED = {
    "unsorted": Repaired(rows(late(5), late(2)), ("unsorted", 1), 152),
    "duplicated": Repaired(rows(late(1), late(1)), ("equal_rows", 1), 152),
    "duplicates dropped": Repaired(
        rows(late(1), late(1)), ("dropped_duplicates", 1), 151, 0, {"drop_duplicates": "exact"}
    ),
    "one price that is NaN": Repaired(rows(late(0, "nan")), ("bad_price", 1), 151, 1),
    "one that is negative": Repaired(rows(late(0, "-1")), ("bad_price", 1), 151, 1),
    "one of zero": Repaired(rows(late(0, "0")), ("bad_price", 1), 151, 1),
    "one too large for a float": Repaired(rows(late(0, "1e999")), ("bad_price", 1), 151, 1),
    "negative prices of a spread": Repaired(
        rows(late(0, "-1"), late(1, "0")), ("bad_price", 0), 152, 0, {"allow_nonpositive": True}
    ),
    "a volume of zero": Repaired(rows(late(0, volume="0")), ("zero_volume", 1), 151),
    "an outlier": Repaired(rows(late(0, "99")), ("outliers", 1), 151),
    "an outlier made void": Repaired(rows(late(0, "99")), ("outliers", 1), 151, 1, {"void_outliers": True}),
    "an unreadable row": Repaired(rows("x,y,z", late(0)), ("bad_rows", 1), 151, 0, {"skip_bad": 1}),
}


@pytest.mark.usefixtures("home", "temporary")
@pytest.mark.parametrize("name", REPAIRED)
def test_odd_trades_are_repaired_and_counted(tmp_path: Path, name: str) -> None:
    case, path = REPAIRED[name], tmp_path / "in.csv"
    path.write_text(case.text)
    tape = tapes.import_(path, name=name, **(CSV | case.options))
    what, count = case.counted
    assert (tape.report[what], tape.rows, tape.report["void"]) == (count, case.rows, case.void)
    assert tapes.verify_tape(name)["rows"] == case.rows
    assert len(tapes.open_tape(name, view="all").all_trades("X")) == case.rows - case.void


@pytest.mark.usefixtures("home", "temporary")
def test_a_file_of_several_symbols_is_split(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_text("ts,px,qty,s\n" + "".join(f"{START + k},10,1,{'AB'[k % 2]}\n" for k in range(9)))
    tape = tapes.import_(path, name="mixed", format="csv", calendar="24/7", map=CSV["map"] | {"symbol": "s"})
    assert (tape.symbols, tape.rows) == (["A", "B"], 9)


@pytest.mark.usefixtures("home", "temporary")
def test_a_volume_that_no_bar_can_hold_is_named_when_it_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_text(HEAD + "".join(f"{START + k},10,{2**53}\n" for k in range(3)))
    tapes.import_(path, name="huge", **CSV)
    with pytest.raises(tl.errors.TapelineError, match="symbol 'X', bar of 2024-01-02T00:00:00Z") as caught:
        tapes.open_adapter("huge").get_minute_bars("2024-01-02")
    assert caught.value.code == "overflow"


@pytest.mark.usefixtures("untouched")
def test_the_same_file_twice_in_one_import_is_refused(tmp_path: Path) -> None:
    one, two = tmp_path / "one.csv", tmp_path / "two.csv"
    one.write_text(rows())
    two.write_text(rows())
    for named, said in (([one, one], "is named twice"), ([one, two], "two.csv holds the same bytes as one.csv")):
        with pytest.raises(tl.errors.ValidationError, match=said) as caught:
            tapes.import_(named, name="twice", **CSV)
        assert caught.value.code == "invalid_argument"


@pytest.mark.usefixtures("home", "temporary")
def test_the_same_file_imported_again_is_the_tape_that_is_there(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_text(rows())
    first = tapes.import_(path, name="again", **CSV)
    assert tapes.import_(path, name="again", **CSV).id == first.id
    assert tapes.import_(path, name="again, elsewhere", **CSV).content_sha256 == first.content_sha256
    path.write_text(rows(late(0)))
    with pytest.raises(tl.errors.AlreadyExistsError):
        tapes.import_(path, name="again", **CSV)


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("what", ["cut off", "written to", "removed"])
def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path, what: str) -> None:
    path = tmp_path / "in.csv"
    path.write_text(rows(n=600_000))
    length = path.stat().st_size

    def change(step: dict[str, Any]) -> None:
        if path.exists() and path.stat().st_size == length:
            if what == "cut off":
                os.truncate(path, path.read_bytes().rindex(b"\n", 0, length - 99) + 1)  # at the end of a row
            elif what == "written to":
                with path.open("a") as file:
                    file.write(late(0) + "\n")
            else:
                path.unlink()

    with pytest.raises(tl.errors.ConflictError, match="changed while it was read"):
        tapes.import_(path, name="moving", progress=change, **CSV)


LIMITED = (
    "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({0}, {0})); from tapeline.cli import main; main()"
)


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(("n", "most"), [(100_000, 50_000), (100_000, 3_000_000), (20, 2_000)])
def test_a_disk_that_fills_up_is_an_error_and_leaves_nothing(tmp_path: Path, n: int, most: int) -> None:
    """Met at once and later by the rows that wait, 37 bytes each, and by the file of a day, whose frame is larger."""
    path = tmp_path / "in.csv"
    path.write_text(rows(n=n))
    done = subprocess.run(
        [sys.executable, "-c", LIMITED.format(most), "--json", "tape", "import", str(path), "--name", "full", *AS_CSV],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    error = json.loads(done.stderr)["error"]
    assert (done.returncode, error["code"], error["status"]) == (7, "insufficient_storage", 507)
    assert "TMPDIR" in error["hint"]


def until(child: subprocess.Popen[str], stage: str) -> None:
    """Read progress until a stage has begun."""
    assert child.stderr is not None
    for line in child.stderr:
        if json.loads(line)["stage"] == stage:
            return
    raise AssertionError(f"{stage} was never reached")


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file whose import takes long enough to be killed at each stage: 12 days of 12,000 trades."""
    path = tmp_path_factory.mktemp("large") / "in.csv"
    day = np.arange(12_000) * 3
    with path.open("w") as file:
        file.write(HEAD)
        for k in range(12):
            file.writelines(f"{START + k * 86_400 + at},{10 + at % 7},{at % 9 + 1}\n" for at in day.tolist())
    return path


@pytest.mark.parametrize("stage", ["read", "write", "upload", "check"])
def test_a_killed_import_is_never_seen_and_the_next_one_succeeds(
    home: Home, temporary: Path, large: Path, stage: str
) -> None:
    child = command("tape", "import", str(large), "--name", stage, "--progress", "json", *AS_CSV)
    until(child, stage)
    child.send_signal(signal.SIGKILL)
    child.communicate(timeout=20)
    if stage == "check":
        # The service had everything already: either nothing came of it, or the whole tape.
        seen = [tape for tape in tl.get_tapes() if tape.name == stage]
        assert all(tapes.verify_tape(tape.name)["rows"] == 144_000 for tape in seen)
    else:
        assert stage not in [tape.name for tape in tl.get_tapes()]
    tape = tapes.import_(large, name=stage, **CSV)
    assert (tape.rows, len(tape.days)) == (144_000, 12)
    tapes.remove_tape(stage)
    assert len(list(temporary.iterdir())) == 1  # what the killed process could not remove


@pytest.mark.usefixtures("home")
def test_what_a_killed_import_left_is_swept_a_day_later(temporary: Path) -> None:
    old, new = temporary / "tapeline-tape-old", temporary / "tapeline-tape-new"
    for folder in (old, new):
        folder.mkdir()
        (folder / "0.rows").write_bytes(b"rows")
    for entry in (old / "0.rows", old):
        os.utime(entry, (1, 1))
    tapes.simulate(name="sweeping", days=1, trades_per_day=10)
    assert list(temporary.iterdir()) == [new]


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("stage", ["read", "write"])
def test_an_interrupted_import_ends_with_130_and_leaves_nothing(large: Path, stage: str) -> None:
    child = command("tape", "import", str(large), "--name", "stopped", "--progress", "json", *AS_CSV)
    until(child, stage)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=20)
    assert child.returncode == 130, err
    assert err.splitlines()[-1] == "interrupted"


@pytest.mark.usefixtures("home", "temporary")
def test_progress_is_plain_lines_when_piped_and_json_on_wish(large: Path) -> None:
    told = command("tape", "import", str(large), "--name", "told", "--progress", "json", *AS_CSV)
    plain = command("tape", "import", str(large), "--name", "plain", *AS_CSV)
    out, err = plain.communicate(timeout=60)
    assert plain.returncode == 0
    assert all(character.isprintable() or character in "\n\t" for character in out + err)
    assert [line.split()[2] for line in err.splitlines() if "100 %" in line] == ["read", "write", "upload", "check"]
    assert "144000 trades of 1 symbols on 12 days" in out
    _, lines = told.communicate(timeout=60)
    last: dict[str, Any] = {}
    for step in map(json.loads, lines.splitlines()):
        assert set(step) == {"stage", "done", "total", "unit", "rows", "rate", "eta_s"}
        assert step["done"] >= last.get(step["stage"], 0)
        last[step["stage"]] = step["done"]
        total = step["total"]
    assert list(last) == ["read", "write", "upload", "check"]
    assert last["check"] == total == 144_000


@pytest.mark.usefixtures("home", "temporary")
def test_on_a_terminal_every_bar_ends_at_its_end(large: Path) -> None:
    leader, follower = pty.openpty()
    drawn = subprocess.Popen(
        [sys.executable, "-m", "tapeline.cli", "tape", "import", str(large), "--name", "drawn", *AS_CSV],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=follower, env=os.environ | {"COLUMNS": "160"},
    )  # fmt: skip
    os.close(follower)
    seen = b""
    while True:
        try:
            piece = os.read(leader, 65_536)
        except OSError:  # the other end is closed
            break
        if not piece:
            break
        seen += piece
    os.close(leader)
    assert drawn.wait(30) == 0
    last = seen.decode().split("\n")
    for stage in ("read", "write", "upload", "check"):
        assert "100%" in [line for line in last if f": {stage} " in line][-1]


@pytest.mark.usefixtures("temporary")
def test_an_extended_tape_shares_days_and_tells_its_parents(home: Home, tmp_path: Path) -> None:
    def day(k: int) -> Path:
        path = tmp_path / f"{k}.csv"
        path.write_text(HEAD + "".join(f"{START + k * 86_400 + j},{10 + k},1\n" for j in range(500)))
        return path

    first = tapes.import_([day(0), day(1)], name="btc", **CSV)
    files = stored(home)
    options = {"format": "csv", "symbol": "X", "map": CSV["map"]}
    second = tapes.extend("btc", day(2), **options)
    assert (second.name, second.days[-1], second.parent) == ("btc-2024-01-04", "2024-01-04", first.id)
    # A day file and a manifest are new; the two other days are there once.
    assert len(stored(home) - files) == 2
    assert tapes.extend("btc", day(2), **options).id == second.id  # a repeat is the tape that is there
    assert tapes.extend(second.name, day(2), **options).id == second.id
    third = tapes.extend(second.name, day(3), **options)
    assert third.name == "btc-2024-01-05"
    assert [tape.name for tape in tapes.get_lineage(third.name)] == [third.name, second.name, "btc"]
    whole = tapes.import_([day(k) for k in range(4)], name="btc at once", **CSV)
    assert (whole.content_sha256, whole.parent) == (third.content_sha256, None)
    child = command("--json", "tape", "show", third.name)
    shown = json.loads(child.communicate(timeout=30)[0])
    assert shown["lineage"] == [second.name, "btc"]
    # The parent may go: its days stay with those that share them.
    tapes.remove_tape("btc")
    assert tapes.verify_tape(third.name)["rows"] == 2000
    assert [tape.name for tape in tapes.get_lineage(third.name)] == [third.name, second.name]
    assert len(tapes.open_adapter(third.name).get_date("2024-01-02")) == 500


@pytest.mark.usefixtures("temporary")
def test_verify_all_names_the_tape_whose_bytes_changed(home: Home, tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_text(rows(late(7, "11.125")))
    tapes.import_(path, name="sound", **CSV)
    path.write_text(rows(late(7, "11.25")))
    before = stored(home)
    tapes.import_(path, name="spoilt", **CSV)
    spoilt = max(stored(home) - before, key=lambda found: found.stat().st_size)
    whole = spoilt.read_bytes()
    try:
        spoilt.chmod(0o600)
        spoilt.write_bytes(whole.replace(np.float64(11.25).tobytes(), np.float64(11.5).tobytes()))
        child = command("--json", "tape", "verify", "--all")
        out, err = child.communicate(timeout=60)
        found = {each["name"]: each["intact"] for each in json.loads(out)}
        assert (found["sound"], found["spoilt"]) == (True, False)
        assert [name for name, intact in found.items() if not intact] == ["spoilt"]
        assert (child.returncode, json.loads(err)["error"]["code"] in ("corrupt", "tape_corrupt")) == (5, True)
    finally:
        spoilt.write_bytes(whole)
    assert tapes.verify_tape("spoilt")["rows"] == 151


@pytest.mark.usefixtures("home", "temporary")
def test_bars_is_a_verb_of_its_own_and_draws_them(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    tapes.simulate(name="drawn bars", days=1, trades_per_day=2000)
    picture = tmp_path / "bars.png"
    drawn = command("bars", "drawn bars", "2024-01-02", "--size", "5", "--plot", str(picture))
    listed = command("--json", "bars", "drawn bars", "2024-01-02", "--unit", "hour")
    out, err = drawn.communicate(timeout=60)
    assert (drawn.returncode, out.split()[:2]) == (0, ["78", "bars"]), err
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    found = json.loads(listed.communicate(timeout=60)[0])
    assert len(found) == 7
    assert sum(bar["trade_count"] for bar in found) == len(tapes.open_adapter("drawn bars"))


@pytest.mark.usefixtures("home", "temporary")
def test_a_condition_table_takes_rights_away(tmp_path: Path) -> None:
    path, table = tmp_path / "in.csv", tmp_path / "conditions.csv"
    path.write_text(
        "ts,px,qty,c\n" + "".join(f"{START + k},{99 if k == 3 else 10},1,{4 * (k == 3)}\n" for k in range(9))
    )
    table.write_text("mask,flags\n0x4,4\n")
    names = "ts=ts,price=px,volume=qty,cond=c"
    child = command(
        "tape", "import", str(path), "--name", "conditions", *AS_CSV[:-1], names, "--conditions", str(table)
    )
    _, err = child.communicate(timeout=30)
    assert child.returncode == 0, err
    bar = tapes.open_adapter("conditions").get_minute_bars("2024-01-02").iloc[0]
    assert (bar["high"], bar["count"], bar["vol_sum"]) == (10, 9, 9)
