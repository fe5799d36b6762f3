"""The report of an evaluation for people: `report.md`, and `report.html`, which carries its pictures in itself."""

from __future__ import annotations

import base64
import html
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from zmqcarla.evaluate.benchmark import is_success
from zmqcarla.evaluate.results import Record, ResultFolder, is_partial, plain_id

Rows = list[list[str]]

_STYLE: Final = """
body { font: 15px/1.45 system-ui, sans-serif; color: #222; max-width: 1200px; margin: 2em auto; padding: 0 1em }
table { border-collapse: collapse; margin: 1em 0 } td, th { padding: .25em .7em; text-align: left }
tr { border-bottom: 1px solid #ddd } td:nth-child(n+4) { font-variant-numeric: tabular-nums }
.bar { background: #eee; width: 220px; height: 1em } .bar div { background: #3a7; height: 1em }
img { max-width: 100% } summary { cursor: pointer; padding: .3em 0 } .bad { color: #b22 }
"""


def write_report(folder: ResultFolder, results: dict[str, Any], figures: dict[str, Any], simulator: str) -> None:
    """Write both files.

    Args:
        folder: of the evaluation.
        results: content of the result file.
        figures: what Bench2Drive makes of it, see `zmqcarla.evaluate.benchmark`.
        simulator: what drove.
    """
    (folder.path / "report.md").write_text(_markdown(results, figures, simulator), encoding="utf-8")
    (folder.path / "report.html").write_text(_html(folder, results, figures, simulator), encoding="utf-8")


def _markdown(results: dict[str, Any], figures: dict[str, Any], simulator: str) -> str:
    records = results["_checkpoint"]["records"]
    parts = [f"# Evaluation: {results['entry_status']}", *_remarks(results, simulator)]
    for heading, head, rows in _tables(records, figures):
        parts += [f"## {heading}", _pipes(head, rows)]
    shown = [
        f"* [{plain_id(each)}](routes/{each['save_name']}.png), [sheet](routes/{each['save_name']}-sheet.jpg)"
        for each in records
        if "save_name" in each and each["meta"]["route_length"]
    ]
    if shown:
        parts += ["## Pictures", "\n".join(shown)]
    return "\n\n".join(parts) + "\n"


def _html(folder: ResultFolder, results: dict[str, Any], figures: dict[str, Any], simulator: str) -> str:
    records = results["_checkpoint"]["records"]
    parts = [f"<h1>Evaluation: {html.escape(results['entry_status'])}</h1>"]
    parts += [f"<p>{html.escape(text)}</p>" for text in _remarks(results, simulator)]
    parts += [f"<h2>{heading}</h2>{_grid(head, rows)}" for heading, head, rows in _tables(records, figures)]
    for heading, key in (("Scores by scenario", "scenario_type"), ("Scores by town", "town_name")):
        parts.append(f"<h2>{heading}</h2>{_bars(records, key)}")
    parts.append("<h2>Routes in pictures</h2>")
    parts += [_pictures(folder, record) for record in records]
    body = "\n".join(parts)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Evaluation</title>'
        f"<style>{_STYLE}</style></head><body>{body}</body></html>\n"
    )


def _remarks(results: dict[str, Any], simulator: str) -> list[str]:
    """What has to be known before a number is believed."""
    done, total = results["_checkpoint"]["progress"]
    remarks = [f"{done} of {total} routes are judged. Simulator: {simulator}."]
    if simulator == "embedded":
        remarks.append("No number from the embedded simulator can be compared with one from the Leaderboard.")
    if is_partial(results["_checkpoint"]["records"]):
        remarks.append("Scenarios were skipped: these are no driving scores.")
    if done < total:
        remarks.append("Routes that are not judged count as 0.")
    return remarks


