from __future__ import annotations

import multiprocessing
import os
import time

import pytest

from camserve.broker import QueueOptions, connect, failures, keys, model_of, new_job_id
from camserve.contracts.failures import FailureMessage


def test_ids_carry_their_model_and_sort_by_time():
    ids = [new_job_id("resnet-50.v1_b") for _ in range(5000)]
    assert ids == sorted(ids)
    assert len(set(ids)) == 5000
    assert {model_of(job_id) for job_id in ids} == {"resnet-50.v1_b"}
    assert all(len(job_id.split("-")[0]) == 26 for job_id in ids)
    time.sleep(0.002)
    assert new_job_id("a") > ids[-1]


@pytest.mark.parametrize(
    "job_id",
    [
        "",
        "x",
        "01JD-m",
        "01JD8Q4V1N0Z7M3K5T9W2XACBE",
        "01JD8Q4V1N0Z7M3K5T9W2XACBE-",
        "01JD8Q4V1N0Z7M3K5T9W2XACBE-m\n",
        "01JD8Q4V1N0Z7M3K5T9W2XACBE-{m}",
        "01jd8q4v1n0z7m3k5t9w2xacbe-m",
        "8" * 26 + "-m",
    ],
)
def test_malformed_ids(job_id: str):
    with pytest.raises(ValueError, match="not a job id"):
        model_of(job_id)


@pytest.mark.parametrize("model", ["", "a b", "{a}", "a/b", ".a", "a" * 129, "é"])
def test_names_that_are_no_models(model: str):
    with pytest.raises(ValueError, match="not a model name"):
        new_job_id(model)
    with pytest.raises(ValueError, match="not a model name"):
        keys.prefix(model)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_forked_children_do_not_count_on_from_their_parent():
    new_job_id("m")
    with multiprocessing.get_context("fork").Pool(2) as pool:
        ids = pool.map(new_job_id, ["m"] * 200)
    assert len(set(ids)) == 200


def test_options_are_positive():
    with pytest.raises(ValueError, match="lease_s must be positive"):
        QueueOptions(lease_s=0)


def test_only_redis_urls_are_taken():
    with pytest.raises(ValueError, match="not a Redis URL"):
        connect("http://localhost")


@pytest.mark.parametrize("failure", [failures.EXPIRED, failures.DEAD, failures.PAYLOAD_LOST])
def test_failures_of_the_queue_read_like_all_others(failure: str):
    assert FailureMessage.model_validate_json(failure).to_error().error_code
