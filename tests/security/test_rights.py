"""The chart grants exactly what the table of rights lists: to each part, and to people."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.operator.harness import operator_rules
from tests.security import tables
from tests.security.rights import CLUSTER_WIDE, RELEASE, RIGHTS, Grant, granted
from tests.support.audited import Right

from rapidfireai.cluster.install import CHART, SYSTEM_NAMESPACE

Object = dict[str, Any]
PEOPLE = {"rapidfire-view", "rapidfire-edit", "rapidfire-admin"}
WORKSPACES = ["team-a", "team-b"]


def render(kubelocal: Path, **values: Any) -> list[Object]:
    words = [str(kubelocal), "helm", "template", "rapidfireai", str(CHART.resolve()), "--namespace", SYSTEM_NAMESPACE]
    answer = subprocess.run(
        [*words, "--values", "-"], input=yaml.safe_dump(values), capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr
    return [each for each in yaml.safe_load_all(answer.stdout) if each]


@pytest.fixture(scope="module")
def chart(kubelocal: Path) -> list[Object]:
    return render(kubelocal, workspaces=WORKSPACES)


def held(chart: list[Object], account: str, at: str, where: str) -> set[tuple[Right, tuple[str, ...]]]:
    """What an account of the namespace `at` may do in the namespace `where`, or with "" everywhere."""
    roles = {(each["kind"], each["metadata"]["name"], each["metadata"].get("namespace", "")): each for each in chart}
    found = set()
    for binding in chart:
        if binding["kind"] not in {"RoleBinding", "ClusterRoleBinding"}:
            continue
        place = binding["metadata"].get("namespace", "")
        names = {(each["name"], each.get("namespace")) for each in binding["subjects"]}
        if place != where or (account, at) not in names:
            continue
        reference = binding["roleRef"]
        of = place if reference["kind"] == "Role" else ""
        for rule in roles[reference["kind"], reference["name"], of]["rules"]:
            for group in rule["apiGroups"]:
                for resource in rule["resources"]:
                    limited = tuple(rule.get("resourceNames", ()))
                    found |= {(Right(group, resource, verb), limited) for verb in rule["verbs"]}
    return found


def listed(grants: tuple[Grant, ...]) -> set[tuple[Right, tuple[str, ...]]]:
    return {(right, grant.names) for grant in grants for right, _ in grant.rights()}


@pytest.mark.parametrize("account", RIGHTS)
def test_a_part_has_exactly_the_rights_of_the_table(chart: list[Object], account: str) -> None:
    wide = {(right, ()) for right in CLUSTER_WIDE.get(account, set())}
    central = account in {"rapidfire-operator", "rapidfire-gateway"}
    for workspace in WORKSPACES:
        home = SYSTEM_NAMESPACE if central else workspace
        assert held(chart, account, home, workspace) == listed(RIGHTS[account]) - wide
        assert held(chart, account, home, "") == wide
    if central:
        assert held(chart, account, SYSTEM_NAMESPACE, SYSTEM_NAMESPACE) == listed(RELEASE.get(account, ()))
    else:
        assert held(chart, account, "team-a", "team-b") == set(), "an account of one workspace has none in another"


def test_nobody_else_is_bound_to_anything(chart: list[Object]) -> None:
    bound = {
        subject["name"]
        for each in chart
        if each["kind"] in {"RoleBinding", "ClusterRoleBinding"}
        for subject in each["subjects"]
    }
    assert bound <= set(RIGHTS) - {"rapidfire-gateway"}


def test_there_is_no_wildcard_and_no_way_to_more_rights(chart: list[Object]) -> None:
    for each in chart:
        if each["kind"] not in {"Role", "ClusterRole"}:
            continue
        for rule in each["rules"]:
            words = {*rule["verbs"], *rule["resources"], *rule["apiGroups"]}
            assert "*" not in words, each["metadata"]["name"]
            assert words.isdisjoint({"escalate", "bind", "impersonate", "roles", "rolebindings", "clusterroles"})
            assert words.isdisjoint({"pods/exec", "pods/attach", "pods/portforward", "nodes/proxy"})
            assert "secrets" not in rule["resources"] or rule["verbs"] == ["create"], "nobody reads Secrets"


def test_the_contracts_name_the_same_rights_of_the_operator() -> None:
    written = {
        Right(rule["apiGroups"][0], resource, verb)
        for rule in operator_rules()
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert written == set(granted("rapidfire-operator"))


def test_roles_of_people_are_aggregated_unless_told_otherwise(kubelocal: Path, chart: list[Object]) -> None:
    def labels(objects: list[Object]) -> dict[str, dict[str, str]]:
        roles = (each["metadata"] for each in objects if each["kind"] == "ClusterRole")
        return {meta["name"]: meta["labels"] for meta in roles if meta["name"] in PEOPLE}

    key = "rbac.authorization.k8s.io/aggregate-to-"
    assert labels(chart).keys() == PEOPLE
    for name, found in labels(chart).items():
        assert [each for each in found if each.startswith(key)] == [key + name.removeprefix("rapidfire-")]
    alone = labels(render(kubelocal, rbac={"aggregateToDefaultRoles": False}))
    assert alone.keys() == PEOPLE
    assert not [each for found in alone.values() for each in found if each.startswith(key)]


def test_roles_may_be_made_by_somebody_else(kubelocal: Path) -> None:
    objects = render(kubelocal, rbac={"create": False})
    assert not [each for each in objects if each["kind"].startswith(("Role", "ClusterRole"))]
    accounts = {each["metadata"]["name"] for each in objects if each["kind"] == "ServiceAccount"}
    assert accounts >= set(RIGHTS)


@pytest.mark.parametrize("table", tables.TABLES, ids=lambda table: table.name)
def test_the_documentation_has_the_tables_of_the_tests(table: tables.Table) -> None:
    assert table.is_fresh(), "write them anew: python -m tests.security.tables"
