// The first thirty seconds: is anything wrong, with which model, since when.
local board = import '../lib/dashboard.libsonnet';
local panels = import '../lib/panels.libsonnet';
local q = import '../lib/queries.libsonnet';

{
  local config = $._config,
  local controller = 'job="%s", %s' % [config.controller_job, q.model],
  local measured = 'model!="_unknown", role="primary", ' + q.model,
  local burnLines = [[1, 'yellow'], [6, 'orange'], [14.4, 'red']],
  local bad = [[1, 'red']],
  local states = {  // by the number that `state` gives them
    '1': ['ok', 'green'],
    '2': ['no data', 'blue'],
    '3': ['stale', 'yellow'],
    '4': ['unfit', 'purple'],
    '5': ['alarm', 'red'],
  },

  local requests = q.rate('requests_total', measured),
  local failed = q.rate('requests_total', measured + ', code=~"5.."'),
  local failedRatio(by) = '(%s or 0 * %s) / (%s > 0)' % [q.by(by, failed), q.by(by, requests), q.by(by, requests)],
  local ready = q.by('model, version', q.metric('replicas', q.version + ', state="ready"')),
  local wanted = q.most('model, version', q.metric('replicas_wanted', q.version)),
  local drifting(labels) = q.by(labels, q.most('model, version, feature', q.metric(
    'drift_alarm', q.version + ', feature!~"_all|_joint"'
  ))),
  local alarm(feature) = q.most('model, version, feature', q.metric('drift_alarm', '%s, feature=~"%s"' % [q.version, feature])),
  local alarmed = '(%s and %s == 1)' % [
    alarm('.+'),
    q.most('model, version, feature', 'max_over_time(%s[$__range])' % q.metric('drift_alarm', q.version)),
  ],
  // The worst of what several nodes say.
  local state = 'max by (model, version) (%s)' % std.join(' or ', [
    '%s * (%s == 1)' % [number, q.most('model, version, state', q.metric(
      'monitor_state', q.version + ', state="%s"' % std.strReplace(states[number][0], ' ', '_')
    ))]
    for number in std.objectFields(states)
  ]),
  local evidence(log_e, threshold) = 'clamp_min(%s / %s, 0)' % [log_e, threshold],

  local firing = 'ALERTS{component="gaugeway", alertname!="Watchdog", alertstate=~"pending|firing"}',

  local glance = board.row('Is anything wrong?', [
    panels.stat('Firing alerts',
                'Is anybody told of anything?',
                q.orZero('count(ALERTS{component="gaugeway", severity=~"page|ticket", alertstate="firing"})'),
                steps=bad),
    panels.stat('Worst burn, 1 h',
                'How many times faster than allowed does the worst model burn an error budget?',
                'max(gaugeway:budget_burn:rate1h{%s})' % q.model,
                steps=burnLines,
                decimals=2),
    panels.stat('Least budget left',
                'How much of its error budget has the worst model left of %d days?' % config.budget_days,
                'min(gaugeway:budget_left:ratio{%s})' % q.model,
                'percentunit',
                base='red',
                steps=[[0.1, 'orange'], [0.5, 'green']],
                decimals=0),
    panels.stat('Versions without a replica',
                'How many versions that should have replicas have none that is ready?',
                q.orZero('count(%s == 0 and %s > 0)' % [ready, wanted]),
                steps=bad),
    panels.stat('Drifting features',
                'How many features or predictions, of all versions, alarm?',
                'sum(%s)' % drifting('model'),
                steps=[[1, 'yellow']]),
    panels.stat('Stale monitors',
                'Of how many versions does "no alarm" mean nothing?',
                'sum(%s)' % q.most('model, version', q.metric('monitor_state', q.version + ', state="stale"')),
                steps=[[1, 'yellow']]),
    panels.table('Models', 'Which model is it?', ['model'], [
      { title: 'requests/s', unit: 'reqps', expr: q.by('model', requests) },
      { title: 'failed', unit: 'percentunit', steps: [[0.001, 'yellow'], [0.01, 'red']], expr: failedRatio('model') },
      { title: 'p99', unit: 's', expr: q.quantile(0.99, 'request_duration_seconds', q.model, 'model') },
      {
        title: 'burn 1 h',
        unit: 'none',
        steps: burnLines,
        expr: q.most('model', 'gaugeway:budget_burn:rate1h{%s}' % q.model),
      },
      { title: 'budget left', unit: 'percentunit', expr: q.least('model', 'gaugeway:budget_left:ratio{%s}' % q.model) },
      { title: 'share of candidates', unit: 'percentunit', expr: '1 - ' + q.most('model', q.metric('route_weight', controller)) },
      { title: 'ready replicas', unit: 'none', expr: q.by('model', q.metric('replicas', q.model + ', state="ready"')) },
      {
        title: 'monitors',
        unit: 'none',
        names: states,
        steps: [[2, 'blue'], [3, 'yellow'], [4, 'purple'], [5, 'red']],
        expr: q.most('model', state),
      },
      { title: 'drifting features', unit: 'none', steps: [[1, 'yellow']], expr: drifting('model') },
      {
        title: 'harm alarms',
        unit: 'none',
        steps: bad,
        expr: q.by('model', q.most('model, version', q.metric('risk_alarm', q.version))),
      },
      {
        title: 'last verdict',
        unit: 's',
        expr: 'time() - ' + q.most('model', q.metric('monitor_last_verdict_timestamp_seconds', q.version)),
      },
    ]),
    panels.table('Alerts', 'Which alerts fire, or will when it lasts?', ['alertname', 'severity', 'alertstate', 'model', 'version'], [
      {
        title: 'series',
        unit: 'none',
        expr: 'count by (alertname, severity, alertstate, model, version) (%s)' % firing,
      },
    ]) { size:: { w: 24, h: 5 } },
  ]),

  local fleet = board.row('Requests, errors, duration', [
    panels.timeseries('Requests',
                      'How much is asked, of which model?',
                      [panels.query(q.by('model', requests), '{{model}}')],
                      'reqps',
                      stack=true),
    panels.timeseries('Failed',
                      'Which share of the requests fails through our fault (5xx)?',
                      [panels.query(failedRatio('model'), '{{model}}')],
                      'percentunit'),
    panels.timeseries('Duration', 'How long do users of the whole fleet wait?', [
      panels.query(q.quantile(p / 100, 'request_duration_seconds', q.model), 'p%d' % p)
      for p in [50, 90, 99]
    ], 's'),
    panels.timeseries('Burn', 'Since when do which budgets burn too fast, and does it go on?', [
      panels.query(q.most('model', 'gaugeway:budget_burn:rate%s{%s}' % [window, q.model]), '{{model}} %s' % window)
      for window in ['5m', '1h']
    ], lines=burnLines),
    panels.heatmap('Durations',
                   'Is it all requests that are slow, or a second kind of them?',
                   q.by('le', 'increase(%s[$__rate_interval])' % q.metric('request_duration_seconds_bucket', q.model))),
    panels.timeseries('Answers by status', 'How do the answers end that are not 200?', [
      panels.query(q.by('model, code', q.rate('requests_total', 'code!="200", role="primary", ' + q.model)), '{{model}} {{code}}'),
    ], 'reqps', stack=true),
  ]),

  local versions = board.row('Versions', [
    panels.timeseries('Requests by version',
                      'Which version answers?',
                      [panels.query(q.by('model, version', q.rate('requests_total', 'role="primary", ' + q.version)),
                                    '{{model}} {{version}}')],
                      'reqps',
                      stack=true),
    panels.timeseries('Share of traffic',
                      "Which share of its model's traffic is a version meant to get?",
                      [panels.query(q.most('model, version', q.metric('route_weight', controller + ', version=~"$version"')),
                                    '{{model}} {{version}}')],
                      'percentunit',
                      max=1),
    panels.timeseries('p99 by version',
                      'Is one version slower than the others?',
                      [panels.query(q.quantile(0.99, 'request_duration_seconds', q.version, 'model, version'),
                                    '{{model}} {{version}}')],
                      's'),
    panels.timeseries('Where time goes, p99', 'Do requests wait, or is the model slow?', [
      panels.query(q.quantile(0.99, 'queue_duration_seconds', q.version, 'model, version'), '{{model}} {{version}} waits'),
      panels.query(q.quantile(0.99, 'inference_duration_seconds', q.version, 'model, version'), '{{model}} {{version}} runs'),
    ], 's'),
    panels.timeseries('Rows of a batch', 'Do batches form? They do only while every replica is busy.', [
      panels.query('%s / %s' % [
        q.by('model, version', q.rate('batch_rows_sum', q.version)),
        q.by('model, version', q.rate('batch_rows_count', q.version)),
      ], '{{model}} {{version}}'),
    ]),
    panels.timeseries('Open requests',
                      'How many requests are being answered?',
                      [panels.query(q.by('model', q.metric('inflight_requests', q.model)), '{{model}}')]),
  ]),

  local right = board.row('Are the models still right?', [
    panels.statusHistory('State of the monitors',
                         'What do the monitors say of each version? Only "ok" means that nothing was found.',
                         [panels.query(state, '{{model}} {{version}}')],
                         states),
    panels.statusHistory('Drift alarms',
                         'Which features drift, since when? Those that did in this range, and all of a version together.',
                         [panels.query('%s or %s' % [alarm('_all'), alarmed], '{{model}} {{version}} {{feature}}')],
                         { '0': ['no', 'green'], '1': ['alarm', 'red'] }),
    panels.statusHistory('Data, labels and the monitor itself',
                         'Since when are data broken, do labels stay away or contradict the probabilities, does a monitor fail its own test?',
                         [
                           panels.query(q.most('model, version', q.metric('quality_alarm', q.version + ', feature="_all", check="_all"')),
                                        '{{model}} {{version}} data'),
                           panels.query(q.most('model, version', q.metric('label_coverage_alarm', q.version)),
                                        '{{model}} {{version}} labels'),
                           panels.query(q.most('model, version', q.metric('calibration_alarm', q.version)),
                                        '{{model}} {{version}} probabilities'),
                           panels.query('1 - ' + q.least('model, version', q.metric('monitor_self_test', q.version)),
                                        '{{model}} {{version}} self-test'),
                         ],
                         { '0': ['no', 'green'], '1': ['alarm', 'red'] }) { size:: { w: 24, h: 7 } },
    panels.timeseries('Evidence of drift', 'How near is the first feature of a version to an alarm? 1 is the threshold.', [
      panels.query(q.most('model, version', evidence(q.metric('drift_log_e', q.version), q.metric('drift_threshold', q.version))),
                   '{{model}} {{version}}'),
    ], lines=[[1, 'red']]),
    panels.timeseries('Size of drift', 'How much did predictions move? 0: as in the reference, 1: wholly others.', [
      panels.query(q.most('model, version', q.metric('drift_effect', q.version + ', feature="_prediction", statistic="ks"')),
                   '{{model}} {{version}}'),
    ], 'percentunit', max=1),
    panels.timeseries('Evidence of harm', 'How near is an alarm that a version errs more than it may? 1 is the threshold.', [
      panels.query(q.most('model, version', evidence(q.metric('risk_log_e', q.version), q.metric('risk_threshold', q.version))),
                   '{{model}} {{version}}'),
    ], lines=[[1, 'red']]),
    panels.timeseries('Loss', 'How wrong are the versions, against what is allowed?', [
      panels.query(q.most('model, version', q.metric('risk_mean', q.version)), '{{model}} {{version}}'),
      panels.query(q.most('model, version', q.metric('risk_bound', q.version)), '{{model}} {{version}} may'),
    ]),
    panels.timeseries('Labels', 'Which share of the predictions got its label in time?', [
      panels.query(q.most('model, version', q.metric('label_coverage_ratio', q.version)), '{{model}} {{version}}'),
    ], 'percentunit', max=1),
    panels.timeseries('Rows that no monitor saw',
                      'Is evidence lost, and why?',
                      [panels.query(q.by('reason', q.rate('monitor_dropped_total')), '{{reason}}')],
                      stack=true),
    panels.timeseries('Missing values', 'Which share of its worst feature does a version not get?', [
      panels.query(q.most('model, version', q.metric('quality_ratio', q.version + ', check="missing"')), '{{model}} {{version}}'),
    ], 'percentunit', max=1),
    panels.timeseries('Values out of range', 'Which share of its worst feature lies outside of what the reference knows?', [
      panels.query(q.most('model, version', q.metric('quality_ratio', q.version + ', check=~"below|above"')), '{{model}} {{version}}'),
    ], 'percentunit', max=1),
    panels.timeseries('Delay of the monitors',
                      'How old is what the monitors have not read yet?',
                      [panels.query(q.most('instance', q.metric('monitor_lag_seconds')), '{{instance}}')],
                      's'),
  ]),

  local replicas = board.row('Replicas and the control plane', [
    panels.timeseries('Replicas', 'Does every version have what it should?', [
      panels.query(ready, '{{model}} {{version}} ready'),
      panels.query(wanted, '{{model}} {{version}} wanted'),
    ]),
    panels.timeseries('Replicas that take no work', 'Which replicas are there and do not help?', [
      panels.query(q.by('model, state', q.metric('replicas', q.version + ', state!="ready"')), '{{model}} {{state}}'),
    ], stack=true),
    panels.timeseries('Refused and sent again', 'Do we refuse requests to protect the rest, do replicas die?', [
      panels.query(q.by('model, reason', q.rate('shed_total', q.model)), '{{model}} refused: {{reason}}'),
      panels.query(q.by('model', q.rate('retries_total', q.model)), '{{model}} sent again'),
    ], 'reqps'),
    panels.timeseries('Routing table', 'Do all nodes follow the controller? Above 0: generations behind.', [
      panels.query('scalar(%s) - %s' % [
        'max(%s)' % q.metric('table_generation', 'job="%s"' % config.controller_job),
        q.most('instance', q.metric('table_generation', 'job="%s"' % config.node_job)),
      ], '{{instance}}'),
    ]),
    panels.timeseries('Controller',
                      'Is there something that the controller wants and cannot bring about? `gaugeway status` says what.',
                      [panels.query(q.most('instance', q.metric('controller_problem')), 'problem at {{instance}}')],
                      max=1,
                      lines=[[1, 'red']]),
    panels.timeseries('Targets', 'Does Prometheus reach everything?', [
      panels.query('min by (job, instance) (up{job=~"%s|%s"})' % [config.node_job, config.controller_job], '{{job}} {{instance}}'),
    ], max=1),
  ]),

  grafanaDashboards+:: {
    [$._uids.overview]: board.dashboard(
      $._uids.overview,
      'Gaugeway / Overview',
      'Is anything wrong, with which model, since when?',
      [glance, fleet, versions, right, replicas],
      [
        board.variables.datasource,
        board.variables.of('model', 'Model', 'label_values(gaugeway_model_info, model)'),
        board.variables.of('version', 'Version', 'label_values(gaugeway_model_info{%s}, version)' % q.model),
      ],
      [
        board.annotation('Routing changed',
                         'changes(gaugeway_table_generation{job="%s"}[2m]) > 0' % config.controller_job,
                         'blue',
                         'The routing table changed'),
        board.annotation('Alerts',
                         'ALERTS{component="gaugeway", alertname!="Watchdog", alertstate=~"pending|firing"}',
                         'red',
                         '{{alertname}} {{model}}'),
      ],
    ),
  },
}
