// The runbooks beside the dashboards, so that an alert's link works wherever Grafana does. Grafana fills $model and
// $version in their commands from the link.
local board = import '../lib/dashboard.libsonnet';
local panels = import '../lib/panels.libsonnet';

{
  local runbooks = {
    CalibrationLost: importstr '../runbooks/CalibrationLost.md',
    DataQuality: importstr '../runbooks/DataQuality.md',
    ErrorBudgetBurn: importstr '../runbooks/ErrorBudgetBurn.md',
    FeatureDrift: importstr '../runbooks/FeatureDrift.md',
    LabelsStopped: importstr '../runbooks/LabelsStopped.md',
    MetricsAbsent: importstr '../runbooks/MetricsAbsent.md',
    ModelUnavailable: importstr '../runbooks/ModelUnavailable.md',
    MonitorDroppingRows: importstr '../runbooks/MonitorDroppingRows.md',
    MonitorStale: importstr '../runbooks/MonitorStale.md',
    PredictionDrift: importstr '../runbooks/PredictionDrift.md',
    QualityDrop: importstr '../runbooks/QualityDrop.md',
    SelfTestFailed: importstr '../runbooks/SelfTestFailed.md',
    TargetDown: importstr '../runbooks/TargetDown.md',
    Watchdog: importstr '../runbooks/Watchdog.md',
  },

  grafanaDashboards+:: {
    [$._uids.runbooks]: board.dashboard(
      $._uids.runbooks,
      'Gaugeway / Runbooks',
      'What each alert means, whom it harms, how to find out why, what to do.',
      [board.row('Runbooks', [panels.text(name, runbooks[name]) for name in std.objectFields(runbooks)])],
      [board.variables.text('model', 'Model', 'MODEL'), board.variables.text('version', 'Version', 'VERSION')],
    ),
  },
}
