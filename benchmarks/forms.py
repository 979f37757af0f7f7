"""Forms of plans on several models: what each loses, and what the models' attention is worth.

    python benchmarks/forms.py images --model NAME --weights FILE --calib DATASET
    python benchmarks/forms.py texts --checkpoint DIR --cola DIR

One model a call, an image classifier or a text encoder whose embedding is the mean of its tokens
(DIR holds `transformers`' files and a tokeniser). Consumers are encoders 1 and 3, or as asked;
merging and shared rows take the same shares of every model's tokens. Every form is fitted in the
way that is chosen for it (`trex.fit.choose`) on some images or texts and measured on others;
nothing is refined. Forwards in single precision.

Of classifiers it prints KL from the original (nats) and agreement of first guesses. Text encoders
without a classifier have no KL: fits are chosen by 1 - cosine of the embeddings before and after,
and Spearman's correlation says whether pairs of texts are still as near to each other. Texts are
CoLA's of at least 14 tokens, cut or padded to 16: fitted on training texts, measured on both
development sets.

Also printed: what leaving out one encoder's attention costs.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn import functional as F

from trex.compare.stepped import SkippedAttention
from trex.fit.calibration import Calibration, FitSettings
from trex.fit.choose import choose_settings
from trex.fit.fitter import PlanFitter
from trex.fit.loss import mean_kl
from trex.models.adapter import Adapter
from trex.models.bert.adapter import BertAdapter
from trex.models.bert.model import TextClassifier, mask_of
from trex.models.registry import load
from trex.plan import Layout, Plan
from trex.reuse.transforms import averaged
from trex.text.sources import open_texts
from trex.text.tokenizer import encode, load_tokenizer
from trex.training.data import batches, open_dataset
from trex.training.transforms import DataConfig, eval_transform

#: of the tokens, pairs that one merge takes, and rows that a first and a second group leave
PAIRS, ROWS = 0.185, (0.385, 0.2)
#: of texts
TOKENS, LEAST_TOKENS = 16, 14
BATCH: Final = 50


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """A model and what it is fitted and measured on.

    Attributes:
        name: for people.
        fitted: inputs to fit on.
        measured: others.
        loss: of outputs against the original's.
        cells: how outputs compare with the original's, for a table.
        head: of the cells.
    """

    name: str
    model: nn.Module
    adapter: Adapter
    fitted: Tensor
    measured: Tensor
    loss: Callable[[Tensor, Tensor], float]
    cells: Callable[[Tensor, Tensor], str]
    head: str


def main() -> None:
    """Print the tables of one model."""
    args = parser().parse_args()
    torch.set_num_threads(args.threads)
    subject = of_texts(args) if args.kind == "texts" else of_images(args)
    print(
        f"{subject.name}: {len(subject.fitted)} fitted on, {len(subject.measured)} others "
        f"measured, torch {torch.__version__}"
    )
    forms(subject, forms_of(subject.adapter.layout(subject.model), args.consumers))
    if not args.no_left_out:
        left_out(subject)


def forms_of(layout: Layout, consumers: list[int]) -> dict[str, str]:
    """Every form's name and plan; those that a model of this layout cannot run are left out."""
    own = " ".join(f"{c}=class" for c in consumers) if layout.class_rows else ""
    pairs = round(PAIRS * layout.tokens)
    rows = [round(share * layout.tokens) for share in ROWS]

    def reuse(form: str) -> str:
        return " ".join(f"{c}<-{c - 1}{form}" for c in consumers)

    found = {"outputs": reuse(":output/linear"), "maps": reuse(":map/linear")}
    if not layout.no_map_rows:
        found["average maps alone"] = " ".join(f"{c}:map/average" for c in consumers)
        found["mixed maps"] = f"{reuse(':map/mixed')} {own}".strip()
    found["merging"] = " ".join(f"{c}~{pairs}" for c in consumers)
    found["shared rows"] = " ".join(
        f"{c}={count} {c + 1}=@{c}" for c, count in zip(consumers, rows, strict=True)
    )
    return found


def forms(subject: Subject, plans: dict[str, str]) -> None:
    """Fit and measure every form as is best for it."""
    print(f"| form | plan | {subject.head} | share, drift, class weight, penalty, producers | s |")
    print(f"|---|---|{'---|' * (subject.head.count('|') + 1)}---|---|", flush=True)
    parsed = {name: Plan.parse(text) for name, text in plans.items()}
    with (
        tempfile.TemporaryDirectory() as scratch,
        closing(
            Calibration(
                subject.model,
                subject.adapter,
                subject.fitted.split(BATCH),
                subject.measured.split(BATCH),
                settings=FitSettings(batch_size=BATCH),
                scratch=Path(scratch),
                maps=averaged(tuple(parsed.values())),
            )
        ) as calibration,
    ):
        original = calibration.logits[calibration.n_fit :]
        for name, plan in parsed.items():
            started = time.perf_counter()
            best = choose_settings(calibration, plan, loss=subject.loss)[0]
            (found,) = PlanFitter(calibration, settings=best.settings).fit([plan])
            way = ", ".join(f"{value or 0:g}" for value in best.chosen.values())
            print(
                f"| {name} | `{plan}` | {subject.cells(found.logits, original)} "
                f"| {way if plan.reuses else '-'} | {time.perf_counter() - started:.0f} |",
                flush=True,
            )


