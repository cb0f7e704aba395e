"""Exact answers about ReLU networks, by bounds and mixed-integer programming.

Names are imported when they are first used, so that `import milpverify` costs nothing and no optional package is
loaded before it is needed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "errors": "MilpverifyError InputError NetworkError UnsupportedError PropertyError VnnlibError RegionError "
    "OptionError CheckpointError BoundsError ProofError SolverError",
    "network.graph": "Network Bounds",
    "network.exact": "forward_exact",
    "network.from_onnx": "from_onnx",
    "network.from_torch": "from_torch",
    "network.normalise": "fold_normalisation",
    "network.condense": "condense",
    "spec.regions": "Region Box BoxBatch Grid LinfBall L1Ball L2Ball",
    "spec.property": "Case Polyhedron Property robustness load_property",
    "spec.vnnlib": "read_vnnlib",
    "program.program": "Program ProgramBuilder",
    "program.solver": "Limits Solver Solution",
    "program.highs": "Highs",
    "program.pulp_backend": "Cbc PulpHighs",
    "bounds.method": "BoundMethod Interval",
    "bounds.semantics": "Float32 Real",
    "bounds.backward": "FastLin Crown",
    "bounds.ascent": "Ascent",
    "bounds.slopes": "AlphaCrown FastLinStep KappaCrown",
    "bounds.zonotope": "Zonotope",
    "bounds.norms": "NormBounds",
    "bounds.compute": "compute_bounds bound_rows",
    "bounds.batch": "bound_batch BatchBounds",
    "attack.fgsm": "Fgsm",
    "attack.iterative_fgsm": "IterativeFgsm",
    "attack.objective": "MarginToTarget TargetAgainstOthers",
    "attack.deepfool": "DeepFool",
    "attack.images": "attack_images Adversarials",
    "tasks.attack_radius": "attack_radius",
    "attack.pgd": "Pgd",
    "proof.certificate": "Certificate read_certificate",
    "proof.evidence": "Verdict Holds Violated Unknown Bracket Grade Witness Replay Proof",
    "proof.exact": "check_exact CheckResult",
    "proof.replay": "replay confirm",
    "formulation.relu": "BigM",
    "formulation.property_program": "big_m",
    "tighten.lp": "TriangleLP",
    "tighten.milp": "MILPTightening",
    "tighten.progressive": "Progressive StepReport progressive_bounds",
    "search.checkpoint": "Checkpoint",
    "search.milp": "MILP",
    "search.bounding": "Ascending Programs",
    "search.input_tree": "InputSplitting",
    "search.cut_pool": "Strengthening",
    "search.neuron_trees": "NeuronTrees",
    "search.node_lp": "CutRounds",
    "search.phases": "PhaseSplits",
    "search.relu_splitting": "ReluSplitting",
    "search.branch_and_bound": "BranchAndBound",
    "search.portfolio": "Portfolio",
    "tasks.verify": "verify Verifier",
    "tasks.certify": "certify Certified Prover",
    "search.phase_proof": "PhaseProver",
    "tasks.margin": "worst_margin Minimiser",
    "tasks.epsilon": "minimum_epsilon",
    "tasks.radius": "Radius",
    "tasks.ranges": "output_range reachable_classes OutputRange ReachableClass",
    "tasks.detect": "possibly_adversarial Detection",
    "tasks.ladder": "bound_ladder",
    "tasks.rungs": "Ladder Rung",
    "tasks.progress": "Progress",
    "certificates.activation_region": "activation_region ActivationRegion",
    "certificates.radii": "CertifiedRadii Exactness",
    "certificates.simplex": "simplex_certificate SimplexCertificate",
    "certificates.gains": "Gains lipschitz_certificate",
    "certificates.decision_boundary": "decision_boundary_certificate DecisionBoundaryCertificate",
    "certificates.dual_radius": "dual_radius",
    "certificates.linear_model": "linear_certificate worst_linear_margins worst_cross_entropy",
    "certificates.linear_network": "LinearNetwork margin_bound",
    "certificates.tightness": "tightness Tightness",
    "polytope.plot_gaps": "plot_gaps",
    "polytope.page": "explore_page Page PageOptions",
    "polytope.page_scene": "Relaxation",
    "polytope.random_network": "random_network",
    "polytope.plot_neuron": "plot_relu",
    "polytope.plot_outline": "plot_polytope plot_panels polytope_panel",
    "polytope.plot_style": "Theme save_figure",
    "polytope.decision": "decision_map DecisionMap margin_map MarginMap",
    "polytope.plot_regions": "plot_regions Samples Wording",
    "polytope.plot_surface": "plot_margin BallOutline Mark",
    "polytope.plot_animation": "animate_polytope Animation",
    "polytope.input_slice": "InputSlice",
    "polytope.linear_regions": "linear_regions LinearRegions",
    "polytope.refinement": "Refinement",
    "polytope.outline": "outline Outline",
    "polytope.exact_neurons": "ExactNeurons",
    "polytope.comparison": "compare_outlines nested_outlines OutlineRow OutlineTable",
    "polytope.attribution": "attribute_gap Attribution NeuronGap",
    "training.attack": "PgdAscent",
    "training.ball": "Norm",
    "training.datasets": "ImageSet read_digits read_idx_folder",
    "training.error_table": "RobustError RobustEvaluation",
    "report.errors_plot": "plot_errors",
    "training.evaluation": "Evaluator robust_evaluation",
    "training.losses": "AdversarialLoss DualLoss IntervalLoss StandardLoss",
    "training.projection": "RandomProjections",
    "training.records": "EpochRecord TrainedModel",
    "training.schedule": "EpsSchedule",
    "training.tightness": "TightnessPenalty",
    "training.to_onnx": "save_onnx",
    "training.trainer": "Trainer",
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names.split()}

__all__ = ["__version__", *sorted(_MODULE_OF)]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'milpverify' has no attribute {name!r}")
    value = getattr(import_module(f"milpverify.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


if TYPE_CHECKING:  # what __getattr__ finds, for type checkers and editors
    from milpverify.attack.deepfool import DeepFool as DeepFool
    from milpverify.attack.fgsm import Fgsm as Fgsm
    from milpverify.attack.images import Adversarials as Adversarials
    from milpverify.attack.images import attack_images as attack_images
    from milpverify.attack.iterative_fgsm import IterativeFgsm as IterativeFgsm
    from milpverify.attack.objective import MarginToTarget as MarginToTarget
    from milpverify.attack.objective import TargetAgainstOthers as TargetAgainstOthers
    from milpverify.attack.pgd import Pgd as Pgd
    from milpverify.bounds.ascent import Ascent as Ascent
    from milpverify.bounds.backward import Crown as Crown
    from milpverify.bounds.backward import FastLin as FastLin
    from milpverify.bounds.batch import BatchBounds as BatchBounds
    from milpverify.bounds.batch import bound_batch as bound_batch
    from milpverify.bounds.compute import bound_rows as bound_rows
    from milpverify.bounds.compute import compute_bounds as compute_bounds
    from milpverify.bounds.method import BoundMethod as BoundMethod
    from milpverify.bounds.method import Interval as Interval
    from milpverify.bounds.norms import NormBounds as NormBounds
    from milpverify.bounds.semantics import Float32 as Float32
    from milpverify.bounds.semantics import Real as Real
    from milpverify.bounds.slopes import AlphaCrown as AlphaCrown
    from milpverify.bounds.slopes import FastLinStep as FastLinStep
    from milpverify.bounds.slopes import KappaCrown as KappaCrown
    from milpverify.bounds.zonotope import Zonotope as Zonotope
    from milpverify.certificates.activation_region import ActivationRegion as ActivationRegion
    from milpverify.certificates.activation_region import activation_region as activation_region
    from milpverify.certificates.decision_boundary import DecisionBoundaryCertificate as DecisionBoundaryCertificate
    from milpverify.certificates.decision_boundary import decision_boundary_certificate as decision_boundary_certificate
    from milpverify.certificates.dual_radius import dual_radius as dual_radius
    from milpverify.certificates.gains import Gains as Gains
    from milpverify.certificates.gains import lipschitz_certificate as lipschitz_certificate
    from milpverify.certificates.linear_model import linear_certificate as linear_certificate
    from milpverify.certificates.linear_model import worst_cross_entropy as worst_cross_entropy
    from milpverify.certificates.linear_model import worst_linear_margins as worst_linear_margins
    from milpverify.certificates.linear_network import LinearNetwork as LinearNetwork
    from milpverify.certificates.linear_network import margin_bound as margin_bound
    from milpverify.certificates.radii import CertifiedRadii as CertifiedRadii
    from milpverify.certificates.radii import Exactness as Exactness
    from milpverify.certificates.simplex import SimplexCertificate as SimplexCertificate
    from milpverify.certificates.simplex import simplex_certificate as simplex_certificate
    from milpverify.certificates.tightness import Tightness as Tightness
    from milpverify.certificates.tightness import tightness as tightness
    from milpverify.errors import BoundsError as BoundsError
    from milpverify.errors import CheckpointError as CheckpointError
    from milpverify.errors import InputError as InputError
    from milpverify.errors import MilpverifyError as MilpverifyError
    from milpverify.errors import NetworkError as NetworkError
    from milpverify.errors import OptionError as OptionError
    from milpverify.errors import ProofError as ProofError
    from milpverify.errors import PropertyError as PropertyError
    from milpverify.errors import RegionError as RegionError
    from milpverify.errors import SolverError as SolverError
    from milpverify.errors import UnsupportedError as UnsupportedError
    from milpverify.errors import VnnlibError as VnnlibError
    from milpverify.formulation.property_program import big_m as big_m
    from milpverify.formulation.relu import BigM as BigM
    from milpverify.network.condense import condense as condense
    from milpverify.network.exact import forward_exact as forward_exact
    from milpverify.network.from_onnx import from_onnx as from_onnx
    from milpverify.network.from_torch import from_torch as from_torch
    from milpverify.network.graph import Bounds as Bounds
    from milpverify.network.graph import Network as Network
    from milpverify.network.normalise import fold_normalisation as fold_normalisation
    from milpverify.polytope.attribution import Attribution as Attribution
    from milpverify.polytope.attribution import NeuronGap as NeuronGap
    from milpverify.polytope.attribution import attribute_gap as attribute_gap
    from milpverify.polytope.comparison import OutlineRow as OutlineRow
    from milpverify.polytope.comparison import OutlineTable as OutlineTable
    from milpverify.polytope.comparison import compare_outlines as compare_outlines
    from milpverify.polytope.comparison import nested_outlines as nested_outlines
    from milpverify.polytope.decision import DecisionMap as DecisionMap
    from milpverify.polytope.decision import MarginMap as MarginMap
    from milpverify.polytope.decision import decision_map as decision_map
    from milpverify.polytope.decision import margin_map as margin_map
    from milpverify.polytope.exact_neurons import ExactNeurons as ExactNeurons
    from milpverify.polytope.input_slice import InputSlice as InputSlice
    from milpverify.polytope.linear_regions import LinearRegions as LinearRegions
    from milpverify.polytope.linear_regions import linear_regions as linear_regions
    from milpverify.polytope.outline import Outline as Outline
    from milpverify.polytope.outline import outline as outline
    from milpverify.polytope.page import Page as Page
    from milpverify.polytope.page import PageOptions as PageOptions
    from milpverify.polytope.page import explore_page as explore_page
    from milpverify.polytope.page_scene import Relaxation as Relaxation
    from milpverify.polytope.plot_animation import Animation as Animation
    from milpverify.polytope.plot_animation import animate_polytope as animate_polytope
    from milpverify.polytope.plot_gaps import plot_gaps as plot_gaps
    from milpverify.polytope.plot_neuron import plot_relu as plot_relu
    from milpverify.polytope.plot_outline import plot_panels as plot_panels
    from milpverify.polytope.plot_outline import plot_polytope as plot_polytope
    from milpverify.polytope.plot_outline import polytope_panel as polytope_panel
    from milpverify.polytope.plot_regions import Samples as Samples
    from milpverify.polytope.plot_regions import Wording as Wording
    from milpverify.polytope.plot_regions import plot_regions as plot_regions
    from milpverify.polytope.plot_style import Theme as Theme
    from milpverify.polytope.plot_style import save_figure as save_figure
    from milpverify.polytope.plot_surface import BallOutline as BallOutline
    from milpverify.polytope.plot_surface import Mark as Mark
    from milpverify.polytope.plot_surface import plot_margin as plot_margin
    from milpverify.polytope.random_network import random_network as random_network
    from milpverify.polytope.refinement import Refinement as Refinement
    from milpverify.program.highs import Highs as Highs
    from milpverify.program.program import Program as Program
    from milpverify.program.program import ProgramBuilder as ProgramBuilder
    from milpverify.program.pulp_backend import Cbc as Cbc
    from milpverify.program.pulp_backend import PulpHighs as PulpHighs
    from milpverify.program.solver import Limits as Limits
    from milpverify.program.solver import Solution as Solution
    from milpverify.program.solver import Solver as Solver
    from milpverify.proof.certificate import Certificate as Certificate
    from milpverify.proof.certificate import read_certificate as read_certificate
    from milpverify.proof.evidence import Bracket as Bracket
    from milpverify.proof.evidence import Grade as Grade
    from milpverify.proof.evidence import Holds as Holds
    from milpverify.proof.evidence import Proof as Proof
    from milpverify.proof.evidence import Replay as Replay
    from milpverify.proof.evidence import Unknown as Unknown
    from milpverify.proof.evidence import Verdict as Verdict
    from milpverify.proof.evidence import Violated as Violated
    from milpverify.proof.evidence import Witness as Witness
    from milpverify.proof.exact import CheckResult as CheckResult
    from milpverify.proof.exact import check_exact as check_exact
    from milpverify.proof.replay import confirm as confirm
    from milpverify.proof.replay import replay as replay
    from milpverify.report.errors_plot import plot_errors as plot_errors
    from milpverify.search.bounding import Ascending as Ascending
    from milpverify.search.bounding import Programs as Programs
    from milpverify.search.branch_and_bound import BranchAndBound as BranchAndBound
    from milpverify.search.checkpoint import Checkpoint as Checkpoint
    from milpverify.search.cut_pool import Strengthening as Strengthening
    from milpverify.search.input_tree import InputSplitting as InputSplitting
    from milpverify.search.milp import MILP as MILP
    from milpverify.search.neuron_trees import NeuronTrees as NeuronTrees
    from milpverify.search.node_lp import CutRounds as CutRounds
    from milpverify.search.phase_proof import PhaseProver as PhaseProver
    from milpverify.search.phases import PhaseSplits as PhaseSplits
    from milpverify.search.portfolio import Portfolio as Portfolio
    from milpverify.search.relu_splitting import ReluSplitting as ReluSplitting
    from milpverify.spec.property import Case as Case
    from milpverify.spec.property import Polyhedron as Polyhedron
    from milpverify.spec.property import Property as Property
    from milpverify.spec.property import load_property as load_property
    from milpverify.spec.property import robustness as robustness
    from milpverify.spec.regions import Box as Box
    from milpverify.spec.regions import BoxBatch as BoxBatch
    from milpverify.spec.regions import Grid as Grid
    from milpverify.spec.regions import L1Ball as L1Ball
    from milpverify.spec.regions import L2Ball as L2Ball
    from milpverify.spec.regions import LinfBall as LinfBall
    from milpverify.spec.regions import Region as Region
    from milpverify.spec.vnnlib import read_vnnlib as read_vnnlib
    from milpverify.tasks.attack_radius import attack_radius as attack_radius
    from milpverify.tasks.certify import Certified as Certified
    from milpverify.tasks.certify import Prover as Prover
    from milpverify.tasks.certify import certify as certify
    from milpverify.tasks.detect import Detection as Detection
    from milpverify.tasks.detect import possibly_adversarial as possibly_adversarial
    from milpverify.tasks.epsilon import minimum_epsilon as minimum_epsilon
    from milpverify.tasks.ladder import bound_ladder as bound_ladder
    from milpverify.tasks.margin import Minimiser as Minimiser
    from milpverify.tasks.margin import worst_margin as worst_margin
    from milpverify.tasks.progress import Progress as Progress
    from milpverify.tasks.radius import Radius as Radius
    from milpverify.tasks.ranges import OutputRange as OutputRange
    from milpverify.tasks.ranges import ReachableClass as ReachableClass
    from milpverify.tasks.ranges import output_range as output_range
    from milpverify.tasks.ranges import reachable_classes as reachable_classes
    from milpverify.tasks.rungs import Ladder as Ladder
    from milpverify.tasks.rungs import Rung as Rung
    from milpverify.tasks.verify import Verifier as Verifier
    from milpverify.tasks.verify import verify as verify
    from milpverify.tighten.lp import TriangleLP as TriangleLP
    from milpverify.tighten.milp import MILPTightening as MILPTightening
    from milpverify.tighten.progressive import Progressive as Progressive
    from milpverify.tighten.progressive import StepReport as StepReport
    from milpverify.tighten.progressive import progressive_bounds as progressive_bounds
    from milpverify.training.attack import PgdAscent as PgdAscent
    from milpverify.training.ball import Norm as Norm
    from milpverify.training.datasets import ImageSet as ImageSet
    from milpverify.training.datasets import read_digits as read_digits
    from milpverify.training.datasets import read_idx_folder as read_idx_folder
    from milpverify.training.error_table import RobustError as RobustError
    from milpverify.training.error_table import RobustEvaluation as RobustEvaluation
    from milpverify.training.evaluation import Evaluator as Evaluator
    from milpverify.training.evaluation import robust_evaluation as robust_evaluation
    from milpverify.training.losses import AdversarialLoss as AdversarialLoss
    from milpverify.training.losses import DualLoss as DualLoss
    from milpverify.training.losses import IntervalLoss as IntervalLoss
    from milpverify.training.losses import StandardLoss as StandardLoss
    from milpverify.training.projection import RandomProjections as RandomProjections
    from milpverify.training.records import EpochRecord as EpochRecord
    from milpverify.training.records import TrainedModel as TrainedModel
    from milpverify.training.schedule import EpsSchedule as EpsSchedule
    from milpverify.training.tightness import TightnessPenalty as TightnessPenalty
    from milpverify.training.to_onnx import save_onnx as save_onnx
    from milpverify.training.trainer import Trainer as Trainer
