"""Rules of the pure decisions, each switched off alone: pods, acts, gate."""

import json
from typing import Any

import msgspec

from fraudops.canonical import decode_json
from fraudops.promotion import admission, changes, convergence, pod_rules, serving_record
from fraudops.promotion.pod_rules import Follow, PodState, Stay
from fraudops.promotion.ports import PodRef
from fraudops.signing import credentials, verdicts
from tests.support.simulation.switch_off import Off, constant, off
from tests.support.simulation.world import Rules

# -- what a pod does


def _follow_anything(now: PodState, record: Any, template: Any) -> Any:
    target = pod_rules.destination(record, template)
    return Follow(target) if target and target.digest != now.digest else Stay()


def _obey_template(record: Any, template: Any) -> Any:
    return template or (record.current.target if record.current else None)


def _start_from_the_record(before: PodState, record: Any, template: Any) -> PodState:
    target = pod_rules.destination(record, template) if record else None
    return PodState().serving(target, "cache") if target else before


POD_RULES = {
    "pods refuse lower epochs": Off(
        patches=(
            (pod_rules, "check_step", constant(None)),
            (pod_rules, "on_record", _follow_anything),
        )
    ),
    "pods read the record by themselves": Off(rules=Rules(pods_poll=False)),
    "a new pod obeys its template only while the record reserves the same": off(
        pod_rules, "destination", _obey_template
    ),
    # A promoter that waits for starting pods would hide this. It waits 3 s, and a slow kubelet may
    # take longer.
    "a pod looks at the record once more before it turns ready": Off(
        patches=(
            (pod_rules, "may_turn_ready", constant(True)),
            (PodRef, "is_starting", False),
        ),
        odds={"slow kubelet": 0.7, "a pod ends": 1.0},
    ),
    "a promoter gives a starting pod the time for one read": Off(
        patches=((PodRef, "is_starting", False),), odds={"slow kubelet": 0.7, "a pod ends": 1.0}
    ),
    "a container that restarts keeps its epoch": off(pod_rules, "on_start", _start_from_the_record),
}

# -- acts


def _push_always(reserved: Any, record: Any) -> Any:
    if reserved.act == "rollback":
        return record.stack[changes._steps_back(record) :]
    return (record.current, *record.stack) if record.current else record.stack


def _rollback_keeps_the_stack(reserved: Any, record: Any) -> Any:
    if reserved.act == "rollback":
        return (record.current, *record.stack[changes._steps_back(record) :])
    return _STACK_AFTER(reserved, record)


def _undo_pushes_the_failed(*arguments: Any) -> Any:
    undone = _COMMIT_UNDO(*arguments)
    undo = arguments[1]
    return msgspec.structs.replace(undone, stack=(undo.failed, *undone.stack))


def _undo_of_any_act(record: Any, request: str) -> Any:
    failed, back = record.current, record.previous
    if failed is None or back is None or not record.is_unreported(request):
        return None
    if failed.by != request or changes.changes_schema(record, back):
        return None
    return changes.Undo(failed, back)


def _undo_of_anybody(record: Any, request: str) -> Any:
    failed, back = record.current, record.previous
    if failed is None or back is None or failed.act != "promote":
        return None
    if failed.is_same_model(back) or changes.changes_schema(record, back):
        return None
    return changes.Undo(failed, back)


def _undo_across_schemas(record: Any, request: str) -> Any:
    failed, back = record.current, record.previous
    own = failed and back and failed.by == request and failed.act == "promote"
    if not own or not record.is_unreported(request):
        return None
    return changes.Undo(failed, back)


def _way_back_is_the_top(record: Any) -> int:
    return 1 if record.stack else 0


_STACK_AFTER, _COMMIT_UNDO = changes._stack_after, convergence.commit_undo
UNDO_WEATHER = {"pods_fall_silent_after_a_commit": 1.0}
ACTS = {
    "a model is never its own way back": off(changes, "_stack_after", _push_always),
    "a rollback pops the stack": off(changes, "_stack_after", _rollback_keeps_the_stack),
    "an undo never pushes the failed version": off(
        convergence, "commit_undo", _undo_pushes_the_failed, **UNDO_WEATHER
    ),
    "only a promotion is undone": off(convergence, "decide_undo", _undo_of_any_act, **UNDO_WEATHER),
    "a promotion is undone only before its promoter has reported": off(
        convergence, "decide_undo", _undo_of_anybody, **UNDO_WEATHER
    ),
    "an undo never changes the schema": off(
        convergence, "decide_undo", _undo_across_schemas, **UNDO_WEATHER
    ),
    "a schema changes only by rollout": off(changes, "changes_schema", constant(False)),
}

# -- the gate


def _as_passed(signed: Any, digest: str, keys: Any) -> Any:
    return msgspec.structs.replace(_CHECK_VERDICT(signed, digest, keys), passed=True)


def _of_any_digest(signed: Any, _: str, keys: Any) -> Any:
    return _CHECK_VERDICT(signed, json.loads(signed.verdict)["digest"], keys)


def _of_any_signer(signed: Any, _digest: str, _keys: Any) -> Any:
    return decode_json(signed.verdict.encode(), verdicts.Verdict)


def _of_any_request(signed: Any, version: str, digest: str, _request: str, *rest: Any) -> Any:
    return credentials.read_waiver(signed, version, digest, rest[-1])


_CHECK_VERDICT = credentials.check_verdict
_UNSIGNED_FIELDS = tuple(
    name for name in serving_record._MODEL_FIELDS if not name.startswith("signed_")
)
GATE = {
    "a failed verdict admits no version": off(credentials, "check_verdict", _as_passed),
    "a verdict of another digest admits no version": off(
        credentials, "check_verdict", _of_any_digest
    ),
    "an unsigned verdict admits no version": off(credentials, "check_verdict", _of_any_signer),
    "a version is compared again when production has moved": off(
        admission, "_moved", constant(False)
    ),
    "a waiver belongs to one act": off(
        credentials, "check_waiver", _of_any_request, replayed_waiver=1.0
    ),
    "an entry carries what proves it": off(serving_record, "_MODEL_FIELDS", _UNSIGNED_FIELDS),
}
