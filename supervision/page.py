"""The page of a run's report: HTML and SVG in one file, without scripts and without anything from elsewhere.

Every text that a model, a server, a rule or an environment may have had a hand in passes through `esc`.
"""

import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from supervision.answers import gist
from supervision.chart import chart, legend, number
from supervision.texts import visible

LARGEST = 20_000_000  # bytes of a page
DETAILS = 6_000_000  # characters of what is folded away in rows, the latest first
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
FONT = 'system-ui,"Segoe UI",Roboto,"DejaVu Sans",sans-serif'
CODE_FONT = 'ui-monospace,Menlo,"DejaVu Sans Mono",monospace'
STYLE = f"""
:root {{color-scheme: light}} * {{box-sizing: border-box}}
body {{margin: 0; background: #f4f5f7; color: #1c2330; font: 15px/1.5 {FONT}}}
main {{max-width: 1160px; margin: 0 auto; padding: 28px 20px 60px}}
h1 {{font-size: 28px; margin: 0}} h2 {{font-size: 20px; margin: 34px 0 12px}}
h3 {{font-size: 16px; margin: 0; display: flex; gap: 10px; align-items: center; flex-wrap: wrap}}
.sub, footer, .step, .cost, th, .what dt, figcaption {{color: #5d6776}}
.sub {{margin: 4px 0 0; overflow-wrap: anywhere}} footer {{font-size: 13px; margin-top: 30px}}
.box, .tile {{background: #fff; border: 1px solid #e1e4ea; border-radius: 10px; padding: 16px 18px; margin: 14px 0}}
.tiles {{display: grid; grid-template-columns: repeat(auto-fit, minmax(190px, 1fr)); gap: 12px; margin: 20px 0}}
.tile {{margin: 0; padding: 12px 16px}} .tile span {{color: #5d6776; font-size: 13px}}
.tile b {{display: block; font-size: 22px; line-height: 1.3}}
table {{border-collapse: collapse; width: 100%; font-size: 14px}} .settings th {{width: 130px}} th {{font-weight: 600}}
td, th {{text-align: left; vertical-align: top; padding: 5px 10px 5px 0; border-bottom: 1px solid #edeff3}}
td {{overflow-wrap: anywhere}} .n {{text-align: right; white-space: nowrap}}
pre, code {{font: 13px/1.45 {CODE_FONT}; overflow-wrap: anywhere}}
pre {{background: #f6f7f9; border: 1px solid #e7e9ee; border-radius: 8px; padding: 10px 12px; margin: 8px 0 0;
overflow: auto; max-height: 460px; white-space: pre-wrap}}
summary {{cursor: pointer; color: #35507c}} details {{margin-top: 8px}} details.box {{margin-top: 14px}}
.tag {{font-size: 12px; font-weight: 600; border-radius: 20px; padding: 1px 10px; background: #e8ebf1; color: #39414f}}
.tag.guided {{background: #fdeacd; color: #8a4a00}} .tag.failed {{background: #fbdcd9; color: #97231b}}
.step {{font-weight: 400}} .cost {{font-size: 13px; margin: 10px 0 0}} .event {{color: #97231b}}
.what {{display: grid; grid-template-columns: 90px 1fr; gap: 4px 12px; margin: 10px 0 0}}
.what dd, .text {{margin: 0; white-space: pre-wrap; overflow-wrap: anywhere}}
.film {{display: flex; flex-wrap: wrap; gap: 8px; margin: 12px 0 0}} figure {{margin: 0; width: 132px}}
img {{width: 100%; display: block; border-radius: 6px; border: 1px solid #e1e4ea}} figcaption {{font-size: 12px}}
.legend {{display: flex; gap: 6px 18px; flex-wrap: wrap; font-size: 13px; color: #39414f}}
.legend i {{display: inline-block; width: 11px; height: 11px; border-radius: 50%; margin-right: 6px}}
.legend .area {{border-radius: 2px; width: 18px}} .legend .line {{height: 3px; width: 18px; vertical-align: middle}}
svg {{display: block; width: 100%; height: auto}} svg text {{font: 12px {FONT}; fill: #5d6776}}
.grid {{stroke: #d9dde5; stroke-width: .7}} .axis {{stroke: #8a93a3}} .episode {{fill-opacity: .65}}
"""


