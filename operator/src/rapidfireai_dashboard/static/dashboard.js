// What has to happen in the browser: charts and grids take changes instead of everything anew.
(() => {
  const MOST_NAMED = 12;
  const escaped = (text) => String(text).replace(/[&<>"]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[c]);

  // A chart or grid exists a moment after its element does.
  const when = (id, part, act) => {
    const element = getElement(id);
    if (element?.[part]) act(element[part]);
    else if (document.getElementById(`c${id}`)) setTimeout(() => when(id, part, act), 30);
  };

  const revive = (value) => {
    if (Array.isArray(value)) value.forEach(revive);
    else if (value && typeof value === "object")
      for (const [key, each] of Object.entries(value)) {
        if (key.startsWith(":")) {
          value[key.slice(1)] = rf[each];
          delete value[key];
        } else revive(each);
      }
    return value;
  };

  const rf = {
    // Merge options into a chart; series are told apart by their ids.
    chart: (id, options) => when(id, "chart", (chart) => chart.setOption(revive(options), { lazyUpdate: true })),

    rows: (id, change) => when(id, "api", (api) => api.applyTransaction(change)),

    columns: (id, columns) =>
      when(id, "api", (api) => {
        for (const column of columns) {
          for (const key of ["cellRenderer", "comparator"]) if (column[key]) column[key] = rf[column[key]];
        }
        api.setGridOption("columnDefs", columns);
      }),

    select: (id, names) =>
      when(id, "api", (api) => api.forEachNode((node) => node.setSelected(names.includes(node.id)))),

    quickFilter: (id, text) => when(id, "api", (api) => api.setGridOption("quickFilterText", text)),

    hover: (params) => {
      const all = (Array.isArray(params) ? params : [params]).filter(
        (each) => each.value?.[1] != null && !/:(floor|band)$/.test(each.seriesId ?? ""),
      );
      if (!all.length) return "";
      const lines = all
        .slice(0, MOST_NAMED)
        .map((each) => `${each.marker}${escaped(each.seriesName)}: <b>${Number(each.value[1]).toPrecision(5)}</b>`);
      if (all.length > MOST_NAMED) lines.push(`and ${all.length - MOST_NAMED} more`);
      return [escaped(params[0]?.axisValueLabel ?? all[0].value[0]), ...lines].join("<br>");
    },

    barHover: (params) => escaped(params.name),

    bar: (params, api) => {
      const [from, to] = [1, 2].map((side) => api.coord([api.value(side), api.value(0)]));
      const height = api.size([0, 1])[1] * 0.64;
      const box = params.coordSys;
      const left = Math.max(from[0], box.x);
      const right = Math.min(Math.max(to[0], from[0] + 2), box.x + box.width);
      if (right <= left) return null;
      const shape = { x: left, y: from[1] - height / 2, width: right - left, height };
      return { type: "rect", shape, style: { fill: api.visual("color"), opacity: api.visual("opacity") } };
    },

    runCell: (params) => {
      const cell = document.createElement("span");
      const swatch = document.createElement("span");
      swatch.className = "rf-swatch";
      swatch.style.background = params.data.colour;
      cell.append(swatch, params.data.label);
      if (params.data.best) {
        const best = document.createElement("span");
        best.className = "rf-best";
        best.textContent = " ★ best";
        cell.append(best);
      }
      return cell;
    },

    number: (params) => (params.value == null ? "" : Number(params.value).toPrecision(5)),

    byIndex: (a, b, one, other) => one.data.index - other.data.index,
    byDone: (a, b, one, other) => one.data.done - other.data.done,

    rowId: (params) => params.data.name,

    isDark: () => {
      const kept = localStorage.getItem("rapidfire-theme");
      return kept ? kept === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    },

    keepDark: (dark) => localStorage.setItem("rapidfire-theme", dark ? "dark" : "light"),

    copy: async (id) => {
      const element = document.getElementById(`c${id}`);
      try {
        await navigator.clipboard.writeText(element.textContent);
        return true;
      } catch {
        // Browsers let only https and localhost write to the clipboard: select it instead.
        getSelection().selectAllChildren(element);
        return false;
      }
    },
  };
  window.rf = rf;
})();
