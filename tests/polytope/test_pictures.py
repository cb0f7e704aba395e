"""The benchmark of pictures: radii that it prints are proven ones, and bad files are refused before any work."""

import sys

import numpy as np
import pytest

import milpverify as mv
from tests.paths import ROOT, need
from tests.polytope.region_cases import lively_net

sys.path.insert(0, str(ROOT / "benchmarks"))
pictures = pytest.importorskip("pictures")


@pytest.mark.parametrize("method", [method for _, method in pictures.RADII_METHODS], ids=lambda method: method.name)
def test_a_certified_radius_is_proven_and_no_larger_than_the_exact_one(method):
    net, x = lively_net(2, (4, 12, 12, 3)), np.array([0.3, -0.2, 0.1, 0.4])
    label = int(net.forward(x).argmax())
    exact = mv.minimum_epsilon(net, x, label, eps_max=2.0)
    rows = np.eye(3)[label] - np.delete(np.eye(3), label, axis=0)
    found = pictures.certified_radius(net, x, rows, method, exact.upper)
    ball = mv.LinfBall(x, found)
    assert 0.0 < found <= exact.upper
    assert (mv.bound_rows(net, ball, mv.compute_bounds(net, ball, method), rows, method).value > 0).all()


@pytest.mark.parametrize("command", ["acas-map", "mnist-slice", "figure5", "animation"])
def test_a_file_of_another_kind_is_refused_with_status_2(command, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["pictures.py", command, "--out", str(tmp_path / "picture.bmp")])
    assert pictures.main() == 2
    assert "must end in" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_the_shares_of_acas_xu_s_advisories_are_those_of_samples(tmp_path, monkeypatch, capsys):
    need("acasxu", "onnx", "ACASXU_run2a_1_1_batch_2000.onnx")
    for name, limits in (("rho", (2000.0, 8000.0)), ("theta", (-1.2, 0.4))):  # a part of the picture is quicker
        monkeypatch.setitem(pictures.INPUTS, name, (*pictures.INPUTS[name][:3], limits))
    ends = ["--psi", "1.5", "--v-own", "700", "--v-int", "500", "--free", "theta", "rho"]
    monkeypatch.setattr(sys, "argv", ["pictures.py", "acas-map", "--out", str(tmp_path / "a.png"), *ends])
    assert pictures.main() == 0
    told = capsys.readouterr().out.splitlines()
    shares = np.array([float(line.split()[-2]) for line in told if line.endswith("%")]) / 100.0
    net = mv.from_onnx(need("acasxu", "onnx", "ACASXU_run2a_1_1_batch_2000.onnx"))
    rng, n = np.random.default_rng(0), 20_000
    x = np.tile([0.0, 0.0, 1.5, 700.0, 500.0], (n, 1))
    x[:, 0], x[:, 1] = rng.uniform(2000.0, 8000.0, n), rng.uniform(-1.2, 0.4, n)
    spread, mean = (
        np.array([60261.0, 6.28318530718, 6.28318530718, 1100.0, 1200.0]),
        np.array([19791.091, 0, 0, 650, 600]),
    )
    sampled = np.bincount(net.forward((x - mean) / spread).argmin(axis=1), minlength=5) / n
    assert (shares > 0.01).sum() >= 3  # else this says nothing
    assert shares.sum() == pytest.approx(1.0, abs=1e-4)
    assert (np.abs(shares - sampled) <= 4.0 * np.sqrt(shares * (1 - shares) / n) + 1e-4).all()
