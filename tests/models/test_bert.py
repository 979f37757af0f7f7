"""What is special about text encoders, beside the contract that every family keeps."""

from __future__ import annotations

import copy
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny_models import TEXT_KINDS, TextKind, blocks_of, logits_of
from torch import Tensor, nn

from trex.errors import ModelError, ReuseError, WeightsError
from trex.hardware import load_chip, workload
from trex.models import registry
from trex.models.bert import TextClassifier, from_transformers, pack_inputs
from trex.models.bert.model import config_values
from trex.noise import make_non_ideal
from trex.plan import REUSED_TENSORS, TRANSFORMS, Plan, ReusedTensor, Transform
from trex.reuse import apply_reuse, consumers_of

transformers = pytest.importorskip("transformers", reason="the extra `text` is not installed")

every_kind = pytest.mark.parametrize("kind", TEXT_KINDS.values(), ids=TEXT_KINDS.keys())
every_tensor = pytest.mark.parametrize("tensor", REUSED_TENSORS)
PLAN = "2<-1 3<-1:map 5<-4"
SIZE = {
    "vocab_size": 40, "hidden_size": 48, "num_hidden_layers": 6, "num_attention_heads": 3,
    "intermediate_size": 96, "max_position_embeddings": 16, "num_labels": 3,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's client reads this when it is imported; then it asks no network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def network_of(family: str, **changes: Any) -> nn.Module:
    config = transformers.AutoConfig.for_model(family, **{**SIZE, **changes})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return transformers.AutoModelForSequenceClassification.from_config(config).eval()


def texts(padding: int = 1) -> tuple[Tensor, Tensor]:
    """Token numbers and mask of three texts, the first one of five tokens."""
    ids = torch.randint(5, 40, (3, 9), generator=torch.Generator().manual_seed(2))
    mask = torch.ones_like(ids)
    ids[0, 5:], mask[0, 5:] = padding, 0
    return ids, mask


@pytest.mark.parametrize("family", TEXT_KINDS)
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_it_is_the_library_s_own_model(family: str, implementation: str) -> None:
    network = network_of(family, attn_implementation=implementation)
    ids, mask = texts(network.config.pad_token_id)
    with torch.no_grad():
        expected = network(input_ids=ids, attention_mask=mask).logits
        model = from_transformers(network, tokens=9)
        torch.testing.assert_close(model(pack_inputs(ids, mask)), expected, rtol=0, atol=1e-6)


@every_kind
@pytest.mark.parametrize("plan", ["", PLAN, "1<-0:map 2<-0:map 3<-0 4<-0 5<-0"])
@pytest.mark.parametrize("transform", ["linear", "linear_own"])
def test_padding_changes_no_answer(kind: TextKind, plan: str, transform: Transform) -> None:
    """A text's answer is that of the text alone, whatever stands in its padding."""
    model = kind.build().double()
    if plan:
        apply_reuse(model, plan, transform)
    ids, mask = texts(model.config.pad_token_id)
    alone = logits_of(model, pack_inputs(ids[:1, :5], mask[:1, :5]))
    together = logits_of(model, pack_inputs(ids, mask))
    torch.testing.assert_close(together[:1], alone, rtol=0, atol=1e-12)
    if kind.name == "bert":  # RoBERTa counts positions by what is no padding's number
        ids[0, 5:] = 7
        torch.testing.assert_close(logits_of(model, pack_inputs(ids, mask)), together)


@every_kind
def test_padding_has_no_weight_in_a_fit(kind: TextKind) -> None:
    model = kind.build()
    adapter = registry.adapter_of(model)
    ids, mask = texts()
    stream = adapter.stem(model, pack_inputs(ids, mask))
    weights = adapter.token_weights(model, stream, 5.0)
    assert weights[0].tolist() == [5, 1, 1, 1, 1, 0, 0, 0, 0]
    assert weights[1].tolist() == [5, *[1] * 8]


@every_kind
@every_tensor
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_parameters_leave_for_real(
    kind: TextKind, tensor: ReusedTensor, transform: Transform
) -> None:
    model = kind.build()
    before, dim = sum(p.numel() for p in model.parameters()), 48
    gone = (3 if tensor == "output" else 2) * dim * (dim + 1)
    added = {"none": 0, "linear": 0, "linear_own": dim * dim, "block": 2 * dim + dim * (dim + 1)}
    apply_reuse(model, f"2<-1:{tensor} 4<-1:{tensor}", transform)
    after = sum(p.numel() for p in model.parameters())
    assert after == before - 2 * (gone - added[transform])
    for consumer in consumers_of(model).values():
        names = {name.split(".")[0] for name, _ in consumer.named_parameters()}
        assert ("value" in names) == (tensor == "map")
        assert not names & {"query", "key"}


@every_kind
def test_operations_by_hand(kind: TextKind) -> None:
    model = kind.build()
    found = registry.architecture_of(model, kind.name)
    tokens, dim, hidden = 9, 48, 96
    encoder = tokens * 4 * dim**2 + 2 * tokens**2 * dim + 2 * tokens * dim * hidden
    around = dim * dim + dim * 7 + (tokens * 32 * dim if kind.name == "electra" else 0)
    assert found.macs == 6 * encoder + around
    spared = {
        "output": 3 * tokens * dim**2 + 2 * tokens**2 * dim,
        "map": 2 * tokens * dim**2 + tokens**2 * dim,
    }
    norms = [op for op in found.operations if op.function == "layer_norm"]
    for tensor, transform in itertools.product(REUSED_TENSORS, TRANSFORMS):
        added = tokens * dim**2 if transform in ("block", "linear_own") else 0
        work = workload(found, Plan.parse(f"2<-1:{tensor} 5<-3:{tensor}", transform))
        assert work.macs == found.macs - 2 * spared[tensor] + 2 * added
        # both norms stand behind residuals, which a consumer has as well
        left = [op for op in work if op.function == "layer_norm" and op.part != "transform"]
        assert left == norms


def test_tokens_are_a_parameter_of_the_cost() -> None:
    short, long = (registry.architecture("bert_tiny_uncased", tokens=n) for n in (64, 128))
    assert {e.tokens for e in short.encoders} == {64}
    assert {e.tokens for e in long.encoders} == {128}
    with pytest.raises(ModelError, match="513 tokens") as caught:
        registry.architecture("bert_tiny_uncased", tokens=513)
    assert "2 to 512" in caught.value.hint
    with pytest.raises(ModelError, match="is no text model"):
        registry.architecture("test_vit", tokens=64)
    with pytest.raises(ModelError, match="reads texts"):
        registry.architecture("bert_tiny_uncased", img_size=224)


def test_bert_base_has_its_published_size() -> None:
    # 110 M parameters (Devlin et al., Table 1); 109,482,240 in the released checkpoint
    model = registry.create("bert_base_uncased", device="meta")
    base = [p for name, p in model.named_parameters() if not name.startswith("classifier")]
    assert sum(p.numel() for p in base) == 109_482_240


def test_a_folder_is_a_model(tmp_path: Path) -> None:
    network = network_of("roberta")
    network.save_pretrained(tmp_path)
    ids, mask = texts()
    with torch.no_grad():
        expected = network(input_ids=ids, attention_mask=mask).logits
    for arguments in ({}, {"weights": tmp_path}, {"weights": tmp_path / "model.safetensors"}):
        loaded = registry.load(str(tmp_path), tokens=12, **arguments)
        assert loaded.weights_source == str(tmp_path / "model.safetensors")
        torch.testing.assert_close(logits_of(loaded.model, pack_inputs(ids, mask)), expected)
    # what is kept of it builds it anew where the folder is gone
    arguments = json.loads(json.dumps(loaded.arguments))
    anew = registry.create("elsewhere", **arguments)
    assert isinstance(anew, TextClassifier)
    assert anew.tokens == 12
    assert config_values(anew) == config_values(loaded.model)
    anew.load_state_dict(loaded.model.state_dict())


def test_checkpoints_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(network_of("bert").config.to_dict()))
    with pytest.raises(WeightsError, match=r"has no model\.safetensors"):
        registry.load(str(tmp_path))
    state = network_of("bert").state_dict()
    headless = {name: value for name, value in state.items() if "classifier" not in name}
    save_file(headless, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=r"no classifier\.weight: its model was never"):
        registry.load(str(tmp_path))
    save_file(network_of("electra").state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match="does not fit"):
        registry.load(str(tmp_path))


