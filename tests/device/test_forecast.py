"""The forecast for a GPU: its formula by hand."""

import forecast
import pytest

RATES = forecast.Rates(flops=100.0, bandwidth=10.0, memory=0.0, launch=1.0)


def test_a_step_takes_the_larger_of_launches_and_device() -> None:
    found = forecast.seconds_of([(500.0, 10.0), (0.0, 20.0)], RATES)
    assert found == pytest.approx({"launches": 2.0, "products": 5.0, "bytes": 3.0, "step": 7.0})
    assert forecast.seconds_of([(50.0, 1.0), (0.0, 2.0)], RATES)["step"] == pytest.approx(2.0)
