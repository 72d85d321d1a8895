"""`make lint-chart`: a finding is explained or refused, and an explanation has a finding."""

import re

from tests.support.scripts import script

REPORT = {
    "results": {
        "failed_checks": [
            {"check_id": "CKV_K8S_1", "resource": "Deployment.fraud.fraudops-mlflow"},
            {"check_id": "CKV_K8S_1", "resource": "Job.fraud.fraudops-setup-1234abcd"},
        ]
    }
}
SCORES = [
    {
        "type_meta": {"kind": "StatefulSet"},
        "object_meta": {"name": "fraudops-postgresql"},
        "checks": [
            {"skipped": False, "grade": 10, "check": {"id": "passed", "name": "P"}, "comments": []},
            {"skipped": True, "grade": 0, "check": {"id": "skipped", "name": "S"}, "comments": []},
            {"skipped": False, "grade": 5, "check": {"id": "bare", "name": "B"}, "comments": None},
            {
                "skipped": False,
                "grade": 1,
                "check": {"id": "cpu", "name": "C"},
                "comments": [{"summary": "no limit"}, {"summary": "no request"}],
            },
        ],
    }
]


def test_findings_are_read_from_both_reports() -> None:
    lint = script("lint")
    expected = [("checkov CKV_K8S_1", "Deployment fraudops-mlflow")]
    expected += [("checkov CKV_K8S_1", "Job fraudops-setup")]
    for report in (REPORT, [REPORT]):
        assert [(each.check, each.object) for each in lint.of_checkov(report)] == expected
    checks = ("bare: B", "cpu: no limit", "cpu: no request")
    assert [(each.check, each.object) for each in lint.of_kube_score(SCORES)] == [
        (f"kube-score {check}", "StatefulSet fraudops-postgresql") for check in checks
    ]


def test_each_finding_needs_a_reason_and_each_reason_a_finding() -> None:
    lint = script("lint")
    found = [lint.Finding("a", "Pod x"), lint.Finding("a", "Pod y"), lint.Finding("b", "Pod x")]
    everything, one = lint.Reason("a", ("*",), "…"), lint.Reason("a", ("Pod x",), "…")
    assert lint.compare(found[:2], [everything]) == []
    assert lint.compare(found[:1], [one]) == []
    (new,) = lint.compare(found[:2], [one])
    assert new.startswith("Pod y: a is new: ")
    (new,) = lint.compare(found, [everything])
    assert new.startswith("Pod x: b is new: ")
    stale = lint.compare(found[:1], [everything, lint.Reason("a", ("Pod x", "Pod z"), "…")])
    assert [sentence.partition(" is no finding")[0] for sentence in stale] == ["Pod z: a"]
    (stale,) = lint.compare([], [everything])
    assert stale.startswith("*: a is no finding any more")


def test_every_reason_is_one_line() -> None:
    lint = script("lint")
    kept = lint.reasons(lint.REASONS.read_text())
    assert len({(each.check, name) for each in kept for name in each.objects}) == len(kept)
    for each in kept:
        assert each.check.startswith(("checkov CKV_", "kube-score ")), each
        assert re.fullmatch(r".{1,99}\.", each.because), each
