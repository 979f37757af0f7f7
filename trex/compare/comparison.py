"""The comparison: every method priced at the setting that meets the limit, measured where it can.

Estimates (prices), measurements and published accuracies are kept in fields of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from trex.compare.backbones import price_backbone
from trex.compare.measure import Measured
from trex.compare.measurements import Measurements, has_fit
from trex.compare.methods import Encoders, FittedReuse, Method, Reuse, closest_from_below
from trex.compare.options import BEYOND_LIMIT, CompareOptions, Group, Row
from trex.compare.planned import Planned
from trex.compare.published import BACKBONES, published_of, trained_of
from trex.compare.registry import BACKBONES_NAME, METHODS
from trex.compare.saved import SavedVariant
from trex.errors import TrexError
from trex.hardware import MeasuredDevice, workload
from trex.plan import Plan

_BY_HAND: Final = "TReX plan"


def compare(options: CompareOptions) -> list[Row]:
    """All rows: the original, methods within the limit, methods beyond it, published, models.

    Raises:
        TrexError: something cannot be priced or measured at all.
    """
    return Comparison(options).rows()


class Comparison:
    """One comparison at work.

    Args:
        options: what is asked.
    """

    def __init__(self, options: CompareOptions) -> None:
        self._options = options
        self._target = options.target
        self._measurements = Measurements.of(options)

    def rows(self) -> list[Row]:
        """Every row, in the table's order."""
        chosen = [METHODS[name] for name in self._options.methods if name in METHODS]
        saved = self._options.saved
        searched = {(r.tensor, r.transform == "mixed") for one in saved for r in one.plan.reuses}
        of_methods = [self._saved(one) for one in saved]
        of_methods += [self._plan(plan) for plan in self._options.plans]
        of_methods += [
            self._method(method)
            for method in chosen
            # a run says more of its form than encoders chosen one after another
            if not (
                isinstance(method, FittedReuse)
                and (method.tensor, method.transform == "mixed") in searched
            )
        ]
        ordered = [r for group in ("within", "beyond", "unpriced")
                   for r in of_methods if r.group == group]  # fmt: skip
        original = self._original(of_methods)
        models = self._models() if BACKBONES_NAME in self._options.methods else []
        return [original, *ordered, *self._trained(chosen), *models]

    def _original(self, rows: Sequence[Row]) -> Row:
        own = published_of(self._target.model.model)
        measured = next((row.measured for row in rows if row.measured), None)
        of_original = None
        if measured is not None:
            top1 = measured.baseline_top1
            of_original = Measured(
                top1=top1, baseline_top1=top1, difference=0.0, ci95=(0.0, 0.0), p_value=1.0,
                n=measured.n,
            )  # fmt: skip
        return Row(
            group="original",
            method="original",
            title=self._target.model.model,
            price=self._target.original(),
            without_dead_rows=self._target.trimmed(),
            measured=of_original,
            published_top1=own.top1 if own else None,
            source=own.source if own else "",
        )

    def _saved(self, saved: SavedVariant) -> Row:
        measured = self._measurements.saved(saved) if self._measurements else None
        return Row(
            group="within" if saved.within else "beyond",
            method="trex",
            title=saved.title,
            setting=summary(saved.plan),
            plan=str(saved.plan),
            price=saved.price,
            finetuned=saved.trained,
            measured=measured,
            source=METHODS["trex"].source,
            note=saved.note,
        )

    def _plan(self, plan: Plan) -> Row:
        """A plan by hand."""
        price = self._target.price_work(workload(self._target.model, plan))
        measured, note = None, ""
        if self._measurements is not None:
            measured = self._measurements.plan(plan, f"{_BY_HAND} {plan}")
        if has_fit(plan):
            images = self._options.fitting
            note = (
                f"fitted in closed form on {len(images)} images"
                if measured is not None and images is not None
                else "priced only: its transforms are fitted where --data and --calib are given"
            )
        return Row(
            group="within" if price.within(self._options.limit_s) else "beyond",
            method="plan",
            title=_BY_HAND,
            setting=summary(plan),
            plan=str(plan),
            price=price,
            measured=measured,
            source=METHODS["trex"].source if plan.reuses else "",
            note=note,
        )

    def _refusal(self, method: Method) -> str:
        """Why a method cannot be priced, or nothing."""
        model, accounting = self._target.model, self._target.accounting
        device = self._target.device
        if isinstance(device, MeasuredDevice) and not isinstance(method, Reuse | Planned):
            return f"{device.name} was measured with plans, and this is none"
        if method.full_only and accounting != "full":
            return f"{accounting} accounting has no term for it"
        if method.one_class_token and not self._options.class_token:
            return f"{model.model} has no single class token to prune by"
        return method.refusal(model)

    def _method(self, method: Method) -> Row:
        target, limit_s = self._target, self._options.limit_s
        if refusal := self._refusal(method):
            return self._row(method, "unpriced", note=refusal)
        setting, within = closest_from_below(
            method.settings(target.model),
            lambda setting: target.price(method, setting).latency_s,
            limit_s,
        )
        encoders: Encoders = ()
        measured = None
        if within and self._measurements is not None and method.accuracy == "loaded":
            encoders, measured = self._measurements.method(method, setting)
        notes = (method.note(target.model), "" if within else BEYOND_LIMIT)
        return self._row(
            method,
            "within" if within else "beyond",
            setting=method.label(setting),
            encoders=" ".join(map(str, encoders)),
            plan=str(method.plan(target.model, setting)) if isinstance(method, Planned) else "",
            price=target.price(method, setting),
            measured=measured,
            note="; ".join(filter(None, notes)),
        )

    def _row(self, method: Method, group: Group, **fields: Any) -> Row:
        return Row(
            group=group, method=method.name, title=method.title, source=method.source,
            exact=method.accuracy == "exact", **fields,
        )  # fmt: skip

    def _trained(self, chosen: Sequence[Method]) -> list[Row]:
        """Methods at the setting their publication trained, priced here."""
        rows = []
        for point in trained_of(self._target.model.model):
            method = METHODS[point.method]
            if method in chosen and not self._refusal(method):
                price = self._target.price(method, point.setting)
                rows.append(self._row(
                    method, "trained", setting=method.label(point.setting), price=price,
                    published_top1=point.top1,
                ))  # fmt: skip
        return rows

    def _models(self) -> list[Row]:
        rows = []
        own = published_of(self._target.model.model)
        for backbone in BACKBONES:
            if backbone == own:
                continue
            price, note = None, ""
            try:
                price = price_backbone(self._target, backbone)
            except TrexError as error:  # not under this accounting, or not in this timm
                note = error.message
            rows.append(
                Row(
                    group="models" if price else "unpriced",
                    method=BACKBONES_NAME,
                    title=backbone.model,
                    price=price,
                    published_top1=backbone.top1,
                    source=backbone.source,
                    note=note,
                )
            )
        return rows


def summary(plan: Plan) -> str:
    """How much a plan does, in words: `5 reuse, 3 merge, 2 share rows, class rows`."""
    here = [plan.at(rows.encoder) for rows in plan.rows]
    sharing = sum(not of.class_rows for of in here)
    parts = (
        f"{plan.n_reuse} reuse" if plan.reuses else "",
        f"{len(plan.merges)} merge" if plan.merges else "",
        f"{sharing} share rows" if sharing else "",
        "own class rows" if any(of.own_class for of in here) else "",
        "class rows" if any(of.only_class for of in here) else "",
    )
    return ", ".join(filter(None, parts)) or "nothing done"
