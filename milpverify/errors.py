"""Every exception a user of milpverify can meet.

    MilpverifyError                 the root; catch this one to catch them all
    ├── InputError                  what was handed in cannot be used (command line: exit status 2)
    │   ├── NetworkError            a network file or module that cannot be read exactly
    │   │   └── UnsupportedError    an operator, attribute or layer that is not piecewise linear or not read
    │   ├── PropertyError           a property, label or target that does not fit the network
    │   │   └── VnnlibError         a VNN-LIB file, with its line number
    │   ├── RegionError             an input region: eps, norm, clip, emptiness
    │   ├── OptionError             an option out of its range (time limit, tolerance, device, missing extra)
    │   └── CheckpointError         a checkpoint that is damaged, of another question, or no checkpoint at all
    ├── ProofError                  a proof's file that is malformed, or content that no such file can hold
    ├── BoundsError                 bounds that contradict each other (some l > u)
    └── SolverError                 a solver that refused a model or an option, or answered nonsense

A message says who, what was expected, what came, where, and the remedy, in one line.
"""

from __future__ import annotations


class MilpverifyError(Exception):
    """Root of every exception raised on purpose by milpverify."""


class InputError(MilpverifyError):
    """Something handed in cannot be used; the command line ends with exit status 2."""


class NetworkError(InputError):
    """A network that cannot be read, has the wrong shapes, or holds NaN or infinite weights."""


class UnsupportedError(NetworkError):
    """An operator, attribute or layer that milpverify does not read exactly."""


class PropertyError(InputError):
    """A property, label or target that does not fit the network."""


class VnnlibError(PropertyError):
    """A VNN-LIB file that cannot be read; the message carries the file and the line."""


class RegionError(InputError):
    """An input region that makes no sense: negative eps, NaN, empty, outside its clip."""


class OptionError(InputError):
    """An option outside its range, or one that needs a package that is not installed."""


class CheckpointError(InputError):
    """A checkpoint that cannot be gone on from, or a place where none can be written; the file is left as it was."""


class ProofError(MilpverifyError):
    """A proof that is malformed: unreadable bytes, unknown keys, shapes or trees that do not fit."""


class BoundsError(MilpverifyError):
    """Bounds that contradict each other: some lower bound exceeds its upper bound."""


class SolverError(MilpverifyError):
    """A solver refused a model or an option, or returned a status that cannot be trusted."""


def first_line(error: BaseException) -> str:
    """What it says first; the name of its class where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]