@dataclass
class Contents:
    """What a page shows; windows are `report.Window`s."""

    run: str  # its name
    args: dict[str, Any]
    settings: dict[str, Any]  # as they lie in the run's folder; may be empty
    supervisor: str  # who supervises and why, in words
    step: int  # of the run
    curve: dict[str, list[tuple[float, float, int]]]  # by who acted: mean step, mean return, number of episodes
    evaluations: list[tuple[int, float]]  # step, greedy return
    active: list[tuple[int, bool]]  # where a rule began to guide, and where it ended
    windows: list[Any]
    left_out: int  # windows that are not listed
    closing: list[tuple[str, str]]  # pictures of the run's end
    guided_steps: int
    consultations: int
    rules: int
    failures: int
    costs: dict[str, str]  # of the models, by role
    seconds: float  # that supervision took
    own_seconds: float  # that this report took


def esc(value: Any) -> str:
    """Any value as text that is nothing but text in HTML, in attributes too."""
    return escape(visible(str(value)))


def render(contents: Contents) -> str:
    """The page, as long as `LARGEST` allows: folded texts go first, then questions, then pictures."""
    page = ""
    for details, questions, pictures in ((DETAILS, True, True), (0, True, True), (0, False, True), (0, False, False)):
        page = _page(contents, details, questions, pictures)
        if len(page.encode("utf-8", "replace")) <= LARGEST:
            break
    return page


def _page(contents: Contents, details: int, questions: bool, pictures: bool) -> str:
    args = contents.args
    title = f"{args['env_id']}, seed {args['seed']}"
    total = args.get("total_timesteps", contents.step)
    state = f"{contents.step:,} steps" if contents.step >= total else f"step {contents.step:,} of {total:,}"
    made = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    return "".join([
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(POLICY)}">'
        f'<meta name="referrer" content="no-referrer"><meta name="viewport" content="width=device-width">'
        f"<title>{esc(title)}: guided run</title><style>{STYLE}</style></head>\n<body><main>\n",
        f'<h1>{esc(title)}</h1><p class="sub">{esc(contents.run)} · {state} · {made}</p>\n',
        _tiles(contents),
        _chart(contents),
        _settings(contents),
        "<h2>Consultations</h2>\n",
        *_windows(contents, details, questions, pictures),
        _closing(contents) if pictures else "",
        f"<footer>Made by GuidedSAC, which took {contents.own_seconds:.1f} s of the run so far. Videos lie beside this "
        "page in replays/, exchanges with models in llm/; all scalars are on TensorBoard.</footer>\n",
        "</main></body></html>\n",
    ])  # fmt: skip


def _tiles(contents: Contents) -> str:
    evaluations, tiles = contents.evaluations, []
    if evaluations:
        (first, before), (last, after) = evaluations[0], evaluations[-1]
        text = f"greedy return, steps {first:,} → {last:,}, without guidance"
        tiles.append((f"{number(before)} → {number(after)}", text))
    text = f"consultations; rules: {contents.rules:,}, failures: {contents.failures:,}"
    tiles.append((f"{contents.consultations:,}", text))
    tiles.append((f"{contents.guided_steps:,}", f"steps were guided, of {contents.step:,}"))
    for role, cost in contents.costs.items():
        calls, _, rest = cost.partition(" calls, ")
        tiles.append((calls, f"calls of the {role}: {rest}"))
    tiles.append((f"{contents.seconds:,.1f} s", "supervision took, waiting for models included"))
    cells = "".join(f'<div class="tile"><b>{esc(value)}</b><span>{esc(what)}</span></div>' for value, what in tiles)
    return f'<div class="tiles">{cells}</div>\n'


