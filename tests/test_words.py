"""Figures and counts as people read them."""

import pytest

from commonplace.words import counted, figure


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (2.5, "2.5"),
        (1 / 3, "0.333333"),
        (0.0001, "0.0001"),
        (12_345.678, "12345.7"),
        (99_999.96, "100000"),
        (999_999.7, "1000000"),
        (1_234_567.0, "1234567"),
        (-1_234_567.8, "-1234568"),
        (2.0**53, "9007199254740992"),
        (1e300, "1e+300"),
        (float("inf"), "inf"),
    ],
)
def test_a_figure_has_no_exponent_while_its_digits_mean_something(value: float, text: str) -> None:
    assert figure(value) == text


def test_one_is_told_as_one_and_every_other_count_as_many() -> None:
    assert [counted(n, "host") for n in (0, 1, 2)] == ["0 hosts", "1 host", "2 hosts"]
    assert [counted(n, "record was", "records were") for n in (1, 2)] == ["1 record was", "2 records were"]
