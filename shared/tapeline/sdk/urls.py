"""URLs of runs and tables: names of what a team has, never something to fetch."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import quote, unquote

from tapeline.sdk.arguments import BadType, BadValue
from tapeline.subjects import is_slug

SCHEME = "tapeline://"
TABLE_FORMS = "tapeline://<team>/tables/<id> or tapeline://<team>/assets/<name>/<file>"
FORMS = (
    "tapeline://<team>/runs/<id>, tapeline://<team>/<project>/runs/<name>, tapeline://<team>/tables/<id> "
    "or tapeline://<team>/assets/<name>/<file>"
)


class Parts(NamedTuple):
    """What a URL names: `root`, `run`, `bulk`, `named`, `table` or `asset`, of a team."""

    kind: str
    team: str
    names: tuple[str, ...]


class Url(str):
    """The URL of a run, of its bulk data, or of a table; also of a team.

    Raises
    ------
    ValueError
        It has another scheme, a part that is empty or leads elsewhere, or no known form.

    Examples
    --------
    >>> Url("tapeline://contoso/my_project/runs/first").parts.names
    ('my_project', 'first')
    >>> try:
    ...     Url("file:///etc/passwd")
    ... except ValueError as error:
    ...     print(error)
    'file:///etc/passwd' is not a URL of Tapeline
    """

    __slots__ = ()

    def __new__(cls, url: str) -> Url:
        if isinstance(url, Url):
            return url
        if not isinstance(url, str):
            raise BadType(f"a URL must be a string, not {type(url).__name__}", hint=f"write {FORMS}")
        _parts(url)
        return super().__new__(cls, url)

    @property
    def parts(self) -> Parts:
        """What it names."""
        return _parts(self)

    @property
    def team(self) -> str:
        """The team of what it names."""
        return self.parts.team

    @staticmethod
    def of_run(team: str, run_id: str) -> Url:
        """The canonical URL of a run."""
        return Url(f"{SCHEME}{team}/runs/{run_id}")

    @staticmethod
    def of_name(team: str, project: str, name: str) -> Url:
        """The URL of the newest run of a name in a project."""
        return Url(f"{SCHEME}{team}/{project}/runs/{quote(name, safe='')}")

    @staticmethod
    def of_table(team: str, table_id: str) -> Url:
        """The URL of a metrics table."""
        return Url(f"{SCHEME}{team}/tables/{table_id}")

    @staticmethod
    def of_asset(team: str, name: str, file: str) -> Url:
        """The URL of a file of an asset, which is a table of its samples."""
        return Url(f"{SCHEME}{team}/assets/{quote(name, safe='')}/{quote(file, safe='')}")

    def within(self, team: str) -> Url:
        """The URL itself; `ValueError` when it is another team's."""
        if self.team != team:
            raise BadValue(
                f"{str(self)!r} is of team {self.team!r}, not of {team!r}", hint=f"write tapeline://{team}/..."
            )
        return self


def _parts(url: str) -> Parts:
    pieces = url.removeprefix(SCHEME).rstrip("/").split("/")
    raw = [unquote(piece) for piece in pieces]
    known = url.startswith(SCHEME) and len(url) <= 1024 and url.isprintable()
    if known and is_slug(raw[0]) and not any(piece in ("", ".", "..") or not piece.isprintable() for piece in raw):
        match raw[1:]:
            case []:
                return Parts("root", raw[0], ())
            case ["runs", id]:
                return Parts("run", raw[0], (id,))
            case ["runs", id, "bulk"]:
                return Parts("bulk", raw[0], (id,))
            case ["tables", id]:
                return Parts("table", raw[0], (id,))
            case ["assets", name, file]:
                return Parts("asset", raw[0], (name, file))
            case [project, "runs", name] if is_slug(project):
                return Parts("named", raw[0], (project, name))
    raise BadValue(f"{url[:120]!r} is not a URL of Tapeline", hint=f"write {FORMS}")