@torch.no_grad()
def left_out(subject: Subject) -> None:
    """What every encoder's attention is worth."""

    def outputs(model: nn.Module) -> Tensor:
        return torch.cat([model(part) for part in subject.measured.split(BATCH)])

    original = outputs(SkippedAttention(subject.model, subject.adapter, frozenset()))
    print(f"| without the attention of encoder | {subject.head} |")
    print(f"|---|{'---|' * (subject.head.count('|') + 1)}", flush=True)
    for index in range(len(subject.adapter.layout(subject.model).stages)):
        model = SkippedAttention(subject.model, subject.adapter, frozenset({index}))
        print(f"| {index} | {subject.cells(outputs(model), original)} |", flush=True)


def of_images(args: argparse.Namespace) -> Subject:
    """A classifier and images of one data set."""
    loaded = load(
        args.model, weights=args.weights, num_classes=args.num_classes, img_size=args.img_size
    )
    images = open_dataset(
        args.calib,
        transform=eval_transform(DataConfig.of_model(loaded.model)),
        labels=False,
        strict=True,
    ).subset(args.fitted + args.measured, args.seed)
    pixels = torch.cat([batch.images for batch in batches(images.shuffled(args.seed), BATCH)])

    def cells(outputs: Tensor, original: Tensor) -> str:
        agreement = (outputs.argmax(1) == original.argmax(1)).double().mean()
        return f"{mean_kl(outputs, original):.4f} | {100 * agreement:.1f} %"

    return Subject(
        name=loaded.name,
        model=loaded.model.eval(),
        adapter=loaded.adapter,
        fitted=pixels[: args.fitted],
        measured=pixels[args.fitted :],
        loss=mean_kl,
        cells=cells,
        head="KL | agreement",
    )


class Embeddings(BertAdapter):
    """A text encoder whose output is the mean of its tokens, each as important as any other."""

    def layout(self, model: nn.Module) -> Layout:
        """The head reads every token."""
        why = "its embedding is the mean of all tokens"
        return replace(super().layout(model), class_tokens=0, class_rows=0, no_class_rows=why)

    def token_weights(self, model: nn.Module, stream: Tensor, class_weight: float) -> Tensor:
        """One for every token, zero for padding."""
        return mask_of(stream).to(stream.dtype)


class MeanToken(nn.Module):
    """The mean of a stream's tokens without padding, of length one: (B, N, D) to (B, D)."""

    def forward(self, stream: Tensor) -> Tensor:
        """Padding is zero in a stream."""
        count = mask_of(stream).sum(1, keepdim=True)
        return F.normalize(stream.sum(1) / count, dim=-1)


def of_texts(args: argparse.Namespace) -> Subject:
    """A text encoder and CoLA's sentences."""
    import transformers

    base = transformers.BertModel.from_pretrained(args.checkpoint, local_files_only=True)
    network = transformers.BertForSequenceClassification(base.config)
    network.bert = base
    model = TextClassifier(network.eval(), TOKENS)
    # sentence-transformers pools what the last encoder puts out
    model.pooler, model.classifier = nn.Identity(), MeanToken()
    tokenizer = load_tokenizer(str(args.checkpoint))

    def texts(*parts: str) -> Tensor:
        found = [t for part in parts for t in open_texts(f"cola:{args.cola / part}.tsv").texts]
        tokenizer.no_truncation()
        tokenizer.no_padding()
        long = [t for t in found if len(tokenizer.encode(t).ids) >= LEAST_TOKENS]
        return encode(tokenizer, long, TOKENS)

    train = texts("in_domain_train")
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(args.seed))

    def cells(outputs: Tensor, original: Tensor) -> str:
        above = torch.triu_indices(len(outputs), len(outputs), 1)
        pairs = [(each @ each.T)[above[0], above[1]].numpy() for each in (outputs, original)]
        cosine = F.cosine_similarity(outputs, original).mean()
        return f"{1 - cosine:.4f} | {spearmanr(*pairs).statistic:.4f}"

    return Subject(
        name=f"{args.checkpoint.name}, {len(model.encoders)} encoders",
        model=model,
        adapter=Embeddings(),
        fitted=train[order[: args.fitted]],
        measured=texts("in_domain_dev", "out_of_domain_dev"),
        loss=lambda outputs, original: float(1 - F.cosine_similarity(outputs, original).mean()),
        cells=cells,
        head="1 - mean cosine | rank correlation of similarities",
    )


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("kind", choices=("images", "texts"))
    made.add_argument("--model")
    made.add_argument("--weights", type=Path)
    made.add_argument("--num-classes", type=int)
    made.add_argument("--img-size", type=int)
    made.add_argument("--calib", metavar="DATASET")
    made.add_argument("--checkpoint", type=Path, metavar="DIR")
    made.add_argument("--cola", type=Path, metavar="DIR")
    made.add_argument("--consumers", type=int, nargs=2, default=[1, 3])
    made.add_argument("--fitted", type=int, default=360)
    made.add_argument("--measured", type=int, default=240, help="images")
    made.add_argument("--no-left-out", action="store_true", help="leave the last table out")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--threads", type=int, default=1)
    return made


if __name__ == "__main__":
    main()