def _tables(records: Sequence[Record], figures: dict[str, Any]) -> Iterable[tuple[str, list[str], Rows]]:
    score = "partial score" if is_partial(records) else "driving score"
    yield "Figures", ["figure", "value", "of"], _figure_rows(figures, score)
    rows = [
        [name.replace("_", " "), _number(row["share"], 100.0, " %"), f"{row['mastered']} of {row['routes']} routes"]
        for name, row in figures["abilities"].items()
    ]
    mean = ["mean", _number(figures["ability mean"], 100.0, " %"), ""]
    yield "Abilities", ["ability", "mastered", "of"], [*rows, mean]
    head = ["route", "town", "scenario", "status", score, "route %", "penalty", "infractions", "lost workers"]
    yield "Routes", head, [_route_row(record) for record in records]


def _figure_rows(figures: dict[str, Any], score: str) -> Rows:
    counts = figures["routes"]
    return [
        [score, _number(figures["score"]), f"{counts['all']} routes"],
        ["success rate", _number(figures["success rate"], 100.0, " %"), f"{counts['all']} routes"],
        ["efficiency", _number(figures["efficiency"], 1.0, " %"), f"{counts['efficiency']} routes"],
        ["smoothness", _number(figures["smoothness"], 100.0, " %"), f"{counts['smoothness']} routes"],
    ]


def _route_row(record: Record) -> list[str]:
    scores = record["scores"]
    kinds = {kind: len(found) for kind, found in record["infractions"].items() if found}
    return [
        plain_id(record),
        record["town_name"],
        record.get("scenario_type", ""),
        record["status"],
        f"{scores['score_composed']:.2f}",
        f"{scores['score_route']:.1f}",
        f"{scores['score_penalty']:.3f}",
        ", ".join(f"{count} {kind}" for kind, count in kinds.items()) or "-",
        str(len(record.get("losses", ()))),
    ]


def _number(value: float | None, factor: float = 1.0, unit: str = "") -> str:
    return "not measured" if value is None else f"{value * factor:.2f}{unit}"


def _pipes(head: list[str], rows: Rows) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _grid(head: list[str], rows: Rows) -> str:
    def line(cells: list[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    return "<table>" + line(head, "th") + "".join(line(row, "td") for row in rows) + "</table>"


def _bars(records: Sequence[Record], key: str) -> str:
    """Mean score and successes of each group of routes, as bars of 0 to 100."""
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        groups[record.get(key) or "none"].append(record)
    means = {
        name: sum(each["scores"]["score_composed"] for each in group) / len(group) for name, group in groups.items()
    }
    rows = [
        f"<tr><td>{html.escape(name)}</td><td>{len(groups[name])} routes</td>"
        f'<td><div class="bar"><div style="width:{mean:.1f}%"></div></div></td><td>{mean:.1f}</td>'
        f"<td>{sum(map(is_success, groups[name]))} succeeded</td></tr>"
        for name, mean in sorted(means.items(), key=lambda pair: (-pair[1], pair[0]))
    ]
    return f"<table>{''.join(rows)}</table>"


def _pictures(folder: ResultFolder, record: Record) -> str:
    """The sheet and the way of a route, inside the page; to be opened by a click."""
    name = record.get("save_name", "")
    files = [(folder.path / "routes" / f"{name}-sheet.jpg", "jpeg"), (folder.path / "routes" / f"{name}.png", "png")]
    images = "".join(_image(path, kind) for path, kind in files if name and path.is_file())
    title = f"{plain_id(record)}, {record['town_name']}: {record['status']}, {record['scores']['score_composed']:.1f}"
    said = [event["message"] for event in record["events"] if event["kind"] != "min_speed_infractions"]
    events = "".join(
        f'<li class="bad">{html.escape(message)}</li>' for message in said + list(record.get("losses", ()))
    )
    return f"<details><summary>{html.escape(title)}</summary><ul>{events}</ul>{images}</details>"


def _image(path: Path, kind: str) -> str:
    text = base64.b64encode(path.read_bytes()).decode()
    return f'<img alt="{html.escape(path.stem)}" src="data:image/{kind};base64,{text}">'
