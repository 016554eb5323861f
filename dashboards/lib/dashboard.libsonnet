// A dashboard: rows of panels laid out by themselves, variables, annotations, links to the others.
{
  local source = { type: 'prometheus', uid: '$datasource' },

  row(title, panels):: { title: title, panels: panels },

  // Left to right, a new line where the width of 24 ends; a line is as high as its highest panel.
  local place(panels, top) = std.foldl(
    function(at, panel)
      local fresh = at.x + panel.size.w > 24;
      local x = if fresh then 0 else at.x, y = if fresh then at.bottom else at.y;
      {
        x: x + panel.size.w,
        y: y,
        bottom: std.max(at.bottom, y + panel.size.h),
        placed: at.placed + [panel { gridPos: { x: x, y: y, w: panel.size.w, h: panel.size.h } }],
      },
    panels,
    { x: 0, y: top, bottom: top, placed: [] }
  ),

  local layout(rows) = std.foldl(
    function(at, row)
      local heading = { type: 'row', title: row.title, collapsed: false, panels: [] };
      local body = place(row.panels, at.bottom + 1);
      {
        bottom: body.bottom,
        placed: at.placed + [heading { gridPos: { x: 0, y: at.bottom, w: 24, h: 1 } }] + body.placed,
      },
    rows,
    { bottom: 0, placed: [] }
  ).placed,

  variables: {
    datasource: { name: 'datasource', label: 'Data source', type: 'datasource', query: 'prometheus', refresh: 1 },
    // Several values or all; `query` is a label_values().
    of(name, label, query):: {
      name: name,
      label: label,
      type: 'query',
      datasource: source,
      query: { query: query, refId: name },
      refresh: 2,  // with the time range: models come and go
      sort: 1,
      multi: true,
      includeAll: true,
      allValue: '.+',
      current: { text: ['All'], value: ['$__all'] },
    },
    // Typed in, or filled by a link.
    text(name, label, value):: {
      name: name,
      label: label,
      type: 'textbox',
      query: value,
      current: { text: value, value: value },
    },
  },

  annotation(name, expr, colour, title):: {
    name: name,
    datasource: source,
    enable: true,
    expr: expr,
    iconColor: colour,
    titleFormat: title,
    useValueForTime: false,
    step: '60s',
  },

  dashboard(uid, title, description, rows, variables, annotations=[], from='now-6h'):: {
    uid: uid,
    title: title,
    description: description,
    tags: ['gaugeway'],
    schemaVersion: 41,
    editable: false,
    graphTooltip: 1,
    refresh: '30s',
    time: { from: from, to: 'now' },
    timezone: 'browser',
    templating: { list: variables },
    annotations: { list: annotations },
    links: [{
      type: 'dashboards',
      title: 'Gaugeway',
      tags: ['gaugeway'],
      asDropdown: true,
      includeVars: true,
      keepTime: true,
    }],
    local placed = layout(rows),
    panels: [placed[i] { id: i + 1 } for i in std.range(0, std.length(placed) - 1)],
  },
}
