"""The cost model of k-means on several nodes: what its seconds follow from, on rates that are easy to reckon with."""

from __future__ import annotations

from dataclasses import replace

import pytest
from _scale_inputs import Nodes, PassRate, Problem, Rates
from _scale_model import memory_of, predict, seeding_passes


def rate(dim: int, k: int, value: float) -> PassRate:
    return PassRate(dim, k, first=value, early=2 * value, settled=4 * value, search=value, two_nearest=value / 2)


RATES = Rates((rate(256, 100, 10), rate(256, 1000, 40), rate(1024, 100, 20), rate(1024, 1000, 80)))
PROBLEM = Problem(1_000_000, 1024, 1000, iterations=9)
LOCAL = Nodes(1, 4, 64, distributed=False)


def test_rates_are_interpolated_between_the_sizes_that_were_measured_and_held_beyond_them() -> None:
    assert RATES.of_pass("first", 256, 100) == pytest.approx(10e9)
    assert RATES.of_pass("first", 512, 100) == pytest.approx((10 * 20) ** 0.5 * 1e9)
    assert RATES.of_pass("settled", 1024, 316.2278) == pytest.approx(4 * 40e9)
    assert RATES.of_pass("first", 2048, 100_000) == pytest.approx(80e9)
    assert RATES.of_pass("first", 64, 10) == pytest.approx(10e9)


def test_rates_survive_json() -> None:
    assert Rates.from_record(RATES.record()) == RATES


def test_the_passes_of_a_run_cost_what_their_kinds_do() -> None:
    found = predict(PROBLEM, LOCAL, RATES)
    products, prepared = 1e6 * 1000 * 1024, 1000 * 1024 / 0.1e9
    assert found.of("first") == pytest.approx(products / (4 * 80e9) + prepared)
    assert found.of("early") == pytest.approx(2 * (products / (4 * 160e9) + prepared))
    # Nine iterations, and the pass that finds that they are over.
    assert found.of("settled") == pytest.approx(7 * (products / (4 * 320e9) + prepared))


def test_few_iterations_have_no_settled_pass() -> None:
    found = predict(replace(PROBLEM, iterations=1), LOCAL, RATES)
    assert [each.name for each in found.steps if each.name in ("first", "early", "settled")] == ["first", "early"]


def test_more_cores_shorten_a_pass_as_far_as_they_work_beside_each_other() -> None:
    one, many = replace(LOCAL, cores=1), replace(LOCAL, cores=8)
    slowed = replace(RATES, efficiency=0.5, centroids_gvalues=1e9)
    ratio = predict(PROBLEM, one, slowed).of("settled") / predict(PROBLEM, many, slowed).of("settled")
    assert ratio == pytest.approx(4, rel=1e-6)


def test_workers_that_share_the_cores_of_a_node_compute_as_long_as_one_but_send_more() -> None:
    one, four = Nodes(1, 2, 64, workers=1), Nodes(1, 2, 64, workers=4)
    rates = replace(RATES, centroids_gvalues=1e9)
    few, more = (next(s for s in predict(PROBLEM, n, rates).steps if s.name == "settled") for n in (one, four))
    assert few.compute == pytest.approx(more.compute, rel=1e-6)
    assert more.network > 2 * few.network
    assert more.driver == pytest.approx(4 * few.driver)


def test_a_local_run_sends_nothing() -> None:
    assert all(each.network == 0 for each in predict(PROBLEM, LOCAL, RATES).steps)
    distributed = predict(PROBLEM, replace(LOCAL, distributed=True), RATES)
    assert {each.name for each in distributed.steps if each.network} >= {"seeding", "first", "settled", "assign"}


def test_an_iteration_sends_centroids_out_and_sums_back() -> None:
    nodes = Nodes(11, 4, 64, network_gb_s=1.0)
    rates = replace(RATES, call_s=0.0, object_gb_s=1e9)
    step = next(each for each in predict(PROBLEM, nodes, rates).steps if each.name == "first")
    centroids, labels = 1000 * 1024, 4 * 1_000_000 / 11
    assert step.network == pytest.approx(10 * (4 * centroids + 8 * centroids + labels) / 1e9, rel=1e-3)


def test_pca_reads_twice_and_narrows_the_rows() -> None:
    plain, narrow = predict(PROBLEM, LOCAL, RATES), predict(replace(PROBLEM, dim=256), LOCAL, RATES)
    assert narrow.of("read") == pytest.approx(2 * plain.of("read"))
    assert (plain.of("pca"), plain.of("transform")) == (0, 0)
    assert narrow.of("pca") > 0
    assert narrow.of("transform") > 0
    assert narrow.of("settled") < plain.of("settled")


def test_a_sample_shortens_k_means_but_not_the_assignment() -> None:
    whole, sample = predict(PROBLEM, LOCAL, RATES), predict(replace(PROBLEM, fitted=100_000), LOCAL, RATES)
    assert sample.of("settled") < whole.of("settled") / 5
    assert sample.of("assign") == whole.of("assign")
    assert sample.memory.rows_gb == pytest.approx(1.1 * whole.memory.rows_gb)


def test_rows_that_exceed_the_memory_are_read_from_disk_in_every_pass() -> None:
    large = Problem(50_000_000, 1024, 1000, iterations=9)
    places = {gb: memory_of(large, replace(LOCAL, memory_gb=gb)).place for gb in (1, 50, 100, 400)}
    assert places == {1: "none", 50: "again", 100: "file", 400: "memory"}
    slow = replace(LOCAL, memory_gb=100, disk_gb_s=0.01)
    one_pass = next(each for each in predict(large, slow, RATES).steps if each.name == "first")
    assert one_pass.seconds == pytest.approx(50e6 * 1024 * 4 / 0.01e9, rel=1e-3)


def test_the_process_of_the_job_holds_the_sums_of_all_workers() -> None:
    few, many = (memory_of(Problem(10**6, 1024, 100_000), Nodes(count, 4, 64)) for count in (2, 100))
    assert many.driver_gb - few.driver_gb == pytest.approx(98 * 8 * 0.1024)
    assert many.rows_gb == pytest.approx(few.rows_gb / 50)


@pytest.mark.parametrize(("k", "passes"), [(2, 1), (4, 1), (5, 2), (1000, 5), (100_000, 9)])
def test_seeding_searches_each_time_the_centroids_are_four_times_as_many(k: int, passes: int) -> None:
    assert seeding_passes(k) == passes


def test_the_total_is_the_sum_of_the_steps() -> None:
    found = predict(PROBLEM, Nodes(), RATES)
    assert found.seconds == pytest.approx(sum(each.seconds for each in found.steps))
    assert {"read", "seeding", "first", "early", "settled", "assign", "metrics", "write"} == {
        each.name for each in found.steps
    }
