"""A fleet is checked, changed and rebooted by a service account that has the rights of docs/rbac.yaml and no others."""

import json

import pytest
import yaml

from tests.cli.fleets import CLUSTER
from tests.lab.rig import ROOT, Rig, a_lab

pytestmark = pytest.mark.lab

RBAC = "/apis/rbac.authorization.k8s.io/v1"
PATHS = {
    "ServiceAccount": "/api/v1/namespaces/{}/serviceaccounts",
    "ClusterRole": f"{RBAC}/clusterroles",
    "ClusterRoleBinding": f"{RBAC}/clusterrolebindings",
    "Role": f"{RBAC}/namespaces/{{}}/roles",
    "RoleBinding": f"{RBAC}/namespaces/{{}}/rolebindings",
}


def create(rig: Rig, manifest: dict) -> dict:
    path = PATHS[manifest["kind"]].format(manifest["metadata"].get("namespace"))
    return rig.kube(path, manifest, "POST")


def use_token_of(rig: Rig, account: dict) -> None:
    """From now on the inventory's kubeconfig is the account's."""
    name, namespace = account["metadata"]["name"], account["metadata"]["namespace"]
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    token = rig.kube(f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token", review, "POST")["status"]["token"]
    kubeconfig = json.loads((rig.directory / "kubeconfig").read_text())
    kubeconfig["users"][0]["user"] = {"token": token}
    path = rig.directory / "account"
    path.write_text(json.dumps(kubeconfig))
    inventory = yaml.safe_load(rig.inventory.read_text())
    inventory["cluster"] |= {"kubeconfig": str(path)}
    rig.inventory.write_text(yaml.safe_dump(inventory))


def test_the_rights_in_the_manifest_are_enough_for_a_rollout_and_a_check_misses_none(tmp_path):
    inventory = tmp_path / "small.yaml"
    inventory.write_text(CLUSTER.replace("./flake", str(ROOT / "flakes" / "lab")))
    manifests = [each for each in yaml.safe_load_all((ROOT / "docs" / "rbac.yaml").read_text()) if each]
    with a_lab(tmp_path, inventory) as rig:
        created = [create(rig, each) for each in manifests]
        use_token_of(rig, next(each for each in created if each["kind"] == "ServiceAccount"))

        checked = rig.deploy("check", rig.inventory, "--json")
        assert checked.returncode == 0, checked.stdout
        applied = rig.deploy("apply", rig.inventory, "--yes")
        assert applied.returncode == 0, applied.stdout + applied.stderr
        rebooted = rig.deploy("reboot", rig.inventory, "--all", "--yes", "--on", "w1,w2")
        assert rebooted.returncode == 0, rebooted.stdout + rebooted.stderr
        assert "403" not in rebooted.stdout + rebooted.stderr

        role = f"{PATHS['ClusterRole']}/nixkube-deploy"
        rules = rig.kube(role)
        rules["rules"][0]["verbs"].remove("patch")
        rig.kube(role, rules, "PUT")
        checked = rig.deploy("check", rig.inventory)
        assert checked.returncode == 3
        assert "the Kubernetes API would refuse us to patch nodes" in checked.stdout
