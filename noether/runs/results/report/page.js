"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const runs = data.runs;
  const many = runs.length > 1;
  const view = { x: "update", smooth: 0, from: null, to: null, hidden: new Set() };
  const charts = [];
  const LEFT = 58, RIGHT = 12, TOP = 8, BOTTOM = 36;
  const reduced = matchMedia("(prefers-reduced-motion: reduce)").matches;

  // Elements

  function put(node, attributes, children) {
    for (const [name, value] of Object.entries(attributes)) {
      if (typeof value === "function") node.addEventListener(name, value);
      else if (value === true) node.setAttribute(name, "");
      else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
    }
    node.append(...children.filter((child) => child !== null && child !== undefined));
    return node;
  }
  const el = (name, attributes = {}, ...children) => put(document.createElement(name), attributes, children);
  const svg = (name, attributes = {}, ...children) =>
    put(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);

  // Numbers

  function number(value) {
    const size = Math.abs(value);
    if (value === 0) return "0";
    if (size >= 1e6 || size < 1e-4) return value.toExponential(3).replace(/\.?0+e/, "e").replace("e+", "e");
    if (Number.isInteger(value)) return value.toLocaleString("en-US");
    return String(Number(value.toPrecision(5)));
  }
  function duration(seconds) {
    const whole = Math.round(seconds);
    const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
    if (h) return `${h} h ${m} min`;
    return m ? `${m} min ${s} s` : `${Number(seconds.toPrecision(3))} s`;
  }
  function linearTicks(low, high, most) {
    const rough = (high - low) / most;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].find((one) => one * power >= rough) * power;
    if (!(step > 0) || !Number.isFinite(step)) return [low];
    const ticks = [];
    for (let at = Math.ceil(low / step); at * step <= high + step * 1e-9 && ticks.length < 50; at++) {
      ticks.push(Number((at * step).toPrecision(12)));
    }
    return ticks;
  }
  function logTicks(low, high) {
    const [first, last] = [Math.floor(low), Math.ceil(high)];
    if (last - first > 12) return linearTicks(first, last, 6).filter(Number.isInteger).map((power) => 10 ** power);
    const parts = high - low < 0.5 ? [1, 2, 3, 4, 5, 6, 7, 8, 9] : high - low < 2 ? [1, 2, 5] : [1];
    const ticks = [];
    for (let power = first; power <= last; power++) ticks.push(...parts.map((part) => part * 10 ** power));
    const inside = ticks.filter((tick) => Math.log10(tick) >= low - 1e-9 && Math.log10(tick) <= high + 1e-9);
    return inside.length > 1 ? inside : linearTicks(10 ** low, 10 ** high, 4).filter((tick) => tick > 0);
  }

  // Positions: each series has updates; the other axes are looked up in the clock of its run.

  function lookup(from, to, value, beyond) {
    let low = 0, high = from.length - 1;
    if (high < 1) return high < 0 ? value : to[0];
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (from[middle] <= value) low = middle; else high = middle;
    }
    const share = from[high] > from[low] ? (value - from[low]) / (from[high] - from[low]) : 1;
    return to[low] + Math.max(0, Math.min(beyond, share)) * (to[high] - to[low]);
  }
  function position(run, update, axis) {
    const clock = runs[run].clock;
    if (axis === "epoch") return lookup(clock.epochUpdate, clock.epoch, update, 1.999);
    return axis === "update" ? update : lookup(clock.update, clock[axis], update, 1);
  }
  function positions(series) {
    return (series.xs[view.x] ??= series.update.map((update) => position(series.run, update, view.x)));
  }
  function nearest(xs, x) {
    let low = 0, high = xs.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (xs[middle] < x) low = middle; else high = middle;
    }
    return x - xs[low] < xs[high] - x ? low : high;
  }
  function smoothed(series) {
    if (!view.smooth) return series.v;
    if (series.smoothedBy !== view.smooth) {
      let sum = 0, weight = 0;
      series.smooth = series.v.map((value) => {
        if (value === null) return null;
        sum = view.smooth * sum + (1 - view.smooth) * value;
        weight = view.smooth * weight + (1 - view.smooth);
        return sum / weight;
      });
      series.smoothedBy = view.smooth;
    }
    return series.smooth;
  }
  function axisScale(low, high) {
    if (view.x !== "time") return { unit: 1, title: { update: "update", epoch: "epoch", sample: "sample" }[view.x] };
    const units = [[86400, "d", 3 * 86400], [3600, "h", 3 * 3600], [60, "min", 180], [1, "s", 0]];
    const [unit, name] = units.find(([, , from]) => high - low >= from);
    return { unit, title: `time since the start in ${name}` };
  }

  // A path: at most four points for each column of pixels, its lowest and highest among them.

  function pathOf(xs, values, from, to, sx, sy, drawable) {
    const parts = [];
    let column = null;
    const flush = () => {
      if (!column) return;
      const { x, first, low, high, last, moves } = column;
      parts.push(`${moves ? "M" : "L"}${x},${first}`);
      if (low !== high) parts.push(`L${x},${low}L${x},${high}L${x},${last}`);
      column = null;
    };
    let moves = true;
    for (let i = from; i <= to; i++) {
      if (!drawable(values[i])) { flush(); moves = true; continue; }
      const x = Math.round(sx(xs[i]) * 2) / 2, y = Math.round(sy(values[i]) * 10) / 10;
      if (column && column.x === x && !moves) {
        column.low = Math.min(column.low, y); column.high = Math.max(column.high, y); column.last = y;
      } else {
        flush();
        column = { x, first: y, low: y, high: y, last: y, moves };
        moves = false;
      }
    }
    flush();
    return parts.join("");
  }

  class Chart {
    constructor(spec, isWide) {
      this.log = spec.log;
      this.height = isWide ? 340 : 230;
      this.clip = `area-${charts.length}`;
      this.cursor = null;
      this.stale = true;
      const labels = [...new Set(spec.series.map((series) => series.label))];
      const evaluations = labels.filter((label) => !spec.series.some((series) => series.training && series.label === label));
      this.series = spec.series.map((series) => {
        let at = 0;
        const index = many ? Math.max(0, evaluations.indexOf(series.label)) : labels.indexOf(series.label);
        const shown = !many ? series.label : labels.length > 1 ? `${runs[series.run].name} · ${series.label}` : runs[series.run].name;
        return Object.assign(series, {
          update: series.u.map((step) => (at += step)), xs: {}, on: true, shown, dash: many ? Math.min(index, 3) : 0, kind: !series.training ? "strong" : many ? "faint" : "",
          colour: `k${(many ? series.run : index) % 8}`,
        });
      });
      this.svg = svg("svg", { role: "img", "aria-label": `${spec.title}: ${this.series.map((one) => one.shown).join(", ")}` });
      this.tip = el("div", { class: "tip", hidden: true });
      this.spoken = el("div", { class: "spoken", "aria-live": "polite" });
      this.logButton = el("button", { type: "button", class: "toggle log", "aria-pressed": String(this.log), title: "Logarithmic values (key: l)", click: () => this.setLog(!this.log) }, "log");
      this.plot = el("div", { class: "plot" }, this.svg, this.tip);
      this.legend = el("div", { class: "legend" }, ...this.series.map((series) => this.legendButton(series)));
      this.node = el("section", { class: isWide ? "card chart wide" : "card chart", tabindex: "0", "aria-label": `Chart ${spec.title}`, keydown: (event) => this.key(event) },
        el("header", {}, el("h3", {}, spec.title), this.logButton),
        spec.same.length ? el("p", { class: "also" }, `The same values: ${spec.same.join(", ")}`) : null,
        this.plot, this.legend, this.spoken);
      this.listen();
    }

    legendButton(series) {
      const lost = series.lost ? ` (${number(series.lost)} not finite)` : "";
      return el("button", {
        type: "button", "aria-pressed": "true", title: `${series.key}: ${number(series.points)} values. Click to hide, Shift-click to show it alone`,
        click: (event) => {
          if (event.shiftKey) {
            const alone = this.series.every((one) => one.on === (one === series));
            for (const one of this.series) one.on = alone || one === series;
          } else series.on = !series.on;
          this.series.forEach((one, i) => this.legend.children[i].setAttribute("aria-pressed", String(one.on)));
          this.draw();
        },
      }, el("span", { class: `swatch ${series.colour} ${series.kind}` }), series.shown + lost);
    }

    setLog(on) {
      this.log = on;
      this.logButton.setAttribute("aria-pressed", String(on));
      this.draw();
    }

    visible() { return this.series.filter((series) => series.on && !view.hidden.has(series.run)); }

    scales() {
      const shown = this.visible();
      let [low, high] = [Infinity, -Infinity];
      for (const series of shown) {
        const xs = positions(series);
        low = Math.min(low, xs[0]); high = Math.max(high, xs[xs.length - 1]);
      }
      if (view.from !== null) [low, high] = [view.from, view.to];
      if (!(high > low)) [low, high] = Number.isFinite(low) ? [low - 0.5, low + 0.5] : [0, 1];
      const drawable = this.log ? (value) => value !== null && value > 0 : (value) => value !== null;
      const scaled = this.log ? Math.log10 : (value) => value;
      let [bottom, top] = [Infinity, -Infinity];
      for (const series of shown) {
        const xs = positions(series);
        for (let i = 0; i < xs.length; i++) {
          if (xs[i] < low || xs[i] > high || !drawable(series.v[i])) continue;
          bottom = Math.min(bottom, series.v[i]); top = Math.max(top, series.v[i]);
        }
      }
      const isEmpty = bottom > top;
      [bottom, top] = isEmpty ? [0, 1] : [scaled(bottom), scaled(top)];
      const margin = (top - bottom) * 0.05 || Math.abs(top) * 0.05 || 0.5;
      [bottom, top] = [bottom - margin, top + margin];
      const width = this.width, height = this.height;
      return {
        shown, low, high, bottom, top, drawable, isEmpty, scaled,
        x: (value) => LEFT + ((value - low) / (high - low)) * (width - LEFT - RIGHT),
        y: (value) => TOP + (1 - (scaled(value) - bottom) / (top - bottom)) * (height - TOP - BOTTOM),
        back: (pixel) => low + ((pixel - LEFT) / (width - LEFT - RIGHT)) * (high - low),
      };
    }

    draw() {
      this.stale = false;
      this.width = Math.max(260, Math.round(this.plot.clientWidth || 600));
      const scale = (this.scale = this.scales());
      const { width, height } = this;
      this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
      const area = svg("rect", { x: LEFT, y: TOP - 4, width: width - LEFT - RIGHT, height: height - TOP - BOTTOM + 8 });
      this.svg.replaceChildren(svg("clipPath", { id: this.clip }, area), ...this.axes(scale), ...scale.shown.flatMap((series) => this.lines(series, scale)));
      this.over = svg("g");
      this.svg.append(this.over);
      this.hover(null);
    }

    axes(scale) {
      const { width, height } = this;
      const bottom = height - BOTTOM, nodes = [];
      const values = this.log ? logTicks(scale.bottom, scale.top) : linearTicks(scale.bottom, scale.top, height > 300 ? 8 : 6);
      for (const tick of scale.isEmpty ? [] : values) {
        const y = scale.y(tick);
        nodes.push(svg("line", { class: "gridline", x1: LEFT, x2: width - RIGHT, y1: y, y2: y }));
        nodes.push(svg("text", { x: LEFT - 7, y: y + 4, "text-anchor": "end" }, number(tick)));
      }
      const { unit, title } = axisScale(scale.low, scale.high);
      for (const tick of linearTicks(scale.low / unit, scale.high / unit, width > 700 ? 9 : 5)) {
        const x = scale.x(tick * unit);
        nodes.push(svg("line", { class: "axis", x1: x, x2: x, y1: bottom, y2: bottom + 4 }));
        nodes.push(svg("text", { x, y: bottom + 16, "text-anchor": "middle" }, tick.toLocaleString("en-US", { maximumFractionDigits: 6 })));
      }
      nodes.push(svg("line", { class: "axis", x1: LEFT, x2: width - RIGHT, y1: bottom, y2: bottom }));
      nodes.push(svg("text", { x: (LEFT + width - RIGHT) / 2, y: height - 4, "text-anchor": "middle" }, title));
      if (scale.isEmpty) nodes.push(svg("text", { class: "empty", x: width / 2, y: height / 2, "text-anchor": "middle" }, this.why(scale)));
      return nodes;
    }

    why(scale) {
      if (!scale.shown.length) return "every series is hidden";
      return this.log ? "no value above 0 in this range: switch the log scale off" : "no finite value in this range";
    }

    lines(series, scale) {
      const xs = positions(series);
      let from = 0, to = xs.length - 1;
      if (view.from !== null) {
        from = Math.max(0, nearest(xs, scale.low) - 1); to = Math.min(to, nearest(xs, scale.high) + 1);
      }
      const few = to - from < 60;
      const isSmooth = view.smooth > 0 && !few;
      const draw = (values, kind) => svg("path", { class: `line ${kind} d${series.dash} ${series.colour}`, d: pathOf(xs, values, from, to, scale.x, scale.y, scale.drawable), "data-key": series.key, "clip-path": `url(#${this.clip})` });
      const nodes = isSmooth ? [draw(series.v, "raw"), draw(smoothed(series), series.kind)] : [draw(series.v, series.kind)];
      for (let i = from; few && i <= to; i++) {
        if (!scale.drawable(series.v[i]) || xs[i] < scale.low || xs[i] > scale.high) continue;
        nodes.push(svg("circle", { class: `dot ${series.colour}`, cx: scale.x(xs[i]), cy: scale.y(series.v[i]), r: 3 }));
      }
      return nodes;
    }

    hover(x) {
      const { scale } = this;
      this.cursor = x;
      this.over.replaceChildren();
      const near = x === null ? [] : scale.shown.map((series) => {
        const xs = positions(series), i = nearest(xs, x);
        return { series, i, at: xs[i], value: series.v[i] };
      }).filter((one) => one.at >= scale.low && one.at <= scale.high);
      this.tip.hidden = !near.length;
      if (!near.length) return;
      const first = near.reduce((best, one) => (Math.abs(one.at - x) < Math.abs(best.at - x) ? one : best));
      const update = first.series.update[first.i], px = scale.x(first.at);
      this.over.append(svg("line", { class: "cursor", x1: px, x2: px, y1: TOP, y2: this.height - BOTTOM }));
      for (const one of near) {
        if (scale.drawable(one.value)) this.over.append(svg("circle", { class: `dot ${one.series.colour}`, cx: scale.x(one.at), cy: scale.y(one.value), r: 4.5 }));
      }
      const rows = near.slice(0, 14).map((one) => {
        const own = one.series.update[one.i];
        const value = one.value === null ? "not finite" : number(one.value);
        return el("div", {}, el("span", { class: `swatch ${one.series.colour}` }), el("span", {}, one.series.shown),
          el("span", { class: "v" }, value, own === update ? null : el("span", { class: "at" }, ` at ${number(own)}`)));
      });
      if (near.length > rows.length) rows.push(el("div", {}, `and ${near.length - rows.length} more`));
      const run = first.series.run;
      const place = [`update ${number(update)}`];
      if (runs[run].clock.epoch.length > 1) place.push(`epoch ${Number(position(run, update, "epoch").toFixed(2))}`);
      place.push(duration(position(run, update, "time")));
      this.tip.replaceChildren(el("b", {}, place.join(" · ")), ...rows);
      const factor = (this.plot.clientWidth || this.width) / this.width;
      const left = px * factor, isRight = left > this.plot.clientWidth / 2;
      this.tip.style.left = isRight ? "auto" : `${left + 14}px`;
      this.tip.style.right = isRight ? `${this.plot.clientWidth - left + 14}px` : "auto";
      this.tip.style.top = `${TOP}px`;
      this.near = near; this.at = first;
    }

    listen() {
      const xOf = (event) => {
        const box = this.svg.getBoundingClientRect();
        const pixel = ((event.clientX - box.left) / box.width) * this.width;
        return Math.max(LEFT, Math.min(this.width - RIGHT, pixel));
      };
      let start = null, mark = null;
      this.svg.addEventListener("pointerdown", (event) => {
        if (event.button) return;
        start = xOf(event);
        mark = svg("rect", { class: "selection", x: start, y: TOP, width: 0, height: this.height - TOP - BOTTOM });
        this.svg.append(mark);
        this.svg.setPointerCapture(event.pointerId);
      });
      this.svg.addEventListener("pointermove", (event) => {
        const x = xOf(event);
        if (start === null) return this.hover(this.scale.back(x));
        mark.setAttribute("x", Math.min(start, x)); mark.setAttribute("width", Math.abs(x - start));
        return undefined;
      });
      const end = (event, isDone) => {
        if (start === null) return;
        const [from, to] = [start, xOf(event)].sort((a, b) => a - b);
        const { back } = this.scale;
        mark.remove(); start = null;
        if (isDone && to - from > 6) zoom(back(from), back(to));
        else this.hover(back(to));
      };
      this.svg.addEventListener("pointerup", (event) => end(event, true));
      this.svg.addEventListener("pointercancel", (event) => end(event, false));
      this.svg.addEventListener("pointerleave", () => { if (start === null) this.hover(null); });
      this.svg.addEventListener("dblclick", () => zoom(null, null));
    }

    key(event) {
      if (event.target !== this.node || event.ctrlKey || event.metaKey || event.altKey) return;
      const { scale } = this, width = scale.high - scale.low;
      const longest = scale.shown.reduce((best, one) => (!best || one.v.length > best.v.length ? one : best), null);
      const middle = this.cursor ?? (scale.low + scale.high) / 2;
      const move = (steps) => {
        if (!longest) return;
        const xs = positions(longest);
        const inside = xs.map((x, i) => i).filter((i) => xs[i] >= scale.low && xs[i] <= scale.high);
        if (!inside.length) return;
        const at = this.cursor === null ? (steps > 0 ? inside[0] : inside[inside.length - 1]) : nearest(xs, this.cursor) + steps;
        this.hover(xs[Math.max(inside[0], Math.min(inside[inside.length - 1], at))]);
        this.spoken.textContent = this.tip.innerText;
      };
      const step = event.shiftKey ? 10 : 1;
      const actions = {
        ArrowRight: () => move(step), ArrowLeft: () => move(-step), Home: () => { this.cursor = null; move(1); }, End: () => { this.cursor = null; move(-1); },
        "+": () => zoom(middle - width / 4, middle + width / 4), "-": () => zoom(middle - width, middle + width),
        Escape: () => { zoom(null, null); this.hover(null); }, l: () => this.setLog(!this.log),
      };
      if (actions[event.key]) { event.preventDefault(); actions[event.key](); }
    }
  }

  // The whole page

  const observer = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      const chart = charts.find((one) => one.node === target);
      chart.isSeen = isIntersecting;
      if (isIntersecting && chart.stale) chart.draw();
    }
  }, { rootMargin: "300px" });

  function redraw() {
    for (const chart of charts) {
      chart.stale = true;
      if (chart.isSeen) chart.draw();
    }
    later(drawNext);
  }
  const later = window.requestIdleCallback ?? ((action) => setTimeout(action, 30));
  function drawNext() {
    const chart = charts.find((one) => one.stale);
    if (!chart) return;
    chart.draw();
    later(drawNext);
  }
  function zoom(from, to) {
    [view.from, view.to] = [from, to];
    document.getElementById("reset").disabled = from === null;
    redraw();
  }
  function toolbar() {
    const axes = [["update", "update"], ["epoch", "epoch"], ["sample", "sample"], ["time", "time"]]
      .filter(([axis]) => axis !== "epoch" || runs.some((run) => run.clock.epoch.length > 1));
    const value = el("output", {}, "off");
    const smooth = el("input", { type: "range", min: "0", max: "0.99", step: "0.01", value: "0", id: "smoothing", input: () => {
      view.smooth = Number(smooth.value); value.textContent = view.smooth ? view.smooth.toFixed(2) : "off"; redraw();
    } });
    const log = el("button", { type: "button", class: "toggle", id: "log", "aria-pressed": "false", click: () => {
      const on = log.getAttribute("aria-pressed") !== "true";
      log.setAttribute("aria-pressed", String(on));
      for (const chart of charts) { chart.log = on; chart.logButton.setAttribute("aria-pressed", String(on)); }
      redraw();
    } }, "log scale");
    return el("div", { class: "toolbar", role: "toolbar", "aria-label": "All charts" },
      el("fieldset", {}, el("span", { class: "name" }, "x"), ...axes.map(([axis, name]) => el("label", { class: "choice" },
        el("input", { type: "radio", name: "axis", value: axis, checked: axis === "update", change: () => { view.x = axis; zoom(null, null); } }), el("span", {}, name)))),
      el("label", {}, el("span", { class: "name" }, "smoothing"), smooth, value), log,
      el("button", { type: "button", id: "reset", disabled: true, click: () => zoom(null, null) }, "reset zoom"),
      many ? el("div", { class: "legend chips", "aria-label": "Runs" }, ...runs.map((run, i) => el("button", { type: "button", "aria-pressed": "true", click: (event) => {
        const isShown = view.hidden.delete(i) || !view.hidden.add(i);
        event.currentTarget.setAttribute("aria-pressed", String(isShown));
        redraw();
      } }, el("span", { class: `swatch k${i % 8}` }), run.name))) : null);
  }
  function drawCharts(place) {
    place.append(toolbar());
    let group = null, grid = null;
    for (const spec of data.charts) {
      if (spec.group !== group) {
        group = spec.group;
        grid = el("div", { class: "grid" });
        place.append(el("h3", { class: "group" }, data.groups[group]), grid);
      }
      const chart = new Chart(spec, !charts.length);
      charts.push(chart);
      grid.append(chart.node);
      observer.observe(chart.node);
    }
    later(drawNext);
    let width = innerWidth;
    addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; redraw(); } });
    addEventListener("beforeprint", () => charts.forEach((chart) => chart.draw()));
  }

  // Figures and histograms, one card for a key, with its updates on a slider

  function histogram(frame) {
    const width = 480, height = 200, most = Math.max(1, ...frame.counts), low = frame.edges[0], high = frame.edges[frame.edges.length - 1];
    const x = (value) => 44 + ((value - low) / (high - low || 1)) * (width - 54), y = (count) => 8 + (1 - count / most) * (height - 32);
    const bars = frame.counts.map((count, i) => svg("rect", { class: "bar k0", x: x(frame.edges[i]), y: y(count), width: Math.max(0.5, x(frame.edges[i + 1]) - x(frame.edges[i]) - 0.5), height: height - 24 - y(count) },
      svg("title", {}, `${number(frame.edges[i])} to ${number(frame.edges[i + 1])}: ${number(count)}`)));
    const ticks = linearTicks(low, high, 5).map((tick) => svg("text", { x: x(tick), y: height - 8, "text-anchor": "middle" }, number(tick)));
    return svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "histogram" }, svg("text", { x: 38, y: 16, "text-anchor": "end" }, number(most)),
      svg("line", { class: "axis", x1: 44, x2: width - 10, y1: height - 24, y2: height - 24 }), ...bars, ...ticks);
  }
  function mediaCard(media) {
    const holder = el("div", { class: media.kind === "histogram" ? "plot" : "" });
    const says = el("output", {});
    const show = (i) => {
      const frame = media.frames[i];
      says.textContent = `update ${number(frame.update)}${frame.left ? `, ${number(frame.left)} values outside` : ""}`;
      holder.replaceChildren(media.kind === "histogram" ? histogram(frame) : el("img", { src: `data:image/png;base64,${frame.png}`, alt: `${media.key} at update ${frame.update}` }));
    };
    const last = media.frames.length - 1;
    const slider = el("input", { type: "range", min: 0, max: last, value: last, "aria-label": `Update of ${media.key}`, input: () => show(Number(slider.value)) });
    show(last);
    return el("figure", { class: "card" }, el("header", {}, el("h3", {}, media.key)), many ? el("p", { class: "also" }, runs[media.run].name) : null, holder,
      el("div", { class: "frames" }, last ? slider : null, says));
  }

  const place = document.getElementById("charts");
  if (place && data.charts.length) drawCharts(place);
  for (const media of data.media) document.getElementById(media.kind === "histogram" ? "histograms" : "figures").append(mediaCard(media));
  for (const button of document.querySelectorAll("button.copy")) {
    button.hidden = false;
    button.addEventListener("click", () => {
      const code = button.parentElement.querySelector("code");
      const select = () => getSelection().selectAllChildren(code);
      if (!navigator.clipboard) return select();
      return navigator.clipboard.writeText(code.textContent).then(() => {
        button.textContent = "copied";
        setTimeout(() => { button.textContent = "copy"; }, reduced ? 4000 : 1500);
      }, select);
    });
  }
})();
