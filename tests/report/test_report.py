"""The page, its figures' numbers and its tables, on made-up runs."""

from __future__ import annotations

import csv
import json
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from made_up_runs import RECORDS, SCHEMA, record, write_run

from trex.cli import main
from trex.errors import RunError
from trex.report import charts
from trex.report.facts import read_all, read_facts
from trex.report.published import TABLE_IV, TABLE_V, paper_points

GOLDEN = Path(__file__).parents[1] / "golden"
EVIL = "<script>alert(1)</script>"


class Page(HTMLParser):
    """Tags, ids and outside addresses of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "xlink:href") and not (value or "").startswith(
                ("#", "data:")
            ):
                self.addresses.append(value or "")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "first")


@pytest.fixture(scope="module")
def report(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "report"
    assert main(["report", str(run), "--out", str(out)]) == 0
    return out


def test_facts(run: Path) -> None:
    facts = read_facts(run)
    assert facts.best.plan == "3<-2 5<-4 7<-6"
    assert facts.gain(facts.best) == pytest.approx(1 / 0.85**3)
    assert [facts.candidates[i].n_reuse for i in facts.front] == [6, 4, 3]
    assert facts.limits == (("latency", pytest.approx(0.9 * 10.92e-3)),)
    assert facts.finished
    assert facts.evaluation is not None


def test_the_front_joins_what_nothing_beats_and_marks_the_winner(run: Path) -> None:
    points = charts.loss_front(read_facts(run))
    assert (points.front, points.best) == ((0, 3, 1), 1)
    assert points.y == tuple(r["selection"]["loss"] for r in RECORDS)
    assert "paper" in points.x_label
    assert points.hover[1].startswith("3<-2 5<-4 7<-6\n")


def test_the_budget_line_stands_at_the_limit(run: Path) -> None:
    (points,) = charts.limit_fronts(read_facts(run))
    assert points.x_label == "latency, ms (estimate, paper accounting)"
    assert points.limit == pytest.approx(0.9 * 10.92)
    assert points.x[1] == pytest.approx(0.85 * 10.92)


def test_an_edap_budget_is_a_line_in_the_front(tmp_path: Path) -> None:
    facts = read_facts(write_run(tmp_path / "run", budget="edap <= 0.5x"))
    assert charts.loss_front(facts).limit == pytest.approx(2.0)
    assert charts.limit_fronts(facts) == []


def test_without_labels_there_is_no_accuracy(tmp_path: Path) -> None:
    facts = read_facts(write_run(tmp_path / "run", [record([3], 0.1, labelled=False)]))
    assert charts.top1_front(facts) is None


def test_predictions_are_compared_by_rank(run: Path) -> None:
    numbers = charts.predictions(read_facts(run))
    assert numbers is not None
    assert numbers.rank == pytest.approx(1.0)
    assert numbers.measured[numbers.best] == 0.1


def test_the_heat_map_has_singles_on_its_diagonal(run: Path) -> None:
    facts = read_facts(run)
    numbers = charts.heat_map(facts, facts.surrogate[0])
    values = np.array(numbers.values)
    assert values[4, 4] == pytest.approx(0.04)
    assert values[2, 6] == pytest.approx(0.004)
    assert np.isnan(values[6, 2])
    assert numbers.chosen == (3, 5, 7)


@pytest.mark.parametrize(
    ("table", "golden"), [(TABLE_IV, "deit_s_fefet.csv"), (TABLE_V, "lvvit_s_fefet.csv")]
)
def test_the_papers_points_are_the_published_ones(table, golden: str) -> None:
    lines = (GOLDEN / golden).read_text().splitlines()
    rows = csv.DictReader(line for line in lines if not line.startswith("#"))
    published = [
        (r["name"], int(r["n_reuse"]), float(r["edap_mj_ms_mm2"]), float(r["top1_ideal"]))
        for r in rows
    ]
    assert list(table) == published


@pytest.mark.parametrize(
    ("settings", "number"),
    [
        ({}, 4),
        ({"accounting": "full"}, 0),
        ({"chip": "isaac_32nm"}, 0),
        ({"model": "deit_tiny_patch16_224"}, 0),
    ],
)
def test_the_papers_points_are_shown_where_they_apply(tmp_path, settings, number) -> None:
    facts = read_facts(write_run(tmp_path / "run", **settings))
    points = paper_points(facts)
    assert len(points) == number
    if points:
        assert points[1].edap_gain == pytest.approx(1115.23 / 484.15)
        assert points[1].top1_lost == pytest.approx(1.2)


def test_the_page_needs_no_network_and_has_each_id_once(report: Path) -> None:
    page = Page((report / "index.html").read_text())
    assert page.addresses == []
    assert len(set(page.ids)) == len(page.ids)
    assert page.tags.count("script") == 1
    assert "link" in page.tags


def test_every_candidate_can_be_pointed_at(report: Path) -> None:
    svg = ET.fromstring((report / "figures" / "first-front.svg").read_text())
    titles = [e.text or "" for e in svg.iter("{http://www.w3.org/2000/svg}title")]
    for plan in (r["plan"] for r in RECORDS):
        assert any(title.startswith(plan + "\n") for title in titles)


def test_figures_and_tables_lie_beside_the_page(report: Path) -> None:
    for name in ("front", "top1", "budget1", "plan", "surrogate", "pairs1"):
        for kind in ("png", "svg"):
            assert (report / "figures" / f"first-{name}.{kind}").stat().st_size > 1000
    with (report / "tables" / "first-candidates.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert len(rows) == 1 + len(RECORDS)
    for kind in ("csv", "md", "tex"):
        assert (report / "tables" / f"first-front.{kind}").exists()


def test_a_changed_chip_leaves_the_costs_out_and_says_so(report: Path) -> None:
    text = (report / "index.html").read_text()
    assert "Left out: the files of trex_fefet_32nm have changed since the search." in text
    assert "lower EDAP</span><i>estimate, full" not in text


def test_costs_before_and_after_are_the_cost_models(tmp_path: Path) -> None:
    from trex.hardware import load_chip
    from trex.report.costs import prices

    fingerprint = load_chip("trex_fefet_32nm").fingerprint
    facts = read_facts(write_run(tmp_path / "run", chip_sha256=fingerprint))
    priced = prices(facts)
    assert [p.accounting for p in priced.pairs] == ["paper", "full"]
    # TReX, Table IV: DeiT-S and TReX-D-9, which has three consumers.
    assert priced.pairs[0].before.edap_mj_ms_mm2 == pytest.approx(1115.23, rel=4e-3)
    assert priced.pairs[0].after.edap_mj_ms_mm2 == pytest.approx(700.2, rel=4e-3)
    for by in ("stage", "component"):
        for pair in priced.pairs:
            for stack in charts.stacks(facts, pair, by).stacks:
                field = {"latency": "latency_s", "energy": "energy_j", "area": "area_m2"}
                for side, cost in ((1, pair.before), (2, pair.after)):
                    total = sum(part[side] for part in stack.parts)
                    assert total == pytest.approx(getattr(cost, field[stack.quantity]))


def test_names_from_files_are_escaped(tmp_path: Path) -> None:
    name = EVIL.replace("/", "\N{DIVISION SLASH}")
    path = write_run(tmp_path / name, chip=EVIL, model=EVIL, budget=f"latency <= {EVIL}")
    assert main(["report", str(path), "--out", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "index.html").read_text()
    assert EVIL not in text
    assert name not in text
    assert "&lt;script&gt;alert" in text
    assert Page(text).tags.count("script") == 1
    for file in (tmp_path / "out" / "figures").glob("*.svg"):
        ET.fromstring(file.read_text())


def test_the_resilience_curve_joins_what_saves_most_and_loses_least(run: Path) -> None:
    found = charts.resilience([read_facts(run)])
    assert found is not None
    assert found.y_label.startswith("top-1 lost")
    energy, latency = found.panels
    for panel in (energy, latency):
        (curve,) = panel.curves
        # 0.8 less a tenth of the loss, and every consumer spares five percent
        assert curve.x == pytest.approx((0, 15, 20, 30))
        assert curve.y == pytest.approx((0, 1, 4, 9))
        assert curve.hover[0] == "original"
    assert [of[:2] for of in energy.published] == [(28.0, 1.4), (53.0, 3.3)]
    assert all("published" in of[2] for of in energy.published)
    assert latency.published == ()


def test_without_labels_resilience_is_of_first_guesses(tmp_path: Path) -> None:
    records = [record([3, 5], 0.1, labelled=False), record([3, 5, 7], 0.2, labelled=False)]
    found = charts.resilience([read_facts(write_run(tmp_path / "run", records))])
    assert found is not None
    assert found.y_label.startswith("first guesses changed")
    assert found.panels[0].published == ()
    assert found.panels[0].curves[0].y == pytest.approx((0, 10))


def test_runs_of_one_model_make_one_curve(report: Path, tmp_path: Path) -> None:
    assert "Sreedhar" in (report / "index.html").read_text()
    assert (report / "figures" / "first-resilience.svg").is_file()
    paths = [
        write_run(tmp_path / "a", RECORDS[:1]),
        write_run(tmp_path / "b", RECORDS[1:]),
        write_run(tmp_path / "c", chip="isaac_32nm", accounting="full"),
    ]
    found = charts.resilience(read_all(paths))
    assert found is not None
    assert [len(curve.x) for curve in found.panels[0].curves] == [4, 4]
    assert main(["report", *map(str, paths), "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "figures" / "resilience.png").stat().st_size > 1000


def test_a_plan_that_is_no_plan_is_a_damaged_run(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", [{**RECORDS[0], "plan": EVIL}])
    assert main(["report", str(path)]) == 2


def test_runs_of_different_chips_are_named_in_every_figure(tmp_path: Path) -> None:
    paths = [
        write_run(tmp_path / "a" / "run"),
        write_run(tmp_path / "b" / "run", chip="isaac_32nm", accounting="full"),
    ]
    out = tmp_path / "out"
    assert main(["report", *map(str, paths), "--out", str(out)]) == 0
    both = (out / "figures" / "runs.svg").read_text()
    for subject in ("on trex_fefet_32nm, paper", "on isaac_32nm, full"):
        assert f"deit_small_patch16_224 {subject} accounting" in both
    for slug, chip in (("run", "trex_fefet_32nm"), ("run-2", "isaac_32nm")):
        assert chip in (out / "figures" / f"{slug}-front.svg").read_text()
    page = Page((out / "index.html").read_text())
    assert len(set(page.ids)) == len(page.ids)


def test_several_runs_need_a_folder(tmp_path: Path, capsys) -> None:
    paths = [str(write_run(tmp_path / name)) for name in "ab"]
    assert main(["report", *paths]) == 2
    assert "--out" in capsys.readouterr().err


def test_the_same_run_twice_is_one(run: Path) -> None:
    assert len(read_all([run, run / "."])) == 1


def test_json(run: Path, tmp_path: Path, capsys) -> None:
    assert main(["report", str(run), "--out", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["page"] == str(tmp_path / "index.html")
    assert all(Path(file).is_file() for file in [found["page"], *found["files"]])


def test_a_run_without_a_finished_candidate(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", [])
    with pytest.raises(RunError, match="no finished candidate") as caught:
        read_facts(path)
    assert "goes on" in caught.value.hint


def test_a_run_of_a_newer_version(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run")
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**manifest, "schema": 99}))
    with pytest.raises(RunError, match="schema 99"):
        read_facts(path)


def test_an_unknown_folder(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"has no manifest\.json"):
        read_facts(tmp_path / "nowhere")


@pytest.mark.parametrize("field", ["estimate", "selection", "plan"])
def test_a_damaged_record(tmp_path: Path, field: str) -> None:
    path = write_run(tmp_path / "run")
    (path / "results.jsonl").write_text(json.dumps({**RECORDS[0], field: 3}) + "\n")
    with pytest.raises(RunError, match="is damaged"):
        read_facts(path)


def test_a_page_of_many_candidates_stays_small(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    consumers = [sorted(set(rng.integers(1, 12, 6).tolist())) for _ in range(2000)]
    records = [
        {**record(chosen, float(rng.lognormal())), "key": f"key{number}"}
        for number, chosen in enumerate(consumers)
    ]
    run = write_run(tmp_path / "run", records)
    assert main(["report", str(run)]) == 0
    assert (run / "report" / "index.html").stat().st_size < 1_000_000
    table = (run / "report" / "tables" / "run-candidates.csv").read_text()
    assert len(table.splitlines()) == 2001


def test_the_winner_is_the_searchs(tmp_path: Path) -> None:
    soft = [
        {**r, "selection": {**r["selection"], "soft_agreement": value}}
        for r, value in zip(RECORDS, (0.2, 0.5, 0.9, 0.4), strict=True)
    ]
    run = write_run(tmp_path / "run", soft)
    assert read_facts(run).winner == 2  # of most soft agreement, while no winner is written
    (run / "best").mkdir()
    (run / "best" / "best.json").write_text(
        json.dumps({"schema": SCHEMA, "key": RECORDS[3]["key"], "plan": RECORDS[3]["plan"]})
    )
    assert read_facts(run).winner == 3
