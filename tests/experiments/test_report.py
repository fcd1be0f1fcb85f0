"""A report is one file that stands alone and says what the result says, whatever is missing."""

import html.parser
import json
import re
from pathlib import Path

import numpy as np
import pytest

from dreaming.statistics import summary
from envs.types import UserError
from experiments.pages.plots import MAX_POINTS, number, thin
from experiments.pages.run_report import headline, render
from experiments.pages.words import duration


def write_run(run_dir: Path, **changes) -> Path:
    """A run directory as `dreaming dream` leaves it, with made-up numbers."""
    rng = np.random.default_rng(0)
    returns = {
        "behaviour": rng.gamma(4, 5.5, 90).round() + 8,
        "behaviour_cloning": rng.gamma(6, 6, 100).round() + 9,
        "conservative_q": rng.gamma(5, 30, 100).round().clip(9, 500),
        "candidate": np.where(rng.random(100) < 0.06, rng.integers(300, 500, 100), 500),
    }
    returns = {name: x.astype(float) for name, x in returns.items()}
    earned = "the candidate earned 447.3 [432.0, 462.5] more per episode than"
    over = ("behaviour cloning in the same 32 episodes", "the process as it ran (30.2 in 90")
    reasons = [f"{earned} {over[0]} (97.0% interval)"]
    reasons += [f"{earned} {over[1]} logged episodes of random) (97.0% interval)"]
    result = {
        "schema_version": 2,
        "round": 0,
        "trial": 0,
        "real_episodes": 91,
        "gate_episodes": 32,
        "deployed_sha256": "5c" * 32,
        "experiment": "dream",
        "env": "CartPole-v1",
        "seed": 0,
        "real_steps": 2000,
        "gate_steps": 10_912,
        "evaluation_steps": 71_204,
        "dream_steps": 614_400,
        "search_steps": 9_830_400,
        "behaviour_return": summary(returns["behaviour"]),
        "incumbent_return": summary(returns["behaviour"]),
        "candidate_return": summary(returns["candidate"]),
        "deployed_return": summary(returns["candidate"]),
        "dream_return": summary(returns["candidate"] - 3),
        "verdict": "accept",
        "reasons": reasons,
        "baselines": {
            name: summary(returns[name]) for name in ("behaviour_cloning", "conservative_q")
        },
        "fidelity": {"open_loop_5": 0.031, "auc_terminated": 0.987, "reward_error": 0.0004},
        "seconds": {"record": 0.4, "fit": 31.2, "certify": 4.8, "rehearse": 74.9, "gate": 2.2},
        "versions": {"dreaming": "0.1.0", "jax": "0.10.2", "gymnasium": "1.4.0"},
        "state_sha256": "4b" * 32,
    } | changes
    t = np.arange(60)
    real = np.stack([np.sin(t / w) * np.exp(-t / 90) for w in (9, 5, 7, 3)], axis=1)
    drawn = {
        "open_loop": {
            "k": [1, 5, 15, 50],
            "model": [0.011, 0.031, 0.083, 0.35],
            "persistence": [0.12, 0.58, 1.4, 2.1],
        },
        "strip": {
            "names": ["cart position", "cart velocity", "pole angle", "pole velocity"],
            "real": real.tolist(),
            "dream": (real + 0.002 * t[:, None] * rng.normal(size=(1, 4))).tolist(),
        },
        "returns": {name: x.tolist() for name, x in returns.items()},
    }
    lines = []
    for step in range(0, 3000, 50):
        loss = np.exp(-step / 600) + 0.02 * rng.random()
        row = {"fit/loss": loss, "fit/o_loss": loss / 2, "fit/r_loss": loss / 90}
        lines.append({"stage": "fit", "step": step, **row, "fit/steps_per_second": 900.0})
    for step in range(0, 1000, 20):
        done = 1 - np.exp(-step / 200)
        row = {"rehearse/v_start": 20 + 70 * done, "rehearse/teacher_gap": 0.3 - 0.28 * done}
        row |= {"distil/loss": 0.69 - 0.5 * done, "rehearse/search_gain": 2 * (1 - done)}
        lines.append({"stage": "rehearse", "step": step, **row})
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / "result.json").write_text(json.dumps(result))
    (run_dir / "figures.json").write_text(json.dumps(drawn))
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (run_dir / "config.yaml").write_text("seed: 0\nenv:\n  id: CartPole-v1  # <the task>\n")
    return run_dir


