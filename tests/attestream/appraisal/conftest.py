import pytest

from attestream.appraisal.appraise import Verdict
from devtools.appraisal_bench import Bench


@pytest.fixture
def bench() -> Bench:
    """An agent with three measured files that has been trusted once."""
    made = Bench()
    made.run(0, 1, 2)
    assert made.round().verdict is Verdict.PASS
    return made
