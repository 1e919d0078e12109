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
