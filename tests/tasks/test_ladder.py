"""The ladder of bounds: its numbers are the methods' own, its exact values those of brute force, its order a law."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest

from milpverify.bounds.backward import Crown, FastLin
from milpverify.bounds.compute import bound_rows, compute_bounds
from milpverify.bounds.dual import DualBound
from milpverify.bounds.method import BoundMethod, Interval
from milpverify.bounds.problem import DualProblem
from milpverify.bounds.slopes import AlphaCrown
from milpverify.errors import BoundsError, OptionError, PropertyError, SolverError
from milpverify.network.from_onnx import from_onnx
from milpverify.network.graph import Network
from milpverify.proof.evidence import Bracket, Grade
from milpverify.spec.property import Case, Polyhedron, Property, robustness
from milpverify.spec.regions import LinfBall
from milpverify.tasks.ladder import bound_ladder
from milpverify.tasks.progress import Progress
from milpverify.tasks.rungs import Ladder, Rung
from milpverify.tighten.lp import TriangleLP
from milpverify.tighten.milp import MILPTightening
from tests.cases import NETWORKS, POLYHEDRAL, REGIONS, brute_force_slack
from tests.paths import mnist, need

METHODS: dict[str, BoundMethod] = {
    "interval": Interval(),
    "wong-kolter": FastLin(intersect=False),
    "crown": Crown(),
    "alpha": AlphaCrown(),
    "lp": TriangleLP(),
}
CLOSED = 1e-6  # `MILPTightening.gap`
DUALS = 1e-6  # HiGHS's optimality tolerance, 1e-7 per dual, over a few dozen of them: how far g may stay below the LP


@dataclass(frozen=True)
class Liar(Interval):
    """Claims more for every row than can be true."""

    def rows(self, problem: DualProblem, rows: np.ndarray) -> DualBound:
        found = super().rows(problem, rows)
        return replace(found, value=found.value + 100.0)


@dataclass(frozen=True)
class TrustedLiar(Liar):
    """The same on a solver's word."""

    solver_trusted: ClassVar[bool] = True


def small(seed: int, network: str = "chain", region: str = "box") -> tuple[Network, Property]:
    """A random network and a property with cases of one, two and three rows over one region."""
    rng = np.random.default_rng(seed)
    net = NETWORKS[network](rng)
    where = REGIONS[region](rng, net.n_inputs)
    cases = [
        Case(where, Polyhedron(rng.normal(size=(rows, net.n_outputs)), rng.normal(size=rows)), f"{rows} rows")
        for rows in (1, 2, 3)
    ]
    return net, Property(tuple(cases), net.n_inputs, net.n_outputs)


def mlp24(targets: tuple[int, ...] | None = None) -> tuple[Network, Property]:
    """The published question whose worst margin is 0.912468, attained against target 6."""
    image = mnist()[0][1]
    net = from_onnx(str(need("mlp", "mlp24.onnx")))
    return net, robustness(net, LinfBall(image, 0.05, clip=(0, 1)), 2, targets)


@pytest.mark.parametrize("name", METHODS)
def test_a_rung_says_what_the_method_says(name: str) -> None:
    net, prop = mlp24()
    method, region = METHODS[name], prop.cases[0].region
    [rung] = bound_ladder(net, prop, {name: method}).rungs
    bounds = compute_bounds(net, region, method)
    rows = np.concatenate([case.unsafe.C for case in prop.cases])
    value = bound_rows(net, region, bounds, rows, method).value
    assert rung.method == rung.hidden == name and not rung.solver_trusted
    assert rung.unstable == bounds.n_unstable
    assert rung.lower == tuple(np.nextafter(value, -np.inf))
    assert rung.seconds == rung.seconds_hidden + rung.seconds_rows


@pytest.mark.parametrize("region", POLYHEDRAL)
@pytest.mark.parametrize("network", NETWORKS)
def test_no_rung_exceeds_brute_force_and_the_exact_one_meets_it(network: str, region: str) -> None:
    net, prop = small(len(network + region), network, region)
    truth = [brute_force_slack(net, c.region, c.unsafe.C, c.unsafe.d) for c in prop.cases]
    ladder = bound_ladder(net, prop, {**METHODS, "milp": MILPTightening()})
    for rung in ladder.rungs:
        assert (np.array(rung.lower) <= np.array(truth) + CLOSED).all(), rung.method
    for bracket, value in zip(ladder.exact, truth, strict=True):
        assert bracket.lower - CLOSED <= value <= bracket.upper + CLOSED
        assert bracket.gap <= 2 * CLOSED
    assert ladder.closed and ladder.rungs[-1].lower == tuple(bracket.lower for bracket in ladder.exact)


def test_a_case_is_as_safe_as_its_safest_row() -> None:
    net, prop = small(0)
    rows = tuple(
        Case(c.region, Polyhedron(c.unsafe.C[i : i + 1], c.unsafe.d[i : i + 1]))
        for c in prop.cases
        for i in range(len(c.unsafe.d))
    )
    [alone] = bound_ladder(net, Property(rows, net.n_inputs, net.n_outputs), [Crown()]).rungs
    [together] = bound_ladder(net, prop, [Crown()]).rungs
    assert together.lower == (alone.lower[0], max(alone.lower[1:3]), max(alone.lower[3:6]))


