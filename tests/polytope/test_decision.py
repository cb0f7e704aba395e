"""Decision regions and margins on a plane: they tile it, agree with argmax, and their boundaries are zero sets."""

import numpy as np
import pytest

import milpverify as mv
from milpverify.errors import OptionError
from milpverify.polytope.decision import decision_map, margin_map
from milpverify.polytope.mesh_edges import edges, outline
from tests.polytope.planar_cases import network
from tests.polytope.region_cases import area_within, lively_net, two_class_net

BOX = mv.Box(np.array([-1.0, -0.5]), np.array([1.0, 1.5]))  # of area 4
N = 40_000


@pytest.fixture(scope="module", params=[0, 1, 2])
def regions(request):
    return mv.linear_regions(lively_net(request.param, (2, 20, 20, 4)), BOX)


@pytest.fixture(scope="module")
def inputs():
    return np.random.default_rng(5).uniform(BOX.lower, BOX.upper, (N, 2))


def outputs(regions, x):
    return regions.small.forward((x - regions.center) / regions.half)


def margins(y, label):
    return y[:, label] - np.delete(y, label, axis=1).max(axis=1)


def test_classes_tile_the_input_set(regions):
    decided = decision_map(regions)
    assert abs(decided.areas.sum() - 4.0) <= 4e-12
    assert (decided.areas > 0).sum() >= 2  # else this case says nothing


def test_areas_are_the_shares_of_sampled_classes(regions, inputs):
    """Four standard deviations of a binomial share."""
    share = np.bincount(outputs(regions, inputs).argmax(axis=1), minlength=4) / N
    exact = decision_map(regions).areas / 4.0
    assert (np.abs(share - exact) <= 4.0 * np.sqrt(exact * (1.0 - exact) / N) + 1.0 / N).all()


def test_every_face_has_the_class_that_wins_at_its_middle(regions):
    decided = decision_map(regions)
    middle = decided.mesh.points[decided.mesh.corners].mean(axis=1)
    y = outputs(regions, middle)
    best = y[np.arange(len(y)), decided.label]
    assert (best >= y.max(axis=1) - 1e-12 * np.abs(y).max()).all()


def test_two_classes_tie_on_the_whole_boundary(regions):
    segments = decision_map(regions).boundary
    share = np.linspace(0.0, 1.0, 5)[:, None, None]
    y = np.sort(outputs(regions, (segments[:, 0] * (1 - share) + segments[:, 1] * share).reshape(-1, 2)), axis=1)
    assert len(y) and (y[:, -1] - y[:, -2]).max() <= 1e-9


def test_the_boundary_separates(regions):
    """A step to either side of the middle of an edge meets different classes."""
    segments = decision_map(regions).boundary
    along = segments[:, 1] - segments[:, 0]
    length = np.linalg.norm(along, axis=1)
    long = length > 1e-3
    across = 1e-7 * np.stack([-along[:, 1], along[:, 0]], axis=1)[long] / length[long, None]
    middle = segments.mean(axis=1)[long]
    left, right = (outputs(regions, middle + side * across).argmax(axis=1) for side in (1.0, -1.0))
    assert long.sum() >= 3 and (left != right).all()


def test_outlines_hold_the_area_of_their_faces(regions):
    decided = decision_map(regions)
    for label in range(4):
        loops = outline(decided.mesh, decided.label == label)
        assert abs(sum(map(area_within, loops)) - decided.areas[label]) <= 1e-12
    (whole,) = outline(decided.mesh, decided.label >= 0)
    assert abs(area_within(whole) - 4.0) <= 1e-12


def test_a_mesh_of_a_polygon_has_one_vertex_more_than_edges_less_faces(regions):
    mesh = decision_map(regions).mesh
    ends, faces = edges(mesh)
    used = np.unique(mesh.corners)
    assert len(used) - len(ends) + mesh.n_faces == 1  # Euler
    sides = np.sort(mesh.points[ends[faces[:, 1] < 0]].reshape(-1, 2), axis=0)
    assert ((sides >= BOX.lower) & (sides <= BOX.upper)).all()


def test_the_least_output_wins_where_rows_say_so(regions, inputs):
    decided = decision_map(regions, -np.eye(4))
    share = np.bincount(outputs(regions, inputs).argmin(axis=1), minlength=4) / N
    assert np.abs(share - decided.areas / 4.0).max() <= 4.0 * 0.5 / np.sqrt(N)


def test_margins_above_a_level_have_the_area_of_the_samples_above_it(regions, inputs):
    values = margins(outputs(regions, inputs), 1)
    levels = tuple(np.quantile(values, [0.1, 0.5, 0.8]))
    found = margin_map(regions, 1, levels)
    for level, share in zip(levels, (0.9, 0.5, 0.2), strict=True):
        assert abs(found.area_above(level) / 4.0 - share) <= 4.0 * 0.5 / np.sqrt(N)
    assert abs(found.mesh.areas().sum() - 4.0) <= 4e-12
    assert found.range[0] <= values.min() and values.max() <= found.range[1]


def test_the_zero_set_has_margin_zero_and_is_the_class_s_boundary(regions):
    found, decided = margin_map(regions, 2), decision_map(regions)
    assert abs(found.area_above(0.0) - decided.areas[2]) <= 1e-10
    ends, faces = edges(found.mesh)
    between = ends[(faces[:, 1] >= 0) & (found.band[faces[:, 0]] != found.band[faces[:, 1]])]
    assert np.abs(found.margin[between]).max(initial=0.0) <= 1e-9


def test_a_diagonal_boundary_worked_out_by_hand():
    """relu(x0) against relu(x1): class 1 wins above the diagonal of the first quadrant and left of it; ties go to 0."""
    decided = decision_map(mv.linear_regions(two_class_net(), mv.Box(-np.ones(2), np.ones(2))))
    assert np.allclose(decided.areas, [2.5, 1.5], atol=1e-12)
    lengths = np.linalg.norm(decided.boundary[:, 1] - decided.boundary[:, 0], axis=1)
    assert abs(lengths.sum() - (np.sqrt(2.0) + 1.0)) <= 1e-12  # the diagonal, and the edge of the tie at x1 = 0


def test_the_sign_of_one_output_is_a_decision_too():
    """relu(x_0) - 1/4 on [-1, 1]^2 is positive for x_0 > 1/4."""
    net = network((np.array([[1.0, 0.0]]), np.zeros(1)), (np.array([[1.0]]), np.array([-0.25])))
    found = mv.linear_regions(net, mv.Box(-np.ones(2), np.ones(2)))
    with pytest.raises(OptionError, match="sign of one output"):
        decision_map(found)
    assert np.allclose(decision_map(found, np.array([[1.0], [-1.0]])).areas, [1.5, 2.5], atol=1e-12)


def test_bad_questions_are_refused(regions):
    with pytest.raises(OptionError, match="label 4"):
        margin_map(regions, 4)
    with pytest.raises(OptionError, match="rise"):
        margin_map(regions, 0, (1.0, 0.0))
    with pytest.raises(OptionError, match="scores of shape"):
        decision_map(regions, np.eye(3))
    flat = mv.linear_regions(lively_net(0, (2, 5, 3)), mv.Box(np.zeros(2), np.array([1.0, 0.0])))
    with pytest.raises(OptionError, match="no area"):
        decision_map(flat)
