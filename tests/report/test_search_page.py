"""The page of a sweep: planted settings come out, and every sweep there can be has a page that is whole."""

import base64
import io
import json
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from matplotlib.collections import LineCollection
from pyarrow import csv

from fahr.errors import Refused
from fahr.report import search_charts
from fahr.report.search_charts import Marks, limits
from fahr.report.search_page import Estimate, SearchSummary, importance, verdict, write
from fahr.report.search_trials import read_trials, weigh

SCALES: Any = {"rate": "log"}
TAGS = "<script>alert('x')</script> & http://example.org/a.png"


def sweep(n: int, seed: int = 0, planted: str = "share", **columns: Any) -> pa.Table:
    """Random settings: the metric (higher is better) depends on one of rate (log), share and kind."""
    rng = np.random.default_rng(seed)
    rate, share = 10 ** rng.uniform(-5, -1, n), rng.uniform(0, 1, n)
    kind = np.array(["logistic", "hinge", "exponential"])[rng.integers(0, 3, n)]
    truth = {"share": -((share - 0.7) ** 2), "rate": -((np.log10(rate) + 4) ** 2) / 9, "kind": 0.3 * (kind == "hinge"),
             "none": 0 * share}  # fmt: skip
    metric = 0.6 + 0.3 * truth[planted] + 0.01 * rng.normal(size=n)
    made: dict[str, Any] = {
        "trial": np.arange(n), "state": ["done"] * n, "error": [None] * n, "seed": [0] * n,
        "p_rate": rate, "p_share": share, "p_kind": kind,
        "metric": metric, "metric_se": [0.01] * n, "seconds": [1.5] * n, "started": ["2026-11-22T01:00:00Z"] * n,
        "curve": [json.dumps([[1, each - 0.1], [2, each]]) for each in metric],
    }  # fmt: skip
    return pa.table({name: pa.array(values) for name, values in (made | columns).items() if values is not None})


def summary(**more: Any) -> SearchSummary:
    told: dict[str, Any] = {
        "task": "survival", "metric": "C-index", "unit": "", "higher_is_better": True, "winner_trial": 1,
        "default_trial": 0, "winner_value": Estimate(0.712, 0.69, 0.733), "default_value": Estimate(0.68, 0.65, 0.71),
        "difference": Estimate(0.031, 0.012, 0.05), "optimism": Estimate(0.006), "seeds": (0, 1, 2),
        "settings": f"loss: {{kind: hinge}}  # {TAGS}\n", "digests": {"faces": "sha256:ab12"},
        "code_version": "0123456789ab", "command": "python jobs/tune.py --task survival", "scales": SCALES,
    }  # fmt: skip
    return SearchSummary(**(told | more))


class Page(HTMLParser):
    """Fails on what is not nested, on ids and attributes given twice, on pictures without words."""

    EMPTY = frozenset({"meta", "img", "br", "link", "hr", "input"})

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        assert text.startswith("<!DOCTYPE html>")
        self.feed(text)
        self.close()
        assert not self.open, self.open
        ids = [given["id"] for _, given in self.seen if "id" in given]
        assert len(ids) == len(set(ids))
        assert all(given.get("alt") for tag, given in self.seen if tag == "img")

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(attrs) == len(dict(attrs)), (tag, attrs)
        self.seen.append((tag, dict(attrs)))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words += data

    @property
    def text(self) -> str:
        return " ".join(self.words.split())


def page(folder: Any, table: pa.Table, told: SearchSummary) -> Page:
    with open(write(str(folder), table, told), encoding="utf-8") as file:
        return Page(file.read())


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("planted", ["rate", "share", "kind"])
def test_the_one_setting_that_matters_is_the_most_important(planted: str, seed: int) -> None:
    table = sweep(60, seed, planted)
    found = importance(table, higher_is_better=True, scales=SCALES)
    assert next(iter(found)) == planted and found[planted] > 0.5
    assert sum(found.values()) == pytest.approx(1) and set(found) == {"rate", "share", "kind"}
    error = table.set_column(table.column_names.index("metric"), "metric", pa.array(-table["metric"].to_numpy()))
    assert importance(error, higher_is_better=False, scales=SCALES) == pytest.approx(found)