class Page(html.parser.HTMLParser):
    """What a reader sees, and whether every tag is closed."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.words, self.tags, self.links = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [v for k, v in attrs if k in ("src", "href") and str(v)[0] != "#"]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> str:
    return render(write_run(tmp_path_factory.mktemp("run"))).read_text()


def test_the_report_says_what_the_result_says(report):
    text = Page(report).text
    for words in (
        "accepted",
        "The new policy earns 49",
        "where the log earned ",
        "Learned from 2,000 recorded real steps alone.",
        "more per episode than behaviour cloning in the same 32 episodes",
        "more per episode than the process as it ran (30.2 in 90 logged episodes of random)",
        "conservative Q",
        "candidate, deployed",
        "614,400",
        "1 min 54 s",
        "Open-loop error",
        "pole angle",
        "fit/loss",
        "rehearse/teacher_gap",
        "id: CartPole-v1 # <the task>",
        "jax 0.10.2",
        "4b4b4b",
    ):
        assert words in text, words
    assert "steps_per_second" not in text


def test_the_report_is_one_well_formed_file_that_fetches_nothing(report):
    page = Page(report)
    assert page.open == [] and page.links == []
    assert "script" not in page.tags and "link" not in page.tags and "img" not in page.tags
    urls = set(re.findall(r"https?://[^\"'\s<>]+", report))
    assert all("w3.org" in url for url in urls)  # names of XML vocabularies
    assert "@import" not in report and not re.search(r"url\((?!#)", report)
    assert page.tags.count("svg") >= 12


def test_figures_take_their_colours_from_the_page(report):
    assert "prefers-color-scheme:dark" in report
    figures = "".join(re.findall(r"<svg.*?</svg>", report, re.DOTALL))
    colours = set(re.findall(r"(?:fill|stroke): (#\w+)", figures))
    assert not colours, colours
    assert {"var(--ink)", "var(--accent)"} <= set(re.findall(r"var\(--\w+\)", figures))
    for found in re.findall(r'(?:url\(#|href="#)([\w-]+)', figures):
        assert f'id="{found}"' in figures


def test_the_same_run_gives_the_same_bytes(tmp_path, report):
    assert render(write_run(tmp_path)).read_text() == report


@pytest.mark.parametrize("missing", ["figures.json", "metrics.jsonl", "config.yaml", "all"])
def test_what_is_missing_is_left_out(tmp_path, missing):
    run_dir = write_run(tmp_path)
    for name in ("figures.json", "metrics.jsonl", "config.yaml"):
        if missing in (name, "all"):
            (run_dir / name).unlink()
    page = Page(render(run_dir).read_text())
    assert page.open == [] and "The new policy earns" in page.text
    assert ("Training" in page.text) == (missing not in ("metrics.jsonl", "all"))
    assert ("Open-loop error" in page.text) == (missing not in ("figures.json", "all"))


def test_a_result_without_a_real_task_says_so(tmp_path):
    names = ("behaviour", "incumbent", "candidate", "deployed", "dream")
    nothing: dict = {f"{name}_return": None for name in names}
    nothing |= {"baselines": {"behaviour_cloning": None}, "seconds": {}, "fidelity": {}}
    reason = "no evidence: there is no real environment to test in"
    run_dir = write_run(tmp_path, **nothing, env="none", verdict="reject", reasons=[reason])
    (run_dir / "metrics.jsonl").write_text('{"stage": "fit", "step": 0, "fit/loss": NaN}\n{"cut')
    (run_dir / "figures.json").write_text('{"returns": {}, "strip": {}}')
    text = Page(render(run_dir).read_text()).text
    assert "rejected" in text and reason[1:] in text and "No evidence" in text


def test_verdicts_have_their_headlines(tmp_path):
    result = json.loads((write_run(tmp_path) / "result.json").read_text())
    told = lambda **changes: headline(result | changes)[0]
    assert "not measurably better in CartPole-v1" in told(verdict="reject", reasons=["chance"])
    run_dir = write_run(tmp_path, verdict="reject", deployed_return=result["incumbent_return"])
    text = Page(render(run_dir).read_text()).text
    assert "behaviour in the log, deployed" in text and "candidate, deployed" not in text
    # In a later round it is what was deployed before: neither of the baselines, nor the log.
    before = summary(np.arange(40.0, 80.0))
    changed = {"round": 1, "incumbent_return": before, "deployed_return": before}
    run_dir = write_run(tmp_path, verdict="reject", **changed)
    text = Page(render(run_dir).read_text()).text
    assert "incumbent, deployed" in text and "behaviour in the log, deployed" not in text
    assert "nothing to learn" in told(verdict="reject", reasons=["not improvable: all 50"])


def test_an_online_run_shows_its_return_by_real_steps(tmp_path):
    run_dir = write_run(tmp_path)
    result = json.loads((run_dir / "result.json").read_text())
    kept = ("schema_version", "env", "seed", "real_steps", "deployed_return", "seconds")
    result = {name: result[name] for name in kept} | {"experiment": "online", "rounds": 3}
    result |= {"earned_by_round": [20.0, 500.0, None], "deployed_round": 1}
    (run_dir / "result.json").write_text(json.dumps(result))
    lines = [
        {"stage": "learn", "step": step, "collect/return": step / 10, "learn/loss": 1 / step}
        for step in range(10, 2000, 10)
    ]
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (run_dir / "figures.json").write_text('{"returns": {"deployed": [500, 490]}}')
    html = render(run_dir).read_text()
    text = Page(html).text
    assert "learned while it collected; it earns 49" in text
    assert "Learned from 2,000 real steps of its own." in text and "recorded" not in text
    assert "Deployed is the student of round 1 (by round they earned 20.0, 500.0, –)." in text
    assert "Return while it was learned" in text and 'aria-label="Return per episode by' in html
    assert "learn/loss" in text and "collect/return" not in text  # that is the curve above


def test_words_of_others_are_text_not_markup(tmp_path):
    attack = "<script>alert(1)</script>"
    run_dir = write_run(tmp_path, env=attack, reasons=[attack])
    assert "<script" not in render(run_dir).read_text()


def test_a_directory_without_a_result_is_one_line(tmp_path):
    for content in (None, "", "[1]"):
        if content is not None:
            (tmp_path / "result.json").write_text(content)
        with pytest.raises(UserError, match="no readable result.json; finish the run"):
            render(tmp_path)


def test_numbers_and_durations_are_written_for_readers():
    numbers = [1234567, 487.34, 3.14159, 0.012345, -2.5, float("nan"), 10_000.7, 500.0]
    written = ["1,234,567", "487.3", "3.14", "0.0123", "−2.50", "–", "10,001", "500"]
    assert [number(x) for x in numbers] == written
    assert [duration(x) for x in (41.2, 125, 3780)] == ["41 s", "2 min 05 s", "1 h 03 min"]
    assert thin(np.arange(5)).tolist() == [0, 1, 2, 3, 4]
    thinned = thin(np.arange(10_001))
    assert len(thinned) <= MAX_POINTS and thinned[-1] == 10_000


def test_a_run_on_frames_shows_pictures(tmp_path):
    """PNGs of the same steps, real above dreamed, inside of the page."""
    run_dir = write_run(tmp_path / "run")
    png = "iVBORw0KGgo="
    strip = {"k": [0, 1, 8], "real": [png] * 3, "dream": [png] * 3}
    (run_dir / "figures.json").write_text(json.dumps({"returns": {}, "strip": strip}))
    page = render(run_dir).read_text()
    assert page.count(f'src="data:image/png;base64,{png}"') == 6
    assert page.index('alt="real, step 8"') < page.index('alt="dream, step 0"')


def test_a_judge_has_curves_of_its_own(tmp_path):
    """Its fit names its losses as the planner's does; the number shown is where each ended."""
    run_dir = write_run(tmp_path)
    stages = {"fit": (4.0, 3.0), "judge": (2.0, 1.25)}
    lines = [
        {"stage": stage, "step": step, "fit/o_loss": loss}
        for stage, losses in stages.items()
        for step, loss in enumerate(losses)
    ]
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = Page(render(run_dir).read_text()).text
    assert "fit/o_loss 3 " in text and "judge/o_loss 1.25 " in text


def test_what_became_of_the_rows_of_a_table_is_said(tmp_path):
    run_dir = write_run(tmp_path)
    assert "What was read" not in render(run_dir).read_text()
    skipped = [{"reason": "no consent", "rows": 1234, "first": "log.csv: row 7: <the episode>"}]
    rows = {"read": 5000, "used": 3766, "episodes": 40, "skipped": skipped}
    intake = json.dumps(rows | {"unknown_categories": {"shop": 3}})
    (run_dir / "intake.json").write_text(intake)
    page = render(run_dir).read_text()
    assert "5,000 rows read, 3,766 used, in 40 episodes." in page
    assert "1,234 rows left out: no consent (first: log.csv: row 7: &lt;the episode&gt;)" in page
    assert "3 cells of column shop are of no known category" in page
