"""Dashboards and alerts ask for what the parts really have, in words that Prometheus itself accepts."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from tests.support.prometheus import ROOT, filled_in, panels, program

CHART = ROOT / "charts" / "rapidfireai"
RULES = CHART / "alerts" / "rules.yaml"
TESTS = Path(__file__).with_name("rules_test.yaml")


def promtool(*words: str, given: bytes = b"") -> None:
    answer = subprocess.run([program("promtool"), *words], input=given, capture_output=True, check=False)
    assert answer.returncode == 0, (answer.stdout + answer.stderr).decode()


def test_the_alerts_are_rules_that_prometheus_accepts() -> None:
    promtool("check", "rules", str(RULES))


def test_each_alert_fires_when_it_should_and_not_before(tmp_path: Path) -> None:
    test = yaml.safe_load(TESTS.read_text())
    test["rule_files"] = [str(RULES)]
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(test))
    promtool("test", "rules", str(tmp_path / "test.yaml"))
    tried = {case["alertname"] for each in test["tests"] for case in each["alert_rule_test"] if case.get("exp_alerts")}
    assert tried == {rule["alert"] for rule in yaml.safe_load(RULES.read_text())["groups"][0]["rules"]}


def test_each_alert_has_a_section_that_says_what_to_do() -> None:
    headings = re.findall(r"^### (Rapidfire\w+)$", (ROOT / "docs" / "monitoring.md").read_text(), re.MULTILINE)
    rules = yaml.safe_load(RULES.read_text())["groups"][0]["rules"]
    assert headings == [rule["alert"] for rule in rules]
    runbooks = [rule["annotations"]["runbook_url"].partition("#")[2] for rule in rules]
    assert runbooks == [heading.lower() for heading in headings]


def test_the_queries_of_all_panels_are_promql(tmp_path: Path) -> None:
    queries = [target["expr"] for _, panel in panels(CHART / "dashboards") for target in panel["targets"]]
    rules = [{"record": f"panel:{index}", "expr": filled_in(query)} for index, query in enumerate(queries)]
    file = tmp_path / "panels.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    promtool("check", "rules", str(file))


@pytest.mark.parametrize("part", ["operator", "worker", "gateway", "volume"])
def test_names_and_help_texts_are_as_prometheus_wants_them(part: str) -> None:
    from monitoring.registries import registries
    from prometheus_client import generate_latest

    promtool("check", "metrics", given=generate_latest(registries()[part][0]))


def test_every_metric_has_a_prefix_a_help_text_and_a_place_on_a_dashboard_or_page() -> None:
    from monitoring.registries import families

    for family in families():
        assert family.name.startswith(("rapidfire_", "process_")), family
        assert family.help.endswith(".") or family.name.startswith("process_"), family


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("rapidfire_worker_los", "rapidfire_worker_los: no part has this metric"),
        ("sum(rate(rapidfire_worker_tokens[1m]))", "rapidfire_worker_tokens: no part has this metric"),
        ('rapidfire_worker_loss{rnu="a"}', "rapidfire_worker_loss: has no label rnu"),
        ("sum by (worker) (rapidfire_runs)", "worker: no metric of the query has this label"),
        ("up == 0", "no metric of ours"),
    ],
)
def test_a_query_for_what_no_part_has_is_refused_by_name(query: str, words: str) -> None:
    from monitoring.registries import UnknownMetricError, check, families

    with pytest.raises(UnknownMetricError, match=re.escape(words)):
        check(query, families())