@pytest.mark.parametrize("family", TEXT_KINDS)
def test_another_number_of_classes_is_said(family: str, tmp_path: Path) -> None:
    network_of(family).save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match="its head has 3 classes, the model's has 2") as caught:
        registry.load(str(tmp_path), num_classes=2)
    assert caught.value.hint == "give --num-classes 3"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_attention_heads": 5}, "multiple of the number of attention heads"),
        ({"hidden_size": "big"}, "hidden_size"),
        ({"hidden_act": "step"}, "step"),
        ({"model_type": "foobert"}, "foobert"),
    ],
)
def test_broken_configurations_are_refused(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    config = {**SIZE, "model_type": "bert", **changes}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=f"not one of transformers: .*{message}") as caught:
        registry.create(str(tmp_path))
    assert len(caught.value.message) < 400


def test_files_with_old_names_load(tmp_path: Path) -> None:
    network = network_of("bert")
    network.save_pretrained(tmp_path)
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): value.clone()
        for name, value in network.state_dict().items()
    }
    old["cls.predictions.bias"] = torch.zeros(40)
    old["bert.embeddings.position_ids"] = torch.arange(16)[None]
    save_file(old, tmp_path / "model.safetensors")
    assert registry.load(str(tmp_path)).report.fits


def test_the_hub_is_asked_and_its_silence_told() -> None:
    with pytest.raises(
        WeightsError, match="google/bert_uncased_L-2_H-128_A-2 cannot be"
    ) as caught:
        registry.load("bert_tiny_uncased")
    assert "--weights" in caught.value.hint
    with pytest.raises(ModelError, match="the hub's nobody/nothing cannot be had"):
        registry.create("transformers/nobody/nothing")


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (lambda: network_of("bert", is_decoder=True), "decoders cannot reuse"),
        (lambda: network_of("albert", embedding_size=16), "is not a text classifier"),
        (lambda: transformers.BertModel(transformers.BertConfig(**SIZE)), "is not a text class"),
        (lambda: nn.Linear(2, 2), "is not a text classifier"),
        *(
            (lambda task=task: getattr(transformers, task)(transformers.BertConfig(**SIZE)), task)
            for task in ("BertForTokenClassification", "BertForMultipleChoice")
        ),
    ],
)
def test_other_networks_are_refused(network: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        from_transformers(network(), tokens=9)


@pytest.mark.parametrize("shape", [(2, 9), (3, 9), (1, 3, 32, 32), (3, 3, 9), (1, 2, 17)])
def test_inputs_of_another_form_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match=r"inputs are .*, 2, at most 16 tokens") as caught:
        TEXT_KINDS["bert"].build()(torch.ones(shape, dtype=torch.long))
    assert "pack_inputs" in caught.value.hint


