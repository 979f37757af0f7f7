"""The comparison: every method priced at the setting that meets the limit, measured where it can.

Estimates (prices), measurements and published accuracies are kept in fields of their own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, Literal

from torch import Tensor, nn

from trex.compare.backbones import price_backbone
from trex.compare.choose import choose_encoders, fit_chosen
from trex.compare.designs import DepthFirstSoftmax, FusedQk, ReTransformer, WeightSharing
from trex.compare.given import Given
from trex.compare.measure import Evaluation, Kept, Measured
from trex.compare.methods import (
    AttentionSkip,
    BlockReuse,
    DynamicVit,
    Encoders,
    EvitPruning,
    FittedMapReuse,
    FittedReuse,
    IdentityReuse,
    MapReuse,
    Method,
    TomeMerging,
    closest_from_below,
    spread,
)
from trex.compare.published import BACKBONES, published_of, trained_of
from trex.compare.subject import Price, Subject
from trex.compare.variants import variant
from trex.config import did_you_mean
from trex.errors import ModelError, TrexError
from trex.models.registry import LoadedModel
from trex.plan import ReusePlan
from trex.reuse.fit import FittedPlan, apply_fitted
from trex.training.data import ImageSet, batches, dataset_fingerprint

_logger = logging.getLogger(__name__)

METHODS: Final[dict[str, Method]] = {
    method.name: method
    for method in (
        FittedReuse(), FittedMapReuse(), BlockReuse(), IdentityReuse(), MapReuse(),
        AttentionSkip(), TomeMerging(), EvitPruning(), DynamicVit(), WeightSharing(),
        ReTransformer(), FusedQk(), DepthFirstSoftmax(),
    )
}  # fmt: skip

#: The name of all other models together.
BACKBONES_NAME: Final = "backbones"
NAMES: Final = (*METHODS, BACKBONES_NAME)

#: original: the model itself; within, beyond: methods by the limit; unpriced: no term for it;
#: trained: methods at their publication's setting; models: other backbones
Group = Literal["original", "within", "beyond", "unpriced", "trained", "models"]

_BATCH: Final = 50


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One line of the comparison.

    Attributes:
        setting: in words.
        encoders: that reuse or skip, or a plan, in words.
        price: an estimate; None where the accounting has no term.
        exact: it computes what the original does, so its accuracy is the original's.
        measured: on the data that was given, without training unless `finetuned`.
        published_top1: in percent, on all of ImageNet's validation images, trained.
        note: what is the matter, or nothing.
    """

    group: Group
    method: str
    title: str
    setting: str = ""
    encoders: str = ""
    price: Price | None = None
    finetuned: bool = False
    exact: bool = False
    measured: Measured | None = None
    published_top1: float | None = None
    source: str = ""
    note: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """What is compared, and with what.

    Attributes:
        class_token: whether the model has exactly one, which its head reads.
        limit_s: most latency.
        methods: names out of `NAMES`.
        given: TReX variants that were made before.
        loaded: the original with its weights, where anything is measured.
        images: labelled, or None.
        calibration: to choose encoders with, or None: they are evenly spread then, and nothing
            is fitted.
        fitting: the images that chosen plans are fitted on; those of `calibration` are among them.
        amp: choose encoders and measure in mixed precision.
        kept: results of earlier, stopped comparisons.
    """

    subject: Subject
    class_token: bool
    limit_s: float
    methods: tuple[str, ...]
    given: tuple[Given, ...]
    loaded: LoadedModel | None
    images: ImageSet | None
    calibration: ImageSet | None
    fitting: ImageSet | None
    amp: bool
    kept: Kept


def check_names(names: Sequence[str]) -> tuple[str, ...]:
    """Methods' names, each once.

    Raises:
        ModelError: one is unknown.
    """
    for name in names:
        if name not in NAMES:
            raise ModelError(f"no method is called {name!r}", hint=did_you_mean(name, list(NAMES)))
    return tuple(dict.fromkeys(names))


def compare(question: Question) -> list[Row]:
    """All rows: the original, methods within the limit, methods beyond it, published, models.

    Raises:
        TrexError: something cannot be priced or measured at all.
    """
    return Comparison(question).rows()


