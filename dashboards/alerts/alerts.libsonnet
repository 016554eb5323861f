// All alerts. Runbook and dashboard links are added here to every one, with the variables filled from its labels.
// page: users are harmed now. ticket: in working hours. info: to be seen where one looks, nobody is told.
local q = import '../lib/queries.libsonnet';

{
  local config = $._config,
  local of(job) = 'job="%s"' % job,

  local panelOf(name) = [panel.id for panel in $.grafanaDashboards[$._uids.runbooks].panels if panel.title == name][0],

  local alert(name, severity, hold, expr, summary, description, variables=[], labels={}) = {
    // What an alert does not know stays as it is on the dashboard.
    local filled = std.join('', ['{{ with $labels.%s }}&var-%s={{ . | urlquery }}{{ end }}' % [v, v] for v in variables]),
    local link(uid, query) = '%s/d/%s/?%s' % [config.grafana_url, uid, query + filled],

    alert: name,
    expr: std.stripChars(expr, '\n'),
    [if hold != '' then 'for']: hold,
    labels: { component: 'gaugeway', severity: severity } + labels,
    annotations: {
      summary: summary,
      description: std.stripChars(std.strReplace(description, '\n', ' '), ' '),
      runbook_url: link($._uids.runbooks, 'viewPanel=%d' % panelOf(name)),
      dashboard_url: link($._uids.overview, 'from=now-3h&to=now'),
    },
  },

  local budget = [
    local burn(window) = 'gaugeway:budget_burn:rate%s > %g' % [window, w.factor];
    alert(
      'ErrorBudgetBurn',
      w.severity,
      w.hold,
      burn(w.long) + ' and ' + burn(w.short),
      'A model fails its users, or answers them late, more often than it may',
      |||
        Model {{ $labels.model }} burns its {{ $labels.slo }} budget {{ $value | printf "%%.1f" }} times as fast as it
        may, over %(long)s and still over %(short)s (told above %(factor)g): what is meant for %(days)d days is gone after
        {{ with printf "%(budget_s)d / %%f" $value | query }}{{ . | first | value | humanizeDuration }}{{ end }}.
      ||| % w { days: config.budget_days, budget_s: config.budget_days * 86400 },
      ['model'],
      { window: w.long },
    )
    for w in config.burn_windows
  ],

  local serving = [
    local ready = q.by('model, version', q.metric('replicas', 'state="ready"'));
    local wanted = q.most('model, version', q.metric('replicas_wanted'));
    local weight = q.most('model, version', q.metric('route_weight', of(config.controller_job)));
    alert(
      'ModelUnavailable',
      'page',
      config.unavailable_for,
      |||
        (%(ready)s == 0 and %(wanted)s > 0)
        and (
          %(weight)s > 0
          or %(ready)s == 0 and on (model) %(all)s == 0
        )
      ||| % { ready: ready, wanted: wanted, weight: weight, all: q.by('model', q.metric('replicas', 'state="ready"')) },
      'A version that should answer has no replica',
      |||
        Version {{ $labels.version }} of model {{ $labels.model }} has {{ $value }} ready replicas; it gets traffic, or no
        other version of the model has one either.
      |||,
      ['model', 'version'],
    ),
    alert(
      'TargetDown',
      'page',
      config.down_for,
      'up{job=~"%s|%s"} == 0' % [config.node_job, config.controller_job],
      'A node or the controller does not answer Prometheus',
      'up is {{ $value }} for {{ $labels.instance }} of {{ $labels.job }}: what the alerts know of it is old.',
    ),
  ] + [
    alert(
      'MetricsAbsent',
      'ticket',
      config.absent_for,
      'absent(%s) unless on (job) up{%s} == 0' % [q.metric('table_generation', of(job)), of(job)],
      'Prometheus knows no metrics of a part of Gaugeway: its alerts cannot fire',
      'absent(gaugeway_table_generation) is {{ $value }} for the job {{ $labels.job }}, and none of its targets is down.',
      labels={ job: job },
    )
    for job in [config.node_job, config.controller_job]
  ] + [
    alert(
      'Watchdog',
      'none',
      '',
      'vector(1)',
      'Always fires: where it is missing, no alert would arrive',
      'The way from Prometheus to whoever is told works (value {{ $value }}).',
    ),
  ],

  local monitors =
    local of(value, alarm) = '%s and %s == 1' % [q.most('model, version', value), q.most('model, version', alarm)];
    local prediction = 'feature="_prediction"', all = 'feature="_all"';
    local drift(feature) = '%s unless %s == 1' % [  // where blocks are shorter than the correlation time it only explains
      of(q.metric('drift_effect', feature + ', statistic="ks"'), q.metric('drift_alarm', feature)),
      q.most('model, version', q.metric('alarm_severity', feature + ', severity="info"')),
    ];
    local stale = q.most('model, version', q.metric('monitor_state', 'state="stale"'));
    local served = q.by('model, version', q.rate('requests_total', 'code="200"', '15m'));
    [
      alert(
        'QualityDrop',
        'page',
        config.alarm_for,
        of(q.metric('risk_mean'), q.metric('risk_alarm')),
        'The labels prove that a version errs more than its reference allows',
        |||
          The mean loss of version {{ $labels.version }} of model {{ $labels.model }} is {{ $value | printf "%.4f" }} over
          all its labels, and newer ones prove that it rose above what is allowed.
        |||,
        ['model', 'version'],
      ),
      alert(
        'FeatureDrift',
        'ticket',
        config.alarm_for,
        drift(all),
        'Inputs are no longer those that a version was trained on',
        |||
          The features of version {{ $labels.version }} of model {{ $labels.model }} together are not as in its reference,
          one of them by {{ $value | printf "%.3f" }} (Kolmogorov-Smirnov distance, 0 to 1). Found to have drifted:
          {{- range $i, $found := printf "max by (feature) (gaugeway_drift_declared{model=%q,version=%q}
          == 1)" $labels.model $labels.version | query | sortByLabel "feature" }}{{ if $i }},{{ end }}
          {{ $found.Labels.feature }}{{ else }} no feature for itself{{ end }}.
        |||,
        ['model', 'version'],
      ),
      alert(
        'PredictionDrift',
        'ticket',
        config.alarm_for,
        drift(prediction),
        'What a version predicts is no longer what it predicted in training',
        |||
          Predictions of version {{ $labels.version }} of model {{ $labels.model }} are {{ $value | printf "%.3f" }} away
          from those of its reference (Kolmogorov-Smirnov distance, 0 to 1).
        |||,
        ['model', 'version'],
      ),
      alert(
        'MonitorStale',
        'ticket',
        config.stale_for,
        '(%s == 1 and %s > 0) or %s > %d' % [
          stale,
          served,
          q.most('instance', q.metric('monitor_lag_seconds')),
          config.lag_s,
        ],
        'Requests are answered that no monitor judges: that no alarm is on means nothing',
        |||
          {{ if $labels.model }}The monitor of version {{ $labels.version }} of model {{ $labels.model }} is stale (value
          {{ $value }}) while requests are answered{{ else }}The monitors on {{ $labels.instance }} are
          {{ $value | humanizeDuration }} behind{{ end }}.
        |||,
        ['model', 'version'],
      ),
      alert(
        'DataQuality',
        'ticket',
        config.alarm_for,
        '%s unless %s == 1' % [
          of(
            '%s - %s' % [q.metric('quality_ratio'), q.metric('quality_reference_ratio')],
            q.metric('quality_alarm', 'feature="_all", check="_all"'),
          ),
          q.most('model, version', q.metric('alarm_severity', 'feature="_quality", severity="info"')),
        ],
        'Rows are missing, out of range, unknown, stuck, unreadable or repeated more often than in the reference',
        |||
          The data of version {{ $labels.version }} of model {{ $labels.model }} are broken more often than in its
          reference; one check finds a share of rows that is {{ $value | printf "%.3f" }} larger. Found:
          {{- range $i, $found := printf "max by (feature, check) (gaugeway_quality_alarm{model=%q,version=%q,feature!='_all'}
          == 1)" $labels.model $labels.version | query | sortByLabel "feature" }}{{ if $i }},{{ end }}
          {{ $found.Labels.check }} of {{ $found.Labels.feature }}{{ else }} no check for itself{{ end }}.
        |||,
        ['model', 'version'],
      ),
      alert(
        'LabelsStopped',
        'ticket',
        config.alarm_for,
        of(q.metric('label_coverage_usual_ratio'), q.metric('label_coverage_alarm')),
        'Labels no longer come as they did: harm would not be found',
        |||
          Fewer predictions of version {{ $labels.version }} of model {{ $labels.model }} get a label in time than the
          {{ $value | printf "%.3f" }} (0 to 1) of its first blocks.
        |||,
        ['model', 'version'],
      ),
      alert(
        'CalibrationLost',
        'info',
        config.alarm_for,
        of(q.metric('calibration_realised_ratio'), q.metric('calibration_alarm')),
        'Labels contradict the calibrated probabilities: the estimate of the risk is not to be believed',
        |||
          Of the newest labelled rows of version {{ $labels.version }} of model {{ $labels.model }} a share of
          {{ $value | printf "%.3f" }} is 1; its calibrated probabilities expected
          {{ with printf "max(gaugeway_calibration_expected_ratio{model=%q,version=%q})" $labels.model $labels.version
          | query }}{{ . | first | value | printf "%.3f" }}{{ end }}.
        |||,
        ['model', 'version'],
      ),
      alert(
        'SelfTestFailed',
        'ticket',
        config.alarm_for,
        '%s == 0' % q.least('model, version, check', q.metric('monitor_self_test')),
        'A monitor failed its test of itself: neither its alarms nor their absence mean anything',
        |||
          The monitor of version {{ $labels.version }} of model {{ $labels.model }} failed its test of itself,
          {{ $labels.check }} (value {{ $value }}).
        |||,
        ['model', 'version'],
      ),
      alert(
        'MonitorDroppingRows',
        'ticket',
        config.dropped_for,
        '%s > on (instance) group_left () %g * %s' % [
          q.by('instance, reason', q.rate('monitor_dropped_total', '', '15m')),
          config.dropped_ratio,
          q.by('instance', q.rate('monitor_rows_total', '', '15m')),
        ],
        'Rows that should be in the evidence are left out',
        |||
          The monitors on {{ $labels.instance }} leave out {{ $value | printf "%%.1f" }} rows a second ({{ $labels.reason }}),
          more than %(ratio)g of those that they read.
        ||| % { ratio: config.dropped_ratio },
      ),
    ],

  prometheusAlerts+:: { groups+: [
    { name: 'gaugeway-budget', rules: budget },
    { name: 'gaugeway-serving', rules: serving },
    { name: 'gaugeway-monitors', rules: monitors },
  ] },
}
