// How fast each model burns its error budget, for every window that an alert or a panel reads: 1 is exactly as fast as
// it may, so that the budget would be gone at the end of its days.
local q = import '../lib/queries.libsonnet';

local measured = 'model!="_unknown", role="primary"';

// Bad requests over all of them. Nothing at all where there was no request.
local ratio(bad, all) = '(%s or 0 * %s) / (%s > 0)' % [bad, all, all];

local failed(models, window) = ratio(
  q.by('model', q.rate('requests_total', '%s, %s, code=~"5.."' % [measured, models], window)),
  q.by('model', q.rate('requests_total', '%s, %s' % [measured, models], window)),
);

// Of the requests that were answered. Prometheus writes bounds as floats: "1.0".
local late(models, window, latency_s) =
  local bound = '%g' % latency_s + if latency_s == std.floor(latency_s) then '.0' else '';
  local rate(name, selector) = q.by('model', q.rate(name, selector, window));
  local all = rate('request_duration_seconds_count', models);
  '1 - %s / (%s > 0)' % [rate('request_duration_seconds_bucket', '%s, le="%s"' % [models, bound]), all];

// Those objectives that come first take their models away from the later ones.
local matchers(objectives) = [
  'model=~"%s"' % objectives[i].models + std.join('', [', model!~"%s"' % objectives[j].models for j in std.range(0, i - 1)])
  for i in std.range(0, std.length(objectives) - 1)
];

{
  local config = $._config,
  local budget = '%dd' % config.budget_days,
  local shown = ['5m', '1h'],  // by the overview
  local windows = std.set(shown + [w.long for w in config.burn_windows] + [w.short for w in config.burn_windows]),
  local isLong(window) = std.member(['d', 'h'], window[std.length(window) - 1]) && window != '1h',
  local models = matchers(config.objectives),

  local burn(record, i, window) = [
    {
      record: record,
      labels: { slo: 'availability', objective: config.objectives[i].name },
      expr: '(%s) / %g' % [failed(models[i], window), 1 - config.objectives[i].availability],
    },
    {
      record: record,
      labels: { slo: 'latency', objective: config.objectives[i].name },
      expr: '(%s) / %g' % [late(models[i], window, config.objectives[i].latency_s), 1 - config.objectives[i].in_time],
    },
  ],
  local burns(windows) = [
    rule
    for window in windows
    for i in std.range(0, std.length(models) - 1)
    for rule in burn('gaugeway:budget_burn:rate' + window, i, window)
  ],

  prometheusRules+:: { groups+: [
    {
      name: 'gaugeway-burn-short',
      interval: config.short_interval,
      rules: burns([w for w in windows if !isLong(w)]),
    },
    {
      name: 'gaugeway-burn-long',
      interval: config.long_interval,
      rules: burns([w for w in windows if isLong(w)] + [budget]) + [{
        record: 'gaugeway:budget_left:ratio',
        expr: '1 - gaugeway:budget_burn:rate' + budget,
      }],
    },
  ] },
}
