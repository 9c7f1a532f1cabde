"""deploy/kubernetes, as far as it can be checked without a cluster."""

import pytest
import yaml
from tests.deploy import compose

from tunix_rt_trainer import offline

SERVICE, JOB = yaml.safe_load_all((compose.DEPLOY / "kubernetes" / "train.yaml").read_text())
POD = JOB["spec"]["template"]["spec"]
[CONTAINER] = POD["containers"]


def given(index="0"):
    """The arguments as the command line of the pod with this index reads them."""
    arguments = [argument.replace("$(JOB_COMPLETION_INDEX)", index) for argument in CONTAINER["args"]]
    return offline.command_line().parse_args(arguments)


@pytest.mark.parametrize("index", [0, 1])
def test_each_pod_is_one_process_of_the_run(index):
    assert JOB["spec"]["completionMode"] == "Indexed"
    assert JOB["spec"]["completions"] == JOB["spec"]["parallelism"] == given().processes
    assert given(str(index)).process == index


def test_pods_find_the_first_of_them_by_its_name():
    host, port = given().coordinator.split(":")
    assert host == f"{JOB['metadata']['name']}-0.{POD['subdomain']}"
    assert POD["subdomain"] == SERVICE["metadata"]["name"]
    assert SERVICE["spec"]["clusterIP"] == "None"
    assert SERVICE["spec"]["publishNotReadyAddresses"]
    assert SERVICE["spec"]["selector"] == {"job-name": JOB["metadata"]["name"]}
    assert [entry["port"] for entry in SERVICE["spec"]["ports"]] == [int(port)]


def test_all_that_is_read_and_written_lies_on_the_shared_volume():
    [shared] = [mount for mount in CONTAINER["volumeMounts"] if mount["name"] == "train"]
    for path in (given().spec, given().dataset, given().out, given().base_model):
        assert str(path).startswith(shared["mountPath"])
    assert {mount["name"] for mount in CONTAINER["volumeMounts"]} == {volume["name"] for volume in POD["volumes"]}


def test_exit_codes_mean_what_the_command_means_by_them():
    codes = {
        (rule["action"], *rule["onExitCodes"]["values"])
        for rule in JOB["spec"]["podFailurePolicy"]["rules"]
        if "onExitCodes" in rule
    }
    assert codes == {("FailJob", offline.BAD_INPUT), ("Ignore", offline.INTERRUPTED)}
    assert POD["restartPolicy"] == "Never"


def test_pod_runs_our_image_with_no_rights_that_it_does_not_need():
    trainer = compose.services()["trainer"]
    assert CONTAINER["image"] == trainer["image"]
    assert POD["securityContext"]["runAsNonRoot"]
    assert CONTAINER["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
