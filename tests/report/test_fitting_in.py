"""Every word of a figure stands within the figure, however long the names are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from made_up_runs import write_run
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from trex.plan import Layout
from trex.report import charts, drawing, measured_charts, measured_drawing
from trex.report.facts import Facts, read_facts
from trex.report.figures import draw_plan
from trex.report.plans import plan_numbers
from trex.store.schemas import EvaluationLine, NonIdeal

LONG_MODEL = "vit_base_patch16_clip_quickgelu_384.openai_ft_in12k_in1k_and_more"
LONG_CHIP = "a_chip_of_ones_own_with_all_that_it_holds_in_its_name_22nm"
#: Where letters end is not where their boxes end.
SLACK = 2.0


def outside(figure: Figure) -> list[str]:
    """The texts that leave the figure."""
    FigureCanvasAgg(figure).draw()
    box = figure.bbox
    found = []
    for text in figure.findobj(Text):
        number = text.get_text().replace("\N{MINUS SIGN}", "").replace(".", "").isdigit()
        if number or not (text.get_visible() and text.get_text().strip()):
            continue  # ticks beyond an axis's end are never drawn
        at = text.get_window_extent()
        sides = (at.x0, at.y0, box.width - at.x1, box.height - at.y1)
        if min(sides) < -SLACK:
            found.append(text.get_text())
    return found


def drawn(draw: Any, size: tuple[float, float], **numbers: Any) -> Figure:
    figure = Figure(figsize=size)
    draw(figure, **numbers)
    return figure


@pytest.fixture
def facts(tmp_path: Path) -> Facts:
    return read_facts(write_run(tmp_path / "run", model=LONG_MODEL, chip=LONG_CHIP))


def test_titles(facts: Facts) -> None:
    heat = charts.heat_map(facts, facts.surrogate[0])
    predictions = charts.predictions(facts)
    assert predictions is not None
    for draw, size, numbers in (
        (drawing.draw_points, (5.8, 3.9), {"points": charts.loss_front(facts)}),
        (drawing.draw_predictions, (5.8, 3.9), {"numbers": predictions}),
        (drawing.draw_heat_map, (5.8, 5.0), {"numbers": heat}),
    ):
        assert outside(drawn(draw, size, **numbers)) == []


def test_stacks(facts: Facts) -> None:
    parts = tuple((f"part {number}", 1.0, 0.5) for number in range(11))
    stacks = tuple(charts.Stack(q, unit, parts) for _, q, unit in charts.QUANTITIES)
    numbers = charts.Stacks(f"{facts.subject}, by component", stacks)
    assert outside(drawn(drawing.draw_stacks, (6.2, 4.2), stacks=numbers)) == []


def test_accuracies_on_a_chip_that_errs() -> None:
    plan = " ".join(f"{i}<-{i - 1}" for i in range(1, 24, 2))
    pair = measured_charts.noisy_pair(EvaluationLine(
        pick="finetuned", plan=plan, data="d", n=10, top1=0.7, baseline_top1=0.8,
        difference=-0.1, ci95=[-0.2, 0.0],
        non_ideal=NonIdeal(
            chip=LONG_CHIP, mode="fast", top1_by_draw=[0.6], baseline_top1_by_draw=[0.7]
        ),
    ))  # fmt: skip
    assert pair is not None
    assert outside(drawn(measured_drawing.draw_noisy, (5.8, 2.6), numbers=pair)) == []


@pytest.mark.parametrize("count", [2, 5, 24])
def test_the_names_of_many_runs(facts: Facts, count: int) -> None:
    name = "the search of the second week with the other images and the new chip"
    runs = [(f"{name} {number}", charts.loss_front(facts)) for number in range(count)]
    figure = drawn(drawing.draw_runs, (6.4, 5.0), runs=runs)
    assert outside(figure) == []
    (axes,) = figure.axes
    assert axes.get_position().height * figure.get_figheight() > 2.5  # inches
    legend = axes.get_legend()
    assert legend is not None
    shown = [" ".join(text.get_text().split()) for text in legend.get_texts()]
    assert len(set(shown)) == count
    assert all(text.endswith("paper accounting") for text in shown)


def test_the_longest_reuse_of_a_plan_is_drawn_whole() -> None:
    for plan, encoders in (
        ("11<-0", 12), ("1<-0 23<-2", 24), ("1<-0", 2), ("", 6),
        ("11<-0 0~98 1~49 11=class", 12), ("23=class", 24),
        ("11<-0:map/mixed 4:map/average 1=197 2=@1 3=2 11=class", 13),
    ):  # fmt: skip
        layout = Layout(
            stages=(0,) * encoders, tokens=197, protected=1, class_tokens=1, class_rows=1
        )
        figure = Figure(figsize=(7.2, 1.7))
        axes = figure.add_axes((0.01, 0.0, 0.98, 0.98))
        draw_plan(axes, plan_numbers(plan, layout))
        FigureCanvasAgg(figure).draw()
        frame = axes.get_window_extent()
        assert outside(figure) == []
        for patch in axes.patches:
            box = patch.get_path().get_extents(patch.get_transform())
            assert box.y1 <= frame.y1 + 0.5
            assert box.y0 >= frame.y0 - 0.5
