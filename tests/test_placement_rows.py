"""What operators expect of placement, row by row (docs/from-nova.md): each filter, weigher and part of a request has a test by name.

The names of filters and weighers come from the code's own tables, so that a new one without a row here fails.
"""

import importlib
import inspect

import pytest

import test_filter_table
import test_weigher_table
from commonplace.core.filter_table import ON_COLUMNS, TABLE
from commonplace.core.filters import FILTERS
from commonplace.core.raw_weighers import RAW
from commonplace.core.records.requests import Build

CASES = "test_filter_table.test_filter_passes_or_says_why_not"
WEIGHED = "test_weigher_table.test_weigher_has_its_raw_value"
COLUMNS = "test_filter_table.test_filters_on_columns_hold_for_every_request"
PLAIN_SCAN = "test_ranking.test_score_rows_are_the_plain_scan_whatever_happened"

BY_CASES = (
    "requested_host ignored_hosts availability_zone member_of traits_any_of compute_capabilities image_properties "
    "aggregate_multi_tenancy_isolation different_host same_host simple_cidr_affinity json aggregate_instance_extra_specs "
    "aggregate_image_properties_isolation aggregate_type_affinity aggregate_io_ops aggregate_num_instances isolated_hosts metrics"
)
WEIGHERS = (
    "ram cpu disk io_ops num_instances build_failure hypervisor_version pci server_group_soft_affinity "
    "server_group_soft_anti_affinity metrics image_properties cross_cell fgd"
)
SAME_AS_NOVA = "test_nova_differential.test_the_same_hosts_pass_with_the_same_scores_in_the_same_order"
TOGETHER = (
    "test_group_turns.test_members_of_every_flavor_stay_together_and_a_full_host_refuses_the_next_with_the_reason"
)

FILTER_ROWS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(BY_CASES.split(), (CASES, SAME_AS_NOVA)),
    "spread_over": (CASES, "test_group_turns.test_members_are_spread_over_the_values_of_a_label_within_the_skew"),
    "numa_topology": (
        CASES,
        "test_nova_differential.test_cells_fit_exactly_when_one_of_all_ways_to_lay_them_does",
        "test_cells.test_cells_and_devices_are_laid_exactly_when_one_of_all_ways_does",
        "test_granular_groups.test_groups_are_placed_exactly_when_one_of_all_ways_does",
    ),
    "pci_passthrough": (CASES, "test_cells.test_a_grant_says_which_cpus_and_devices_and_nobody_else_gets_them"),
    "server_group_anti_affinity": (
        "test_filter_table.test_anti_affinity_counts_members_and_claims_under_way_but_not_the_instance_itself",
        "test_group_races.test_a_group_of_as_many_as_there_are_hosts_has_one_member_on_each_whoever_decides",
    ),
    "server_group_affinity": (CASES, TOGETHER),
    "io_ops": (COLUMNS, PLAIN_SCAN),
    "instances": (COLUMNS, PLAIN_SCAN),
    "num_instances": (COLUMNS,),
    "compute": (COLUMNS,),
    "status": (COLUMNS, PLAIN_SCAN),
    "traits": (PLAIN_SCAN, "test_ledger.test_a_refused_claim_says_why_and_changes_nothing"),
    "liveness": (PLAIN_SCAN, "test_view.test_a_host_is_silent_by_log_time_or_by_our_own_clock"),
    "capacity": (
        "test_resources.test_what_fits_is_placements_rule",
        "test_ledger.test_capacity_is_placements",
        PLAIN_SCAN,
    ),
}

WEIGHER_ROWS: dict[str, tuple[str, ...]] = dict.fromkeys(WEIGHERS.split(), (WEIGHED,))

SCORING_ROWS: dict[str, tuple[str, ...]] = {
    "extra-spec operators": ("test_filter_table.test_operators_of_extra_specs",),
    "normalised from the least or the floor": (
        "test_weigher_table.test_values_are_normalised_from_the_least_or_the_floor",
    ),
    "multipliers of aggregates": ("test_weigher_table.test_aggregates_override_a_multiplier_and_the_smallest_wins",),
    "pick among the best": (
        "test_choosing.test_choice_is_among_the_best_of_a_plain_scan",
        "test_choosing.test_ties_and_subsets_are_spread_by_the_seed_and_alike_everywhere",
    ),
}

