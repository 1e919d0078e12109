"""The page that `ui` opens on: every launch of a home in a row, with links to where its answer is.

It is served on loopback from the process of `ui` itself, and renews itself while a driver is at
work. Reports are made when they are asked for, with links to the MLflow that `ui` shows.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from urllib.parse import quote, urlsplit

from moe.metrics import describe
from orchestrator.base.errors import StudyError
from orchestrator.base.home import Home
from orchestrator.cli.parameters import load_study_here
from orchestrator.report.cost import cost_rows
from orchestrator.report.page import render_report
from orchestrator.report.records import LaunchRecords, read_launches
from orchestrator.report.table_columns import human
from orchestrator.report.tables import best_row
from orchestrator.stores.mlflow_private import (
    CURVES_VIEW,
    TABLE_VIEW,
    TRAINING_VIEW,
    VIEW_PARAMETER,
)
from orchestrator.stores.optuna_launches import STARTED_AT
from orchestrator.stores.trial_record import FINISHED_STATES, count_states

REFRESH_S = 10
_LOOPBACK = ("127.0.0.1", "localhost")
_STYLE = """
main { overflow-x: auto; }
td.links { white-space: normal; min-width: 9rem; }
td.links a { margin-right: .8em; white-space: nowrap; }
td:first-child { white-space: normal; min-width: 14rem; text-align: left; }
td small { display: block; overflow-wrap: anywhere; }
td[data-name=best] { white-space: normal; min-width: 11rem; }
progress { width: 6rem; vertical-align: middle; }
@media (max-width: 40rem) {
  table, tbody, tr, td { display: block; text-align: left; }
  thead { display: none; }
  tr { border-bottom: 1px solid var(--rule); padding: .5rem 0; }
  td { border: 0; padding: .1rem 0; white-space: normal; }
  td[data-name]::before { content: attr(data-name) ": "; color: var(--grey); }
}
"""


@dataclass(frozen=True, kw_only=True)
class LaunchIndex:
    """`experiment_of` gives a launch's experiment in MLflow and whether that has the view of a
    table, None where there is none; `mlflow` and
    `optuna` are the addresses of the two pages; `is_held`: whether a driver is at work."""

    home: Home
    optuna_storage: str | None
    mlflow: str
    optuna: str
    experiment_of: Callable[[str], tuple[str, bool] | None]
    is_held: Callable[[], bool]
    _guard: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def launches(self) -> list[LaunchRecords]:
        """The newest first. Raises StudyError where the record cannot be read."""
        found = read_launches(None, home=self.home, optuna_storage=self.optuna_storage)
        with self._guard:  # one reader of a store's connection at a time
            return list(found)

    def runs_link(self, launch: LaunchRecords) -> str | None:
        """The launch's runs in MLflow: flat, the best first, with the columns of its own view where
        it has one (launches of before 2026-11-26 have none until they are run again)."""
        experiment = self.experiment_of(launch.info.name)
        if experiment is None:
            return None
        number, has_view = experiment
        rising = str(launch.measure.better != "higher").lower()
        key = quote(f"metrics.`{launch.metric}`", safe="")
        how = f"orderByKey={key}&orderByAsc={rising}"
        if has_view:
            how = f"{VIEW_PARAMETER}={TABLE_VIEW}"
        return f"{self.mlflow}/#/experiments/{number}/runs?{TRAINING_VIEW}&{how}"

    def curves_link(self, launch: LaunchRecords) -> str | None:
        """The launch's curves in MLflow, seeds grouped by cell, where it has that view."""
        experiment = self.experiment_of(launch.info.name)
        if experiment is None or not experiment[1]:
            return None
        how = f"compareRunsMode=CHART&{VIEW_PARAMETER}={CURVES_VIEW}"
        return f"{self.mlflow}/#/experiments/{experiment[0]}/runs?{TRAINING_VIEW}&{how}"

    def dashboard_link(self, launch: LaunchRecords) -> str:
        return f"{self.optuna}/dashboard/studies/{launch.info.study_id}"

    def page(self) -> str:
        """The whole page, also where the record cannot be read at the moment."""
        try:
            launches = self.launches()
            tokens = human(cost_rows(launch.trials)[-1].tokens for launch in launches)
            rows = "".join(self._row(launch, tokens) for launch in launches)
            body = _TABLE.format(rows=rows)
        except StudyError as error:
            body = f'<p class="warning">{escape(str(error))}</p>'
        renewed = f'<meta http-equiv="refresh" content="{REFRESH_S}">' if self.is_held() else ""
        return _PAGE.format(
            style=_report_style() + _STYLE,
            renewed=renewed,
            home=escape(str(self.home.root)),
            at_work="a driver is at work here" if renewed else "no driver is at work",
            body=body,
            mlflow=escape(self.mlflow),
            optuna=escape(self.optuna),
        )

    def report(self, study_id: int) -> str | None:
        """None where there is no such launch. Raises StudyError where its study is not at hand."""
        for launch in self.launches():
            if launch.info.study_id == study_id:
                study = load_study_here(launch.info.study)
                return render_report(launch, study, mlflow=self.mlflow)
        return None

    def _row(self, launch: LaunchRecords, tokens: Callable[[float], str]) -> str:
        row, links = row_of(launch, tokens), []
        if (runs := self.runs_link(launch)) is not None:
            links.append(("runs", runs, f"runs of {launch.info.name} in MLflow, the best first"))
        if (curves := self.curves_link(launch)) is not None:
            links.append(("curves", curves, f"curves of {launch.info.name} by cell in MLflow"))
        links.append(("report", f"/report/{launch.info.study_id}", f"report of {launch.info.name}"))
        dashboard = self.dashboard_link(launch)
        links.append(("search", dashboard, f"{launch.info.name} in Optuna Dashboard"))
        shown = "".join(
            f'<a href="{escape(url)}" title="{escape(title)}">{word}</a>'
            for word, url, title in links
        )
        cells = "".join(
            f'<td data-name="{escape(name)}">{escape(text)}</td>' for name, text in row.items()
        )
        done, known = _progress(launch)
        return (
            f"<tr><td><b>{escape(launch.info.study)}</b> <small>{escape(launch.info.name)}</small>"
            f'</td><td class="links">{shown}</td><td data-name="done"><progress max="{known}" '
            f'value="{done}">{done} of {known}</progress> {done} of {known}</td>{cells}</tr>'
        )


