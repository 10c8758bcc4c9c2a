"use strict";
// Names come from files of strangers: everything goes into the page as text.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const page = document.getElementById("page");
  const kind = document.body.dataset.kind;
  page.replaceChildren();

  const make = (tag, attributes = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children.filter((child) => child !== null && child !== undefined));
    return element;
  };
  const draw = (tag, attributes = {}, ...children) => {
    const element = document.createElementNS("http" + "://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  };
  const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
  const number = (value) => {
    if (!isNumber(value)) return "–";
    if (value === 0) return "0";
    const size = Math.abs(value);
    return size >= 1e-3 && size < 1e5 ? String(Number(value.toPrecision(4))) : value.toExponential(2);
  };
  const percent = (value) => (isNumber(value) ? number(100 * value) + " %" : "–");
  const color = (index) => `var(--c${index % 8})`;
  const section = (title, ...children) => {
    const element = make("section", {}, make("h2", {}, title), ...children);
    page.append(element);
    return element;
  };
  const choice = (label, options, changed) => {
    const select = make("select");
    options.forEach((text, index) => select.append(make("option", { value: String(index) }, text)));
    select.addEventListener("change", () => changed(Number(select.value)));
    return make("label", {}, label + " ", select);
  };

  // Columns are [title, value, shown]; numbers sort by size, and what is missing comes last.
  const table = (columns, rows, id) => {
    const body = make("tbody");
    const heads = columns.map(([title], at) => {
      const head = make("th", { scope: "col" });
      const button = make("button", { type: "button" }, title);
      button.addEventListener("click", () => sort(at));
      head.append(button);
      return head;
    });
    const fill = (sorted) => body.replaceChildren(...sorted.map((row) =>
      make("tr", {}, ...columns.map(([, value, shown]) => make("td", {}, shown ? shown(value(row)) : String(value(row) ?? "–"))))));
    const sort = (at) => {
      const rises = heads[at].getAttribute("aria-sort") === "descending";
      heads.forEach((head) => head.removeAttribute("aria-sort"));
      heads[at].setAttribute("aria-sort", rises ? "ascending" : "descending");
      const value = columns[at][1];
      const isMissing = (one) => one === null || one === undefined;
      fill([...rows].sort((a, b) => {
        const [x, y] = [value(a), value(b)];
        if (isMissing(x) || isMissing(y)) return isMissing(x) - isMissing(y);
        const order = typeof x === "number" ? x - y : String(x).localeCompare(String(y), undefined, { numeric: true });
        return rises ? order : -order;
      }));
    };
    fill(rows);
    const attributes = id ? { id } : {};
    return make("div", { class: "wide" + (rows.length > 20 ? " long" : "") },
      make("table", attributes, make("thead", {}, make("tr", {}, ...heads)), body));
  };

  // Series are {name, points: [[x, y], …], color}.
  const chart = (title, series, words, logarithmic) => {
    const [width, height, left, bottom, top] = [420, 230, 58, 34, 12];
    const onScale = (y) => (logarithmic ? Math.log10(y) : y);
    const shown = series.map((one) => ({ ...one, points: one.points.filter(([x, y]) => isNumber(x) && isNumber(y) && (!logarithmic || y > 0)) }))
      .filter((one) => one.points.length > 0);
    if (shown.length === 0) return null;
    const xs = shown.flatMap((one) => one.points.map((point) => point[0]));
    const ys = shown.flatMap((one) => one.points.map((point) => onScale(point[1])));
    const range = (values, fromZero) => {
      let least = values.reduce((a, b) => Math.min(a, b), Infinity);
      let most = values.reduce((a, b) => Math.max(a, b), -Infinity);
      if (fromZero) least = Math.min(0, least);
      if (least === most) { least -= 0.5; most += 0.5; }
      return [least, most];
    };
    const [x0, x1] = range(xs, false);
    const [y0, y1] = range(ys, !logarithmic);
    const across = (x) => left + (x - x0) / (x1 - x0) * (width - left - 12);
    const up = (y) => height - bottom - (y - y0) / (y1 - y0) * (height - bottom - top);
    const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": title });
    for (let step = 0; step <= 4; step += 1) {
      const y = y0 + (y1 - y0) * step / 4;
      svg.append(draw("path", { class: "axis", d: `M${left} ${up(y)}H${width - 12}` }));
      svg.append(draw("text", { x: left - 5, y: up(y) + 4, "text-anchor": "end" }, number(logarithmic ? 10 ** y : y)));
      const x = x0 + (x1 - x0) * step / 4;
      svg.append(draw("text", { x: across(x), y: height - bottom + 15, "text-anchor": "middle" }, number(Math.round(x * 100) / 100)));
    }
    svg.append(draw("text", { x: (left + width) / 2, y: height - 3, "text-anchor": "middle" }, words));
    for (const one of shown) {
      const d = one.points.map(([x, y], at) => `${at ? "L" : "M"}${across(x).toFixed(1)} ${up(onScale(y)).toFixed(1)}`).join("");
      svg.append(draw("path", { class: "curve", d, style: `stroke:${one.color}` }, draw("title", {}, one.name)));
    }
    return make("figure", { class: "card", style: "margin:0" }, make("figcaption", {}, title), svg);
  };
  const legend = (names) => make("p", { class: "legend" }, ...names.map((name, at) =>
    make("span", {}, make("i", { style: `background:${color(at)}` }), name)));

  // A map of layers by what is in them, in the colors of a value of each tensor.
  const heat = (tensors, metrics, id) => {
    const inLayers = tensors.filter((one) => isNumber(one.layer));
    if (inLayers.length === 0) return null;
    const modules = [...new Set(inLayers.map((one) => one.module))];
    const room = make("div", { class: "wide", id });
    const key = make("p", { class: "legend" });
    let [module, metric] = [0, 0];
    const show = () => {
      const [name, value, text, signed] = metrics[metric];
      const own = inLayers.filter((one) => one.module === modules[module]);
      const kinds = [...new Set(own.map((one) => one.kind))];
      const layers = [...new Set(own.map((one) => one.layer))].sort((a, b) => a - b);
      const at = new Map(own.map((one) => [one.layer + " " + one.kind, one]));
      const sizes = own.map(value).filter(isNumber).map(Math.abs);
      const most = sizes.reduce((a, b) => Math.max(a, b), 0);
      const cell = (layer, of) => {
        const one = at.get(layer + " " + of);
        const found = one ? value(one) : null;
        if (!isNumber(found)) return make("td", { title: one ? one.name : "" });
        const share = most > 0 ? Math.abs(found) / most * 100 : 0;
        const [low, high] = signed ? ["--zero", found < 0 ? "--minus" : "--high"] : ["--low", "--high"];
        return make("td", { title: `${one.name}: ${text(found)}`, style: `background:color-mix(in oklab, var(${high}) ${share.toFixed(1)}%, var(${low}))` });
      };
      room.replaceChildren(make("table", { class: "map" },
        make("thead", {}, make("tr", {}, make("th"), ...layers.map((layer) => make("th", {}, String(layer))))),
        make("tbody", {}, ...kinds.map((of) => make("tr", {}, make("th", {}, of), ...layers.map((layer) => cell(layer, of)))))));
      const [from, to] = signed ? ["var(--minus), var(--zero)", "var(--high)"] : ["var(--low)", "var(--high)"];
      key.replaceChildren(signed ? text(-most) : text(0), make("span", { class: "scale", style: `background:linear-gradient(to right, ${from}, ${to})` }), text(most), make("span", { class: "quiet" }, name));
    };
    show();
    return make("div", {}, make("p", {},
      choice("Module", modules, (at) => { module = at; show(); }),
      choice("Value", metrics.map(([name]) => name), (at) => { metric = at; show(); })), room, key);
  };

  const filtered = (columns, rows, id) => {
    const room = make("div");
    const field = make("input", { type: "search", placeholder: "part of a name", "aria-label": "part of a name" });
    const show = () => room.replaceChildren(table(columns, rows.filter((row) => row.name.includes(field.value)), id));
    field.addEventListener("input", show);
    show();
    return [make("p", {}, field), room];
  };

  const survey = () => {
    const names = data.experts.map((one) => one.name);
    document.title = "Survey of " + data.base.name;
    page.append(make("h1", {}, "Survey of " + names.join(", ")),
      make("p", { class: "quiet" }, `on ${data.base.model}, ${data.base.family ?? "of no known family"}, ${number(data.base.parameters)} parameters`));
    section("Findings", ...data.findings.map((one) => make("div", { class: "card " + one.level },
      make("p", {}, make("strong", {}, one.about + ": "), one.measured), make("p", { class: "quiet" }, one.papers))));
    section("Experts", table([
      ["expert", (row) => row.name], ["drift", (row) => row.relative, percent], ["norm", (row) => row.norm, number],
      ["rms", (row) => row.rms, number], ["largest", (row) => row.largest, number], ["changed", (row) => row.changed, percent],
      ["alone", (row) => row.only, percent], ["equal tensors", (row) => row.tensors_equal], ["missing", (row) => row.tensors_missing],
      ["vocabulary", (row) => row.vocabulary], ["types", (row) => Object.keys(row.types).join(", ")],
      ["adapter", (row) => (row.adapter ? "yes" : "no")]], data.experts, "experts"));
    if (data.pairs.length > 0) {
      section("Pairs", table([
        ["pair", (row) => row.first + ", " + row.second], ["cosine", (row) => row.cosine, number], ["changed by both", (row) => row.both_changed, number],
        ["opposite signs", (row) => row.sign_conflicts, percent], ["shared energy", (row) => row.shared_energy, percent],
        ["by chance", (row) => row.shared_by_chance, percent]], data.pairs, "pairs"));
    }
    const charts = [chart("Magnitudes of task vectors", data.experts.map((one, at) => {
      const all = one.magnitudes.reduce((sum, [, count]) => sum + count, 0);
      return { name: one.name, color: color(at), points: one.magnitudes.map(([exponent, count]) => [(exponent + 0.5) * Math.log10(2), count / all]) };
    }), "log10 |τ|; share of changed elements in each power of two", false)];
    for (const module of new Set(data.layers.map((one) => one.module))) {
      const own = data.layers.filter((one) => one.module === module);
      charts.push(chart("Norm per layer, " + module, names.map((name, at) => ({ name, color: color(at), points: own.map((one) => [one.layer, one.experts[at].rms]) })), "layer; root mean square of τ", false));
    }
    section("Magnitudes and layers", legend(names), make("div", { class: "charts" }, ...charts));
    const metrics = names.map((name, at) => ["drift of " + name, (one) => one.experts[at].relative, percent, false]);
    data.pairs.forEach((pair, at) => metrics.push([`cosine of ${pair.first} and ${pair.second}`, (one) => one.pairs?.[at]?.cosine, number, true]));
    data.pairs.forEach((pair, at) => metrics.push([`opposite signs of ${pair.first} and ${pair.second}`, (one) => one.pairs?.[at]?.sign_conflicts, percent, false]));
    const map = heat(data.tensors, metrics, "map");
    if (map) section("Layers and modules", map);
    const columns = [["tensor", (row) => row.name], ["shape", (row) => row.shape.join(" × ")]];
    names.forEach((name, at) => {
      columns.push([name + ": drift", (row) => row.experts[at].relative, percent]);
      columns.push([name + ": directions for 99 %", (row) => row.experts[at].directions?.["99"]]);
      columns.push([name, (row) => row.experts[at].status]);
    });
    section("Tensors", ...filtered(columns, data.tensors, "tensors"));
  };

  const report = () => {
    const matrices = data.matrices;
    const solved = matrices.filter((one) => one.op !== null).length;
    const experts = [...new Set(matrices.flatMap((one) => Object.keys(one.survives ?? {})))];
    const kept = (row, expert) => row.survives?.[expert] ?? null;
    document.title = "Report of " + data.output;
    page.append(make("h1", {}, "Merge of " + data.output),
      make("p", { class: "quiet" }, `${solved} ${solved === 1 ? "result" : "results"} of matrix ops`));
    if (solved === 0) page.append(make("p", {}, "No method over matrices was used."));
    const curves = matrices.filter((one) => (one.curve ?? []).length > 0);
    if (curves.length > 0) {
      const room = make("div", { class: "charts", id: "curves" });
      const lead = legend([]);
      const sum = (one) => {
        const byStep = new Map();
        for (const of of one) for (const [step, loss, norm] of of.curve) {
          const all = byStep.get(step) ?? [0, 0];
          byStep.set(step, [all[0] + (loss ?? NaN), all[1] + norm * norm]);
        }
        return [...byStep].sort((a, b) => a[0] - b[0]).map(([step, [loss, norm]]) => [step, loss, Math.sqrt(norm)]);
      };
      const show = (at) => {
        const points = at === 0 ? sum(curves) : curves[at - 1].curve;
        const of = at === 0 ? "all matrices" : curves[at - 1].tensor;
        room.replaceChildren(...[
          chart("Loss of " + of, [{ name: "loss", color: color(0), points: points.map(([step, loss]) => [step, loss]) }], "step", true),
          chart("Norm of the merged vector of " + of, [{ name: "norm", color: color(1), points: points.map(([step, , norm]) => [step, norm]) }], "step", false),
        ].filter(Boolean));
      };
      show(0);
      section("Loss and norm over the steps", make("p", {}, choice("Of", ["all matrices", ...curves.map((one) => one.tensor)], show)), lead, room);
    }
    const named = matrices.map((one) => ({ ...one, name: one.tensor }));
    const last = (one, at) => { const ranks = one.ranks ?? []; return ranks.length ? ranks[Math.min(at, ranks.length - 1)] : null; };
    const metrics = [
      ["norm of the result", (one) => one.norm, number, false],
      ["loss at the end over that at the start", (one) => (one.loss_start > 0 ? one.loss_end / one.loss_start : null), percent, false],
      ["rank", (one) => last(one, 0), number, false],
      ...experts.map((expert) => ["what survives of " + expert, (one) => kept(one, expert), percent, false])];
    const map = heat(named, metrics.filter(([, value]) => named.some((one) => isNumber(value(one)))), "map");
    if (map) section("Layers and modules", map);
    if (experts.length > 0) page.append(make("p", { class: "quiet" },
      "What survives of an expert is (θ − θ₀)·τ / ‖τ‖²: 100 % where the merged update has all of its task vector τ, 0 % where nothing along it, below 0 where its opposite."));
    section("Matrices", ...filtered([
      ["tensor", (row) => row.name], ["op", (row) => row.op ?? ""], ["loss before", (row) => row.loss_start, number], ["loss after", (row) => row.loss_end, number],
      ["norm", (row) => row.norm, number],
      ...experts.map((expert) => ["survives of " + expert, (row) => kept(row, expert), percent]),
      ["ranks", (row) => (row.ranks ?? []).join(", ")], ["gap", (row) => row.gap, number],
      ["notes", (row) => (row.notes ?? []).join("; ")]], named, "tensors"));
  };

  if (kind === "survey") survey(); else report();
})();
