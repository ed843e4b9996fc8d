"""The questions to a cloud, with recorded answers of its own programs."""

import json
import os

import pytest
from recorded_cloud import RecordedCloud

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the recorder is a program with a shebang")
ACCOUNT = (["az", "account"], 0, json.dumps({"name": "my subscription"}), "")
DIGEST = (["docker"], 0, "Name: x\nDigest:    sha256:abc123\n", "")


def skus(**more) -> tuple[list[str], int, str, str]:
    capabilities = [{"name": "vCPUs", "value": "24"}, {"name": "GPUs", "value": "1"}]
    one = {"name": "Standard_NC24ads_A100_v4", "family": "StandardNCADSA100v4Family", "capabilities": capabilities}
    return (["list-skus"], 0, json.dumps([one | {"restrictions": []} | more]), "")


def usage(limit: int, used: int = 0) -> tuple[list[str], int, str, str]:
    given = [
        {
            "name": {"value": "Standard NCADSA100v4 Family Cluster Dedicated vCPUs"},
            "limit": limit,
            "current_value": used,
        },
        {"name": {"value": "Low Priority vCPUs"}, "limit": 100, "current_value": 0},
    ]
    return (["list-usage"], 0, json.dumps(given), "")


@pytest.fixture
def cloud(tmp_path, monkeypatch) -> RecordedCloud:
    return RecordedCloud(tmp_path, monkeypatch, ("az", "runpodctl", "docker"))


def test_a_size_with_quota_and_images_is_good(run, cloud):
    cloud.answer(ACCOUNT, skus(), usage(48), DIGEST)
    done = run("check_cloud_account", "--azure", "westeurope", "--machines", "2", "--json")
    assert done.code == 0, done.out
    assert "48 of 48 free" in done.out and "sha256:abc123" in done.out and "535" in done.out


def test_a_second_slot_without_quota_is_a_problem_with_the_number_to_ask_for(run, cloud):
    cloud.answer(ACCOUNT, skus(), usage(24), DIGEST)
    done = run("check_cloud_account", "--azure", "westeurope", "--machines", "2")
    assert done.code == 1 and "24 of 24 free; ask for 48, which takes days" in done.out


def test_spot_machines_share_one_quota(run, cloud):
    cloud.answer(ACCOUNT, skus(), usage(0), DIGEST)
    assert run("check_cloud_account", "--azure", "westeurope", "--spot").code == 0
    assert run("check_cloud_account", "--azure", "westeurope").code == 1


def test_a_size_that_the_subscription_may_not_use_is_a_problem(run, cloud):
    cloud.answer(ACCOUNT, skus(restrictions=[{"reasonCode": "NotAvailableForSubscription"}]), usage(48), DIGEST)
    done = run("check_cloud_account", "--azure", "westeurope")
    assert done.code == 1 and "NotAvailableForSubscription" in done.out
    cloud.answer(ACCOUNT, (["list-skus"], 0, "[]", ""), usage(48), DIGEST)
    assert "the region does not offer it" in run("check_cloud_account", "--azure", "westeurope").out


def test_a_grid_size_wants_the_image_for_cuda_12_9(run, cloud):
    cloud.answer(ACCOUNT, skus(name="Standard_NV36ads_A10_v5"), usage(48), DIGEST)
    done = run("check_cloud_account", "--azure", "westeurope", "--size", "Standard_NV36ads_A10_v5")
    assert "v0.32.0-cu129" in done.out


def test_a_tag_that_does_not_exist_is_a_problem(run, cloud):
    missing = (["docker"], 1, "", "ERROR: docker.io/vllm/vllm-openai:v0.32.0: not found\n")
    cloud.answer(ACCOUNT, skus(), usage(48), missing)
    assert run("check_cloud_account", "--azure", "westeurope").code == 1


def test_runpods_offer_is_looked_up(run, cloud):
    offer = "GPU TYPE    MEM GB  PRICE\n1x NVIDIA RTX A6000  48  0.49\n"
    cloud.answer((["runpodctl"], 0, offer, ""), DIGEST)
    assert "1x NVIDIA RTX A6000 48 0.49" in run("check_cloud_account", "--runpod", "rtx a6000").out
    assert run("check_cloud_account", "--runpod", "H100").code == 1


def test_missing_programs_are_said_and_who_is_not_logged_in_is_told(run, monkeypatch, cloud):
    cloud.answer((["az", "account"], 1, "", "ERROR: Please run 'az login' to setup account.\n"), DIGEST)
    done = run("check_cloud_account", "--azure", "westeurope")
    assert done.code == 1 and "az login" in done.out
    monkeypatch.setenv("PATH", "/nowhere")
    done = run("check_cloud_account", "--runpod", "RTX A6000")
    assert "runpodctl is not installed" in done.out and "docker is not installed" in done.out
    assert run("check_cloud_account").code == 2