COLUMNS = ("best", "failed", "tokens", "FLOPs", "device time", "last started")


def row_of(launch: LaunchRecords, tokens: Callable[[float], str]) -> Mapping[str, str]:
    """What a row says of a launch, in the order of COLUMNS. Missing numbers are dashes; `tokens`
    writes numbers of them, in one unit for all rows."""
    cost, best = cost_rows(launch.trials)[-1], best_row(launch.trials, describe(launch.metric))
    started = datetime.fromisoformat(launch.info.attributes[STARTED_AT]).astimezone()
    shown = "-"
    if best is not None:
        cell, mean, seeds = best
        shown = f"{launch.metric} {mean:.4f} ({cell}, n = {seeds})"
    time = "-" if cost.device_s is None else f"{cost.device_s / 3600:.2f} h"
    values = (
        shown,
        str(count_states(launch.trials)["failed"]),
        tokens(cost.tokens) if cost.trials else "-",
        f"{cost.flops:.2e}" if cost.trials else "-",
        time,
        f"{started:%Y-%m-%d %H:%M}",
    )
    return dict(zip(COLUMNS, values, strict=True))


def _progress(launch: LaunchRecords) -> tuple[int, int]:
    counts = count_states(launch.trials)
    return sum(counts[state] for state in FINISHED_STATES), max(1, len(launch.trials))


class IndexServer:
    """Serves the page on a port of loopback until `close`."""

    def __init__(self, host: str, port: int, index: LaunchIndex) -> None:
        handler = type("_Handler", (_IndexHandler,), {"index": index})
        self._server = ThreadingHTTPServer((host, port), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @cached_property
    def address(self) -> str:
        host, port = self._server.server_address[:2]
        return f"http://{host}:{port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=10)


class _IndexHandler(BaseHTTPRequestHandler):
    index: LaunchIndex

    def do_GET(self) -> None:
        # Another site's name that leads here must not read what this home holds.
        if urlsplit(f"//{self.headers.get('Host', '')}").hostname not in _LOOPBACK:
            self._send(403, "This page is for this machine alone.")
            return
        path = urlsplit(self.path).path
        try:
            if path == "/":
                self._send(200, self.index.page())
                return
            number = path.removeprefix("/report/")
            text = self.index.report(int(number)) if number.isdecimal() else None
            self._send(404 if text is None else 200, text or "No such page: go back to /")
        except StudyError as error:
            self._send(500, escape(str(error)))

    def _send(self, status: int, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """What is asked for is nobody's news."""


def lines_of(index: LaunchIndex, most: int) -> Iterator[str]:
    """One link a launch for a terminal, the newest first; and how many more the page has."""
    launches = index.launches()
    for launch in launches[:most]:
        if (link := index.runs_link(launch)) is not None:
            yield f"{launch.info.name}: {link}"
    if len(launches) > most:
        yield f"{len(launches) - most} more launches: on the page"


def _report_style() -> str:
    return resources.files("orchestrator.report").joinpath("assets/report.css").read_text("utf-8")


_TABLE = f"""<table><thead><tr><th scope="col">launch</th><th scope="col">look at</th>
<th scope="col">done</th>{"".join(f'<th scope="col">{name}</th>' for name in COLUMNS)}
</tr></thead><tbody>{{rows}}</tbody></table>"""

_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">{renewed}
<link rel="icon" href="data:,"><title>Launches of {home}</title><style>{style}</style></head>
<body><header><p class="launch">{home}</p><h1>Launches</h1>
<p class="how">{at_work}; the newest launch stands first.
All of <a href="{mlflow}">MLflow</a>, all of <a href="{optuna}">Optuna Dashboard</a>.</p></header>
<main>{body}</main></body></html>
"""