def test_chance_passes_for_importance_about_once_in_twenty() -> None:
    passed = 0
    for seed in range(8):
        found = weigh(read_trials(sweep(24, seed, "none"), higher_is_better=True, scales=SCALES))
        passed += sum(found.share[name] > found.chance[name] for name in found.share)
    assert passed <= 4  # of 24, 1.2 expected
    planted = weigh(read_trials(sweep(60, 3, "share"), higher_is_better=True, scales=SCALES))
    assert planted.share["share"] > 2 * planted.chance["share"] and (planted.best, planted.trials) == (15, 60)


def test_stopped_trials_are_none_of_the_best_however_good_their_early_metric() -> None:
    done, stopped = sweep(40, 4, "share"), sweep(40, 5, "rate")
    early = pa.array(10 + stopped["metric"].to_numpy())
    stopped = stopped.set_column(stopped.column_names.index("metric"), "metric", early)
    stopped = stopped.set_column(1, "state", pa.array(["stopped"] * 40))
    stopped = stopped.set_column(0, "trial", pa.array(np.arange(40, 80)))
    both = pa.concat_tables([stopped, done])
    assert next(iter(importance(both, higher_is_better=True, scales=SCALES))) == "share"
    read = read_trials(both, higher_is_better=True)
    assert read.number.tolist() == list(range(80)) and set(read.ranked().tolist()) == set(range(40))
    assert read.best().tolist() == np.argsort(-done["metric"].to_numpy())[:4].tolist()


def test_an_importance_that_cannot_be_told_is_refused_with_the_reason() -> None:
    with pytest.raises(Refused, match="19 trials have a metric"):
        importance(sweep(19), higher_is_better=True)
    with pytest.raises(Refused, match="same metric"):
        importance(sweep(30, metric=[0.7] * 30), higher_is_better=True)
    with pytest.raises(Refused, match="4 of them to the end"):
        importance(sweep(30, state=["done"] * 4 + ["stopped"] * 26), higher_is_better=True)
    one_value = sweep(30, p_rate=[0.1] * 30, p_share=[None, *[2] * 29], p_kind=["hinge"] * 30)
    with pytest.raises(Refused, match="one value in all trials"):
        importance(one_value, higher_is_better=True)
    assert set(importance(sweep(30, p_kind=["hinge"] * 30), higher_is_better=True)) == {"rate", "share"}


def test_tables_that_break_the_contract_are_refused() -> None:
    for columns, words in (
        ({"curve": None}, "no column 'curve'"),
        ({"trial": [0, 1, 1]}, "trial 1 is there twice"),
        ({"state": ["done", "running", "done"]}, "'running' is not known"),
        ({"curve": ["[]", "[[1, 2], [3]]", "[]"]}, "curve of trial 1"),
    ):
        with pytest.raises(Refused, match=words):
            read_trials(sweep(3, **columns), higher_is_better=True)


def test_trials_csv_is_read_as_the_table_it_was_written_from() -> None:
    columns = {"p_flag": [True, False] * 6, "p_steps": [1, None, 3] * 4, "metric": [0.5, None, float("nan")] * 4,
               "p_rate": [0.0, 1e-3, 1e-2] * 4}  # fmt: skip
    table = sweep(12, **columns)
    text = io.BytesIO()
    csv.write_csv(table, text)
    again = csv.read_csv(pa.py_buffer(text.getvalue()))
    one, other = (read_trials(each, higher_is_better=True, scales=SCALES) for each in (table, again))
    assert one.parameters == other.parameters
    np.testing.assert_array_equal(one.metric, other.metric)
    kinds = {each.name: (each.kind, each.log) for each in one.parameters}
    assert kinds == {"rate": ("number", False), "share": ("number", False), "kind": ("category", False),
                     "flag": ("category", False), "steps": ("integer", False)}  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Page, str]:
    """A sweep with everything in it."""
    state = ["done"] * 24 + ["failed"] * 3 + ["stopped"] * 5
    trace = 'Traceback (most recent call last):\n  File "a.py", line 3\nFloatingPointError: loss is nan at step '
    error = [None] * 24 + [trace + "12", trace + "7", TAGS] + [None] * 5
    margin = [None if at % 3 else at / 10 for at in range(32)]
    table = sweep(32, state=state, error=error, p_rate=None, p_fixed=[3] * 32, **{"p_loss/<b>margin": margin})
    folder = tmp_path_factory.mktemp("sweep")
    told = summary(winner_trial=int(np.argmax(table["metric"].to_numpy()[:24])), notes=("Told by the job.",))
    made = page(folder, table, told)
    text = (folder / "search.html").read_text()
    return folder, made, text