class Comparison:
    """One comparison at work.

    Args:
        question: what is asked.
    """

    def __init__(self, question: Question) -> None:
        self._question = question
        self._subject = question.subject
        self._evaluation: Evaluation | None = None
        if question.images is not None and question.loaded is not None:
            weights = question.loaded.weights_sha256
            self._evaluation = Evaluation(
                question.images, weights, question.kept, amp=question.amp
            )
        self._batches: list[Tensor] | None = None

    def rows(self) -> list[Row]:
        """Every row, in the table's order."""
        chosen = [METHODS[name] for name in self._question.methods if name in METHODS]
        plans = [ReusePlan.parse(given.plan) for given in self._question.given]
        searched = {reuse.tensor for plan in plans for reuse in plan}
        of_methods = [self._given(given) for given in self._question.given]
        of_methods += [
            self._method(method)
            for method in chosen
            # a run says more of its form than encoders chosen one after another
            if not (isinstance(method, FittedReuse) and method.tensor in searched)
        ]
        ordered = [r for group in ("within", "beyond", "unpriced")
                   for r in of_methods if r.group == group]  # fmt: skip
        original = self._original(of_methods)
        models = self._models() if BACKBONES_NAME in self._question.methods else []
        return [original, *ordered, *self._trained(chosen), *models]

    def _original(self, rows: Sequence[Row]) -> Row:
        own = published_of(self._subject.model.model)
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
            title=self._subject.model.model,
            price=self._subject.original(),
            measured=of_original,
            published_top1=own.top1 if own else None,
            source=own.source if own else "",
        )

    def _given(self, given: Given) -> Row:
        loaded = self._question.loaded
        measured = None
        if loaded is not None and self._evaluation is not None:
            measured = self._measured(
                {"given": given.identity, "plan": given.plan},
                lambda: given.load(loaded),
                given.title,
            )
        consumers = len(given.plan.split())
        return Row(
            group="within" if given.within else "beyond",
            method="trex",
            title=given.title,
            setting=f"{consumers} reuse",
            encoders=f"{given.plan or 'no reuse'} ({given.transform})",
            price=given.price,
            finetuned=given.trained,
            measured=measured,
            source=METHODS["trex"].source,
            note=given.note,
        )

    def _method(self, method: Method) -> Row:
        subject, limit_s = self._subject, self._question.limit_s
        if method.full_only and subject.accounting != "full":
            note = f"{subject.accounting} accounting has no term for it"
            return self._row(method, "unpriced", note=note)
        if method.one_class_token and not self._question.class_token:
            note = f"{subject.model.model} has no single class token to prune and merge by"
            return self._row(method, "unpriced", note=note)
        setting, within = closest_from_below(
            method.settings(subject.model),
            lambda setting: subject.price(method, setting).latency_s,
            limit_s,
        )
        encoders, measured = self._run(method, setting) if within else ((), None)
        return self._row(
            method,
            "within" if within else "beyond",
            setting=method.label(setting),
            encoders=" ".join(map(str, encoders)),
            price=subject.price(method, setting),
            measured=measured,
            note="" if within else "cannot reach the limit",
        )

    def _row(self, method: Method, group: Group, **fields: Any) -> Row:
        return Row(
            group=group, method=method.name, title=method.title, source=method.source,
            exact=method.accuracy == "exact", **fields,
        )  # fmt: skip

    def _run(self, method: Method, setting: float) -> tuple[Encoders, Measured | None]:
        """The encoders a method works on, where it is measured, and its measurement."""
        loaded = self._question.loaded
        if loaded is None or self._evaluation is None or method.accuracy != "loaded":
            return (), None
        if isinstance(method, FittedReuse):
            return self._fitted(loaded, method, int(setting))
        encoders: Encoders = ()
        if method.chooses:
            encoders = self._encoders(loaded, method, int(setting))
        measured = self._measured(
            {"method": method.name, "setting": setting, "encoders": list(encoders)},
            lambda: variant(loaded, method, setting, encoders),
            method.title,
        )
        return encoders, measured

    def _encoders(self, loaded: LoadedModel, method: Method, count: int) -> Encoders:
        calibration = self._question.calibration
        if calibration is None:
            first = 0 if isinstance(method, AttentionSkip) else 1
            return spread(self._subject.model, count, first)
        found = self._question.kept.get(
            {
                "choice": method.name,
                "count": count,
                "amp": self._question.amp,
                **self._calibrated(loaded, calibration),
            },
            lambda: list(
                choose_encoders(
                    loaded, method, count, self._pixels(calibration), amp=self._question.amp
                )
            ),
        )
        return tuple(found)

    def _fitted(
        self, loaded: LoadedModel, method: FittedReuse, count: int
    ) -> tuple[Encoders, Measured | None]:
        calibration, images = self._question.calibration, self._question.fitting
        if calibration is None or images is None:
            _logger.info("%s is not measured: give --run or --calib", method.title)
            return (), None

        fitted: list[FittedPlan] = []

        def fit() -> list[int]:
            with TemporaryDirectory(prefix="trex-compare-") as scratch:
                pixels = (batch.images for batch in batches(images, _BATCH))
                chosen = self._pixels(calibration)
                fitted.append(fit_chosen(loaded, method, count, chosen, pixels, Path(scratch)))
            return list(fitted[0].candidate.plan.consumers)

        def running() -> nn.Module:
            if not fitted:
                fit()
            return apply_fitted(deepcopy(loaded.model), fitted[0])

        key = {
            "fitted": method.name, "count": count, "fitting": dataset_fingerprint(images),
            **self._calibrated(loaded, calibration),
        }  # fmt: skip
        consumers = self._question.kept.get(key, fit)
        measured = self._measured({**key, "consumers": consumers}, running, method.title)
        return tuple(consumers), measured

    def _measured(self, of: dict[str, Any], make: Callable[[], nn.Module], label: str) -> Measured:
        loaded, evaluation = self._question.loaded, self._evaluation
        assert loaded is not None
        assert evaluation is not None
        original = evaluation.guesses({"original": True}, lambda: loaded.model, "original")
        return evaluation.compare(evaluation.guesses(of, make, label), original)

    @staticmethod
    def _calibrated(loaded: LoadedModel, calibration: ImageSet) -> dict[str, Any]:
        return {
            "weights": loaded.weights_sha256,
            "calibration": dataset_fingerprint(calibration),
        }

    def _pixels(self, calibration: ImageSet) -> list[Tensor]:
        """The calibration images in batches, decoded once."""
        if self._batches is None:
            self._batches = [batch.images for batch in batches(calibration, _BATCH)]
        return self._batches

    def _trained(self, chosen: Sequence[Method]) -> list[Row]:
        """Methods at the setting their publication trained, priced here."""
        rows = []
        for point in trained_of(self._subject.model.model):
            method = METHODS[point.method]
            if method in chosen:
                price = self._subject.price(method, point.setting)
                rows.append(self._row(
                    method, "trained", setting=method.label(point.setting), price=price,
                    published_top1=point.top1,
                ))  # fmt: skip
        return rows

    def _models(self) -> list[Row]:
        rows = []
        own = published_of(self._subject.model.model)
        for backbone in BACKBONES:
            if backbone == own:
                continue
            price, note = None, ""
            try:
                price = price_backbone(self._subject, backbone)
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
