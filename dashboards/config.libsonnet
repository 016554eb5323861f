// Every number and name that a team may want to change. To change one, add to it where the mixin is used:
//   (import 'mixin.libsonnet') + { _config+:: { grafana_url: 'https://grafana.our.net' } }
{
  _config+:: {
    // Where people look. Alerts link to it.
    grafana_url: 'http://localhost:3000',

    // Names of the scrape jobs.
    node_job: 'gaugeway-node',
    controller_job: 'gaugeway-controller',

    // Which share of requests must be answered, and be answered in time. `latency_s` must be a bucket's bound.
    // The first objective whose `models` (a regular expression) matches is a model's own.
    objectives: [
      { name: 'default', models: '.+', availability: 0.999, in_time: 0.99, latency_s: 0.25 },
    ],
    budget_days: 30,

    // An alert when the budget burns `factor` times faster than it may, over the long window and still over the short.
    burn_windows: [
      { long: '1h', short: '5m', factor: 14.4, hold: '2m', severity: 'page' },
      { long: '6h', short: '30m', factor: 6, hold: '15m', severity: 'page' },
      { long: '1d', short: '2h', factor: 3, hold: '1h', severity: 'ticket' },
      { long: '3d', short: '6h', factor: 1, hold: '3h', severity: 'ticket' },
    ],
    // How often burn is computed: windows of hours move slowly, and reading them is the dearest query here.
    short_interval: '30s',
    long_interval: '2m',

    // How long something must last before somebody is told.
    unavailable_for: '1m',
    down_for: '2m',
    absent_for: '5m',
    stale_for: '10m',
    alarm_for: '1m',  // an alarm has weighed its evidence already: this only spans a restart
    lag_s: 300,  // seconds of records that the monitors may be behind
    dropped_for: '15m',
    dropped_ratio: 0.01,  // of the rows that are read, that may be left out of the evidence
  },
}
