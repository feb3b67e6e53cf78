// Draws the figures in the page's colours; legends and the choice of a run act on all figures of a group.
(() => {
  "use strict";
  const root = document.documentElement;
  root.classList.add("js");
  if (!window.Plotly) return;
  const style = () => getComputedStyle(root);
  const painted = (text) => text.replace(/var\((--[\w-]+)\)/g, (_, name) => style().getPropertyValue(name).trim());
  const coarse = matchMedia("(pointer: coarse)").matches; // a finger that pushes the page must not zoom
  const narrow = 480; // pixels, below which the buttons would lie on what is drawn
  let width = null; // of a printed figure

  function merged(base, more) {
    const out = { ...base };
    for (const [key, value] of Object.entries(more)) {
      const both = value && typeof value === "object" && !Array.isArray(value) && out[key];
      out[key] = both ? merged(out[key], value) : value;
    }
    return out;
  }

  function layout(figure, spec) {
    const css = style(), get = (name) => css.getPropertyValue(name).trim();
    const line = { gridcolor: get("--line"), zerolinecolor: get("--line"), linecolor: get("--line"), automargin: true };
    const axis = { ...line, title: { standoff: 8, font: { color: get("--muted") } }, tickfont: { color: get("--muted") } };
    const base = {
      width: width || figure.querySelector(".plot").clientWidth, height: Number(figure.dataset.height), showlegend: false,
      margin: { l: 44, r: 12, t: 10, b: 40 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: get("--ink") },
      dragmode: coarse ? false : "zoom", uirevision: "keep",
      hoverlabel: { bgcolor: get("--soft"), bordercolor: get("--line"), font: { color: get("--ink") } },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: get("--muted"), activecolor: get("--ink") },
      xaxis: axis, yaxis: { ...axis, exponentformat: "e" },
    };
    return merged(base, spec.layout);
  }

  function draw(figure, state) {
    const spec = JSON.parse(painted(figure.querySelector("script").textContent));
    for (const trace of spec.data) {
      const { run, task } = trace.meta;
      const shown = spec.single ? !run || run === state.run : !state.off.has(`runs ${run}`);
      trace.visible = shown && !state.off.has(`tasks ${task}`);
    }
    legend(figure, spec, state);
    const plot = figure.querySelector(".plot");
    const bare = coarse || width || plot.clientWidth < narrow;
    const config = { displaylogo: false, displayModeBar: bare ? false : "hover",
      modeBarButtons: [["zoomIn2d", "zoomOut2d", "resetScale2d", "toImage"]] };
    Plotly.react(plot, spec.data, layout(figure, spec), config);
    figure.dataset.drawn = plot.clientWidth;
  }

  function legend(figure, spec, state) {
    const place = figure.querySelector(".legend"), kind = spec.legend, seen = new Map();
    for (const trace of kind ? spec.data : []) {
      const name = kind === "runs" ? trace.meta.run : trace.meta.task;
      const look = trace.line && trace.line.color || trace.marker && trace.marker.color;
      if (name && !trace.meta.hidden && !seen.has(name)) seen.set(name, look);
    }
    for (const [name, colour] of seen) {
      let button = [...place.children].find((one) => one.dataset.name === name);
      if (!button) {
        button = document.createElement("button");
        button.type = "button";
        button.dataset.name = name;
        button.append(document.createElement("i"), name);
        button.title = "Hide or show; with Shift only this one";
        button.addEventListener("click", (event) => choose(figure, kind, name, event.shiftKey, [...seen.keys()]));
        place.append(button);
      }
      button.firstChild.style.background = colour;
      button.setAttribute("aria-pressed", String(!state.off.has(`${kind} ${name}`)));
    }
  }

  const groups = [...document.querySelectorAll("section.group")].map((section) => {
    const select = section.querySelector("select");
    const state = { off: new Set(), run: select ? select.value : section.dataset.run };
    const figures = [...section.querySelectorAll("figure")];
    const redraw = () => figures.filter((one) => "drawn" in one.dataset).forEach((one) => draw(one, state));
    if (select) select.addEventListener("change", () => { state.run = select.value; redraw(); });
    return { state, figures, redraw };
  });
  const groupOf = (figure) => groups.find((group) => group.figures.includes(figure));

  function choose(figure, kind, name, only, names) {
    const { state, redraw } = groupOf(figure), key = `${kind} ${name}`;
    if (only) names.forEach((one) => state.off[one === name ? "delete" : "add"](`${kind} ${one}`));
    else state.off[state.off.has(key) ? "delete" : "add"](key);
    redraw();
  }

  const drawAll = () => groups.forEach(({ figures, state }) => figures.forEach((one) => draw(one, state)));
  const seen = new IntersectionObserver((entries) => entries.forEach(({ isIntersecting, target }) => {
    if (!isIntersecting) return;
    seen.unobserve(target);
    if (!("drawn" in target.dataset)) draw(target, groupOf(target).state);
  }), { rootMargin: "800px" });
  const sized = new ResizeObserver((entries) => entries.forEach(({ target }) => {
    const figure = target.parentElement, room = target.clientWidth;
    if (width === null && room && "drawn" in figure.dataset && Number(figure.dataset.drawn) !== room) {
      draw(figure, groupOf(figure).state);
    }
  }));
  groups.forEach(({ figures }) => figures.forEach((one) => {
    seen.observe(one);
    sized.observe(one.querySelector(".plot"));
  }));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => groups.forEach((one) => one.redraw()));
  let folded = [];
  addEventListener("beforeprint", () => {
    root.dataset.print = "";
    width = 620;
    folded = [...document.querySelectorAll("details:not([open], .more)")];
    folded.forEach((one) => { one.open = true; });
    drawAll();
  });
  addEventListener("afterprint", () => {
    delete root.dataset.print;
    width = null;
    folded.forEach((one) => { one.open = false; });
    drawAll();
  });
})();
