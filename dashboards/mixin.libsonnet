// Everything, added up. Change a threshold or a name by adding to `_config`; see config.libsonnet.
(import 'config.libsonnet')
+ (import 'rules/burn.libsonnet')
+ (import 'alerts/alerts.libsonnet')
+ (import 'dashboards/overview.libsonnet')
+ (import 'dashboards/runbooks.libsonnet')
+ {
  _uids:: { overview: 'gaugeway-overview', runbooks: 'gaugeway-runbooks' },

  // File name -> content, as Grafana and Prometheus read them.
  files: {
    [uid + '.json']: std.manifestJsonEx($.grafanaDashboards[uid], '  ') + '\n'
    for uid in std.objectFields($.grafanaDashboards)
  } + {
    'rules.yaml': std.manifestYamlDoc($.prometheusRules, quote_keys=false) + '\n',
    'alerts.yaml': std.manifestYamlDoc($.prometheusAlerts, quote_keys=false) + '\n',
  },
}
