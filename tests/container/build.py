"""The steps of a Dockerfile, one by one, in folders instead of images."""

import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.container.dockerfile import Instruction, Stage, pairs
from tests.container.root import Root

Steps = Callable[[Instruction], str]  # the command that is run for a RUN; empty: none


def as_written(step: Instruction) -> str:
    return step.value


@dataclass
class Image:
    """What the steps so far have made: a root, and with what the next would run."""

    root: Root
    variables: dict[str, str] = field(default_factory=dict)
    cwd: str = "/"

    def at(self, path: str) -> Path:
        return self.root.folder / (Path(self.cwd) / path).relative_to("/")


@dataclass(frozen=True)
class Builder:
    """An engine's `build`. Whichever stage goes on from another goes on in its folder, so only one may."""

    stages: Mapping[str, Stage]
    context: Path
    folder: Path
    steps: Steps = as_written

    def build(self, name: str) -> Image:
        """Up to the end of stage `name`."""
        stage = self.stages[name]
        image = self.build(stage.base) if stage.base in self.stages else Image(Root(self.folder / name))
        for step in stage.instructions:
            self._do(step, image)
        return image

    def _do(self, step: Instruction, image: Image) -> None:
        if step.name in ("ENV", "ARG"):
            image.variables |= pairs([step])
        elif step.name == "WORKDIR":
            image.cwd = step.value
            image.at(".").mkdir(parents=True, exist_ok=True)
        elif step.name == "COPY":
            self._copy(step.words, image)
        elif step.name == "RUN" and (command := self.steps(step)):
            _run(command, image)

    def _copy(self, words: list[str], image: Image) -> None:
        origin = self.context
        if words[0].startswith("--from="):
            origin = self.build(words.pop(0).removeprefix("--from=")).root.folder
        *sources, target = words
        for source in sources:
            path, at = origin / source.lstrip("/"), image.at(target)
            if path.is_dir():
                shutil.copytree(path, at, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                at = at / path.name if target.endswith("/") else at
                at.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, at)


def _run(command: str, image: Image) -> None:
    try:
        image.root.run(command, image.variables, image.cwd)
    except subprocess.CalledProcessError as error:
        raise AssertionError(f"{command}\n{error.stdout}{error.stderr}") from None
