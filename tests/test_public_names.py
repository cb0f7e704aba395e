"""The public names are a promise: this list changes only on purpose, together with the CHANGELOG."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import milpverify

NAMES = """
    Ascending BranchAndBound CutRounds InputSplitting PhaseSplits Portfolio Programs ReluSplitting Strengthening
    AlphaCrown Ascent BatchBounds BigM BoundMethod Bounds BoundsError Box BoxBatch Bracket Case Cbc Checkpoint
    CheckpointError Crown Detection
    FastLin FastLinStep Fgsm Float32 Grade Grid Highs Holds InputError Interval KappaCrown L1Ball L2Ball Ladder Limits
    LinfBall MILPTightening MILP MilpverifyError Minimiser Network NetworkError NeuronTrees NormBounds OptionError
    OutputRange Pgd Polyhedron Program ProgramBuilder Progress Progressive Property PropertyError PulpHighs Radius
    ReachableClass Real Region RegionError Replay Rung Solution Solver SolverError StepReport TriangleLP Unknown
    UnsupportedError Verdict Verifier Violated VnnlibError Witness Zonotope __version__ big_m bound_batch
    bound_ladder bound_rows compute_bounds condense confirm fold_normalisation forward_exact from_onnx from_torch
    load_property minimum_epsilon output_range possibly_adversarial progressive_bounds reachable_classes read_vnnlib
    replay robustness verify worst_margin
    Page PageOptions Relaxation explore_page random_network
    Certificate Certified CheckResult PhaseProver Proof ProofError Prover certify check_exact read_certificate
    Attribution ExactNeurons InputSlice LinearRegions Outline Refinement attribute_gap linear_regions outline
    DecisionMap MarginMap Samples Wording decision_map margin_map plot_regions
    Animation BallOutline Mark animate_polytope
    plot_margin
    NeuronGap OutlineRow OutlineTable compare_outlines nested_outlines
    Theme plot_gaps plot_panels plot_polytope plot_relu polytope_panel save_figure
    activation_region ActivationRegion CertifiedRadii Exactness simplex_certificate SimplexCertificate Gains
    lipschitz_certificate decision_boundary_certificate DecisionBoundaryCertificate dual_radius linear_certificate
    worst_linear_margins worst_cross_entropy LinearNetwork margin_bound tightness Tightness
    IterativeFgsm MarginToTarget TargetAgainstOthers DeepFool attack_images Adversarials attack_radius
    AdversarialLoss DualLoss EpochRecord EpsSchedule Evaluator ImageSet IntervalLoss Norm PgdAscent
    RandomProjections RobustError RobustEvaluation StandardLoss TightnessPenalty TrainedModel Trainer read_digits
    read_idx_folder robust_evaluation save_onnx plot_errors
"""


def test_the_public_names_are_these() -> None:
    assert sorted(milpverify.__all__) == sorted(NAMES.split())


def test_every_public_name_exists() -> None:
    for name in milpverify.__all__:
        assert getattr(milpverify, name) is not None


def test_importing_the_package_loads_nothing_else() -> None:
    heavy = ("numpy", "highspy", "torch", "onnx", "pulp")
    code = f"import sys, milpverify; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_type_checkers_are_told_the_same_names() -> None:
    source = Path(milpverify.__file__).read_text()
    told = re.findall(r"^    from milpverify\.\S+ import (\w+) as \1$", source, re.MULTILINE)
    assert sorted([*told, "__version__"]) == sorted(milpverify.__all__)
