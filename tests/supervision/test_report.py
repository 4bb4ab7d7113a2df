"""The report of a guided run: what its page says, read in a browser, and that making it harms nobody."""

import base64
import io
import json
import os
import re
import shutil
import subprocess
import threading
import time
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ROOT, Endpoint, comparable, scalars, texts
from consultations import ADVICE, RULE, SECRET, both, consultant, finish, run_on, train  # noqa: F401
from PIL import Image

from supervision import report
from supervision.answers import Advice
from supervision.chart import Axes, spans, ticks
from supervision.chat import Cost, Question
from supervision.consultation import Decision
from supervision.page import command_of
from supervision.pictures import jpeg_bytes
from supervision.report import LISTED, SHOWN, Curve, Report
from supervision.trial import Verdict

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium in PATH")
CAR = ["--env-id", "MountainCarContinuous-v0", "--max-episode-steps", "40", "--batch-size", "8",
       "--buffer-size", "1000"]  # fmt: skip


class Page(HTMLParser):
    """Elements of a page, as (tag, attributes, text within)."""

    VOID = ("meta", "img", "br", "link", "input", "hr", "base")

    def __init__(self, html: str):
        super().__init__()
        self.elements, self.open = [], []
        self.feed(html)
        self.elements = [(tag, attributes, "".join(parts)) for tag, attributes, parts in self.elements]

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes), []))
        if tag not in self.VOID:
            self.open.append(self.elements[-1])

    def handle_endtag(self, tag):
        while self.open and self.open.pop()[0] != tag:
            pass

    def handle_data(self, data):
        for element in self.open:
            element[2].append(data)

    def all(self, tag: str, kind: str | None = None) -> list:
        """Elements of this tag and class."""
        return [e for e in self.elements if e[0] == tag and (kind is None or kind in e[1].get("class", "").split())]

    def box(self, name: str) -> str:
        """The text of the element with this id."""
        (text,) = [text for _, attributes, text in self.elements if attributes.get("id") == name]
        return " ".join(text.split())


def browsed(path: Path, *options: str) -> str:
    """What headless Chromium makes of a page (its document, after loading)."""
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-extensions",
               f"--user-data-dir={path.parent / 'browser'}", *options, path.resolve().as_uri()]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=True).stdout


@needs_browser
def test_the_page_of_a_real_run_in_a_browser(run_here):
    """Bundled, with windows at 0 and 100, guidance until 200, evaluations at 0, 150 and 300."""
    run = run_here(*CAR, "--supervisor", "bundled", "--total-timesteps", "300", "--guide-window", "100", "--guide-end",
                   "200", "--eval-frequency", "150", "--eval-episodes", "1", "--seed", "3")  # fmt: skip
    path, logged = Path(f"runs/{run.run_name}/report.html"), scalars(run.run_name)
    page = Page(browsed(path, "--dump-dom", "--window-size=1200,900", "--screenshot=shot.png"))
    assert not page.all("script") and not page.all("link")

    axes = Axes(300, 0, 1)  # across, only the last step matters
    ((_, span, said),) = page.all("rect", "span")
    assert said == "a rule guides, steps 0 to 200"
    left, width = float(span["x"]), float(span["width"])
    assert (left, left + width) == pytest.approx((axes.x(0), axes.x(200)), abs=0.11)
    dots = page.all("circle", "episode")
    assert sorted(float(dot["cx"]) for _, dot, _ in dots) == pytest.approx(
        [axes.x(step) for step, _ in logged["charts/episodic_return"]], abs=0.06
    )
    told = sorted((int(t.split()[1].strip(":")), float(t.split()[2].strip(","))) for _, _, t in dots)
    assert told == [(step, pytest.approx(value, rel=1e-3)) for step, value in logged["charts/episodic_return"]]
    kinds = {text.rpartition(", ")[2] for *_, text in dots}
    assert kinds >= {"guided", "unguided"} and {t.split(", ")[1] for *_, t in dots if int(t.split()[1][:-1]) > 240} == {
        "unguided"
    }
    greedy = [re.findall(r"step (\d+): greedy return (\S+)", text)[0] for *_, text in page.all("circle", "greedy")]
    assert [(int(s), float(v)) for s, v in greedy] == [
        (step, pytest.approx(value, rel=1e-3)) for step, value in logged["eval/episodic_return"]
    ]

    first, second = page.box("w1"), page.box("w2")
    assert first.startswith("Consultation 1 step 0 rule 1") and second.startswith("Consultation 2 step 100 rule 1")
    advice = texts(run.run_name, "supervisor/advice")[0].partition("\n\n")[2]
    for part in advice.split("\n\n"):
        assert " ".join(part.split()) in first
    rule = (ROOT / "prompts" / "MountainCarContinuous-v0" / "bundled_policy.py").read_text()
    assert [text for *_, text in page.all("pre")] == [rule]
    assert "guiding, with the rule as before" in second and "unguided returns" in second
    head = page.all("table", "settings")[0][2]
    for part in ("MountainCarContinuous-v0", "--seed 3", "--guide-end 200", "torch ", "guided_sac_continuous.py"):
        assert part in head
    pictures = [attributes["src"] for _, attributes, _ in page.all("img")]
    assert len(pictures) >= 4 and "guided, step 0" in first
    for source in pictures:
        kind, _, data = source.partition(",")
        assert kind == "data:image/jpeg;base64" and Image.open(io.BytesIO(base64.b64decode(data))).width == 240

    shot = np.array(Image.open("shot.png").convert("RGB"))
    assert shot.shape == (900, 1200, 3)
    assert (shot == (0xFD, 0xEF, 0xD8)).all(axis=2).sum() > 10_000  # the guided stretch
    assert not list(Path(f"runs/{run.run_name}").glob("*.part"))