def test_the_page_needs_nothing_but_itself_and_holds_the_pictures_of_the_folder(whole: tuple[Any, Page, str]) -> None:
    folder, made, text = whole
    tags = {tag for tag, _ in made.seen}
    assert not tags & {"script", "link", "iframe", "object", "base", "form", "b"}
    for tag, given in made.seen:
        assert not {name for name in given if name.startswith("on") or name in ("href", "srcset", "style")}, (
            tag,
            given,
        )
    sources = [given["src"] or "" for tag, given in made.seen if tag == "img"]
    assert all(each.startswith("data:image/png;base64,") for each in sources)
    inside = {base64.b64decode(each.partition(",")[2]) for each in sources}
    assert inside == {file.read_bytes() for file in (folder / "figures").iterdir()}
    assert {file.name for file in (folder / "figures").iterdir()} == {
        "best.png", "parallel.png", "importance.png", "curves.png", "parameter_share.png", "parameter_kind.png",
         "parameter_loss_b_margin.png",
    }  # fmt: skip
    style = re.search(r"<style>(.*?)</style>", text, re.S)
    assert style and not re.search(r"url\(|@import", style[1])
    assert text.isascii()


def test_the_page_says_all_that_there_is_to_say_and_text_of_others_stays_text(whole: tuple[Any, Page, str]) -> None:
    _, made, text = whole
    assert "<script" not in text and "&lt;script&gt;" in text
    assert made.text.count(TAGS) == 2  # of the error, and of best.yaml
    parts = [given["id"] for tag, given in made.seen if tag == "section"]
    assert parts == ["summary", "settings", "best", "parallel", "importance", "parameters", "curves", "failures",
                     "trials", "judged", "limits", "origin"]  # fmt: skip
    for words in ("Research use only", "Yes, beyond noise", "0.712 [0.690, 0.733]", "24 done, 5 stopped early",
                  "3 failed", "2 trials: 24, 25 FloatingPointError: loss is nan at step 12", "fixed = 3",
                  "seeds 0, 1, 2", "Told by the job.", "sha256:ab12", "python jobs/tune.py"):  # fmt: skip
        assert words in made.text, words
    assert made.text.index("Yes, beyond noise") < made.text.index("Best so far")
    assert sum(tag == "tr" and "class" in given for tag, given in made.seen) == 2  # the winner and the default