@pytest.mark.parametrize("under", [Interval(), Crown()], ids=["interval", "crown"])
def test_over_the_same_hidden_bounds_tighter_relaxations_bound_tighter(under: BoundMethod) -> None:
    net, prop = mlp24((6, 3))
    methods = [Interval(), Crown(), AlphaCrown(), TriangleLP(), MILPTightening()]
    ladder = bound_ladder(net, prop, methods, same_bounds=under)
    assert {rung.hidden for rung in ladder.rungs} == {under.name}
    assert {rung.unstable for rung in ladder.rungs} == {compute_bounds(net, prop.cases[0].region, under).n_unstable}
    for looser, tighter in zip(ladder.rungs, ladder.rungs[1:], strict=False):
        for low, high in zip(looser.lower, tighter.lower, strict=True):
            assert low <= high + DUALS, (looser.method, tighter.method)
    assert [rung.method for rung in ladder.rungs] == ["interval", "crown", "alpha", "lp", "milp"]
    assert ladder.rungs[0].least < ladder.rungs[1].least < ladder.rungs[2].least < ladder.rungs[4].least


def test_the_exact_rung_reproduces_the_published_margin_and_gaps_are_measured_to_it() -> None:
    net, prop = mlp24((6,))
    ladder = bound_ladder(net, prop, [Interval(), Crown(), MILPTightening()])
    interval, crown, milp = ladder.rungs
    assert ladder.least is not None and ladder.closed
    assert ladder.least[0] == milp.least and ladder.least == pytest.approx((0.912468, 0.912468), abs=1e-5)
    assert ladder.gap(crown) == ladder.least[1] - crown.least
    assert ladder.reference is crown and ladder.percent(crown) == 100.0
    assert ladder.percent(interval) == pytest.approx(
        100.0 * (0.912468 - interval.least) / (0.912468 - crown.least), 1e-4
    )
    assert milp.solver_trusted and not crown.solver_trusted
    assert 0 < milp.needed[0] < 0.01 and milp.proved == 1
    alone = bound_ladder(net, prop, [Interval(), MILPTightening()])
    assert alone.reference is alone.rungs[0]


def test_the_default_ladder_is_complete() -> None:
    net, prop = small(1)
    names = [rung.method for rung in bound_ladder(net, prop).rungs]
    assert names == ["interval", "fastlin", "crown", "alpha", "lp", "milp"]


def test_milp_stands_on_the_best_hidden_bounds_below_it_and_inherits_their_seconds() -> None:
    net, prop = mlp24((6,))
    ladder = bound_ladder(net, prop, [Crown(), Interval(), MILPTightening()])
    crown, interval, milp = ladder.rungs
    assert sum(crown.unstable) < sum(interval.unstable)
    assert (milp.hidden, milp.unstable, milp.seconds_hidden) == ("crown", crown.unstable, crown.seconds_hidden)
    [first, _] = bound_ladder(net, prop, [MILPTightening(), Interval()]).rungs
    assert (first.hidden, first.unstable) == ("crown", crown.unstable)
    [own] = bound_ladder(net, prop, [MILPTightening()], tighten_hidden=True).rungs
    assert own.hidden == "milp" and sum(own.unstable) <= sum(crown.unstable) and own.solver_trusted
    assert own.least == pytest.approx(0.912468, abs=1e-5)


def test_same_bounds_alone_are_those_of_the_first_method() -> None:
    net, prop = mlp24((6,))
    ladder = bound_ladder(net, prop, {"loose": Interval(), "crown": Crown()}, same_bounds=True)
    assert [rung.hidden for rung in ladder.rungs] == ["loose", "loose"]
    given = bound_ladder(net, prop, [Crown()], same_bounds=Interval()).rungs[0]
    assert given.hidden == "interval" and given.lower == ladder.rungs[1].lower


def test_out_of_time_the_exact_value_stays_a_bracket_and_gaps_are_upper_limits() -> None:
    net, prop = mlp24((6, 3))
    ladder = bound_ladder(net, prop, [Interval(), Crown(), MILPTightening()], same_bounds=True, time_limit_s=1e-3)
    crown, milp = ladder.rungs[1:]
    assert not ladder.closed and all(bracket.timed_out for bracket in ladder.exact)
    assert all(high >= low for low, high in zip(crown.lower, milp.lower, strict=True))
    gap = ladder.gap(crown)
    assert gap is not None and gap >= 0.912468 - crown.least - CLOSED
    assert "time ran out on 2 of 2 cases" in str(ladder) and "at most" in str(ladder)


def test_a_bound_that_an_input_refutes_is_never_reported() -> None:
    net, prop = small(2)
    with pytest.raises(AssertionError, match="lie bounds"):
        bound_ladder(net, prop, {"lie": Liar(), "milp": MILPTightening()})
    with pytest.raises(SolverError, match="lie bounds"):
        bound_ladder(net, prop, {"lie": TrustedLiar(), "milp": MILPTightening()})