def _chart(contents: Contents) -> str:
    marks = [(window.number, window.step) for window in contents.windows if window.shown]
    events = [(step, gist(text)) for window in contents.windows for step, text in window.events]
    drawn = chart(contents.curve, contents.evaluations, contents.active, marks, events, contents.step)
    return f'<div class="box">{legend(bool(contents.evaluations), bool(events))}{drawn}</div>\n'


def command_of(args: dict[str, Any], settings: dict[str, Any]) -> str:
    """The command line that makes such a run: the script, and the settings that were given there."""
    words = ["python", settings.get("script", "")]
    for name, source in settings.get("sources", {}).items():
        if source == "command line" and name in args and name != "resume":
            value, flag = args[name], name.replace("_", "-")
            words += [f"--{'' if value else 'no-'}{flag}"] if isinstance(value, bool) else [f"--{flag}", str(value)]
    return shlex.join(words)


def _settings(contents: Contents) -> str:
    args, settings = contents.args, contents.settings
    rows = [("environment", args["env_id"]), ("seed", args["seed"]), ("supervisor", contents.supervisor)]
    if settings:
        rows.append(("command", command_of(args, settings)))
        versions = ", ".join(f"{name} {version}" for name, version in settings.get("versions", {}).items())
        rows.append(("versions", f"{versions}; code {settings.get('code', 'unknown')}"))
        rows.append(("machine", f"{settings.get('processor')}, threads: {settings.get('threads')}"))
    if parent := settings.get("parent"):
        rows.append(("fork", f"of {parent['run']} at step {parent['step']:,}; what was before is that run's"))
    table = "".join(f"<tr><th>{what}</th><td>{_value(what, value)}</td></tr>" for what, value in rows)
    sources = settings.get("sources", {})
    others = "".join(
        f"<tr><th>{esc(name)}</th><td>{esc(value)}</td><td>{esc(sources.get(name, ''))}</td></tr>"
        for name, value in args.items()
    )
    return (
        f'<div class="box"><table class="settings">{table}</table><details><summary>all settings</summary>'
        f"<table><tr><th>setting</th><th>value</th><th>from</th></tr>{others}</table></details></div>\n"
    )


def _value(what: str, value: Any) -> str:
    return f"<code>{esc(value)}</code>" if what == "command" else esc(value)


def _windows(contents: Contents, details: int, questions: bool, pictures: bool) -> list[str]:
    """The windows in their order: boxes, and tables of those in between."""
    if not contents.windows:
        return ['<p class="sub">None was held.</p>']
    folded = {}  # by window, what is folded away in its row
    for window in reversed(contents.windows):
        if not window.shown:
            text = _folded(window)
            details -= len(text)
            folded[id(window)] = text if details >= 0 else ""
    parts, rows = [], []
    if contents.left_out:
        parts.append(f'<p class="sub">{contents.left_out:,} more are not listed.</p>')
    for window in contents.windows:
        if window.shown:
            parts.append(_table(rows))
            rows = []
            parts.append(_box(window, contents, questions, pictures))
        else:
            rows.append((window, folded[id(window)]))
    return [*parts, _table(rows)]


def _table(rows: Sequence[tuple[Any, str]]) -> str:
    if not rows:
        return ""
    lines = "".join(
        f'<tr id="w{w.number}"><td class="n">{w.number}</td><td class="n">{w.step:,}</td><td>{esc(gist(w.seen))}</td>'
        f"<td>{_tag(w)} {esc(gist(w.verdict))}{_trial(w)}{''.join(_event(*event) for event in w.events)}{text}</td>"
        f'<td class="n">{_cost(w, brief=True)}</td></tr>\n'
        for w, text in rows
    )
    first, last, many = rows[0][0].number, rows[-1][0].number, len(rows)
    title = f"consultation {first}" if many == 1 else f"consultations {first} to {last}"
    head = ("<tr><th class='n'>no.</th><th class='n'>step</th><th>seen</th><th>decision</th>"
            "<th class='n'>calls, tokens, s</th></tr>")  # fmt: skip
    return (f'<details class="box"{" open" if many <= 5 else ""}><summary>{title}</summary><table>{head}\n{lines}'
            "</table></details>\n")  # fmt: skip


