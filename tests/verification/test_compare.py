"""The figures of one comparison."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from porter.verification.compare import compare

REF = np.array([[3.0, -4.0, 0.0, 1.0, 2.0, 5.0, -1.0]])


def test_the_error_is_relative_to_the_rms_of_the_reference() -> None:
    """An offset of 0.1 in one entry gives 0.1 / rms, and the classical figures beside it."""
    found = REF.copy()
    found[0, 1] += 0.1
    figures = compare(found, REF)
    rms = np.sqrt((REF**2).mean())
    assert figures.error == pytest.approx(0.1 / rms)
    assert figures.max_abs == pytest.approx(0.1)
    assert figures.mean_abs == pytest.approx(0.1 / 7)
    assert figures.max_rel == pytest.approx(0.025)
    assert figures.snr_db == pytest.approx(20 * np.log10(rms / (0.1 / 7**0.5)))
    assert figures.cosine == pytest.approx(found[0] @ REF[0] / np.linalg.norm(found) / rms / 7**0.5)
    assert (figures.top1, figures.top5) == (1.0, 1.0)


def test_equal_arrays_have_no_error() -> None:
    """Equality is error 0, infinite signal to noise."""
    figures = compare(REF.astype(np.float32), REF)
    assert (figures.error, figures.snr_db, figures.problem) == (0, float("inf"), "")


def test_top_figures_count_rows() -> None:
    """Half of the rows with another winner is half of the agreement."""
    reference = np.tile(REF, (2, 1))
    found = reference.copy()
    found[1, 0] = 9
    assert compare(found, reference).top1 == 0.5
    found[1, :] = found[1, ::-1]
    assert compare(found, reference).top5 < 1


@pytest.mark.parametrize(
    ("found", "reference", "problem"),
    [
        (None, REF, "missing"),
        (REF, None, "the reference lacks this output"),
        (REF.T, REF, "shape [7, 1], not [1, 7]"),
        (REF[:, :0], REF[:, :0], "empty"),
        (np.where(REF == 0, np.nan, REF), REF, "NaN"),
        (np.where(REF == 0, np.inf, REF), REF, "infinite"),
        (REF, np.where(REF == 0, np.nan, REF), "the reference is NaN"),
        (REF, 0 * REF, "the reference is all zeros: nothing to compare"),
    ],
)
def test_what_cannot_be_compared_is_a_problem(found, reference, problem) -> None:  # type: ignore[no-untyped-def]
    """Missing, misshapen, empty, NaN, infinite and all-zero arrays are problems, not numbers."""
    assert compare(found, reference).problem == problem


@given(st.integers(1, 40), st.floats(1e-30, 1e30), st.floats(0, 1e-3), st.integers(0, 9))
def test_figures_do_not_depend_on_scale(size: int, scale: float, off: float, seed: int) -> None:
    """Error, cosine and signal to noise are the same whatever unit the output is in."""
    draw = np.random.default_rng(seed)
    reference = draw.standard_normal(size) + 3
    found = reference + off * draw.standard_normal(size)
    one, other = compare(found, reference), compare(found * scale, reference * scale)
    assert other.error == pytest.approx(one.error, rel=1e-6, abs=1e-12)
    assert other.cosine == pytest.approx(one.cosine, rel=1e-9)
