"""Which labels the series of a PromQL expression have, by what the code declares; what does not fit is refused."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import promql_parser as promql

SCRAPE = frozenset({"job", "instance"})
BUCKET = frozenset({"le"})
Labels = frozenset[str]


class Unfit(Exception):
    """An expression that cannot mean what it says."""


@dataclass(frozen=True)
class Series:
    """What a name of a series may be used with: its labels and, of a histogram's buckets, where they end."""

    labels: Labels
    bounds: tuple[str, ...] = ()


def labels_of(expression: str, known: Mapping[str, Series]) -> Labels:
    """Raises Unfit for a metric or a label that is not in `known`, or sides that never match.

    >>> known = {"a": Series(frozenset({"model", "code"})), "b": Series(frozenset({"model"}))}
    >>> sorted(labels_of("sum by (model) (rate(a[5m])) / b", known))
    ['model']
    >>> labels_of("a / b", known)
    Traceback (most recent call last):
    tests.dashboards.promql.Unfit: a{} / b{}: ['code', 'model'] on one side and ['model'] on the other never match
    """
    return _labels(promql.parse(expression), known)


def selectors(expression: str) -> list[str]:
    """Every selector in it, without its range."""
    return [str(selector) for selector in _selectors(promql.parse(expression))]


def _selectors(node: promql.Expr) -> Iterator[promql.VectorSelector]:
    if isinstance(node, promql.MatrixSelector):
        yield node.vector_selector
    elif isinstance(node, promql.VectorSelector):
        yield node
    for child in _children(node):
        yield from _selectors(child)


def _children(node: promql.Expr) -> list[promql.Expr]:
    if isinstance(node, promql.BinaryExpr):
        return [node.lhs, node.rhs]
    if isinstance(node, promql.Call):
        return list(node.args)
    if isinstance(node, promql.AggregateExpr):
        return [node.expr] + ([node.param] if node.param is not None else [])
    if isinstance(node, promql.ParenExpr | promql.UnaryExpr | promql.SubqueryExpr):
        return [node.expr]
    return []


def _labels(node: promql.Expr, known: Mapping[str, Series]) -> Labels:
    match node:
        case promql.VectorSelector():
            return _selected(node, known)
        case promql.MatrixSelector():
            return _selected(node.vector_selector, known)
        case promql.AggregateExpr():
            return _aggregated(node, known)
        case promql.BinaryExpr():
            return _matched(node, known)
        case promql.Call():
            return _called(node, known)
        case promql.ParenExpr() | promql.UnaryExpr() | promql.SubqueryExpr():
            return _labels(node.expr, known)
        case _:
            return frozenset()


def _selected(node: promql.VectorSelector, known: Mapping[str, Series]) -> Labels:
    if node.name is None or node.name not in known:
        raise Unfit(f"nobody exports {node.name}")
    series = known[node.name]
    for matcher in node.matchers.matchers:
        if matcher.name not in series.labels:
            raise Unfit(f"{node.name} has no label {matcher.name!r}; it has {sorted(series.labels)}")
        if matcher.name == "le" and matcher.value not in series.bounds:
            raise Unfit(f"no bucket of {node.name} ends at {matcher.value}; they end at {series.bounds}")
    return series.labels


def _aggregated(node: promql.AggregateExpr, known: Mapping[str, Series]) -> Labels:
    inner = _labels(node.expr, known)
    if str(node.op) in ("topk", "bottomk"):
        return inner
    if node.modifier is None:
        return frozenset()
    named = frozenset(node.modifier.labels)
    if not named <= inner:
        raise Unfit(f"{node}: there is no {sorted(named - inner)} among {sorted(inner)}")
    return named if node.modifier.type == promql.AggModifierType.By else inner - named


def _matched(node: promql.BinaryExpr, known: Mapping[str, Series]) -> Labels:
    left, right = _labels(node.lhs, known), _labels(node.rhs, known)
    numbers = [_is_number(side) for side in (node.lhs, node.rhs)]
    if any(numbers):
        return right if numbers[0] else left
    on = node.modifier and node.modifier.matching
    if on is None:
        if str(node.op) == "or":
            return left | right
        if left != right:
            raise Unfit(f"{node}: {sorted(left)} on one side and {sorted(right)} on the other never match")
        return left
    if on.type != promql.LabelModifierType.Include or not frozenset(on.labels) <= left & right:
        raise Unfit(f"{node}: matched on {on.labels}, which {sorted(left)} and {sorted(right)} do not both have")
    return left


def _is_number(node: promql.Expr) -> bool:
    if isinstance(node, promql.Call):
        return node.func.name in ("scalar", "time")
    if isinstance(node, promql.BinaryExpr):
        return _is_number(node.lhs) and _is_number(node.rhs)
    if isinstance(node, promql.ParenExpr | promql.UnaryExpr):
        return _is_number(node.expr)
    return isinstance(node, promql.NumberLiteral)


def _called(node: promql.Call, known: Mapping[str, Series]) -> Labels:
    found = [_labels(argument, known) for argument in node.args]
    match node.func.name:
        case "absent":
            matchers = [m for s in _selectors(node) for m in s.matchers.matchers]
            return frozenset(m.name for m in matchers if m.op == promql.MatchOp.Equal)
        case "vector" | "scalar" | "time":
            return frozenset()
        case "histogram_quantile":
            if "le" not in found[1]:
                raise Unfit(f"{node}: a quantile needs the label le, got {sorted(found[1])}")
            return found[1] - BUCKET
        case _:
            return next((labels for labels in found if labels), frozenset())
