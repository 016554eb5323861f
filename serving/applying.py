"""What `gaugeway apply` would change: the models of a configuration file against those of the registry. Pure.

The registry is the truth; the file becomes it again when somebody says so. Models that the file does not name stay as
they are.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from serving.config import Cache, Capture, Model, Pool, Replicas, Resources, Version

Tree = Mapping[str, Any]


class Difference(msgspec.Struct, frozen=True):
    """A key of the configuration and its values, as plain documents; None: not there."""

    key: str
    before: Any
    after: Any


def differences(before: Mapping[str, Model], wanted: Mapping[str, Model]) -> list[Difference]:
    """Every key in which a model of `wanted` is another than in `before`; parts that come or go are one key.

    >>> now = {"m": Model(versions={"1": Version(max_batch_rows=8)})}
    >>> then = {"m": Model(versions={"1": Version(pools=(Pool(cpu=2),))})}
    >>> [(d.key, d.before, d.after) for d in differences(now, then)]
    [('models.m.versions.1.pools.cpu', None, {'cpu': 2}), ('models.m.versions.1.max_batch_rows', 8, 0)]
    """
    return [
        difference
        for name, model in sorted(wanted.items())
        for difference in _compare(f"models.{name}", _tree(before.get(name)), _tree(model))
    ]


def changed(before: Mapping[str, Model], wanted: Mapping[str, Model]) -> dict[str, Model]:
    """The models that are to be written."""
    return {name: model for name, model in sorted(wanted.items()) if before.get(name) != model}


def _compare(key: str, before: Any, after: Any) -> Iterator[Difference]:
    if isinstance(before, dict) and isinstance(after, dict):
        for name in dict.fromkeys([*before, *after]):
            yield from _compare(f"{key}.{name}", before.get(name), after.get(name))
    elif before != after:
        yield Difference(key, _shown(before), _shown(after))


def _tree(model: Model | None) -> dict[str, Any] | None:
    """With pools by their names, since their order says nothing."""
    if model is None:
        return None
    tree: dict[str, Any] = msgspec.to_builtins(model)
    for version in tree["versions"].values():
        version["pools"] = {pool["name"]: pool for pool in version["pools"]}
    return tree


def _shown(value: Any) -> Any:
    """Without what is as it would be anyway."""
    if not isinstance(value, dict):
        return value
    usual = next((usual for usual in _USUAL if value.keys() == usual.keys()), {})
    said = {name: part for name, part in value.items() if part != usual.get(name) and part not in ({}, [])}
    return {name: _shown(part) for name, part in said.items() if name != "name"}


_KINDS = (Model, Version, Pool, Resources, Replicas, Cache, Capture)
_USUAL: tuple[dict[str, Any], ...] = tuple(msgspec.to_builtins(kind()) for kind in _KINDS)
