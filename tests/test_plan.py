from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trex.errors import PlanError
from trex.plan import REUSED_TENSORS, Reuse, ReusePlan, uniform_plans

MOST_ENCODERS = 24


@st.composite
def plans(draw: st.DrawFn) -> ReusePlan:
    """Any valid plan of up to 24 encoders; consumers reuse any earlier producer."""
    consumers = draw(st.sets(st.integers(1, MOST_ENCODERS - 1)))
    reuses = []
    for consumer in consumers:
        producers = [i for i in range(consumer) if i not in consumers]
        reuses.append(
            Reuse(
                consumer,
                draw(st.sampled_from(producers)),
                draw(st.sampled_from(REUSED_TENSORS)),
            )
        )
    return ReusePlan(tuple(draw(st.permutations(reuses))))


def consumers_of(plan: ReusePlan) -> tuple[int, ...]:
    return plan.consumers


@given(plans())
def test_text_and_plan_are_one_to_one(plan: ReusePlan) -> None:
    assert ReusePlan.parse(str(plan)) == plan
    assert str(ReusePlan.parse(str(plan))) == str(plan)


@given(plans(), st.randoms())
def test_the_order_of_items_does_not_matter(plan: ReusePlan, random) -> None:
    items = str(plan).split()
    random.shuffle(items)
    again = ReusePlan.parse(", ".join(items))
    assert again == plan
    assert hash(again) == hash(plan)
    assert again.key == plan.key
    assert list(again.consumers) == sorted(plan.consumers)


@given(plans(), plans())
def test_plans_are_equal_where_their_texts_are(one: ReusePlan, other: ReusePlan) -> None:
    assert (one == other) == (str(one) == str(other)) == (one.key == other.key)


@given(plans())
def test_sources_are_producers_that_run_before(plan: ReusePlan) -> None:
    assert not set(plan.sources) & set(plan.consumers)
    for reuse in plan:
        assert reuse.source < reuse.consumer
        assert plan.reuse_of(reuse.consumer) == reuse
    assert plan.n_reuse == len(plan.consumers) == len(list(plan))
    assert all(plan.reuse_of(source) is None for source in plan.sources)
    plan.validate(MOST_ENCODERS)


@given(st.sets(st.integers(1, MOST_ENCODERS - 1)), st.sampled_from(REUSED_TENSORS))
def test_nearest_takes_the_last_producer_before(consumers: set[int], tensor) -> None:
    plan = ReusePlan.nearest(consumers, tensor)
    assert set(plan.consumers) == consumers
    for reuse in plan:
        assert reuse.tensor == tensor
        assert reuse.source not in consumers
        assert all(i in consumers for i in range(reuse.source + 1, reuse.consumer))


@given(plans())
def test_plans_travel_between_processes(plan: ReusePlan) -> None:
    assert pickle.loads(pickle.dumps(plan)) == plan


def test_the_empty_plan() -> None:
    assert ReusePlan.parse("") == ReusePlan.parse(" , ") == ReusePlan() == ReusePlan.nearest([])
    assert str(ReusePlan()) == ""
    assert ReusePlan().sources == ReusePlan().consumers == ()


def test_text_is_canonical() -> None:
    plan = ReusePlan.parse("9<-6:map,7<-6:output  5<-4")
    assert str(plan) == "5<-4 7<-6 9<-6:map"
    assert plan.sources == (4, 6)


def test_keys_name_files_and_never_change() -> None:
    # Run folders of earlier versions hold these: a change makes them unreadable.
    assert ReusePlan().key == "e3b0c44298fc"
    assert ReusePlan.parse("5<-4 7<-6").key == "7e42b04804fa"
    assert ReusePlan.parse("5<-4:map").key == "28ad2d3a788a"


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
        ("5<4", "'5<4' is not part of a reuse plan", '"5<-4 7<-6"'),
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
        ReusePlan.parse(text)
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_a_negative_source_is_refused() -> None:
    with pytest.raises(PlanError, match="cannot reuse encoder -1"):
        ReusePlan((Reuse(1, -1),))


def test_a_plan_beyond_the_model_is_refused() -> None:
    plan = ReusePlan.parse("5<-4 11<-4")
    plan.validate(12)
    with pytest.raises(PlanError, match="names encoder 11, but the model has 11 encoders") as e:
        plan.validate(11)
    assert "0 to 10" in e.value.hint
    ReusePlan().validate(0)


def test_the_three_families() -> None:
    strided = ReusePlan.strided(stride=2, start=3, n_reuse=4)
    assert str(strided) == "3<-2 5<-4 7<-6 9<-8"
    continuous = ReusePlan.continuous(start=3, n_reuse=4)
    assert str(continuous) == "3<-2 4<-2 5<-2 6<-2"
    pyramid = ReusePlan.pyramid(stride=3, run=2, start=1, n_reuse=4)
    assert str(pyramid) == "1<-0 4<-3 5<-3 8<-7"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ReusePlan.strided(stride=1, start=1, n_reuse=2), "stride is too small"),
        (lambda: ReusePlan.strided(stride=2, start=0, n_reuse=2), "start is too small"),
        (lambda: ReusePlan.strided(stride=2, start=1, n_reuse=0), "n_reuse is too small"),
        (lambda: ReusePlan.continuous(start=0, n_reuse=2), "start is too small"),
        (lambda: ReusePlan.pyramid(stride=2, run=1, start=1, n_reuse=4), "run is too small"),
        (lambda: ReusePlan.pyramid(stride=2, run=3, start=1, n_reuse=4), "cannot have a run of 3"),
        (lambda: ReusePlan.pyramid(stride=2, run=4, start=1, n_reuse=4), "cannot have a run of 4"),
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
        plan.validate(num_encoders)
        assert plan.n_reuse == n_reuse
        assert plan == ReusePlan.nearest(plan.consumers)


def test_a_model_without_encoders_takes_no_plan() -> None:
    ReusePlan().validate(0)
    with pytest.raises(PlanError, match="no encoders that TReX understands"):
        ReusePlan.parse("5<-4").validate(0)
