"""When a solver's word about a program is not believed: its tolerances are absolute, and a program can outgrow them."""

from __future__ import annotations

from milpverify.attack.method import centre
from milpverify.errors import SolverError
from milpverify.formulation.encode import Encoded
from milpverify.program.solver import Limits, Solver, Status
from milpverify.spec.regions import Region

LARGEST_REACH = 1e7  # beyond it float64 loses more than the solvers' absolute tolerances, and bounds mean nothing
LAST_WORD_S = 1.0  # what a small program may take beyond the time limit, so that what was found is not thrown away


def admits_a_known_point(encoded: Encoded, region: Region, solver: Solver, left_s: float) -> bool:
    """Whether the solver finds a program feasible on the activation pattern of an input that is surely in the region.

    If not, its tolerances are too coarse for the program's numbers (a narrow interval times a large weight, say), and
    neither "infeasible" nor a bound of it is worth anything.

    Args:
        encoded: The program.
        region: Its region.
        solver: Whose word it is.
        left_s: Wall time left; `LAST_WORD_S` are taken at any rate.
    """
    try:
        answer = solver.solve(encoded.at_pattern_of(centre(region)), Limits(max(left_s, LAST_WORD_S)))
    except SolverError:
        return False
    return answer.status is not Status.INFEASIBLE
