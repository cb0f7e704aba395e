"""An animation has the frames it was asked for, on axes that stay, in a file written whole."""

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image as Picture

import milpverify as mv
from milpverify.errors import OptionError
from milpverify.polytope.plot_animation import LEFT, Animation, animate_polytope, frame_of
from milpverify.polytope.plot_style import DARK, LIGHT
from tests.polytope.region_cases import lively_net

EPS = (0.05, 0.1, 0.2)
QUICK = (mv.Crown(), mv.Interval())


@pytest.fixture(scope="module")
def net():
    return lively_net(0, (2, 12, 12, 2))


@pytest.fixture(scope="module")
def ball():
    return mv.LinfBall(np.array([0.2, -0.1]), 1.0)


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=lambda theme: theme.name)
def test_there_is_one_frame_for_every_radius(net, ball, theme, tmp_path):
    told = []
    look = Animation(frames_per_s=5.0, hold_s=1.5, dpi=60, theme=theme)
    path = tmp_path / "a.gif"
    panels = animate_polytope(net, ball, EPS, path, QUICK, animation=look, on_frame=lambda i, panel: told.append(i))
    with Picture.open(path) as picture:
        pauses = []
        for i in range(picture.n_frames):
            picture.seek(i)
            pauses.append(picture.info["duration"])
            assert picture.convert("RGB").getpixel((1, 1)) == tuple(round(255 * part) for part in to_rgb(theme.paper))
        assert picture.n_frames == len(EPS) and picture.size == (480, 264)
    assert pauses == [200, 200, 1500] and told == [0, 1, 2] and len(panels) == 3


def test_a_larger_ball_has_larger_sets(net, ball, tmp_path):
    panels = animate_polytope(net, ball, EPS, tmp_path / "a.gif", QUICK, animation=Animation(dpi=40))
    areas = [[panel.image.area, *(found.area for found in panel.outlines)] for panel in panels]
    assert (np.diff(areas, axis=0) > 0).all()
    assert all(exact <= relaxed for exact, *others in areas for relaxed in others)


def test_the_same_animation_twice_is_the_same_file(net, ball, tmp_path):
    for name in ("a.gif", "b.gif"):
        animate_polytope(net, ball, EPS[:2], tmp_path / name, QUICK, animation=Animation(dpi=40))
    assert (tmp_path / "a.gif").read_bytes() == (tmp_path / "b.gif").read_bytes()


def test_the_axes_stay_and_hold_every_frame_s_exact_set(net, ball, tmp_path):
    panels = animate_polytope(net, ball, EPS, tmp_path / "a.gif", QUICK, animation=Animation(dpi=40))
    frames = [frame_of(panels, EPS, i, LIGHT) for i in range(3)]
    boxes = {(axes.get_xlim(), axes.get_ylim()) for axes in (frame.axes[0] for frame in frames)}
    ((x, y),) = boxes
    assert all(tuple(frame.axes[0].get_position().bounds) == pytest.approx(LEFT) for frame in frames)
    points = np.concatenate([panel.image.points for panel in panels])
    assert ((points > [x[0], y[0]]) & (points < [x[1], y[1]])).all()


def test_the_areas_drawn_are_the_areas_over_the_exact_one(net, ball, tmp_path):
    panels = animate_polytope(net, ball, EPS, tmp_path / "a.gif", QUICK, animation=Animation(dpi=40))
    lines = frame_of(panels, EPS, 2, LIGHT).axes[1].lines
    drawn = {tuple(np.round(line.get_ydata(), 9)) for line in lines if len(line.get_ydata()) == 3}
    expected = {
        tuple(round(panel.outlines[k].area / panel.image.area, 9) for panel in panels) for k in range(len(QUICK))
    }
    assert drawn == expected


@pytest.mark.parametrize("eps", [(), (0.1, 0.1), (0.2, 0.1), (0.0, 0.1), (-0.1,), (0.1, np.inf), (np.nan,)])
def test_radii_that_do_not_rise_are_refused_and_nothing_is_written(net, ball, eps, tmp_path):
    with pytest.raises(OptionError, match="rise"):
        animate_polytope(net, ball, eps, tmp_path / "a.gif", QUICK)
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_written_is_refused_before_any_work(net, ball, tmp_path):
    def never(i, panel):
        raise AssertionError("work was done")

    with pytest.raises(OptionError, match=r"must end in \.gif"):
        animate_polytope(net, ball, EPS, tmp_path / "a.mp4", QUICK, on_frame=never)
    with pytest.raises(OptionError, match="no folder"):
        animate_polytope(net, ball, EPS, tmp_path / "none" / "a.gif", QUICK, on_frame=never)
    with pytest.raises(OptionError, match="positive"):
        Animation(frames_per_s=0.0)
