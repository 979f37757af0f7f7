from __future__ import annotations

import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trex.errors import PlanError
from trex.plan import (
    MAP_TRANSFORMS,
    REUSED_TENSORS,
    TRANSFORMS,
    EncoderPlan,
    Layout,
    Merge,
    Plan,
    Reuse,
    Rows,
    uniform_plans,
)

MOST_ENCODERS = 24


def layout(encoders: int, **more: Any) -> Layout:
    """Of a plain vision transformer: 197 tokens, of which the first is a class token."""
    usual: dict[str, Any] = {"tokens": 197, "protected": 1, "class_tokens": 1, "class_rows": 1}
    return Layout(stages=(0,) * encoders, **{**usual, **more})


@st.composite
def reuses(draw: st.DrawFn, *, mixed: bool = False) -> tuple[Reuse, ...]:
    """Consumers of up to 24 encoders; they reuse any earlier producer in any form."""
    consumers = draw(st.sets(st.integers(1, MOST_ENCODERS - 1)))
    found = []
    for consumer in consumers:
        producers = [i for i in range(consumer) if i not in consumers]
        tensor = draw(st.sampled_from(REUSED_TENSORS))
        transforms = TRANSFORMS if tensor == "output" or not mixed else MAP_TRANSFORMS
        transform = draw(st.sampled_from(transforms))
        source = consumer if transform == "average" else draw(st.sampled_from(producers))
        found.append(Reuse(consumer, source, tensor, transform))
    return tuple(draw(st.permutations(found)))


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Any plan that a plain vision transformer of 24 encoders can run."""
    last = MOST_ENCODERS - 1
    of = draw(reuses(mixed=True))
    merging = draw(st.lists(st.integers(0, last - 1), unique=True, max_size=6))
    merges = tuple(Merge(encoder, draw(st.integers(0, 12))) for encoder in merging)
    maps = {r.consumer for r in of if r.tensor == "map"}
    rows = [Rows(last)] if last not in maps and draw(st.booleans()) else []
    rows += [Rows(consumer) for consumer in maps - {last} if draw(st.booleans())]
    consumers = {r.consumer for r in of}
    groups: int | None = None
    for encoder in range(last):
        if encoder not in consumers and draw(st.booleans()):
            taken = groups is not None and draw(st.booleans())
            own = Rows(encoder, 0, groups) if taken else Rows(encoder, draw(st.integers(2, 60)))
            groups = groups if taken else encoder
            rows.append(own)
        if any(m.encoder == encoder and m.pairs for m in merges):
            groups = None
    return Plan(of, tuple(draw(st.permutations(merges))), tuple(draw(st.permutations(rows))))


def consumers_of(plan: Plan) -> tuple[int, ...]:
    return plan.consumers


@given(plans())
def test_text_and_plan_are_one_to_one(plan: Plan) -> None:
    assert Plan.parse(str(plan)) == plan
    assert str(Plan.parse(str(plan))) == str(plan)


@given(plans(), st.randoms())
def test_the_order_of_items_does_not_matter(plan: Plan, random) -> None:
    items = str(plan).split()
    random.shuffle(items)
    again = Plan.parse(", ".join(items))
    assert again == plan
    assert hash(again) == hash(plan)
    assert again.key == plan.key
    assert list(again.consumers) == sorted(plan.consumers)


@given(plans(), plans())
def test_plans_are_equal_where_their_texts_are(one: Plan, other: Plan) -> None:
    assert (one == other) == (str(one) == str(other)) == (one.key == other.key)


@given(plans())
def test_sources_are_producers_that_run_before(plan: Plan) -> None:
    assert not set(plan.sources) & set(plan.consumers)
    for reuse in plan.reuses:
        assert reuse.source < reuse.consumer or reuse.is_average
        assert plan.reuse_of(reuse.consumer) == reuse
    assert plan.n_reuse == len(plan.consumers) == len(plan.reuses)
    assert all(plan.reuse_of(source) is None for source in plan.sources)
    plan.validate(layout(MOST_ENCODERS))


@given(plans())
def test_an_encoder_tells_all_that_is_done_there(plan: Plan) -> None:
    told = [plan.at(encoder) for encoder in range(plan.named_encoders)]
    assert all(plan.at(e) == EncoderPlan(None) for e in range(plan.named_encoders, MOST_ENCODERS))
    assert Plan(
        tuple(here.reuse for here in told if here.reuse),
        tuple(Merge(encoder, here.pairs) for encoder, here in enumerate(told)),
        tuple(
            Rows(encoder) if here.class_rows
            else Rows(encoder, 0 if here.groups_of is not None else here.shared, here.groups_of)
            for encoder, here in enumerate(told) if here.class_rows or here.shared
        ),
    ) == plan  # fmt: skip
    for here in told:
        if here.groups_of is not None:
            assert here.shared == plan.at(here.groups_of).shared


@given(plans())
def test_tokens_fall_by_the_pairs_that_merge(plan: Plan) -> None:
    counts = plan.tokens(layout(MOST_ENCODERS))
    pairs = [plan.at(encoder).pairs for encoder in range(MOST_ENCODERS)]
    for encoder, (attention, mlp) in enumerate(counts):
        assert attention == 197 - sum(pairs[:encoder])
        assert mlp == (1 if plan.at(encoder).only_class else attention - pairs[encoder])


@given(reuses(), st.sampled_from(TRANSFORMS))
def test_transforms_are_of_the_plan(of: tuple[Reuse, ...], transform) -> None:
    plan = Plan(of)
    assert plan.transforms == {reuse.consumer: reuse.transform for reuse in of}
    assert plan.with_transforms(plan.transforms) == plan
    same = plan.with_transforms(transform)
    assert set(same.transforms.values()) <= {transform}
    assert (same.transform or transform) == transform
    bare = " ".join(f"{r.consumer}<-{r.source}:{r.tensor}" for r in of)
    assert Plan.parse(bare, transform) == same


@given(st.sets(st.integers(1, MOST_ENCODERS - 1)), st.sampled_from(REUSED_TENSORS))
def test_nearest_takes_the_last_producer_before(consumers: set[int], tensor) -> None:
    plan = Plan.nearest(consumers, tensor)
    assert set(plan.consumers) == consumers
    for reuse in plan.reuses:
        assert reuse.form == (tensor, "linear")
        assert reuse.source not in consumers
        assert all(i in consumers for i in range(reuse.source + 1, reuse.consumer))


@given(plans())
def test_plans_travel_between_processes(plan: Plan) -> None:
    assert pickle.loads(pickle.dumps(plan)) == plan


def test_the_empty_plan() -> None:
    assert Plan.parse("") == Plan.parse(" , ") == Plan() == Plan.nearest([])
    assert str(Plan()) == ""
    assert Plan().sources == Plan().consumers == ()


def test_text_is_canonical() -> None:
    plan = Plan.parse("11=class 9<-6:map,7<-6:output/linear 6~40 2<-1:output/none  5<-4 3~0 2~8")
    assert str(plan) == "2<-1:output/none 5<-4 7<-6 9<-6:map/linear 2~8 6~40 11=class"
    assert plan.sources == (1, 4, 6)
    assert plan.transform == "linear+none"
    assert plan.named_encoders == 12


def test_keys_name_files_and_never_change() -> None:
    # Run folders hold these (more of them in tests/data/v0_1): a change makes them unreadable.
    assert Plan().key == "e3b0c44298fc1c14"
    assert Plan.parse("5<-4 7<-6").key == "95c38c26052871ff"
    assert Plan.parse("3~40 11=class").key == "a932c5eacba6590f"
    assert Plan.parse("5<-4 3~40 6~40 11=class").key == "42bb61b5e9fbaa0a"


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("0<-0", "encoder 0 cannot reuse: nothing runs before it", "from 1 on"),
        ("0<-3", "encoder 0 cannot reuse", "from 1 on"),
        ("3<-3", "encoder 3 cannot reuse encoder 3", "from 0 to 2"),
        ("8<-9", "encoder 8 reuses encoder 9, which runs later", "from 0 to 7"),
        ("5<-4 6<-5", "encoder 6 reuses encoder 5, which is itself a consumer", "encoder 5"),
        ("5<-4 5<-3", "encoder 5 has two sources", "once"),
        ("5<-4 5<-4", "encoder 5 has two sources", "once"),
        ("5<-4:maps", "encoder 5 reuses an unknown tensor 'maps'", "output, map"),
        ("5<4", "'5<4' is not part of a plan", '"5<-4 7<-6"'),
        ("5<-4/none", "'5<-4/none' is not part of a plan", '"7<-6:map/linear"'),
        ("5<-4:map/liner", "'liner' is not a transform", "none, linear, block, linear_own"),
        ("3~4 3~5", "encoder 3 merges twice", "once"),
        ("3~-4", "'3~-4' is not part", "encoder~pairs"),
        ("3~", "'3~' is not part", "encoder~pairs"),
        ("~3", "'~3' is not part", "encoder~pairs"),
        ("11=class 11=class", "encoder 11 has its rows named twice", "once"),
        ("11=patch", "'11=patch' is not part of a plan", "11=class"),
        ("3:output/average", "'3:output/average' is not part of a plan", "3~40"),
        ("5<-4:output/mixed", "encoder 5 cannot reuse an output through 'mixed'", "reuse the map"),
        ("5<-4:map/average", "encoder 5 has an average map, which has no source", "5:map/average"),
        ("6=3 6=@4", "encoder 6 has its rows named twice", "once"),
        ("11=", "'11=' is not part", "11=class"),
        ("5<-", "'5<-' is not part", "consumer<-source"),
        ("<-4", "'<-4' is not part", "consumer<-source"),
        ("-1<-0", "'-1<-0' is not part", "consumer<-source"),
        ("5.0<-4", "'5.0<-4' is not part", "consumer<-source"),
        ("5<-4:MAP", "'5<-4:MAP' is not part", "consumer<-source"),
        ("5 <- 4", "'5' is not part", "consumer<-source"),
        ("five<-four", "'five<-four' is not part", "consumer<-source"),
    ],
)
def test_invalid_plans_say_what_is_wrong(text: str, message: str, hint: str) -> None:
    with pytest.raises(PlanError) as caught:
        Plan.parse(text)
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_a_negative_source_is_refused() -> None:
    with pytest.raises(PlanError, match="cannot reuse encoder -1"):
        Plan((Reuse(1, -1),))


def test_a_plan_beyond_the_model_is_refused() -> None:
    plan = Plan.parse("5<-4 11<-4")
    plan.validate(layout(12))
    for beyond in (plan, Plan.parse("11~4"), Plan.parse("11=class")):
        with pytest.raises(PlanError, match="names encoder 11, but the model has 11 enc") as e:
            beyond.validate(layout(11))
        assert "0 to 10" in e.value.hint
    Plan().validate(layout(0))


@pytest.mark.parametrize(
    ("text", "more", "message", "hint"),
    [
        ("3~120", {}, "encoder 3 merges 120 pairs of 197 tokens; at most 98", "fewer"),
        ("2~90 3~54", {}, "encoder 3 merges 54 pairs of 107 tokens; at most 53", "before it"),
        ("3~98", {"protected": 3}, "merges 98 pairs of 197 tokens; at most 97", "fewer"),
        ("3~4", {"no_merging": "its tokens lie on a grid"},
         "encoder 3 cannot merge tokens: its tokens lie on a grid", "leave 3~4 out"),
        ("3=class", {}, "encoder 3 cannot compute its class rows only: encoder 4 reads all",
         "11=class"),
        ("11=class", {"no_class_rows": "its head reads the patches"},
         "encoder 11 cannot compute its class rows only: its head reads the patches",
         "leave 11=class out"),
        ("11<-4:map 11=class", {}, "encoder 11 is the last, of which the head reads class rows",
         "leave 11=class out"),
        ("5<-4:map 5=class", {"class_tokens": 0},
         "encoder 5 cannot compute its class rows: the model has no class", "leave 5=class out"),
        ("5=198", {}, "encoder 5 shares 198 rows among 197 tokens; at most 197", "fewer rows"),
        ("3~98 5=100", {}, "encoder 5 shares 100 rows among 99 tokens; at most 99", "merge less"),
        ("5=1", {}, "encoder 5 shares 1 rows; at least 2", "rows of their own"),
        ("5<-4 5=20", {}, "encoder 5 reuses and has no queries", "leave 5=20 out"),
        ("5=@4", {}, "encoder 5 takes the groups of encoder 4, which matches none", "4=53"),
        ("4=20 4~9 5=@4", {}, "encoder 5 takes the groups of encoder 4, but encoder 4 merges",
         "rows of its own"),
        ("5<-4:map/mixed", {"no_map_rows": "words have no places"},
         "encoder 5 cannot mix maps: words have no places", "leave 5<-4:map/mixed out"),
        ("11~4 11=class", {}, "encoder 11 computes its class rows only, which do not merge",
         "leave 11~4 out"),
    ],
)  # fmt: skip
def test_what_a_model_cannot_run_says_why(
    text: str, more: dict[str, Any], message: str, hint: str
) -> None:
    with pytest.raises(PlanError) as caught:
        Plan.parse(text).validate(layout(12, **more))
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_reuse_stays_within_a_stage() -> None:
    staged = Layout(stages=(0, 0, 1, 1), tokens=49)
    Plan.parse("1<-0 3<-2").validate(staged)
    with pytest.raises(PlanError, match="encoder 2 cannot reuse encoder 1: they lie in diff"):
        Plan.parse("2<-1").validate(staged)


@pytest.mark.parametrize(
    ("transforms", "message"),
    [
        ("square", "'square' is not a transform"),
        ({5: "none", 6: "none"}, "encoder 6 has a transform but does not reuse"),
        ({}, "consumer 5 has no transform"),
    ],
)
def test_transforms_that_do_not_fit_say_why(transforms, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        Plan.parse("5<-4 3~4").with_transforms(transforms)
    with pytest.raises(PlanError, match="'square' is not a transform"):
        Plan.parse("5<-4", "square")


def test_the_three_families() -> None:
    strided = Plan.strided(stride=2, start=3, n_reuse=4)
    assert str(strided) == "3<-2 5<-4 7<-6 9<-8"
    continuous = Plan.continuous(start=3, n_reuse=4)
    assert str(continuous) == "3<-2 4<-2 5<-2 6<-2"
    pyramid = Plan.pyramid(stride=3, run=2, start=1, n_reuse=4)
    assert str(pyramid) == "1<-0 4<-3 5<-3 8<-7"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Plan.strided(stride=1, start=1, n_reuse=2), "stride is too small"),
        (lambda: Plan.strided(stride=2, start=0, n_reuse=2), "start is too small"),
        (lambda: Plan.strided(stride=2, start=1, n_reuse=0), "n_reuse is too small"),
        (lambda: Plan.continuous(start=0, n_reuse=2), "start is too small"),
        (lambda: Plan.pyramid(stride=2, run=1, start=1, n_reuse=4), "run is too small"),
        (lambda: Plan.pyramid(stride=2, run=3, start=1, n_reuse=4), "cannot have a run of 3"),
        (lambda: Plan.pyramid(stride=2, run=4, start=1, n_reuse=4), "cannot have a run of 4"),
    ],
)
def test_families_refuse_shapes_that_do_not_exist(make, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        make()


def test_the_papers_eleven_patterns() -> None:
    # TReX's example: nine encoders, four of them reuse.
    assert set(map(consumers_of, uniform_plans(9, 4))) == {
        (1, 3, 5, 7), (2, 4, 6, 8),
        (1, 3, 4, 6), (2, 4, 5, 7), (3, 5, 6, 8),
        (1, 4, 5, 8),
        (1, 2, 3, 4), (2, 3, 4, 5), (3, 4, 5, 6), (4, 5, 6, 7), (5, 6, 7, 8),
    }  # fmt: skip


def test_twelve_encoders_five_consumers_by_hand() -> None:
    # Strided by 2: three starts. Continuous: seven. A run of three between single ones: five
    # starts with stride 2, three with stride 3, one with stride 4.
    assert len(uniform_plans(12, 5)) == 3 + 7 + 5 + 3 + 1 == 19


@given(st.integers(1, 14), st.integers(0, 14))
def test_uniform_plans_are_nearest_producer_plans(num_encoders: int, n_reuse: int) -> None:
    found = uniform_plans(num_encoders, n_reuse)
    assert len(set(found)) == len(found)
    assert bool(found) == (n_reuse < num_encoders)
    for plan in found:
        plan.validate(layout(num_encoders))
        assert plan.n_reuse == n_reuse
        assert plan == Plan.nearest(plan.consumers)


def test_a_model_without_encoders_takes_no_plan() -> None:
    Plan().validate(layout(0))
    for text in ("5<-4", "3~4", "11=class"):
        with pytest.raises(PlanError, match="no encoders that TReX understands"):
            Plan.parse(text).validate(layout(0))


# ---- at the edges of what is allowed (these mutants survived the tests above)


def test_transforms_of_others_stay() -> None:
    plan = Plan.parse("3<-2:map/mixed 5<-4:map 7<-6")
    assert str(plan.with_transforms("linear")) == str(
        Plan.parse("3<-2:map/mixed 5<-4:map/linear 7<-6:output/linear")
    )
    assert Plan.nearest((2,), "map", "linear").reuses == (Reuse(2, 1, "map", "linear"),)


@pytest.mark.parametrize(
    ("make", "what", "least"),
    [
        (lambda: Plan.continuous(start=1, n_reuse=0), "n_reuse", 1),
        (lambda: Plan.continuous(start=0, n_reuse=1), "start", 1),
        (lambda: Plan.pyramid(stride=1, run=2, start=1, n_reuse=4), "stride", 2),
        (lambda: Plan.pyramid(stride=2, run=1, start=1, n_reuse=4), "run", 2),
        (lambda: Plan.pyramid(stride=2, run=2, start=0, n_reuse=4), "start", 1),
        (lambda: Plan.pyramid(stride=2, run=2, start=1, n_reuse=0), "n_reuse", 1),
    ],
)
def test_patterns_of_nothing_are_refused(make: Any, what: str, least: int) -> None:
    with pytest.raises(PlanError, match=f"{what} is too small") as error:
        make()
    assert error.value.hint == f"give {what} of at least {least}"
    assert str(Plan.pyramid(stride=2, run=2, start=1, n_reuse=4)) == "1<-0 3<-2 4<-2 6<-5"


def test_the_most_that_can_merge_and_share() -> None:
    two = layout(3, tokens=9)
    assert (two.most_pairs(9), two.most_pairs(2), two.most_pairs(1)) == (4, 0, 0)
    Plan.parse("0~4").validate(two)
    with pytest.raises(PlanError, match="at most 4"):
        Plan.parse("0~5").validate(two)
    Plan.parse("1=9").validate(two)  # every token a row of its own
    with pytest.raises(PlanError, match="at most 9"):
        Plan.parse("1=10").validate(two)
    merged = Plan.parse("0~4 1=5")
    merged.validate(two)
    assert [merged.attending(encoder, two) for encoder in range(3)] == [9, 5, 5]
    with pytest.raises(PlanError, match="at most 5"):
        Plan.parse("0~4 1=6").validate(two)


@pytest.mark.parametrize("text", ["1=@2 2=5", "2=@1 1=class", "2=@1 1=@0 0=5", "2=@1", "1=@1"])
def test_groups_are_those_an_earlier_encoder_matched(text: str) -> None:
    with pytest.raises(PlanError):
        Plan.parse(text).validate(layout(4, tokens=9))


def test_where_maps_cannot_be_mixed_averages_cannot_either() -> None:
    for text in ("2<-1:map/mixed", "2:map/average"):
        with pytest.raises(PlanError, match="cannot mix maps: its rows differ"):
            Plan.parse(text).validate(layout(4, no_map_rows="its rows differ"))


def test_numbers_and_texts_are_cut_at_their_longest() -> None:
    assert Plan.parse("999999999<-0").consumers == (999999999,)
    with pytest.raises(PlanError, match="has 10 digits"):
        Plan.parse("1000000000<-0")
    with pytest.raises(PlanError) as error:
        Plan.parse("x" * 40)
    assert "x" * 40 in str(error.value)
    with pytest.raises(PlanError) as error:
        Plan.parse("y" * 41)
    assert "y" * 37 + "..." in str(error.value)
    assert "y" * 38 not in str(error.value)
