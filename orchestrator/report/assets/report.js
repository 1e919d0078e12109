// Draws the charts of the page: in its colours, again when they change, and for print.
"use strict";
(async () => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const places = [...document.querySelectorAll("[data-figure]")];
  try {
    const packed = Uint8Array.from(atob(document.getElementById("plotly").textContent), (c) => c.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    (0, eval)(await new Response(stream).text());
  } catch (error) {
    for (const place of places) place.textContent = "This browser cannot draw the chart; the tables hold its numbers.";
    throw error;
  }

  // "--c0/0.2" is the style sheet's --c0 at an opacity of 0.2.
  const colour = (name) => {
    const [variable, opacity] = name.split("/");
    const value = getComputedStyle(document.documentElement).getPropertyValue(variable).trim();
    if (!opacity) return value;
    const rgb = [1, 3, 5].map((i) => parseInt(value.slice(i, i + 2), 16));
    return `rgba(${rgb.join(",")},${opacity})`;
  };
  const painted = (value) => {
    if (typeof value === "string") return value.startsWith("--") ? colour(value) : value;
    if (Array.isArray(value)) return value.map(painted);
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, painted(each)]));
    }
    return value;
  };
  const broken = (name) => {
    const lines = [""];
    for (const part of name.match(/[^-. ]*[-. ]*/g)) {
      if (lines.at(-1).length + part.length > 18) lines.push("");
      lines[lines.length - 1] += part;
    }
    return lines.filter(Boolean).join("<br>");
  };
  const layoutOf = (figure, width) => {
    const axis = { gridcolor: colour("--rule"), linecolor: colour("--grey"), zeroline: false, automargin: true };
    const own = painted(figure.layout);
    // Long names of rows would leave no room for the values on a phone: they are broken there.
    const rows = width < 520 ? own.meta?.rows : undefined;
    if (rows) {
      own.height = 150 + 46 * rows.length;
      own.yaxis = { ...own.yaxis, tickvals: rows, ticktext: rows.map(broken), tickfont: { size: 10 } };
    }
    return {
      ...own,
      width,
      margin: { l: 52, r: 14, t: 12, b: 44 },
      font: { family: "system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif", size: 12, color: colour("--ink") },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      hoverlabel: { align: "left", namelength: -1 },
      legend: { orientation: "h", x: 0, xanchor: "left", xref: "container", y: 0, yanchor: "bottom", yref: "container", font: { size: 11 } },
      xaxis: { ...axis, ...own.xaxis, title: { standoff: 8, ...own.xaxis.title } },
      yaxis: { ...axis, ...own.yaxis, title: { standoff: 6, ...own.yaxis?.title } },
    };
  };
  const draw = (place, width) => {
    const figure = figures[place.dataset.figure];
    const options = {
      displaylogo: false,
      // Nothing here sends anything anywhere: plotly.js would offer to upload the chart to its makers.
      showSendToCloud: false,
      plotlyServerURL: "",
      displayModeBar: matchMedia("(hover: hover)").matches ? "hover" : false,
    };
    return Plotly.react(place, painted(figure.data), layoutOf(figure, width ?? place.clientWidth), options);
  };

  // The curves as they are chosen, from the seeds' own values.
  const choices = document.getElementById("curve-choices");
  const form = document.querySelector("form.choices");
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const chooseCurves = () => {
    const given = JSON.parse(choices.textContent);
    const asked = Object.fromEntries(new FormData(form));
    const value = asked.y === "perplexity" ? Math.exp : (y) => y;
    const traces = [];
    const shown = [];
    for (const trial of given.stopped) {
      const unit = trial.per_step[asked.x];
      if (!unit) continue;
      traces.push({
        x: trial.x.map((x) => x * unit), y: trial.y.map(value), mode: "lines+markers", name: `${trial.name}, pruned`,
        line: { color: "--grey/0.35", width: 1 }, marker: { color: "--grey/0.35", size: 3 }, showlegend: false,
      });
    }
    given.cells.forEach((cell, i) => {
      const unit = cell.per_step[asked.x];
      const colour = cell.is_reference ? "--ink" : `--c${i % 6}`;
      const dash = cell.is_reference ? "dash" : ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"][Math.floor(i / 6) % 6];
      const steps = cell.seeds[0].x.filter((step) => cell.seeds.every((seed) => seed.x.includes(step)));
      const at = (step) => cell.seeds.map((seed) => seed.y[seed.x.indexOf(step)]);
      const x = steps.map((step) => step * unit);
      const middle = steps.map((step) => value(mean(at(step))));
      const group = { x, legendgroup: cell.name };
      if (asked.seeds === "band" && cell.seeds.length > 1) {
        const edge = { ...group, mode: "lines", line: { width: 0 }, hoverinfo: "skip", showlegend: false };
        traces.push({ ...edge, y: steps.map((step) => value(Math.min(...at(step)))) });
        traces.push({ ...edge, y: steps.map((step) => value(Math.max(...at(step)))), fill: "tonexty", fillcolor: `${colour}/0.13` });
      }
      for (const seed of asked.seeds === "each" ? cell.seeds : []) {
        traces.push({
          x: seed.x.map((step) => step * unit), y: seed.y.map(value), mode: "lines", legendgroup: cell.name,
          name: `${cell.name}, seed ${seed.seed}`, line: { color: `${colour}/0.5`, width: 1 }, showlegend: false,
        });
      }
      traces.push({ ...group, name: `${cell.name} (n = ${cell.seeds.length})`, y: middle, mode: "lines", line: { color: colour, dash, width: 2 } });
      shown.push(middle);
    });
    const figure = figures.curves;
    figure.data = traces;
    const log = asked.scale === "log";
    figure.layout.xaxis = { title: { text: asked.x } };
    figure.layout.yaxis = {
      title: { text: asked.y === "perplexity" ? "perplexity" : given.label },
      ...(log ? { type: "log" } : {}),
      ...(asked.range === "end" ? endRange(shown, given.rising, log) : {}),
    };
  };
  // From the last half of the curves, without cells that end far from the others (Tukey's fence).
  const endRange = (curves, rising, log) => {
    const ends = curves.map((y) => y.at(-1)).sort((a, b) => a - b);
    const quantile = (share) => ends[Math.round(share * (ends.length - 1))];
    const reach = 1.5 * (quantile(0.75) - quantile(0.25));
    const near = curves.filter((y) => rising ? y.at(-1) >= quantile(0.25) - reach : y.at(-1) <= quantile(0.75) + reach);
    const values = near.flatMap((y) => y.slice(Math.floor(y.length / 2)));
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const room = 0.08 * (high - low) || 0.01 * Math.abs(high) || 1;
    const range = [low - room, high + room];
    return { range: log && range[0] > 0 ? range.map(Math.log10) : range, ...(log && range[0] <= 0 ? { autorange: true } : {}) };
  };
  if (form) {
    chooseCurves();
    form.hidden = false;
    form.addEventListener("change", () => { chooseCurves(); draw(document.getElementById("figure-curves")); });
  }
  const drawAll = () => Promise.all(places.map((place) => draw(place)));
  await drawAll();

  for (const input of document.querySelectorAll("input[data-steps]")) {
    const steps = JSON.parse(input.dataset.steps);
    const most = Math.max(...Object.values(steps).map((step) => step.at.length));
    if (most < 2) continue;
    const show = () => {
      for (const [name, step] of Object.entries(steps)) {
        const at = Math.round(input.value * (step.at.length - 1));
        figures[name].data[0].z = step.z[at];
        input.parentElement.querySelector("output").textContent = step.at[at];
        draw(document.getElementById(`figure-${name}`));
      }
    };
    input.addEventListener("input", show);
    input.parentElement.hidden = false;
    show();
  }

  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  matchMedia("print").addEventListener("change", drawAll);
  let width = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth !== width) { width = innerWidth; drawAll(); }
  });
  document.documentElement.dataset.charts = places.length;
})();
