import numpy as np
import pytest

from redheart.changepoints import ChangePoint, ChangePoints
from redheart.planted import EPOCHS, planted_curves, shape_of
from redheart.plateau import plateaus


def share(shape, noise, num=60, **options):
    return np.mean([plateaus(EPOCHS, x, **options).detected for x in planted_curves(shape, num, noise)])


def test_a_curve_that_never_flattens_has_no_plateau():
    assert share("declining", 0.01) <= 0.1
    assert share("declining", 0.002) == 0


def test_a_flat_curve_is_mostly_found_flat():
    assert share("flat", 0.01) >= 0.85


def test_a_turning_point_is_no_plateau():
    assert share("U", 0.005) == 0


def test_after_a_knee_the_plateau_reaches_to_the_end():
    found = [plateaus(EPOCHS, x).best for x in planted_curves("knee", 40, 0.005)]
    found = [best for best in found if best is not None]
    assert len(found) >= 20
    assert np.median([best.start for best in found]) == pytest.approx(30, abs=2)
    assert np.median([best.end for best in found]) == 60
    assert np.median([best.center for best in found]) == pytest.approx(44, abs=2)  # section 5 measured 28 to 60, 44


def test_no_plateau_reaches_across_a_step():
    for x in planted_curves("step", 40, 0.005):
        result = plateaus(EPOCHS, x)
        for flat in result.plateaus + result.unproven:
            assert flat.end <= 30 or flat.start >= 32


def test_a_step_that_was_not_told_as_a_jump_keeps_windows_from_lying_across_it():
    for x in planted_curves("step", 40, 0.005):
        result = plateaus(EPOCHS, x, changes=ChangePoints([], []))
        for flat in result.plateaus + result.unproven:
            assert flat.end <= 32 or flat.start >= 30  # at most one point of ten, where the noise seems large


def test_of_two_plateaus_the_lower_is_best_and_the_other_has_ended():
    x = next(x for x in planted_curves("step", 40, 0.005) if len(plateaus(EPOCHS, x).plateaus) == 2)
    first, second = plateaus(EPOCHS, x).plateaus
    assert plateaus(EPOCHS, x).best == second
    assert first.ended
    assert not second.ended


def test_a_plateaus_figures_describe_the_curve_over_it():
    x = shape_of("flat") + 0.01 * (-1.0) ** np.arange(30)
    (flat,) = plateaus(EPOCHS, x).plateaus
    assert (flat.start, flat.end, flat.center) == (2, 60, 30)  # (2 + 60) / 2 = 31, rounded down to a saved epoch
    assert flat.mean == pytest.approx(0.5)
    assert flat.sd == pytest.approx(x.std(ddof=1))
    assert flat.slope == 0
    assert flat.lag1 < -0.9


def test_a_change_point_inside_a_window_refuses_it_but_one_at_its_first_epoch_does_not():
    x = shape_of("flat") + 0.01 * (-1.0) ** np.arange(30)
    told = ChangePoints([ChangePoint(32, 1)], [])
    found = plateaus(EPOCHS, x, changes=told)
    spans = [(flat.start, flat.end) for flat in found.plateaus + found.unproven]
    assert spans == [(2, 30), (32, 60)]


def test_a_run_whose_slope_is_not_shown_to_be_small_is_told_as_unproven():
    x = next(x for x in planted_curves("declining", 60, 0.01) if plateaus(EPOCHS, x).unproven)
    result = plateaus(EPOCHS, x)
    assert not result.detected
    for flat in result.unproven:
        assert max(abs(flat.slope_low), abs(flat.slope_high)) >= result.tolerance
        assert flat.confidence == 0


def test_given_bounds_replace_the_noise():
    x = planted_curves("declining", 1, 0.002)[0]  # falls by 0.0017 per epoch
    assert not plateaus(EPOCHS, x, max_slope=0.001).detected
    tolerant = plateaus(EPOCHS, x, alpha=0.0, max_slope=0.01)
    assert tolerant.detected
    assert tolerant.tolerance == pytest.approx(0.01)
    assert not plateaus(EPOCHS, x, alpha=0.0, max_slope=0.01, max_sd=0.01).detected


def test_noise_times_ten_tolerates_slopes_times_ten():
    x = planted_curves("flat", 1, 0.01)[0]
    small, large = plateaus(EPOCHS, x), plateaus(EPOCHS, 10 * x)
    assert large.tolerance == pytest.approx(10 * small.tolerance)
    assert [flat.start for flat in large.plateaus] == [flat.start for flat in small.plateaus]


@pytest.mark.parametrize("num", [0, 1, 4, 7])
def test_fewer_than_8_checkpoints_are_no_evidence(num):
    result = plateaus(EPOCHS[:num], np.full(num, 0.5))
    assert not result.detected
    assert "at least 8" in result.abstained


def test_a_window_under_8_is_refused():
    with pytest.raises(ValueError, match="at least 8"):
        plateaus(EPOCHS, shape_of("flat"), window=5)
