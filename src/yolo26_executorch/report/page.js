"use strict";
(() => {
  const points = JSON.parse(document.getElementById("points").textContent);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const table = document.querySelector(".variants");
  const body = table.tBodies[0];
  const status = document.getElementById("status");
  const filters = document.querySelector(".filters");
  const printing = matchMedia("print");
  const dark = matchMedia("(prefers-color-scheme: dark)");

  // --- Filtering ---

  const chosen = (name) => new Set(all(`[data-filter="${name}"] input:checked`).map((input) => input.value));

  function filter() {
    const task = chosen("task");
    const size = chosen("size");
    const fits = (data) => task.has(data.task) && size.has(data.size);
    for (const element of all("tbody tr[data-task], article")) element.hidden = !fits(element.dataset);
    const shown = points.filter(fits);
    document.querySelector(".none").hidden = shown.length > 0;
    status.textContent = `${shown.length} of ${points.length} shown`;
    draw(shown);
  }

  filters.addEventListener("change", filter);
  filters.addEventListener("submit", (event) => event.preventDefault());
  filters.addEventListener("reset", () => setTimeout(filter));

  // --- Sorting ---

  function sort(head) {
    const column = head.cellIndex;
    const direction = head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
    const sign = direction === "ascending" ? 1 : -1;
    const numbers = head.dataset.kind === "number";
    const value = (row) => row.cells[column].dataset.value;
    const compare = (a, b) => {
      const [first, second] = [value(a), value(b)];
      if (first === "" || second === "") return (first === "") - (second === ""); // what is not known comes last
      return sign * (numbers || column === 0 ? first - second : first.localeCompare(second));
    };
    body.append(...[...body.rows].sort(compare));
    for (const other of head.parentElement.cells) other.setAttribute("aria-sort", other === head ? direction : "none");
    status.textContent = `Sorted by ${head.innerText.replace(/\s+/g, " ").trim()}, ${direction}`;
  }

  for (const head of table.tHead.rows[0].cells) head.firstElementChild.addEventListener("click", () => sort(head));

  // --- Plots ---

  const PAPER = { width: 330, height: 270, autosize: false }; // half the width of an A4 or Letter page, pixels
  const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "cross", "x"];
  const DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"];
  const SIZES = ["n", "s", "m", "l", "x"];
  const tasks = all('[data-filter="task"] input').map((input) => input.value);
  const colourOf = Object.fromEntries(
    all('[data-filter="task"] label').map((label) => [label.firstElementChild.value, label.querySelector(".dot").className.match(/c(\d)/)[1]]));
  const mouse = matchMedia("(hover: hover)").matches; // a finger on a plot means to scroll the page
  const unique = (values) => [...new Set(values)];
  const setUp = (point) => [point.made, point.device].filter(Boolean).join(", ");
  const setUps = unique(points.map(setUp));
  // Plotly takes some HTML in texts; what comes from files must stay text.
  const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

  function about(point) {
    const lines = [`<b>${plain(point.name)}</b>`, plain([point.task, setUp(point)].join(", "))];
    if (point.latency_ms !== null) lines.push(`latency p50 ${point.latency_ms.toFixed(2)} ms`);
    if (point.size_mb !== null) lines.push(`file size ${point.size_mb.toFixed(1)} MB`);
    if (point.accuracy !== null) lines.push(`${plain(point.metric)} ${point.accuracy.toFixed(4)}, on ${plain(point.data)}`);
    if (point.random) lines.push("random weights");
    return lines.join("<br>");
  }

  // Where each point's text goes: a size's letter above its mark, a name wherever it covers nothing, or else nowhere.
  function places(known, y) {
    const along = (values) => {
      const scaled = scale(values).type === "log" ? values.map(Math.log) : values;
      const low = scale(values).type === "log" ? Math.min(...scaled) : 0;
      return scaled.map((value) => (value - low) / (Math.max(...scaled) - low || 1));
    };
    const [u, v] = [along(known.map((point) => point.latency_ms)), along(known.map((point) => point[y]))];
    const [wide, high] = [0.018, 0.05]; // a letter, of a plot's width and height
    const taken = known.flatMap((point, i) => {
      const mark = [u[i] - wide, u[i] + wide, v[i] - high / 2, v[i] + high / 2];
      return SIZES.includes(point.size) ? [mark, [mark[0], mark[1], v[i], v[i] + 2 * high]] : [mark];
    });
    const free = (box) => box[0] > 0 && box[1] < 1.05 &&
      taken.every((other) => box[0] >= other[1] || box[1] <= other[0] || box[2] >= other[3] || box[3] <= other[2]);
    const found = new Map();
    for (const [i, point] of known.entries()) {
      const width = wide * point.name.length;
      const ways = SIZES.includes(point.size) ? { "top center": null } : {
        "top center": [u[i] - width / 2, u[i] + width / 2, v[i] + high / 2, v[i] + 1.6 * high],
        "middle right": [u[i] + wide, u[i] + wide + width, v[i] - high / 2, v[i] + high / 2],
        "middle left": [u[i] - wide - width, u[i] - wide, v[i] - high / 2, v[i] + high / 2],
        "bottom center": [u[i] - width / 2, u[i] + width / 2, v[i] - 1.6 * high, v[i] - high / 2],
      };
      const way = Object.keys(ways).find((name) => !ways[name] || free(ways[name]));
      if (way) found.set(point, way);
      if (way && ways[way]) taken.push(ways[way]);
    }
    return found;
  }

  function traces(shown, y) {
    const known = shown.filter((point) => point.latency_ms !== null && point[y] !== null);
    const placed = places(known, y);
    const made = [];
    for (const task of tasks) {
      for (const [index, name] of setUps.entries()) {
        const group = known.filter((point) => point.task === task && setUp(point) === name);
        const sized = group.filter((point) => SIZES.includes(point.size));
        const own = group.filter((point) => !SIZES.includes(point.size));
        sized.sort((a, b) => SIZES.indexOf(a.size) - SIZES.indexOf(b.size));
        for (const [some, mode] of [[sized, "lines+markers+text"], [own, "markers+text"]]) {
          if (!some.length) continue;
          const colour = css(`--c${colourOf[task]}`);
          made.push({
            type: "scatter", mode: mode,
            name: setUps.length > 1 ? `${task}, ${plain(name)}` : task,
            legendgroup: `${task} ${name}`, showlegend: some === sized || !sized.length,
            x: some.map((point) => point.latency_ms), y: some.map((point) => point[y]),
            text: some.map((point) => placed.get(point) ? (some === sized ? point.size : plain(point.name)) : ""),
            textposition: some.map((point) => placed.get(point) || "top center"),
            hovertext: some.map(about), hoverinfo: "text", customdata: some.map((point) => points.indexOf(point) + 1),
            marker: { color: colour, size: 10, symbol: SYMBOLS[colourOf[task]] },
            line: { color: colour, width: 1.5, dash: DASHES[index % DASHES.length] }, cliponaxis: false,
          });
        }
      }
    }
    return made;
  }

  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  // Over a wide range the small models would all lie in one corner.
  function scale(values) {
    const range = Math.min(...values) > 0 ? Math.max(...values) / Math.min(...values) : 0;
    if (range <= 10) return { type: "linear", rangemode: "tozero" };
    return { type: "log", dtick: range < 300 ? "D2" : 1, exponentformat: "none" };
  }

  function plot(id, shown, y, title) {
    const place = document.getElementById(id);
    if (!place) return;
    const data = traces(shown, y);
    const axis = (text) => ({
      title: { text, standoff: 8 }, gridcolor: css("--line"), zerolinecolor: css("--line"), linecolor: css("--line"), automargin: true,
    });
    Plotly.react(place, data, {
      xaxis: { ...axis("latency p50, ms"), ...scale(data.flatMap((trace) => trace.x)) },
      yaxis: { ...axis(title), ...scale(data.flatMap((trace) => trace.y)) },
      ...(printing.matches ? PAPER : { autosize: true }),
      dragmode: mouse ? "zoom" : false,
      font: { family: getComputedStyle(document.body).fontFamily, size: printing.matches ? 9 : 13, color: css("--text") },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", margin: { l: 10, r: 20, t: 24, b: 10 },
      legend: { orientation: "h", y: -0.2, yanchor: "top", x: 0 }, showlegend: true,
      hoverlabel: { bgcolor: css("--raised"), bordercolor: css("--line"), font: { color: css("--text") }, align: "left" },
      annotations: data.length ? [] : [{ text: "nothing to show", xref: "paper", yref: "paper", x: 0.5, y: 0.5, showarrow: false }],
    }, {
      responsive: true, displaylogo: false, displayModeBar: mouse && "hover",
      modeBarButtons: [["toImage", "zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]],
    });
    if (!place.dataset.ready) {
      place.on("plotly_click", (event) => { location.hash = `model-${event.points[0].customdata}`; });
      place.dataset.ready = "yes";
    }
  }

  let latest = points;

  function draw(shown = latest) {
    latest = shown;
    plot("plot-accuracy", shown, "accuracy", "accuracy, 0..1");
    plot("plot-size", shown, "size_mb", "file size, MB");
  }

  // --- Light, dark, paper ---

  dark.addEventListener("change", () => draw());
  printing.addEventListener("change", () => {
    for (const element of all("details")) {
      if (printing.matches) element.dataset.was = element.open ? "open" : "";
      element.open = printing.matches || element.dataset.was === "open";
    }
    draw();
  });

  filter();
})();
