"""The state of a training run in a file, from which a later call goes on."""

from __future__ import annotations

import os
import pickle
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from milpverify.errors import CheckpointError, first_line
from milpverify.whole_files import written_whole

if TYPE_CHECKING:
    from torch import nn

FORMAT, VERSION = "milpverify-training", 1
WORDS = {
    "format": "format",
    "version": "version of the format",
    "architecture": "architecture",
    "recipe": "loss, schedule or option",
    "data": "training data",
}


@dataclass(frozen=True)
class TrainingFile:
    """Where a run is saved, and what the run is.

    Attributes:
        path: The file; its folder must exist.
        run: What must be the same when the run is gone on with: the keys of WORDS.
    """

    path: Path
    run: dict[str, Any]

    def load(self) -> dict[str, Any] | None:
        """The saved state; None if there is no file yet.

        Raises:
            CheckpointError: If the file is no checkpoint, damaged, or of another run. It is left as it is.
        """
        import torch

        self._check_folder()
        if not self.path.exists():
            return None
        try:
            with zipfile.ZipFile(self.path) as parts:  # torch itself does not look at the check sums
                damaged = parts.testzip()
            if damaged is not None:
                raise zipfile.BadZipFile(f"{damaged} is damaged")
            state = torch.load(self.path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises a different class for every way a file can be damaged
            # What torch says of a file that it did not write is how to run the code that it holds.
            foreign = isinstance(error, (pickle.UnpicklingError, zipfile.BadZipFile))
            reason = "it is damaged, or torch did not write it" if foreign else first_line(error)
            raise CheckpointError(
                f"checkpoint: {self.path} cannot be read ({reason}). Name another file, or remove this one."
            ) from None
        if not isinstance(state, dict) or not isinstance(state.get("run"), dict):
            raise CheckpointError(f"checkpoint: {self.path} is no checkpoint of a training run. Name another file.")
        for key, word in WORDS.items():
            if state["run"].get(key) != self.run[key]:
                raise CheckpointError(
                    f"checkpoint: {self.path} was made with another {word} ({_short(state['run'].get(key))}, now "
                    f"{_short(self.run[key])}). Ask the same as then, name another file, or remove this one."
                )
        return state

    def save(self, state: dict[str, Any]) -> None:
        """Write the state so that a crash leaves the old file or the new one.

        Raises:
            CheckpointError: If it cannot be written.
        """
        import torch

        self._check_folder()
        target = self.path.resolve()
        try:
            with written_whole(target) as temporary:
                torch.save({**state, "run": self.run}, temporary)
        except (OSError, RuntimeError) as error:
            raise CheckpointError(
                f"checkpoint: cannot write {self.path} ({first_line(error)}). Choose another place."
            ) from None

    def _check_folder(self) -> None:
        if self.path.is_dir():
            raise CheckpointError(f"checkpoint: {self.path} is a folder. Name a file in it.")
        folder = self.path.resolve().parent
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            raise CheckpointError(f"checkpoint: cannot write to the folder {folder}. Create it, or choose another.")


def described_run(model: nn.Module, recipe: str, data: str) -> dict[str, Any]:
    """What a checkpoint must agree on.

    Args:
        model: Its layers, and the names and shapes of its parameters.
        recipe: Everything else that decides the weights.
        data: Fingerprint of the training data.
    """
    shapes = "; ".join(f"{name} {tuple(value.shape)}" for name, value in model.state_dict().items())
    layers = " ".join(str(model).split())
    return {
        "format": FORMAT,
        "version": VERSION,
        "architecture": f"{layers} with {shapes}",
        "recipe": recipe,
        "data": data,
    }


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 160 else f"{text[:157]}..."
