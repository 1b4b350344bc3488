import numpy as np
import pytest

from common.errors import UserError
from ssmo.data.corruptions import (
    CIFAR_C_ONLY,
    CORRUPTIONS,
    STRENGTHS,
    check_strength,
    corrupt,
    lower_resolution,
    spread,
)

# saturate takes colour, then gives it; box filters of 0.95 and 0.9 hit a smooth picture by chance
GRADED = [name for name in CORRUPTIONS if name not in ("saturate", "pixelate")]


@pytest.fixture(scope="module")
def pictures():
    """Eight smooth colour pictures with an edge."""
    rng = np.random.default_rng(0)
    y, x = np.meshgrid(np.linspace(0, 1, 32), np.linspace(0, 1, 32), indexing="ij")
    waves = [0.5 + 0.3 * np.sin(2 * np.pi * (a * x + b * y)) * (x > 0.5) for a, b in rng.uniform(0, 3, (24, 2))]
    return np.stack(waves).reshape(8, 3, 32, 32).astype(np.float32)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_every_corruption_changes_every_picture_and_keeps_range_and_type(name, pictures):
    for severity in (1, 5):
        changed = corrupt(pictures, name, severity, seed=0)
        assert changed.shape == pictures.shape
        assert changed.dtype == np.float32
        assert changed.min() >= 0
        assert changed.max() <= 1
        assert (np.abs(changed - pictures).mean((1, 2, 3)) > 1e-4).all()


@pytest.mark.parametrize("name", GRADED)
def test_a_higher_severity_is_farther_from_the_picture(name, pictures):
    distances = [np.abs(corrupt(pictures, name, severity, seed=0) - pictures).mean() for severity in range(1, 6)]
    assert np.diff(distances).min() > 0


def test_a_picture_gets_the_same_noise_whatever_comes_after_it(pictures):
    whole = corrupt(pictures, "gaussian_noise", 3, seed=5)
    assert np.array_equal(whole[:3], corrupt(pictures[:3], "gaussian_noise", 3, seed=5))
    assert not np.array_equal(whole, corrupt(pictures, "gaussian_noise", 3, seed=6))


def test_pictures_of_one_split_get_noise_of_their_own():
    grey = np.full((2, 1, 16, 16), 0.5, np.float32)
    first, second = corrupt(grey, "gaussian_noise", 3, seed=0)
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.3


def test_gaussian_noise_and_shot_noise_have_the_deviation_of_the_cifar_scale():
    grey = np.full((4, 1, 64, 64), 0.5, np.float32)
    for severity, sigma in enumerate((0.04, 0.06, 0.08, 0.09, 0.10), 1):
        assert corrupt(grey, "gaussian_noise", severity, 0).std() == pytest.approx(sigma, rel=0.03)
    for severity, photons in enumerate((500, 250, 100, 75, 50), 1):
        assert corrupt(grey, "shot_noise", severity, 0).std() == pytest.approx((0.5 / photons) ** 0.5, rel=0.03)


def test_impulse_noise_hits_its_share_with_black_and_white():
    changed = corrupt(np.full((4, 1, 64, 64), 0.5, np.float32), "impulse_noise", 5, 0)
    assert (changed != 0.5).mean() == pytest.approx(0.07, rel=0.05)
    assert set(np.unique(changed)) == {0, 0.5, 1}


def test_brightness_and_contrast_are_as_worked_out_by_hand():
    picture = np.array([0.2, 0.4, 0.4, 0.6], np.float32).reshape(1, 1, 2, 2)
    assert corrupt(picture, "brightness", 5, 0).ravel() == pytest.approx([0.5, 0.7, 0.7, 0.9])
    assert corrupt(picture, "contrast", 2, 0).ravel() == pytest.approx([0.3, 0.4, 0.4, 0.5])


def test_saturate_keeps_grey_and_the_brightest_channel():
    picture = np.array([[0.5, 0.8], [0.5, 0.4], [0.5, 0.2]], np.float32).reshape(1, 3, 1, 2)
    paler = corrupt(picture, "saturate", 1, 0)[0, :, 0]
    assert paler[:, 0] == pytest.approx([0.5, 0.5, 0.5])
    assert paler[:, 1] == pytest.approx([0.8, 0.8 - 0.3 * 0.4, 0.8 - 0.3 * 0.6])


def test_blurs_keep_a_flat_picture_and_spread_a_point():
    flat, point = np.full((1, 1, 17, 17), 0.3, np.float32), np.zeros((1, 1, 17, 17), np.float32)
    point[0, 0, 8, 8] = 1
    for name in ("gaussian_blur", "motion_blur", "pixelate"):
        assert corrupt(flat, name, 5, 0) == pytest.approx(flat, abs=1e-6)
    for name in ("gaussian_blur", "motion_blur"):
        assert corrupt(point, name, 5, 0).max() < 0.5
    assert corrupt(point, "gaussian_blur", 5, 0).sum() == pytest.approx(1, abs=1e-3)


def test_uint8_pictures_are_rounded_not_cut():
    dark = np.full((1, 1, 4, 4), 100, np.uint8)
    changed = corrupt(dark, "brightness", 1, 0)  # 100 + 12.75
    assert changed.dtype == np.uint8
    assert (changed == 113).all()


def test_corrupted_spreads_all_kinds_evenly_and_each_picture_is_one_of_them(pictures):
    names = spread(1000, CORRUPTIONS, seed=0)
    counts = [names.count(name) for name in CORRUPTIONS]
    assert max(counts) - min(counts) <= 1
    assert names[:11] != list(CORRUPTIONS)
    mixed, kinds = corrupt(pictures, "corrupted", 4, seed=3), spread(len(pictures), CORRUPTIONS, seed=3)
    for index, name in enumerate(kinds):
        assert np.array_equal(mixed[index], corrupt(pictures, name, 4, seed=3)[index])


def test_grey_pictures_cannot_be_saturated_and_are_not_when_all_are_spread():
    grey = np.full((22, 1, 8, 8), 0.5, np.float32)
    with pytest.raises(UserError, match="grey"):
        corrupt(grey, "saturate", 1, 0)
    assert corrupt(grey, "corrupted", 1, 0).shape == grey.shape


def test_lower_resolution_removes_a_chessboard_and_keeps_a_slope():
    chessboard = (np.indices((16, 16)).sum(0) % 2)[None, None].astype(np.float32)
    slope = np.broadcast_to(np.linspace(0, 1, 16, dtype=np.float32), (1, 1, 16, 16)).copy()
    assert lower_resolution(chessboard, 0.5).std() < 0.1
    assert lower_resolution(slope, 0.5) == pytest.approx(slope, abs=0.05)


@pytest.mark.parametrize(("condition", "strength"), [("jpeg", 2.5), ("jpeg", 6.0), ("label_noise", 1.5)])
def test_a_strength_that_means_nothing_is_refused(condition, strength):
    with pytest.raises(UserError, match="strength"):
        check_strength(condition, strength)


def test_every_default_strength_is_allowed():
    for condition in (*CORRUPTIONS, *CIFAR_C_ONLY, "corrupted"):
        check_strength(condition, STRENGTHS[condition])
    check_strength("clean", None)