def _folded(window: Any) -> str:
    """Advice and code of a row."""
    text = "\n\n".join(part for part in (window.analysis, window.advice) if part)
    if not text and not window.code:
        return ""
    what, code = ("advice and code", f"<pre>{esc(window.code)}</pre>") if window.code else ("advice", "")
    return f'<details><summary>{what}</summary><div class="text">{esc(text)}</div>{code}</details>'


def _box(window: Any, contents: Contents, questions: bool, pictures: bool) -> str:
    """A window at length."""
    told = [("seen", esc(window.seen))]
    if window.intervene is not None:
        said = "intervene" if window.intervene else "do not intervene"
        told.append(("advisor", f"<b>{said}</b>{'. ' if window.analysis else ''}{esc(window.analysis)}"))
    if window.advice:
        told.append(("advice", esc(window.advice)))
    told.append(("decision", esc(window.verdict)))
    if window.trial:
        told.append(("trial", esc(window.trial)))
    if window.events:
        told.append(("then", "".join(_event(*event) for event in window.events)))
    items = "".join(f"<dt>{what}</dt><dd>{text}</dd>" for what, text in told)
    code = question = ""
    if window.code:
        what = f"rule {window.rule}, {len(window.code.splitlines())} lines"
        code = f"<details open><summary>{what}</summary><pre>{esc(window.code)}</pre></details>"
    if window.question and questions:
        question = f"<details><summary>what the advisor was sent</summary><pre>{esc(window.question)}</pre></details>"
    return (
        f'<section class="box" id="w{window.number}"><h3>Consultation {window.number} '
        f'<span class="step">step {window.step:,}</span> {_tag(window)}</h3>'
        f'{_film(window.pictures) if pictures else ""}<dl class="what">{items}</dl>{code}{question}'
        f'<p class="cost">{_cost(window, brief=False)}</p></section>\n'
    )


def _tag(window: Any) -> str:
    """The decision in a word."""
    if window.rule:
        return f'<span class="tag guided">rule {window.rule}</span>'
    failed = window.verdict.startswith("unguided: ")
    return f'<span class="tag{" failed" if failed else ""}">{"failed" if failed else "alone"}</span>'


def _event(step: int, text: str) -> str:
    return f'<div class="event">step {step:,}: {esc(text)}</div>'


def _trial(window: Any) -> str:
    return f"<div>trial: {esc(window.trial)}</div>" if window.trial else ""


def _cost(window: Any, brief: bool) -> str:
    calls, asked, answered, seconds = window.cost
    if not calls:
        return "" if brief else "no model was asked"
    if brief:
        return f"{calls}, {asked + answered:,}, {seconds:.0f}"
    return f"{calls} calls, {asked:,} + {answered:,} tokens, {seconds:.1f} s"


def _film(pictures: Sequence[tuple[str, str]]) -> str:
    if not pictures:
        return ""
    figures = "".join(
        f'<figure><img alt="{esc(what)}" src="data:image/jpeg;base64,{jpeg}"><figcaption>{esc(what)}</figcaption>'
        "</figure>" for what, jpeg in pictures
    )  # fmt: skip
    return f'<div class="film">{figures}</div>'


def _closing(contents: Contents) -> str:
    if not contents.closing:
        return ""
    return f'<section class="box" id="end"><h3>At the end</h3>{_film(contents.closing)}</section>\n'