def test_a_solvers_word_proves_only_beyond_its_tolerance() -> None:
    def rung(needed: tuple[float, ...]) -> Rung:
        return Rung("m", (1e-6, 1e-3, -1.0), (1,), "m", 0.0, 0.0, bool(needed), needed)

    assert rung(()).proved == 2
    assert rung((1e-5, 1e-5, 1e-5)).proved == 1
    net, prop = mlp24((6,))

    @dataclass(frozen=True)
    class Trusted(Crown):
        name: ClassVar[str] = "trusted"
        solver_trusted: ClassVar[bool] = True

    [own] = bound_ladder(net, prop, [Trusted()]).rungs
    [borrowed] = bound_ladder(net, prop, [Crown()], same_bounds=Trusted()).rungs
    for found in (own, borrowed):
        assert found.solver_trusted and found.needed[0] >= 1e-5


def test_the_object_holds_what_the_table_shows() -> None:
    net, prop = mlp24((6, 3))
    ladder = bound_ladder(net, prop, [Interval(), Crown(), MILPTightening()])
    facts = json.loads(json.dumps(ladder.to_dict(), allow_nan=False))
    text = str(ladder)
    for rung, entry in zip(ladder.rungs, facts["methods"], strict=True):
        assert entry["least"] == rung.least and entry["gap"] == ladder.gap(rung)
        assert [part["lower"] for part in entry["lower"]] == list(rung.lower)
        assert f"{rung.least:.6g}" in text and "+".join(map(str, rung.unstable)) in text
    assert [entry["case"] for entry in facts["exact"]] == ["target 6", "target 3"]
    header, rows = ladder.case_table()
    assert header == ("case", "interval", "crown", "milp", "exact")
    assert rows[0][0] == "target 6" and rows[0][2] == f"{ladder.rungs[1].lower[0]:.6g}"


def test_a_bound_of_minus_infinity_is_null_and_a_dash() -> None:
    bracket = Bracket(0.5, 0.5, Grade.BOUND_ROUNDED, Grade.REPLAYED)
    ladder = Ladder(("a",), (Rung("crown", (-np.inf,), (), "crown", 0.0, 0.0),), (bracket,))
    [entry] = ladder.to_dict()["methods"]
    assert entry["least"] is entry["gap"] is entry["percent"] is None and ladder.reference is None
    assert str(ladder).splitlines()[1].split()[:3] == ["crown", "-", "-"]


def test_a_torch_device_gives_the_same_bounds_up_to_rounding() -> None:
    pytest.importorskip("torch")
    net, prop = mlp24((6, 3))
    methods = [Interval(), Crown(), TriangleLP()]
    host, torch = bound_ladder(net, prop, methods), bound_ladder(net, prop, methods, device="cpu")
    for a, b in zip(host.rungs, torch.rungs, strict=True):
        assert a.lower == pytest.approx(b.lower, abs=1e-9) and a.unstable == b.unstable


def test_progress_names_method_and_case() -> None:
    heard: list[Progress] = []
    net, prop = mlp24((6,))
    bound_ladder(net, prop, [Interval(), MILPTightening()], on_progress=heard.append)
    told = [(p.stage, p.what) for p in heard]
    assert told[:2] == [("hidden neurons", "interval"), ("rows", "interval")]
    assert ("milp", "target 6") in told
    assert [p.seconds for p in heard] == sorted(p.seconds for p in heard)


def test_questions_that_make_no_sense_are_refused() -> None:
    net, prop = small(0)
    region, unsafe = prop.cases[0].region, prop.cases[0].unsafe
    nothing = Case(region, Polyhedron(np.zeros((0, net.n_outputs)), np.zeros(0)), "nothing")
    elsewhere = LinfBall(np.zeros(net.n_inputs), 0.1)
    with pytest.raises(PropertyError, match=r"'nothing'.*no output constraint"):
        bound_ladder(net, Property((nothing,), net.n_inputs, net.n_outputs), [Crown()])
    with pytest.raises(PropertyError, match="2 input regions"):
        two = (prop.cases[0], Case(elsewhere, unsafe))
        bound_ladder(net, Property(two, net.n_inputs, net.n_outputs), [Crown()])
    with pytest.raises(OptionError, match="at least one method"):
        bound_ladder(net, prop, [])
    with pytest.raises(OptionError, match="two methods are called 'fastlin'"):
        bound_ladder(net, prop, [FastLin(), FastLin(intersect=False)])
    with pytest.raises(OptionError, match="time limit"):
        bound_ladder(net, prop, [Crown()], time_limit_s=0.0)
    with pytest.raises(PropertyError, match="belong together"):
        bound_ladder(net, small(0, "convolution")[1], [Crown()])
    with pytest.raises(BoundsError, match="NaN"):
        Rung("m", (float("nan"),), (), "m", 0.0, 0.0)
    with pytest.raises(BoundsError, match="every case"):
        Ladder(("a", "b"), (Rung("m", (1.0,), (), "m", 0.0, 0.0),))
