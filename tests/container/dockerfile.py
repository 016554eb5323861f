"""A Dockerfile as stages of instructions, with the build arguments put in."""

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from string import Template

from dockerfile_parse import DockerfileParser


@dataclass(frozen=True)
class Instruction:
    name: str
    value: str

    @property
    def words(self) -> list[str]:
        """Of the exec form where it has one."""
        found: list[str] = json.loads(self.value) if self.value.startswith("[") else self.value.split()
        return found


@dataclass(frozen=True)
class Stage:
    name: str
    base: str
    instructions: list[Instruction] = field(default_factory=list)

    def all(self, name: str) -> list[Instruction]:
        return [one for one in self.instructions if one.name == name]

    def last(self, name: str) -> Instruction:
        return self.all(name)[-1]


def stages(text: str, arguments: Mapping[str, str]) -> dict[str, Stage]:
    """Every stage by its name; `arguments` are stronger than the defaults of the file.

    >>> found = stages("ARG V=a\\nFROM x:1 AS one\\nARG V\\nFROM one-$V AS two", {"V": "b"})
    >>> found["one"].instructions, found["two"].base
    ([Instruction(name='ARG', value='V=b')], 'one-b')
    """
    known: dict[str, str] = {}
    found: dict[str, Stage] = {}
    for one in DockerfileParser(fileobj=io.BytesIO(text.encode())).structure:
        name, value = one["instruction"], one["value"]
        if name == "COMMENT":
            continue
        if name == "FROM":
            base, _, stage = Template(value).substitute(known).partition(" AS ")
            found[stage] = Stage(stage, base)
            continue
        if name == "ARG":
            key, _, default = value.partition("=")
            known[key] = arguments.get(key, default or known.get(key, ""))
            value = f"{key}={known[key]}"
        if found:
            [*found.values()][-1].instructions.append(Instruction(name, value))
    return found


def pairs(instructions: list[Instruction]) -> dict[str, str]:
    """Of ENV and ARG: ``A=b C=d``."""
    words = [word for one in instructions for word in one.words]
    return {key: value for key, _, value in (word.partition("=") for word in words)}