def test_unguided_runs_have_none(run_here):
    run = run_here(*CAR, "--supervisor", "none", "--total-timesteps", "50")
    assert not Path(f"runs/{run.run_name}/report.html").exists()


def test_the_page_of_consultations_with_models(consultant):
    """Two windows: a rule, then the advisor steps back; what each cost; the server's echo of the key is in none."""
    said = iter([ADVICE | {"analysis": f"I was sent {SECRET}"}, ADVICE | {"intervene": False, "advice": ""}])
    code = RULE.replace("LIMIT = 0.5", f"LIMIT = 0.5  # {SECRET} <script>alert(1)</script>")
    answers = lambda body, n: code if body["model"] == "a-coder" else json.dumps(next(said))  # noqa: E731
    with pytest.MonkeyPatch.context() as patch, Endpoint(answers) as endpoint:
        patch.setenv("OPENAI_API_KEY", SECRET)
        it = consultant(endpoint.url, guide_window=40, trial_pairs=0, guide_end=90)
        run_on(it, 80)
        it.supervisor.args.total_timesteps = 80  # the end of the run
        finish(it)
    html = Path("runs/run/report.html").read_text()
    assert SECRET not in html
    page = Page(html)
    assert not page.all("script")
    first, second = page.box("w1"), page.box("w2")
    assert "step 4 rule 1" in first and "I was sent [key]" in first and "push to the right" in first
    assert "2 calls, 20 + 10 tokens" in first and "1 calls, 10 + 5 tokens" in second
    assert "alone" in second and "do not intervene" in second and "not intervening" in second
    codes = [text for *_, text in page.all("pre")]
    assert any("LIMIT = 0.5  # [key] <script>alert(1)</script>" in text for text in codes)
    questions = [body["messages"][1]["content"] for body in endpoint.requests if body["model"] == "an-advisor"]
    assert [text for text in codes if "Training step" in text] == questions


def test_episodes_that_end_in_one_step_are_all_in_it(consultant):
    with Endpoint(both()) as endpoint:
        it = consultant(endpoint.url, num_envs=64)
        train(it, 640)
        assert it.supervisor.report.curve.points("unguided") == [(640.0, 0.0, 64)]


def test_what_became_of_a_rule(consultant):
    """The trial ends a harmful rule within its window: in its box, and as a cross at its step."""
    harmful = RULE.replace("LIMIT = 0.5", "LIMIT = -1.0")
    with Endpoint(both(code=harmful)) as endpoint:
        it = consultant(endpoint.url, guide_window=300)
        run_on(it, 90)
        it.supervisor.args.total_timesteps = 90  # the end of the run
        finish(it)
    page = Page(Path("runs/run/report.html").read_text())
    (event,) = [text for text in texts("run", "supervisor/verdict") if "was ended" in text]
    step = next(step for step, passed in scalars("run")["supervisor/trial_passed"] if not passed)
    assert f"step {step}: {event}" in page.box("w1")
    (cross,) = [text for *_, text in page.all("path", "ended")][:1]
    assert cross.startswith(f"step {step}: ")


HOSTILE = [
    "<script>document.title='owned'</script>", "</pre></details><img src=x onerror=alert(1)>", '" onload="alert(1)',
    "<svg><script>alert(1)</script></svg>", "<style>body{display:none}</style>", "]]>--></textarea></title><b>x</b>",
    "\u202eevil\x1b[2J\x00\ud83d", "<meta http-equiv=refresh content='0;url=http://127.0.0.1:1/'>",
    "&lt;b&gt; &amp;amp;",
]  # fmt: skip


