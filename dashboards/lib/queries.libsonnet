// PromQL that several panels, rules and alerts share. Numbers of the monitors are the same on every node that has
// them, so they are maximised, not summed; numbers of the workers are summed.
{
  local q = self,
  model:: 'model=~"$model"',
  version:: 'model=~"$model", version=~"$version"',

  metric(name, selector=''):: 'gaugeway_%s%s' % [name, if selector == '' then '' else '{%s}' % selector],
  rate(name, selector='', window='$__rate_interval'):: 'rate(%s[%s])' % [q.metric(name, selector), window],
  by(labels, expr):: 'sum by (%s) (%s)' % [labels, expr],
  most(labels, expr):: 'max by (%s) (%s)' % [labels, expr],
  least(labels, expr):: 'min by (%s) (%s)' % [labels, expr],
  // A sum over nothing is nothing; where nothing means zero, it must be said.
  orZero(expr):: '(%s) or vector(0)' % expr,
  quantile(quantile, histogram, selector, labels='', window='$__rate_interval'):: 'histogram_quantile(%g, %s)' % [
    quantile,
    q.by('le' + (if labels == '' then '' else ', ' + labels), q.rate(histogram + '_bucket', selector, window)),
  ],
}
