// The kinds of panel that are used, each with what Grafana needs and no more. `question` is what a panel answers.
{
  local kinds = self,
  local source = { type: 'prometheus', uid: '$datasource' },

  // `instant` for the value of now, `format` 'table' or 'heatmap' where the panel wants it.
  query(expr, legend='', instant=false, format='time_series'):: {
    datasource: source,
    expr: expr,
    legendFormat: legend,
    instant: instant,
    range: !instant,
    format: format,
  },

  local panel(type, title, question, queries, unit) = {
    type: type,
    title: title,
    description: question,
    datasource: source,
    targets: [queries[i] { refId: std.char(std.codepoint('A') + i) } for i in std.range(0, std.length(queries) - 1)],
    fieldConfig: { defaults: { unit: unit }, overrides: [] },
    options: {},
    size:: { w: 8, h: 7 },
  },

  // Steps are [[from, colour]…]; what lies below the first is green.
  thresholds(steps, base='green'):: {
    mode: 'absolute',
    steps: [{ color: base, value: null }] + [{ color: step[1], value: step[0] } for step in steps],
  },

  timeseries(title, question, queries, unit='short', stack=false, max=null, lines=[]):: panel(
    'timeseries', title, question, queries, unit
  ) {
    fieldConfig+: {
      defaults+: {
        min: 0,
        [if max != null then 'max']: max,
        [if lines != [] then 'thresholds']: kinds.thresholds(lines),
        custom: {
          drawStyle: 'line',
          lineWidth: 1,
          fillOpacity: if stack then 30 else 5,
          showPoints: 'never',
          spanNulls: false,
          stacking: { mode: if stack then 'normal' else 'none', group: 'A' },
          [if lines != [] then 'thresholdsStyle']: { mode: 'dashed' },
        },
      },
    },
    options: {
      legend: { displayMode: 'list', placement: 'bottom', showLegend: true },
      tooltip: { mode: 'multi', sort: 'desc' },
    },
  },

  stat(title, question, expr, unit='short', steps=[], base='green', decimals=null):: panel(
    'stat', title, question, [kinds.query(expr, instant=true)], unit
  ) {
    size:: { w: 4, h: 4 },
    fieldConfig+: { defaults+: {
      thresholds: kinds.thresholds(steps, base),
      [if decimals != null then 'decimals']: decimals,
    } },
    options: {
      reduceOptions: { calcs: ['lastNotNull'], fields: '', values: false },
      colorMode: 'background',
      graphMode: 'none',
      textMode: 'value',
    },
  },

  // `columns` are {title, expr, unit, steps}, one value each per value of `key`, which becomes the first columns.
  table(title, question, keys, columns):: panel(
    'table', title, question, [kinds.query(column.expr, instant=true, format='table') for column in columns], 'short'
  ) {
    // As Grafana calls the values of a query: of the only one it is just this.
    local letter(i) = if std.length(columns) == 1 then 'Value' else 'Value #' + std.char(std.codepoint('A') + i),
    local indices = std.range(0, std.length(columns) - 1),
    size:: { w: 24, h: 7 },
    transformations: [
      { id: 'merge', options: {} },
      { id: 'organize', options: {
        excludeByName: { Time: true },
        indexByName: { [keys[i]]: i for i in std.range(0, std.length(keys) - 1) }
                     + { [letter(i)]: std.length(keys) + i for i in indices },
        renameByName: { [letter(i)]: columns[i].title for i in indices },
      } },
    ],
    fieldConfig+: {
      defaults+: { custom: { align: 'auto', cellOptions: { type: 'auto' } } },
      overrides: [
        {
          matcher: { id: 'byName', options: column.title },
          properties: [{ id: 'unit', value: column.unit }] + (
            if !std.objectHas(column, 'steps') then [] else [
              { id: 'thresholds', value: kinds.thresholds(column.steps) },
              { id: 'custom.cellOptions', value: { type: 'color-background', mode: 'basic' } },
            ]
          ) + (if !std.objectHas(column, 'names') then [] else [{ id: 'mappings', value: [kinds.names(column.names)] }]),
        }
        for column in columns
      ],
    },
    options: { showHeader: true, cellHeight: 'sm' },
  },

  heatmap(title, question, expr, unit='s'):: panel(
    'heatmap', title, question, [kinds.query(expr, '{{le}}', format='heatmap')], unit
  ) {
    fieldConfig: { defaults: { custom: { hideFrom: { legend: false, tooltip: false, viz: false } } }, overrides: [] },
    options: {
      calculate: false,
      yAxis: { axisPlacement: 'left', unit: unit },
      color: { mode: 'scheme', scheme: 'Oranges', exponent: 0.5, steps: 64, reverse: false, fill: 'dark-orange' },
      cellGap: 1,
      filterValues: { le: 1e-9 },
      legend: { show: true },
      tooltip: { mode: 'single', yHistogram: false },
      showValue: 'never',
    },
  },

  // Value -> [text, colour], of a closed set.
  names(named):: {
    type: 'value',
    options: {
      [key]: { text: named[key][0], color: named[key][1], index: std.parseInt(key) }
      for key in std.objectFields(named)
    },
  },

  statusHistory(title, question, queries, named):: panel('status-history', title, question, queries, 'none') {
    size:: { w: 12, h: 7 },
    fieldConfig+: { defaults+: {
      color: { mode: 'thresholds' },
      mappings: [kinds.names(named)],
      custom: { fillOpacity: 80, lineWidth: 0 },
    } },
    options: {
      rowHeight: 0.9,
      showValue: 'never',
      legend: { displayMode: 'list', placement: 'bottom', showLegend: true },
      tooltip: { mode: 'single', sort: 'none' },
    },
  },

  text(title, markdown):: {
    type: 'text',
    title: title,
    options: { mode: 'markdown', content: markdown },
    size:: { w: 24, h: 24 },
  },
}