def supervision(run_dir: Path, text: str = "", costs: dict | None = None, camera=None) -> SimpleNamespace:
    """What a report asks of a supervisor."""
    chat = None if costs is None else SimpleNamespace(latest={}, costs=costs)
    return SimpleNamespace(
        chat=chat, camera=camera or SimpleNamespace(stills=lambda since, most: []), description=f"llm {text}",
        consultations=SimpleNamespace(count=0, failures=0), seconds=1.0,
        guidance=SimpleNamespace(steps=10, guided_steps=5), run_dir=run_dir,
    )  # fmt: skip


def settings(**changes) -> SimpleNamespace:
    return SimpleNamespace(**{"env_id": "Line-v0", "seed": 1, "total_timesteps": 1_000_000, **changes})


@needs_browser
def test_no_text_becomes_anything_but_text(tmp_path):
    """In every place, hostile texts are read back as they were, and nothing is fetched."""
    wanted = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            wanted.append(self.path)
            self.send_response(404)
            self.end_headers()

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    hostile = "\n".join([*HOSTILE, f"<img src={address}/picture><link rel=stylesheet href={address}/style>"])
    args = settings(env_id=hostile, extra=hostile, total_timesteps=20)
    (tmp_path / "settings.json").write_text(json.dumps({
        "script": hostile, "sources": {"extra": "command line"}, "versions": {hostile: hostile}, "code": hostile,
        "processor": hostile, "threads": 1, "parent": {"run": hostile, "step": 1},
    }))  # fmt: skip
    it, costs = Report(args, tmp_path, [(0, 1.0), (20, 2.0)]), {"advisor": Cost(1), "coder": Cost()}
    held = supervision(tmp_path, hostile, costs)
    for step in (0, 10, 20):
        held.consultations.count += 1
        held.chat.latest["advisor"] = Question("advisor", "m", step, "", [{"role": "system", "content": ""},
                                               {"role": "user", "content": hostile}],
                                               [(hostile, jpeg_bytes(np.zeros((8, 8, 3), np.uint8)))])  # fmt: skip
        decision = Decision(SimpleNamespace(source=hostile), f"guiding {hostile}", hostile,
                            Advice(hostile, True, hostile), hostile)  # fmt: skip
        it.consulted(held, decision, step)
    it.happened(20, hostile)
    it.judged(Verdict(hostile, 1.0, 2.0, (3, 3), 10, False))
    it.write(held, 20, last=True)
    # with a picture that is to be fetched, which the page's own policy forbids
    path = tmp_path / "report.html"
    html = path.read_text().replace("<body>", f"<body><img src={address}/picture>")
    path.write_text(html)
    page = Page(browsed(path, "--dump-dom"))
    assert not it.off and wanted == []
    page.elements.remove(("img", {"src": f"{address}/picture"}, ""))
    assert {tag for tag, *_ in page.elements} <= {
        "html", "head", "meta", "title", "style", "body", "main", "h1", "h2", "h3", "p", "div", "span", "i", "b", "svg",
        "rect", "path", "text", "a", "circle", "polyline", "table", "tbody", "tr", "th", "td", "code", "pre", "details",
        "summary", "section", "figure", "img", "figcaption", "dl", "dt", "dd", "footer",
    }  # fmt: skip
    assert len(page.all("style")) == len(page.all("h1")) == 1 and len(page.all("meta")) == 4
    for tag, attributes, _ in page.elements:
        assert not [name for name in attributes if name.startswith("on")]
        assert attributes.get("src", "data:").startswith("data:") and attributes.get("href", "#").startswith("#"), tag
    shown = [text for *_, text in page.all("pre")] + [text for *_, text in page.all("dd")]
    for line in hostile.splitlines():
        escaped = line.replace("\u202e", r"\u202e").replace("\x1b", r"\x1b").replace("\x00", r"\x00")
        assert sum(escaped.replace("\ud83d", r"\ud83d") in text for text in shown) >= 6
    # without the policy the same picture is asked for
    path.write_text(html.replace("Content-Security-Policy", "nothing"))
    browsed(path, "--dump-dom")
    assert wanted == ["/picture"]
    server.shutdown()
    server.server_close()