SWEEPS: dict[str, tuple[pa.Table, dict[str, Any], str]] = {
    "none": (sweep(0), {"winner_trial": None}, "0 trials: 0 done"),
    "one": (sweep(1), {"winner_trial": 0}, "The default settings won"),
    "two": (sweep(2, p_share=None, p_kind=None, curve=["[]"] * 2), {}, "2 trials have a metric"),
    "all failed": (
        sweep(3, state=["failed"] * 3, error=["no room", "no room", ""], metric=[None] * 3, curve=[None] * 3),
        {"winner_trial": None}, "no room",
    ),
    "one parameter": (sweep(22, p_share=None, p_kind=None, curve=["[]"] * 22), {}, "Importances: rate 100%"),
    "no parameter": (sweep(2, p_share=None, p_kind=None, p_rate=None, curve=["[]"] * 2), {}, "no setting varied"),
    "all equal": (sweep(20, metric=[0.5] * 20, p_share=None, p_rate=None, curve=[""] * 20), {}, "the same metric"),
    "no number": (
        sweep(3, metric=[float("nan")] * 3, curve=["[[1, NaN], [2, null]]"] * 3), {},
        "3 that did not fail told no metric",
    ),
    "astray": (
        sweep(5, metric=[4.2, 4.4, float("inf"), 1e9, 4.3], p_rate=None, p_share=None,
              p_kind=["$x$", "$", "", "a", "b"], p_more=[1, 2, 3, 4, 40], curve=["[]"] * 5),
        {"higher_is_better": False, "unit": "years"}, "Lower is better",
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", SWEEPS)
def test_every_sweep_has_a_page(name: str, tmp_path: Any) -> None:
    table, more, words = SWEEPS[name]
    made = page(tmp_path, table, summary(**more))
    alts = " ".join(given.get("alt") or "" for _, given in made.seen)
    assert words in made.text + alts
    if name == "one":
        before = (tmp_path / "search.html").read_bytes()
        write(str(tmp_path), table, summary(**more))
        assert (tmp_path / "search.html").read_bytes() == before
    assert "nan" not in made.text and "None" not in made.text.replace("None: no", "")


@pytest.mark.parametrize(
    ("more", "tone", "words"),
    [
        ({}, "better", "Yes, beyond noise: trial 1"),
        ({"difference": Estimate(0.031, -0.001, 0.05)}, "same", "not better than the default settings beyond noise"),
        ({"difference": Estimate(0.0, 0.0, 0.0)}, "same", "not better"),
        ({"difference": Estimate(-0.03, -0.05, -0.01)}, "worse", "worse than the default settings, beyond noise"),
        (
            {"difference": Estimate(-0.4, -0.6, -0.2), "higher_is_better": False, "unit": "years"},
            "better",
            "-0.40 [-0.",
        ),
        ({"difference": Estimate(0.4, 0.2, 0.6), "higher_is_better": False, "unit": "years"}, "worse", "0.60] years"),
        ({"difference": Estimate(0.03)}, "same", "Not known"),
        ({"difference": Estimate(None), "default_value": Estimate(None)}, "same", "against not known"),
        ({"winner_trial": 0}, "same", "default settings won"),
        ({"winner_trial": None}, "same", "No trial was chosen"),
    ],
)
def test_the_verdict_follows_the_interval_of_the_paired_difference(more: Any, tone: str, words: str) -> None:
    found = verdict(summary(**more))
    assert found.tone == tone and words in found.words
    assert found.words.count(". ") <= 1  # one sentence, and what to do


def drawn(monkeypatch: pytest.MonkeyPatch, way: Any) -> Any:
    figures: list[Any] = []
    monkeypatch.setattr(search_charts, "png", lambda figure: figures.append(figure) or b"")
    way()
    return figures[0]


@pytest.mark.parametrize("higher", [True, False])
def test_the_best_so_far_is_of_the_trials_that_were_done(higher: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    state = ["done", "stopped", "done", "failed"] * 5
    metric = np.random.default_rng(0).normal(size=20)
    metric[[1, 3]] = 9 if higher else -9
    trials = read_trials(sweep(20, state=state, metric=metric), higher_is_better=higher)
    figure = drawn(monkeypatch, lambda: search_charts.best_chart(trials, Marks("C", 0, 2)))
    lines = {line.get_label(): line.get_xydata() for line in figure.axes[0].lines}
    done = np.arange(0, 20, 2)
    best = [(max if higher else min)(metric[done[: at + 1]]) for at in range(10)]
    np.testing.assert_array_equal(lines["best so far"][:10], np.column_stack([done, best]))
    assert lines["winner, trial 2"].tolist() == [[2, metric[2]]]


def test_parallel_coordinates_put_better_up_and_what_does_not_apply_below(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = {
        "p_rate": [1e-5, 1e-3, 1e-1],
        "p_share": [None, 2, 4],
        "p_kind": ["a", "b", "a"],
        "metric": [5.0, 4.0, 3.0],
    }
    trials = read_trials(sweep(3, **columns), higher_is_better=False, scales=SCALES)
    figure = drawn(
        monkeypatch, lambda: search_charts.parallel_chart(trials, Marks("MAE", 0, 2), list(trials.parameters))
    )
    lines = [each.get_segments()[0] for each in figure.axes[0].collections if isinstance(each, LineCollection)]
    paths = {round(float(line[0, 1]), 6): line[:, 1] for line in lines if len(line) == 4}
    assert set(paths) == {0.0, 0.5, 1.0}  # by the logarithm of the rate
    assert paths[0.0][1] == search_charts.ABSENT and paths[0.5][1] == 0 and paths[1.0][1] == 1
    assert paths[0.5][2] == 1 and abs(paths[0.0][2]) < 0.1 and abs(paths[1.0][2]) < 0.1
    assert paths[1.0][3] > paths[0.5][3] > paths[0.0][3]


def test_an_axis_holds_the_best_value_and_leaves_out_what_went_astray() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(4, 0.2, 50)
    low, high = limits(np.append(values, 1e6), higher_is_better=False)
    assert low < values.min() and np.quantile(values, 0.9) < high < 10
    low, high = limits(np.append(-values, -1e6), higher_is_better=True)
    assert high > -values.min() and low > -10
    for few in ([], [0.0], [0.5, 0.5], [np.nan], [1.0, 2.0]):
        low, high = limits(np.array(few), higher_is_better=True)
        assert low < high and all(low < each < high for each in few if np.isfinite(each))
