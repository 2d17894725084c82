"""The verbs of features and labels that a team names, saves and uses again."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tapeline.assets.asset import aggregate, queries
from tapeline.bus import Verbs, accepted
from tapeline.contracts.assets import FeatureView, RemoveFeature, SaveFeature, StoreFeature
from tapeline.contracts.message import Accepted
from tapeline.decider import Deciders, origin_of
from tapeline.errors import TapelineError
from tapeline.ids import derived_id
from tapeline.projections import Reader
from tapeline.security.names import feature_name
from tapeline.subjects import Principal, Ref

if TYPE_CHECKING:
    from tapeline.assets.components import Registry


def feature_ref(team: str, name: str) -> Ref:
    """The stream of a name: made from it, so that a name is one thing in a team."""
    return Ref(team, "asset", derived_id(team, "asset", "feature", name))


def add_verbs(
    verbs: Verbs, *, deciders: Deciders, components: Callable[[], Registry], assets: Reader, log_id: str
) -> None:
    """Register the verbs of named features and labels; `features` of the assets lists them."""

    @verbs.user("save_feature")
    async def save(caller: Principal, request: SaveFeature) -> Accepted[FeatureView]:
        from tapeline.assets.asset.instances import instance, near, refusal
        from tapeline.assets.component import FeatureSpec
        from tapeline.assets.components import BUILT_IN

        name = feature_name(request.name, field="/name")
        if name in BUILT_IN:
            raise TapelineError(
                f"{name!r} is the name of a built-in {BUILT_IN[name]['component']}",
                code="already_exists",
                hint="take another name",
            )
        known = components()
        if request.component not in known:
            hint = near(request.component, known) or f"components are {', '.join(sorted(known))}"
            message = f"there is no component {request.component!r}"
            raise refusal("unknown_component", "/component", message, hint, request.component)
        kind = known[request.component].kind
        saved = {each.name: each.model_dump() for each in await assets.at(request.min_position, queries.saved, caller)}
        wanted = FeatureSpec(
            name=name,
            component=request.component,
            component_version=request.component_version,
            params=request.params,
        )
        made = instance(wanted, kind, "", known, {**BUILT_IN, **saved}).to_spec()
        command = StoreFeature(
            name=name,
            kind=kind,
            component=made["component"],
            component_version=made["component_version"],
            params=made["params"],
            user=caller.user,
            expected_version=request.expected_version,
        )
        ref = feature_ref(caller.team, name)
        outcome = await deciders.handle(aggregate, ref, command, origin_of(caller.actor, request.command_id))
        return accepted(outcome, _view(outcome.state, name), log_id)

    @verbs.user("remove_feature")
    async def remove(caller: Principal, request: RemoveFeature) -> Accepted[FeatureView]:
        ref = feature_ref(caller.team, request.name)
        before = await deciders.state(aggregate, ref)
        outcome = await deciders.handle(aggregate, ref, request, origin_of(caller.actor, request.command_id))
        return accepted(outcome, _view(before, request.name), log_id)


def _view(state: aggregate.State, name: str) -> FeatureView:
    if not isinstance(state, aggregate.Feature):
        raise TapelineError(f"there is no feature {name!r}", code="not_found", hint="tapeline asset features")
    spec = state.spec
    if spec is None:
        return FeatureView(
            name=state.name, version=state.version, kind="feature", component="", component_version=0, params={}
        )
    return FeatureView(
        name=spec.name,
        version=spec.version,
        kind=spec.kind,
        component=spec.component,
        component_version=spec.component_version,
        params=spec.params,
        user=spec.user,
    )