def long_run(run_dir: Path, windows: int, texts_of) -> tuple[Report, SimpleNamespace]:
    """A report of so many windows, each with a rule of its own, eight noisy pictures and a long question."""
    rng = np.random.default_rng(0)
    pictures = [(f"unguided t={i}", jpeg_bytes(rng.integers(0, 256, (160, 160, 3), np.uint8))) for i in range(8)]
    args, costs = settings(total_timesteps=1_000 * windows), {"advisor": Cost(), "coder": Cost()}
    it, held = Report(args, run_dir, [(1_000 * i, float(i)) for i in range(20)]), supervision(run_dir, "", costs)
    for number in range(1, windows + 1):
        analysis, advice, code, question = texts_of(number)
        for role in costs.values():
            role.calls, role.prompt_tokens, role.seconds = role.calls + 1, role.prompt_tokens + 100, role.seconds + 2
        held.consultations.count, step = number, 1_000 * (number - 1)
        turns = [{"role": "system", "content": ""}, {"role": "user", "content": question}]
        held.chat.latest["advisor"] = Question("advisor", "m", step, "", turns, pictures)
        judged = Advice(analysis, True, advice)
        it.consulted(held, Decision(SimpleNamespace(source=code), "guiding", advice, judged, "returns 1, 2, 3"), step)
        it.guided(step, number % 2 == 1)
    return it, held


