"""`verify --proof` and `check`, on a network that can be worked out by hand (tests/tiny.py)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import milpverify.proof.checker
from milpverify.cli import main
from tests.tiny import write_input, write_network, write_property


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """PROOF NET PROP, PROP holding over [0.75, 1.25]; the proof is written."""
    net, prop = write_network(tmp_path / "tiny.onnx"), write_property(tmp_path / "tiny.vnnlib", "0.75", "1.25")
    proof = str(tmp_path / "out.proof")
    assert main(["verify", net, prop, "--proof", proof]) == 0
    return [proof, net, prop]


def result_of(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> dict[str, Any]:
    capsys.readouterr()
    assert main([*arguments, "--json"]) == status
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer["result"]  # type: ignore[no-any-return]


def test_a_written_proof_is_accepted_by_both_checkers(capsys: pytest.CaptureFixture[str], files: list[str]) -> None:
    result = result_of(capsys, "check", *files)
    assert result["accepted"] and result["cases"] == 1 and result["leaves"] >= 1 and result["reason"] is None
    assert main(["check", *files, "--standalone"]) == 0
    assert "accepted" in capsys.readouterr().out


def test_a_copied_checker_runs_alone(tmp_path: Path, files: list[str]) -> None:
    copy = tmp_path / "elsewhere" / "checker.py"
    copy.parent.mkdir()
    copy.write_bytes(Path(milpverify.proof.checker.__file__).read_bytes())
    alone = subprocess.run([sys.executable, "-I", str(copy), *files], capture_output=True, text=True, cwd=copy.parent)
    assert alone.returncode == 0 and "accepted" in alone.stdout, alone.stderr


def test_verify_says_that_its_proof_was_checked(capsys: pytest.CaptureFixture[str], files: list[str]) -> None:
    result = result_of(capsys, "verify", *files[1:], "--proof", files[0])
    assert result["word"] == "unsat" and result["grade"] == "proof-checked"
    assert result["proof"]["cases"] == 1 and result["unproved"] is None


@pytest.mark.parametrize("threshold", ["0.4", "0.5", "1/1000"])
def test_more_than_what_the_proof_claims_is_rejected(
    capsys: pytest.CaptureFixture[str], files: list[str], threshold: str
) -> None:
    result = result_of(capsys, "check", *files, "--threshold", threshold, status=1)
    assert not result["accepted"] and "is less than" in result["reason"]
    assert main(["check", *files, "--threshold", threshold, "--standalone"]) == 1


@pytest.mark.parametrize("more", ([], ["--standalone"]))
def test_less_than_what_the_proof_claims_may_be_a_negative_fraction(files: list[str], more: list[str]) -> None:
    assert main(["check", *files, "--threshold=-5/3", *more]) == 0


def test_a_proof_of_another_region_is_rejected(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, files: list[str]
) -> None:
    wider = write_property(tmp_path / "wider.vnnlib", "0.4", "1.25")
    capsys.readouterr()
    for more in ([], ["--standalone"]):
        assert main(["check", files[0], files[1], wider, *more]) == 1
        out = capsys.readouterr().out
        assert "reject" in out and len(out.strip().splitlines()) == 1


def test_an_edited_proof_is_bad_input_or_rejected(files: list[str]) -> None:
    content = Path(files[0]).read_bytes()
    for damaged in (content[:-3], content + b"x", b"MVPROOF2" + content[8:], content[:20] + b"?" + content[21:], b""):
        Path(files[0]).write_bytes(damaged)
        for more in ([], ["--standalone"]):
            assert main(["check", *files, *more]) in (1, 2)


def test_a_property_without_a_file_is_saved_beside_the_proof(tmp_path: Path) -> None:
    net, proof = write_network(tmp_path / "tiny.onnx"), str(tmp_path / "ball.proof")
    point = write_input(tmp_path / "x.npy", 1.0)
    assert main(["verify", net, "--input", point, "--label", "0", "--eps", "0.25", "--proof", proof]) == 0
    for more in ([], ["--standalone"]):
        assert main(["check", proof, net, proof + ".json", *more]) == 0


def test_what_does_not_hold_has_no_proof_and_an_old_one_goes(tmp_path: Path, files: list[str]) -> None:
    wider = write_property(tmp_path / "wider.vnnlib", "0.4", "1.25")
    assert main(["verify", files[1], wider, "--proof", files[0]]) == 0
    assert not Path(files[0]).exists()


def test_other_files_are_not_overwritten(capsys: pytest.CaptureFixture[str], files: list[str]) -> None:
    before = Path(files[1]).read_bytes()
    assert main(["verify", *files[1:], "--proof", files[1]]) == 2
    assert Path(files[1]).read_bytes() == before and "is no proof" in capsys.readouterr().err
    assert main(["verify", *files[1:], "--proof", "no/such/folder/out.proof"]) == 2


@pytest.mark.parametrize("wrong", [["check"], ["check", "a", "b"], ["check", "a", "b", "c", "--threshold", "x"]])
def test_bad_arguments_are_one_line(capsys: pytest.CaptureFixture[str], wrong: list[str]) -> None:
    assert main(wrong) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_a_margin_is_proved_up_to_its_exact_value_and_no_further(tmp_path: Path) -> None:
    """y_0 - y_1 = 2 x - 1 is at least 0.5 over [0.75, 1.25]."""
    net, point = write_network(tmp_path / "tiny.onnx"), write_input(tmp_path / "x.npy", 1.0)
    proof = str(tmp_path / "margin.proof")
    ball = ["--input", point, "--label", "0", "--eps", "0.25"]
    assert main(["prove", net, *ball, "--out", proof, "--threshold", "0.4999"]) == 0
    for more in ([], ["--standalone"]):
        assert main(["check", proof, net, proof + ".json", "--threshold", "0.4999", *more]) == 0
        assert main(["check", proof, net, proof + ".json", "--threshold", "0.5", *more]) == 1
    assert main(["prove", net, *ball, "--out", proof, "--threshold", "0.5"]) == 1
    assert not Path(proof).exists()


def test_prove_needs_a_place_for_its_proof(capsys: pytest.CaptureFixture[str], files: list[str]) -> None:
    assert main(["prove", *files[1:]]) == 2
    assert "Give --out FILE" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("asked", "semantics", "words"),
    [
        ([], "float32", "for every float32 execution"),
        (["--semantics", "float32"], "float32", "for every float32 execution"),
        (["--semantics", "real"], "real", "over the real numbers"),
    ],
)
def test_every_answer_says_what_a_proof_is_about(
    capsys: pytest.CaptureFixture[str], files: list[str], asked: list[str], semantics: str, words: str
) -> None:
    result = result_of(capsys, "verify", *files[1:], "--proof", files[0], *asked)
    assert result["semantics"] == "real" and result["proof"]["semantics"] == semantics
    assert result_of(capsys, "check", *files)["semantics"] == semantics
    for command in (["check", *files], ["verify", *files[1:], "--proof", files[0], *asked]):
        assert main(command) == 0
        assert words in capsys.readouterr().out
    assert main(["check", *files, "--standalone"]) == 0
    assert f"for {words.split(' ', 1)[1]}" in capsys.readouterr().out


def test_prove_is_about_the_real_numbers_unless_asked(capsys: pytest.CaptureFixture[str], files: list[str]) -> None:
    for asked, semantics in (
        ([], "real"),
        (["--semantics", "both"], "float32"),
        (["--semantics", "float32"], "float32"),
    ):
        result = result_of(capsys, "prove", *files[1:], "--out", files[0], *asked)
        assert result["proof"]["semantics"] == semantics
