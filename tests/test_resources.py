"""Resources are exact integers: no float decides whether something fits."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commonplace.core.resources import AMOUNT_MAX, Inventory, misfit, ratio_thousandths

amounts = st.integers(0, AMOUNT_MAX)
thousandths = st.integers(1, 1_000_000_000)


@given(amounts, amounts, thousandths)
def test_capacity_is_the_exact_floor(total: int, reserved: int, ratio: int) -> None:
    exact = Fraction(total - reserved) * Fraction(ratio, 1000)
    assert Inventory(total=total, reserved=reserved, allocation_ratio_thousandths=ratio).capacity == max(
        0, exact.__floor__()
    )


def test_capacity_is_exact_where_a_float_would_round() -> None:
    assert Inventory(total=2**53 - 1, allocation_ratio_thousandths=1001).capacity == (2**53 - 1) * 1001 // 1000
    assert (
        Inventory(total=10, allocation_ratio_thousandths=1100).capacity == 11
    )  # 10 * 1.1 in floats is 11.000000000000002


@given(thousandths)
def test_ratio_as_people_write_it_comes_back_in_thousandths(ratio: int) -> None:
    text = f"{ratio // 1000}.{ratio % 1000:03}"
    assert ratio_thousandths(text) == ratio
    assert ratio_thousandths(text.rstrip("0").rstrip(".")) == ratio


@pytest.mark.parametrize(
    ("text", "want"), [("16", 16000), (16, 16000), (1.5, 1500), ("0.001", 1), ("1e1", 10000), (4.0, 4000)]
)
def test_ratio_is_read_from_text_integer_and_float(text: str | float, want: int) -> None:
    assert ratio_thousandths(text) == want


@pytest.mark.parametrize("text", ["", "much", "1.2345", "0", "-1", "0.0001", "nan", "inf", "1,5", "1e-4"])
def test_ratio_that_is_no_positive_number_of_three_decimals_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match="allocation_ratio"):
        ratio_thousandths(text)


@given(
    st.builds(
        Inventory,
        total=st.integers(0, 100),
        reserved=st.integers(0, 20),
        allocation_ratio_thousandths=st.integers(500, 4000),
        min_unit=st.integers(1, 4),
        max_unit=st.integers(0, 50),
        step_size=st.integers(1, 4),
    ),
    st.integers(0, 200),
    st.integers(0, 100),
)
def test_what_fits_is_placements_rule(inventory: Inventory, used: int, asked: int) -> None:
    fits = asked == 0 or (
        used + asked <= inventory.capacity
        and inventory.min_unit <= asked <= (inventory.max_unit or inventory.total)
        and asked % inventory.step_size == 0
    )
    assert (misfit(inventory, used, asked) == "") == fits


@pytest.mark.parametrize(
    ("inventory", "used", "asked", "words"),
    [
        (None, 0, 1, "the host has none"),
        (Inventory(total=8), 6, 4, "needs 4, 2 free"),
        (Inventory(total=8, reserved=9), 0, 1, "needs 1, 0 free"),
        (Inventory(total=8), 12, 1, "needs 1, 0 free"),
        (Inventory(total=8, min_unit=4), 0, 2, "2 is outside 4..8 for one allocation"),
        (Inventory(total=8, max_unit=2), 0, 4, "4 is outside 1..2 for one allocation"),
        (Inventory(total=8, step_size=4), 0, 6, "6 is not a multiple of 4"),
    ],
)
def test_misfit_says_by_what(inventory: Inventory | None, used: int, asked: int, words: str) -> None:
    assert misfit(inventory, used, asked) == words
