"""Conformance tests, for problems and policies of the reader's own::

    from d2rl.testing import check_problem

    def test_my_problem():
        check_problem(MyProblem(MySettings()))

Each check raises AssertionError and says what does not hold.
"""

from __future__ import annotations

from d2rl.testing.policies import check_policy
from d2rl.testing.problems import check_problem

__all__ = ["check_policy", "check_problem"]
