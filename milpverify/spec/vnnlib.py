"""VNN-LIB 1.0: a file of declarations and assertions about X_i and Y_j -> Property, in exact decimals.

Read: declare-const and declare-fun of X_i and Y_j as Real; assert of any nesting of `and` and `or` over `<=` and `>=`
between a variable and a constant or between two inputs or two outputs; comments; gzip. Everything else is refused
with its line. The satisfying points are counterexamples: inputs of a case's region with outputs in its unsafe set.

Source: Demarchi et al., "Supporting standardization of neural networks verification with VNN-LIB and CoCoNet" (2023).
"""

from __future__ import annotations

import gzip
import re
import zlib
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from milpverify.errors import RegionError, VnnlibError
from milpverify.spec.formula import (
    MAX_CLAUSES,
    And,
    EmptyError,
    Formula,
    InputBound,
    InputOrder,
    Or,
    OutputRow,
    TooManyClausesError,
    UnboundedError,
    cases_of,
)
from milpverify.spec.grid import Grid
from milpverify.spec.property import Property

if TYPE_CHECKING:
    from milpverify.network.graph import Network

TOKEN = re.compile(r"[()]|[^\s()]+")
COMMENT = re.compile(r";[^\n]*")
VARIABLE = re.compile(r"([XY])_(0|[1-9][0-9]{0,8})")
NUMBER = re.compile(r"([+-]?)([0-9]*)\.?([0-9]*)(?:[eE]([+-]?[0-9]{1,6}))?")

MAX_DEPTH = 100  # of nested and/or
MAX_DIGITS = 4000  # of a constant, exponent written out
LARGEST = Fraction(2**1024 - 2**971)  # the largest float64

# Commands that say nothing about the set of counterexamples.
SILENT = frozenset({"set-logic", "set-info", "set-option", "check-sat", "get-model", "exit"})


def read_vnnlib(path: str | Path, net: Network | None = None, grid: Grid | None = None) -> Property:
    """Read a VNN-LIB 1.0 file as a property: one case per disjunct, in the order of the file. Exact.

    Disjuncts over the same inputs share one region object. Disjuncts whose inputs contradict each other are dropped.

    Args:
        path: A text file, or one compressed by gzip.
        net: When given, the numbers of declared inputs and outputs must be the network's.
        grid: Whose points alone are inputs; the file cannot say it. None where every point of its boxes is.

    Raises:
        VnnlibError: If the file cannot be read or says what is not supported; the message has file and line.
        RegionError: If no input satisfies the assertions, naming the lines; if a disjunct's box has no grid point.
    """
    reader = _Reader(Path(path))
    reader.read()
    prop = reader.property(net)
    return prop if grid is None else prop.on_grid(grid)


