"""What can happen to an asset, given / when / then."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from tapeline.assets.asset import aggregate
from tapeline.contracts.assets import (
    AssetBuildCancelled,
    AssetBuildFailed,
    AssetBuildRequested,
    AssetBuilt,
    AssetChecked,
    AssetRebuildFailed,
    AssetRebuildRequested,
    AssetRebuilt,
    AssetRemoved,
    CancelBuild,
    FailBuild,
    FailRebuild,
    FeatureRemoved,
    FeatureSaved,
    FinishBuild,
    FinishRebuild,
    MarkStale,
    RebuildAsset,
    RemoveAsset,
    RemoveFeature,
    RequestBuild,
    StoreFeature,
)
from tapeline.errors import TapelineError


def request(digest: str = "a") -> RequestBuild:
    return RequestBuild(name="demo", spec={"k": 1}, spec_digest=digest, tapes=["t"], user="ann")


def finish(digest: str = "a") -> FinishBuild:
    return FinishBuild(
        spec_digest=digest,
        certificate={"verdict": "passed"},
        verdict="passed",
        files=[{"name": "demo_test.h5", "size_bytes": 1, "sha256": "f" * 64}],
        rows={"demo_test.h5": 3},
        datasets=["x", "y"],
        features={"x": [1]},
        labels={"y": ["binary"]},
        data_digest="d" * 64,
    )


FAIL = FailBuild(
    spec_digest="a",
    code="leak_found",
    message="feature 'x' leaks",
    shard="SPY on 2013-10-08",
    certificate={"verdict": "failed"},
)
CANCEL = CancelBuild(name="demo")
REMOVE = RemoveAsset(name="demo")
AGAIN = RebuildAsset(name="demo")


def given(*commands: aggregate.AssetCommand) -> aggregate.State:
    state = aggregate.initial()
    for command in commands:
        for event in aggregate.decide(state, command):
            state = aggregate.evolve(state, event)
    return state


def kinds(state: aggregate.State, command: aggregate.AssetCommand) -> list[type]:
    return [type(event) for event in aggregate.decide(state, command)]


def test_a_build_is_requested_once() -> None:
    assert kinds(given(), request()) == [AssetBuildRequested]
    assert kinds(given(request()), request()) == []
    with pytest.raises(TapelineError, match="built from another spec") as refused:
        aggregate.decide(given(request()), request("b"))
    assert refused.value.code == "already_exists"


def test_certificate_and_files_come_in_one_commit() -> None:
    assert kinds(given(request()), finish()) == [AssetChecked, AssetBuilt]
    assert isinstance(given(request(), finish()), aggregate.Ready)


def test_a_leak_is_recorded_with_its_certificate() -> None:
    assert kinds(given(request()), FAIL) == [AssetChecked, AssetBuildFailed]
    state = given(request(), FAIL)
    assert isinstance(state, aggregate.Ended)
    assert (state.status, state.code) == ("failed", "leak_found")


def test_a_build_that_ended_without_an_asset_may_be_asked_for_again() -> None:
    assert kinds(given(request(), FAIL), request("b")) == [AssetBuildRequested]
    assert kinds(given(request(), CANCEL), request()) == [AssetBuildRequested]


def test_what_comes_after_the_end_has_no_effect() -> None:
    for state in (given(request(), CANCEL), given(request(), finish()), given(request(), REMOVE), given()):
        assert kinds(state, finish()) == []
        assert kinds(state, FAIL) == []
    assert kinds(given(request("b")), finish("a")) == []


def test_only_a_build_can_be_cancelled() -> None:
    assert kinds(given(request()), CANCEL) == [AssetBuildCancelled]
    assert kinds(given(request(), CANCEL), CANCEL) == []
    with pytest.raises(TapelineError, match="ready"):
        aggregate.decide(given(request(), finish()), CANCEL)
    with pytest.raises(TapelineError, match="there is no asset"):
        aggregate.decide(given(), CANCEL)


def test_removing_ends_a_build_and_a_second_removal_changes_nothing() -> None:
    assert kinds(given(request()), REMOVE) == [AssetBuildCancelled, AssetRemoved]
    assert kinds(given(request(), finish()), REMOVE) == [AssetRemoved]
    assert kinds(given(request(), REMOVE), REMOVE) == []
    with pytest.raises(TapelineError, match="there is no asset"):
        aggregate.decide(given(), REMOVE)


def store(params: dict[str, object], kind: Literal["feature", "label"] = "feature", **more: Any) -> StoreFeature:
    return StoreFeature(name="90_1daybar_lp%", kind=kind, component="bars", component_version=1, params=params, **more)


DROP = RemoveFeature(name="90_1daybar_lp%")


def test_a_feature_has_versions_and_equal_content_makes_none() -> None:
    (saved,) = aggregate.decide(given(), store({"count": 90}, user="ann"))
    assert isinstance(saved, FeatureSaved)
    assert (saved.version, saved.params, saved.user) == (1, {"count": 90}, "ann")
    assert kinds(given(store({"count": 90}, user="ann")), store({"count": 90}, user="bob")) == []
    (other,) = aggregate.decide(given(store({"count": 90})), store({"count": 5}))
    assert isinstance(other, FeatureSaved)
    assert other.version == 2


def test_a_name_that_must_be_new_is_refused_when_it_is_there() -> None:
    there = given(store({"count": 90}))
    for command, code in (
        (store({"count": 5}, expected_version=0), "already_exists"),
        (store({"count": 5}, expected_version=2), "conflict"),
        (store({"count": 5}, kind="label"), "already_exists"),
    ):
        with pytest.raises(TapelineError) as refused:
            aggregate.decide(there, command)
        assert refused.value.code == code
        assert refused.value.hint
    assert kinds(there, store({"count": 5}, expected_version=1)) == [FeatureSaved]
    assert kinds(given(), store({"count": 5}, expected_version=0)) == [FeatureSaved]


def test_a_feature_that_was_removed_goes_on_where_its_versions_stood() -> None:
    assert kinds(given(store({"count": 1})), DROP) == [FeatureRemoved]
    gone = given(store({"count": 1}), DROP)
    assert kinds(gone, DROP) == []
    (again,) = aggregate.decide(gone, store({"count": 1}, kind="label", expected_version=0))
    assert isinstance(again, FeatureSaved)
    assert again.version == 2
    with pytest.raises(TapelineError, match="there is no feature"):
        aggregate.decide(given(), DROP)


def test_the_name_of_a_feature_is_no_asset() -> None:
    feature = given(store({"count": 1}))
    for command in (request(), CANCEL, REMOVE):
        with pytest.raises(TapelineError, match="there is no asset"):
            aggregate.decide(feature, command)
    assert kinds(feature, FAIL) == []


def test_an_asset_is_built_again_to_be_compared_and_stays_what_it_is() -> None:
    ready = given(request(), finish(), MarkStale(tape="t"))
    assert kinds(ready, AGAIN) == [AssetRebuildRequested]
    again = given(request(), finish(), MarkStale(tape="t"), AGAIN)
    assert isinstance(again, aggregate.Ready)
    assert (again.rebuilding, again.stale, again.built) == (True, True, ready.built)  # type: ignore[union-attr]
    assert kinds(again, AGAIN) == []
    assert kinds(again, FinishRebuild(data_digest="d" * 64)) == [AssetRebuilt]
    ended = given(request(), finish(), MarkStale(tape="t"), AGAIN, FinishRebuild(data_digest="d" * 64))
    assert ended == ready
    assert kinds(ended, FinishRebuild(data_digest="e" * 64)) == []


def test_other_data_is_told_with_both_digests_and_replaces_nothing() -> None:
    again = given(request(), finish(), AGAIN)
    (failed,) = aggregate.decide(again, FinishRebuild(data_digest="e" * 64))
    assert isinstance(failed, AssetRebuildFailed)
    assert (failed.code, failed.data_digest) == ("not_reproducible", "e" * 64)
    assert "e" * 12 in failed.message
    assert "d" * 12 in failed.message
    assert failed.hint
    assert aggregate.evolve(again, failed) == given(request(), finish())
    assert kinds(again, FailRebuild(code="unknown_tape", message="gone")) == [AssetRebuildFailed]


def test_a_build_again_is_cancelled_and_goes_with_its_asset() -> None:
    again = given(request(), finish(), AGAIN)
    assert kinds(again, CANCEL) == [AssetRebuildFailed]
    assert given(request(), finish(), AGAIN, CANCEL) == given(request(), finish())
    assert kinds(again, REMOVE) == [AssetRemoved]
    assert kinds(given(request(), finish(), AGAIN, REMOVE), FailRebuild(code="internal", message="late")) == []


@pytest.mark.parametrize(
    ("before", "code"),
    [
        ((), "not_found"),
        ((request(),), "conflict"),
        ((request(), FAIL), "conflict"),
        ((request(), REMOVE), "not_found"),
    ],
)
def test_what_is_not_there_is_not_built_again(before: tuple[Any, ...], code: str) -> None:
    with pytest.raises(TapelineError) as refused:
        aggregate.decide(given(*before), AGAIN)
    assert (refused.value.code, bool(refused.value.hint)) == (code, True)
