"""What a file would change: key by key, and nothing that would be as it is anyway."""

from hypothesis import given
from hypothesis import strategies as st

from serving.applying import Difference, changed, differences
from serving.config import Model, Pool, Replicas, Version

POOLS = st.lists(st.builds(Pool, name=st.sampled_from("abc"), cpu=st.sampled_from([0.5, 1.0])), max_size=3)
VERSIONS = st.builds(lambda pools: Version(pools=tuple({p.name: p for p in pools}.values())), POOLS)
MODELS = st.dictionaries(
    st.sampled_from("mn"),
    st.builds(
        Model, sticky=st.sampled_from(["", "header:x"]), versions=st.dictionaries(st.sampled_from("12"), VERSIONS)
    ),
)


def test_a_pool_that_goes_is_one_key_whatever_the_order() -> None:
    gpu, cpu = Pool(gpu=0.25, min=0, max=2), Pool(cpu=1, max=4)
    before = {"m": Model(weights={"1": 1.0}, versions={"1": Version(pools=(gpu, cpu))})}
    assert differences(before, before) == []
    swapped = {"m": Model(weights={"1": 1.0}, versions={"1": Version(pools=(cpu, gpu))})}
    assert differences(before, swapped) == []
    without = {"m": Model(weights={"1": 1.0}, versions={"1": Version(pools=(cpu,))})}
    found = Difference("models.m.versions.1.pools.gpu", {"min": 0, "max": 2, "gpu": 0.25}, None)
    assert differences(before, without) == [found]


def test_a_model_that_is_new_or_changes() -> None:
    wanted = {"m": Model(weights={"1": 1.0}, versions={"1": Version(replicas=Replicas(min=2))})}
    (new,) = differences({}, wanted)
    assert (new.key, new.before) == ("models.m", None)
    assert new.after == {"weights": {"1": 1.0}, "versions": {"1": {"replicas": {"min": 2, "max": 2}}}}
    now = {"m": Model(weights={"1": 0.5, "2": 0.5}), "other": Model()}
    keys = {d.key: (d.before, d.after) for d in differences(now, wanted)}
    assert keys["models.m.weights.1"] == (0.5, 1.0) and keys["models.m.weights.2"] == (0.5, None)
    assert changed(now, wanted) == wanted  # what the file does not name stays


@given(MODELS, MODELS)
def test_there_are_differences_where_something_is_written(before: dict[str, Model], wanted: dict[str, Model]) -> None:
    named = {difference.key.split(".")[1] for difference in differences(before, wanted)}
    assert named <= changed(before, wanted).keys()
    order_alone = changed(before, wanted).keys() - named
    assert all(before[name].versions.keys() == wanted[name].versions.keys() for name in order_alone)