def test_nine_hundred_windows_fit(tmp_path):
    """As Humanoid-v5 has them: 30 boxes with pictures, a row for each other, 20 MB; a page takes a second or so."""
    words = lambda n: (f"analysis {n} " * 100, f"advice {n} " * 50, f"# rule {n}\n" * 300, f"question {n}\n" * 1_500)  # noqa: E731
    it, held = long_run(tmp_path, 900, words)
    for step in range(0, 900_000, 60):
        it.curve.add(step, ("guided", "unguided")[step // 60 % 2], float(step % 977))
    began = time.process_time()
    it.write(held, 900_000)
    assert time.process_time() - began < 5 and not it.off
    html = (tmp_path / "report.html").read_bytes()
    assert 1_000_000 < len(html) <= 20_000_000
    page = Page(html.decode())
    names = [attributes["id"] for _, attributes, _ in page.elements if "id" in attributes]
    assert names == [f"w{n}" for n in range(1, 901)]
    boxes = [attributes["id"] for _, attributes, _ in page.all("section")]
    assert boxes[0] == "w1" and boxes[-1] == "w900" and 10 < len(boxes) <= SHOWN
    assert len(page.all("img")) == 8 * len(boxes)
    assert len(page.all("rect", "span")) == 450
    row = next(name for name in reversed(names) if name not in boxes)
    assert f"analysis {row[1:]} " in page.box(row) and page.box(row).endswith(" 2, 200, 4")


def test_no_text_however_long_makes_a_page_too_large(tmp_path):
    """Every character becomes six ("&quot;"), in more windows than are listed."""
    quotes = '"' * 60_000
    it, held = long_run(tmp_path, LISTED + 50, lambda n: (quotes, quotes, f"#{n}{quotes}", quotes))
    it.write(held, 10)
    html = (tmp_path / "report.html").read_bytes()
    assert not it.off and len(html) <= 20_000_000
    assert len(it.windows) == LISTED and b"50 more are not listed" in html
    assert re.findall(rb'id="w(\d+)"', html)[-1] == b"2050"


def test_pictures_are_of_the_first_the_last_and_every_changed_window(tmp_path):
    """Under a bundled rule these are of what was filmed there, and nothing is drawn for others."""
    asked = []

    def stills(since, most):
        asked.append(since)
        guided = SimpleNamespace(guided=True)
        return [(guided, [since, since + 7], [np.zeros((9, 9, 3), np.uint8)] * 2)]

    it, held = Report(settings(), tmp_path), supervision(tmp_path, camera=SimpleNamespace(stills=stills))
    rule, other = SimpleNamespace(source="a"), SimpleNamespace(source="b")
    for i, policy in enumerate([rule, rule, rule, None, None, other, rule, rule, rule]):
        held.consultations.count = i + 1
        it.consulted(held, Decision(policy, "", judged=Advice("", policy is not None)), 100 * i)
        assert it.changed == (i in (0, 3, 5, 6))
        if i == 1:
            it.happened(150, "the rule was ended")
    it.end(held, 900)
    assert asked == [0, 100, 300, 500, 600, 800]
    shown = [window for window in it.windows if window.shown]
    assert [window.number for window in shown] == [1, 2, 4, 6, 7, 9] and all(window.pictures for window in shown)
    assert not any(window.pictures for window in it.windows if not window.shown)
    assert [w.rule for w in it.windows] == [1, 1, 1, 0, 0, 2, 1, 1, 1]
    assert [w.number for w in it.windows if w.code] == [1, 6]
    assert [what for what, _ in it.windows[3].pictures] == ["guided, step 300", "guided, step 307"]
    it.end(held, 2_000)  # of a run that went on without guidance
    assert [what for what, _ in it.closing] == ["guided, step 900", "guided, step 907"]
    assert len(it.windows[-1].pictures) == 2 and not it.off


def test_a_page_a_minute_and_a_hundredth_of_the_time(tmp_path, monkeypatch):
    """By a clock of the test's: not again within a minute, nor within a hundred times what making it took."""
    clock, it = [1_000.0], Report(settings(), tmp_path)
    monkeypatch.setattr(report.time, "monotonic", lambda: clock[0])
    held, path, made = supervision(tmp_path), tmp_path / "report.html", []

    def render(contents):
        clock[0] += takes
        made.append(clock[0])
        return "page"

    monkeypatch.setattr(report, "render", render)
    takes = 0.1
    for _ in range(12):
        it.write(held, 0)
        clock[0] += 11
    assert made == pytest.approx([1_000.1, 1_066.2])
    takes = 3.0  # of a slow disk, say
    clock[0] = it.due
    it.write(held, 0)
    assert it.due - clock[0] == pytest.approx(300.0)
    it.write(held, 0)
    assert len(made) == 3 and not it.off
    path.unlink()
    it.write(held, 0, last=True)
    assert len(made) == 4 and path.read_text() == "page"


GUIDED = [*CAR, "--supervisor", "bundled", "--guide-window", "40", "--guide-end", "80", "--total-timesteps", "100",
          "--replay-frames", "0"]  # fmt: skip


def test_no_failure_of_the_report_changes_a_run(run_here, monkeypatch, capsys):
    """A bug in it is said once and ends it; a disk that does not take it is said once and tried again."""
    whole = run_here(*GUIDED)
    with monkeypatch.context() as patch:
        patch.setattr(report, "render", lambda contents: 1 / 0)
        capsys.readouterr()
        broken = run_here(*GUIDED)
    assert capsys.readouterr().out.count("no report.html from now on: ZeroDivisionError: division by zero") == 1
    assert comparable(broken.run_name) == comparable(whole.run_name)
    assert not Path(f"runs/{broken.run_name}/report.html").exists()
    with monkeypatch.context() as patch:
        patch.setattr(Curve, "add", lambda *args: [][1])  # in the middle of training
        lame = run_here(*GUIDED)
    assert capsys.readouterr().out.count("no report.html from now on: IndexError") == 1
    assert comparable(lame.run_name) == comparable(whole.run_name)
    put = os.replace

    def full(source, target):
        if str(target).endswith("report.html"):
            raise OSError(28, "No space left on device")
        put(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(SystemExit):
            run_here(*GUIDED)
    said = capsys.readouterr().out
    assert said.count("not written: report.html: ") == 1 and said.count("missing: report.html") == 1
    assert "step 100/100" in said


def test_a_curve_in_bins_by_hand():
    """Bins double when they are full; what is in them is averaged, and alone in one exact."""
    curve = Curve()
    for step, value in ((3, 1.0), (399, 5.0)):
        curve.add(step, "guided", value)
    assert curve.width == 1 and curve.points("guided") == [(3.0, 1.0, 1), (399.0, 5.0, 1)]
    curve.add(400, "guided", 8.0)
    curve.add(401, "guided", 2.0)
    curve.add(401, "unguided", 7.0)
    assert curve.width == 2
    assert curve.points("guided") == [(3.0, 1.0, 1), (399.0, 5.0, 1), (400.5, 5.0, 2)]
    assert curve.points("unguided") == [(401.0, 7.0, 1)] and curve.points("partly guided") == []
    curve.add(1_000_000, "guided", 0.0)
    assert curve.width == 4_096 and curve.points("guided") == [(300.75, 4.0, 4), (1_000_000.0, 0.0, 1)]


def test_ticks_and_spans_by_hand():
    assert ticks(0, 1_000, 5) == [0, 200, 400, 600, 800, 1_000]
    assert ticks(-0.7, 0.9, 4) == pytest.approx([-0.5, 0.0, 0.5])
    assert spans([(0, True), (30, False), (50, True)], 80) == [(0, 30), (50, 80)]
    assert spans([], 80) == [] and spans([(5, True), (9, False)], 80) == [(5, 9)]


def test_the_command_makes_the_run_again():
    args = dict(seed=3, cuda=False, save_model=True, env_kwargs='{"a": "b c"}', resume="runs/x", gamma=0.9)
    sources = dict.fromkeys([*args], "command line") | {"gamma": "environment"}
    assert command_of(args, {"script": "s.py", "sources": sources}) == (
        'python s.py --seed 3 --no-cuda --save-model --env-kwargs \'{"a": "b c"}\''
    )