class _Reader:
    """One pass over the tokens of a file; a token's line is found only when a message needs it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        text = _text(path)
        self.text = COMMENT.sub("", text) if ";" in text else text
        self.tokens: list[str] = TOKEN.findall(self.text)
        self.declared: dict[str, tuple[str, int, int]] = {}  # name -> X or Y, index, token
        self.numbers: dict[str, Fraction] = {}
        self.asserted: list[Formula] = []

    def read(self) -> None:
        """Read every command into `declared` and `asserted`."""
        tokens, i = self.tokens, 0
        if not tokens:
            raise VnnlibError(f"{self.path}: the file is empty. It should declare X_0, ... and Y_0, ....")
        while i < len(tokens):
            start = i
            try:
                i = self._command(i)
            except IndexError:
                self._fail(start, "the '(' that opens here is never closed. The file may be truncated")

    def property(self, net: Network | None) -> Property:
        """The property that was read."""
        n_inputs, n_outputs = self._number_of("X"), self._number_of("Y")
        if net is not None and (n_inputs, n_outputs) != (net.n_inputs, net.n_outputs):
            raise VnnlibError(
                f"{self.path}: declares {n_inputs} inputs and {n_outputs} outputs, the network has {net.n_inputs} "
                f"(shape {tuple(net.input_shape)}) and {net.n_outputs}. Check that file and network belong together."
            )
        try:
            cases = cases_of(self.asserted, n_inputs, n_outputs)
        except TooManyClausesError as error:
            raise VnnlibError(
                f"{self.path}: and/or nest into {error} disjuncts, at most {MAX_CLAUSES} are read. Split the file."
            ) from None
        except UnboundedError as error:
            index, side = error.args[0]
            token = self.declared[f"X_{index}"][2]
            sign = ">=" if side == "lower" else "<="
            self._fail(token, f"X_{index} has no {side} bound. Add (assert ({sign} X_{index} ...))")
        except EmptyError as error:
            index, low, high = error.args[0]
            raise RegionError(
                f"{self.path}:{self._line(low)}: empty region: the lower bound of X_{index} here exceeds its upper "
                f"bound on line {self._line(high)}. Check the two bounds."
            ) from None
        return Property(cases, n_inputs, n_outputs, self.path.name.removesuffix(".gz").removesuffix(".vnnlib"))

    def _command(self, i: int) -> int:
        """Read the command that opens at token i; the index after it."""
        tokens = self.tokens
        if tokens[i] != "(":
            self._fail(i, f"expected '(', got {tokens[i]!r}. A parenthesis may be missing or one too many before it")
        word = tokens[i + 1]
        if word == "assert":
            formula, i = self._formula(i + 2, 0)
            self.asserted.append(formula)
            return self._close(i, "assert takes one formula")
        if word == "declare-const":
            self._declare(i + 2, tokens[i + 3], i + 3)
            return self._close(i + 4, "declare-const takes a name and Real")
        if word == "declare-fun":
            if tokens[i + 3] != "(" or tokens[i + 4] != ")":
                self._fail(i + 3, "declare-fun of a function with arguments. Only constants, '()', are read")
            self._declare(i + 2, tokens[i + 5], i + 5)
            return self._close(i + 6, "declare-fun takes a name, () and Real")
        if word in SILENT:
            return self._skip(i)
        self._fail(i + 1, f"unknown command {word!r}. Only declare-const, declare-fun and assert are read")

    def _declare(self, i: int, sort: str, where: int) -> None:
        name = self.tokens[i]
        match = VARIABLE.fullmatch(name)
        if match is None:
            self._fail(i, f"declares {name!r}. Name inputs X_0, X_1, ... and outputs Y_0, Y_1, ...")
        if sort != "Real":
            self._fail(where, f"{name} has the sort {sort!r}. Only Real is read")
        self.declared[name] = match[1], int(match[2]), i

    def _formula(self, i: int, depth: int) -> tuple[Formula, int]:
        """Read the formula that opens at token i; it and the index after it."""
        tokens = self.tokens
        if tokens[i] != "(":
            self._fail(i, f"expected a formula in parentheses, got {tokens[i]!r}")
        word = tokens[i + 1]
        if word == "<=":
            return self._atom(i, i + 2, i + 3)
        if word == ">=":
            return self._atom(i, i + 3, i + 2)
        if word not in ("and", "or"):
            self._refuse(i + 1)
        if depth == MAX_DEPTH:
            self._fail(i, f"and/or nested deeper than {MAX_DEPTH}. Flatten the formula")
        parts, start = [], i + 1
        i += 2
        while tokens[i] != ")":
            part, i = self._formula(i, depth + 1)
            parts.append(part)
        if not parts:
            self._fail(start, f"'{word}' without arguments. Give it at least one")
        return And(tuple(parts)) if word == "and" else Or(tuple(parts)), i + 1

    def _atom(self, start: int, left: int, right: int) -> tuple[Formula, int]:
        """The comparison left <= right of the tokens at those indices, and the index after its ')'."""
        tokens = self.tokens
        small, large = self.declared.get(tokens[left]), self.declared.get(tokens[right])
        if "(" in tokens[start + 2 : start + 4]:
            self._refuse(start + 2 + (tokens[start + 2] != "(") + 1)
        if ")" in tokens[start + 2 : start + 4] or tokens[start + 4] != ")":
            self._fail(start + 1, f"{tokens[start + 1]} takes two arguments, variables or numbers. Split longer chains")
        after = start + 5
        if small is not None and large is not None:
            if small[0] != large[0]:
                self._fail(left, f"compares an input with an output, {tokens[left]} <= {tokens[right]}. Use constants")
            if small[1] == large[1]:
                return And(()), after
            if small[0] == "X":
                return InputOrder(small[1], large[1]), after
            return OutputRow(small[1], large[1], Fraction(0)), after
        if small is not None:
            value = self._number(right)
            if small[0] == "X":
                return InputBound(small[1], True, value, left), after
            return OutputRow(small[1], None, value), after
        if large is None:
            self._number(left)  # an undeclared name is the more likely slip
            self._number(right)
            self._fail(left, f"compares two constants, {tokens[left]} <= {tokens[right]}. One side must be a variable")
        value = self._number(left)
        if large[0] == "X":
            return InputBound(large[1], False, value, right), after
        return OutputRow(None, large[1], -value), after

    def _number(self, i: int) -> Fraction:
        text = self.tokens[i]
        known = self.numbers.get(text)
        if known is not None:
            return known
        match = NUMBER.fullmatch(text)
        if match is None or not (match[2] or match[3]):
            if VARIABLE.fullmatch(text):
                self._fail(i, f"{text} is not declared before its use. Add (declare-const {text} Real)")
            self._fail(i, f"expected a declared variable or a decimal number, got {text!r}")
        sign, whole, part, power = match.groups()
        shift = int(power or 0) - len(part)
        if abs(shift) + len(whole) + len(part) > MAX_DIGITS:
            self._fail(i, f"the constant {text[:20]!r}... has more than {MAX_DIGITS} digits. Round it")
        digits = int(f"{sign}{whole}{part}")
        value = Fraction(digits * 10**shift) if shift >= 0 else Fraction(digits, 10**-shift)
        if abs(value) > LARGEST:
            self._fail(i, f"the constant {text[:20]!r} is larger than any float64. Use a smaller one")
        self.numbers[text] = value
        return value

    def _refuse(self, i: int) -> NoReturn:
        """Refuse the operator at token i."""
        word = self.tokens[i]
        if word in ("assert", "declare-const", "declare-fun"):
            self._fail(i, f"{word!r} inside a formula. A ')' is missing before it")
        if word in ("<", ">"):
            self._fail(i, f"strict inequality '{word}'. Write {word}=: the closed set is what VNN-LIB means")
        if word == "=":
            self._fail(i, "'=' is not read. Write both (<= ...) and (>= ...)")
        if word in ("+", "-", "*", "/"):
            self._fail(i, f"arithmetic '{word}' is not read. Write numbers as -0.5 and compare variables directly")
        self._fail(i, f"operator {word!r} is not read. Only and, or, <= and >= are")

    def _close(self, i: int, usage: str) -> int:
        if self.tokens[i] != ")":
            self._fail(i, f"expected ')', got {self.tokens[i]!r}: {usage}. Check the parentheses")
        return i + 1

    def _skip(self, i: int) -> int:
        """The index after the command that opens at token i, whatever is in it."""
        depth = 0
        while True:
            depth += (self.tokens[i] == "(") - (self.tokens[i] == ")")
            i += 1
            if depth == 0:
                return i

    def _number_of(self, kind: str) -> int:
        """How many variables X or Y there are; their indices must be 0, 1, ..."""
        indices = {index: token for letter, index, token in self.declared.values() if letter == kind}
        if not indices:
            raise VnnlibError(f"{self.path}: declares no {kind}_0. Add (declare-const {kind}_0 Real).")
        gap = next((k for k in range(len(indices)) if k not in indices), None)
        if gap is not None:
            last = max(indices)
            self._fail(indices[last], f"declares {kind}_{last} but no {kind}_{gap}. Leave no gaps in the numbering")
        return len(indices)

    def _line(self, token: int) -> int:
        for k, match in enumerate(TOKEN.finditer(self.text)):
            if k == token:
                return self.text.count("\n", 0, match.start()) + 1
        return self.text.count("\n") + 1

    def _fail(self, token: int, what: str) -> NoReturn:
        raise VnnlibError(f"{self.path}:{self._line(token)}: {what}.") from None


def _text(path: Path) -> str:
    """The text of a file, unpacked where it is gzip."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise VnnlibError(f"{path}: cannot be read: {error.strerror}. Check the path.") from None
    if content.startswith(b"\x1f\x8b"):
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise VnnlibError(f"{path}: damaged gzip file ({error}). Fetch it again.") from None
    elif path.suffix == ".gz" and content:
        raise VnnlibError(f"{path}: is not gzip-compressed although its name ends in .gz. Rename or fetch it again.")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise VnnlibError(f"{path}: is not a text file (byte {error.start}). Give a VNN-LIB file.") from None