def test_a_changed_layer_is_refused() -> None:
    model = TEXT_KINDS["bert"].build()
    attention = blocks_of(model)[3].get_submodule("layer.attention.self")
    attention.distance_embedding = nn.Embedding(31, 16)
    with pytest.raises(ModelError, match=r"encoders\.3\.layer\.attention\.self\.distance_emb"):
        apply_reuse(model, "2<-1")
    del attention.distance_embedding
    del attention.dropout
    with pytest.raises(ModelError, match=r"self has no dropout"):
        apply_reuse(model, "2<-1")


def test_one_consumer_cannot_run_alone() -> None:
    model = apply_reuse(TEXT_KINDS["bert"].build(), PLAN)
    with pytest.raises(ReuseError, match="without its source"):
        model.encoders[2](torch.zeros(1, 9, 48))


def test_a_chip_s_errors_are_refused_and_change_nothing() -> None:
    inputs = pack_inputs(*texts())
    for model in (TEXT_KINDS["bert"].build(), apply_reuse(TEXT_KINDS["bert"].build(), PLAN)):
        expected = logits_of(model, inputs)
        with pytest.raises(ModelError, match=r"encoders\.0 is an encoder of texts"):
            make_non_ideal(model, load_chip("trex_fefet_32nm"), [inputs])
        assert torch.equal(logits_of(model, inputs), expected)


@every_kind
def test_dropout_draws_in_training_alone(kind: TextKind) -> None:
    wet = {"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.2}
    model = apply_reuse(from_transformers(network_of(kind.name, **wet), tokens=9), PLAN)
    inputs = pack_inputs(*texts())
    assert torch.equal(model(inputs), copy.deepcopy(model)(inputs))
    model.train()
    assert not torch.equal(model(inputs), model(inputs))
