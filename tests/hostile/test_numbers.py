"""Numbers that a formula cannot take are refused with their range."""

import pytest

from cupscale.errors import CupscaleError
from cupscale.settings import Settings


@pytest.mark.parametrize("cutoff", [1e-300, 0.0, 1e300])
def test_a_cutoff_whose_square_is_none_is_refused_with_its_range(cutoff):
    with pytest.raises(CupscaleError, match="cutoff"):
        Settings.build({"cutoff": cutoff})
    assert Settings.build({"cutoff": 0.01}).cutoff == 0.01