REQUEST_ROWS: dict[str, tuple[str, ...]] = {
    "count": ("test_requests_asked.test_all_or_nothing_gives_back_what_it_got",),
    "count_min": ("test_requests_asked.test_a_part_is_placed_where_that_is_asked_for",),
    "alternates": ("test_requests_asked.test_alternates_are_other_hosts_that_pass_and_nothing_is_claimed_on_them",),
    "host": ("test_requests_asked.test_a_requested_destination_is_kept_to_and_its_refusal_says_so",),
    "hosts_ignored": ("test_requests_asked.test_ignored_hosts_are_left_out",),
    "boot_from_volume": ("test_requests_asked.test_an_instance_on_a_volume_takes_no_disk_of_the_host",),
    "priority": ("test_requests_asked.test_of_what_waits_together_the_highest_priority_is_ranked_first",),
    "deadline_ms": ("test_requests_asked.test_a_request_past_its_deadline_expires",),
    "rebuild_check": (
        "test_requests_asked.test_a_rebuild_is_checked_without_an_allocation_on_a_host_that_has_no_room",
    ),
    "instances": ("test_requests_asked.test_a_move_holds_the_target_before_the_source_is_given_back",),
    "source": (
        "test_replacing.test_resize_in_place_needs_only_the_difference_and_its_confirm_lets_the_old_go",
        "test_replacing.test_resize_that_is_not_confirmed_leaves_the_old_as_it_was",
    ),
    "group": (
        "test_constrained_requests.test_a_group_that_changes_its_policy_is_refused_with_a_member_and_what_to_do",
    ),
    "group_max": ("test_group_races.test_one_more_than_there_are_hosts_is_refused_with_the_reason",),
    "group_policy": (
        "test_constrained_requests.test_affinity_joins_the_host_of_the_group",
        "test_founding.test_a_group_is_founded_where_all_of_its_request_fit",
    ),
    "spread_over": ("test_group_turns.test_members_are_spread_over_the_values_of_a_label_within_the_skew",),
    "max_skew": ("test_group_turns.test_a_spread_of_one_request_is_kept_whatever_its_claims_meet",),
    "traits_required": (PLAIN_SCAN,),
    "traits_forbidden": (PLAIN_SCAN,),
    "traits_any_of": (
        "test_constrained_requests.test_traits_any_of_ride_on_the_claim_and_a_host_that_lost_them_refuses",
    ),
    "zone": ("test_constrained_requests.test_a_zone_is_kept_and_a_zone_without_hosts_is_explained",),
    "member_of": (CASES,),
    "image": (CASES,),
    "image_properties": (
        CASES,
        "test_constrained_requests.test_the_image_rides_on_the_claim_only_where_the_profile_weighs_by_it",
    ),
    "hints": (CASES, "test_choosing.test_hints_that_no_filter_reads_are_carried_and_ignored"),
    "cell": (WEIGHED,),
    "networks": ("test_filter_table.test_a_network_that_some_cells_are_near_pulls_one_of_the_instances_cells_there",),
    "profile": ("test_choosing.test_a_profile_is_chosen_by_the_request_and_changed_while_running",),
    "flavor": ("test_impossible.test_an_unknown_flavor_is_rejected_with_the_nearest_known_one",),
    "lease_ms": ("test_ledger.test_a_lease_longer_than_the_bound_is_cut_and_the_report_says_so",),
}

BAD_INPUT_ROWS: dict[str, tuple[str, ...]] = {
    "unknown flavor": ("test_impossible.test_an_unknown_flavor_is_rejected_with_the_nearest_known_one",),
    "unknown profile, aggregate; contradictory; query too deep": (
        "test_impossible.test_a_contradiction_is_rejected_with_what_to_drop",
    ),
    "unknown zone, trait": ("test_impossible.test_an_unknown_name_is_told_with_the_nearest_known_one",),
    "unknown class; no host could ever hold it": (
        "test_impossible.test_a_size_that_no_host_could_ever_hold_is_told_with_the_largest",
    ),
    "query too long": ("test_impossible.test_a_hint_that_is_too_long_is_put_aside_and_answered_with_the_bound",),
    "group changes its policy": (
        "test_constrained_requests.test_a_group_that_changes_its_policy_is_refused_with_a_member_and_what_to_do",
    ),
    "cyclic or overlapping granular groups": (
        "test_granular_groups.test_cyclic_overlapping_or_uneven_groups_are_refused_with_what_to_do",
    ),
}

NO_CHOICE = {"v", "id", "project", "user", "kind"}
"""Fields of a request that choose no host by themselves."""

ROWS = {
    f"{kind}: {name}": tests
    for kind, rows in (
        ("filter", FILTER_ROWS),
        ("weigher", WEIGHER_ROWS),
        ("scoring", SCORING_ROWS),
        ("request", REQUEST_ROWS),
        ("bad input", BAD_INPUT_ROWS),
    )
    for name, tests in rows.items()
}


def test_every_filter_weigher_and_field_of_a_request_has_a_row() -> None:
    assert set(FILTER_ROWS) == {*TABLE, *ON_COLUMNS, *(name for name, _, _ in FILTERS)}
    assert set(WEIGHER_ROWS) == set(RAW)
    assert set(REQUEST_ROWS) == set(Build.__struct_fields__) - NO_CHOICE


@pytest.mark.parametrize("row", ROWS)
def test_row_is_proved_by_tests_that_exist(row: str) -> None:
    assert ROWS[row]
    for name in ROWS[row]:
        module, _, test = name.partition(".")
        found = getattr(importlib.import_module(module), test, None)
        assert inspect.isfunction(found), f"{row}: no test {name}"


@pytest.mark.parametrize("name", [name for name, tests in FILTER_ROWS.items() if CASES in tests])
def test_filter_of_the_table_has_a_case_of_its_name(name: str) -> None:
    assert name in {case[0] for case in test_filter_table.CASES}


@pytest.mark.parametrize("name", WEIGHER_ROWS)
def test_weigher_has_a_case_of_its_name(name: str) -> None:
    assert name in {case[0] for case in test_weigher_table.CASES}
