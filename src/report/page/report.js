'use strict';
// Draws the page from the JSON in #data. Whatever came from files goes through textContent, never through innerHTML.

const data = JSON.parse(document.getElementById('data').textContent);
const runs = data.runs;
const dark = matchMedia('(prefers-color-scheme: dark)');
const RUN_COLORS = { light: ['#0b6bcb', '#d1521b', '#198754', '#8b3fc7', '#b0870c', '#c2307a'],
                     dark: ['#62aef7', '#f58e5f', '#4fc58a', '#c08cf0', '#dfbb4d', '#f07fb4'] };
const runColor = i => RUN_COLORS[dark.matches ? 'dark' : 'light'][i % 6];
const css = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function element(parent, tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  if (parent) parent.appendChild(node);
  return node;
}

// 950, 12.3k, 4.56M; small numbers with four digits, very small ones as 2.2e-4.
function short(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return '–';
  const size = Math.abs(value);
  for (const [factor, suffix] of [[1e12, 'T'], [1e9, 'G'], [1e6, 'M'], [1e3, 'k']]) {
    if (size >= factor) return String(+(value / factor).toPrecision(3)) + suffix;
  }
  if (size !== 0 && size < 1e-3) return value.toExponential(2).replace(/\.?0+e/, 'e');
  return String(+value.toPrecision(4));
}

const finite = list => list.filter(value => value !== null);
const mean = list => list.length ? list.reduce((a, b) => a + b, 0) / list.length : null;
const lastOf = list => list.length ? list[list.length - 1] : null;
const lastThird = list => list.slice(Math.floor(list.length * 2 / 3));

// Mean over a window of about a fiftieth of the run around each step, narrower towards the ends, so that the curve
// does not lag behind; gaps stay gaps.
function smooth(values) {
  const reach = Math.floor(values.length / 100);
  const sums = [0], counts = [0];
  for (const value of values) {
    sums.push(lastOf(sums) + (value ?? 0));
    counts.push(lastOf(counts) + (value === null ? 0 : 1));
  }
  return values.map((value, i) => {
    if (value === null) return null;
    const side = Math.min(reach, i, values.length - 1 - i);
    return (sums[i + side + 1] - sums[i - side]) / (counts[i + side + 1] - counts[i - side]);
  });
}

// ---- Numbers of a run ----

function median(list) {
  const sorted = finite(list).sort((a, b) => a - b);
  return sorted.length ? sorted[Math.floor(sorted.length / 2)] : null;
}

// The mean balance over the last third of the run, of the layer where it is worst.
const lateBalance = run => run.balance.length ? Math.max(...run.balance.map(layer => mean(finite(lastThird(layer))))) : null;

function facts(run) {
  const list = [
    ['train loss (last fiftieth)', short(mean(finite(run.loss.slice(-Math.ceil(run.loss.length / 50)))))],
    ['validation loss', short(lastOf(finite(run.validation_loss)))],
  ];
  if (run.evaluation && typeof run.evaluation.bits_per_byte === 'number') {
    list.push(['held-out bits per byte', short(run.evaluation.bits_per_byte)]);
  }
  list.push(['steps', String(lastOf(run.step) ?? 0)],
            ['tokens', short(lastOf(run.tokens) ?? 0)],
            ['tokens/s (median)', short(median(run.tokens_per_second))]);
  if (run.balance.length) list.push(['max/mean expert load, late, worst layer', short(lateBalance(run))]);
  list.push(['peak memory', run.peak_memory_bytes ? short(run.peak_memory_bytes) + 'B' : '–']);
  if (run.skipped_steps) list.push(['skipped steps', String(run.skipped_steps)]);
  return list;
}

function drawFacts(parent) {
  if (runs.length === 1) {
    const tiles = element(parent, 'div', 'tiles');
    for (const [name, value] of facts(runs[0])) {
      const tile = element(tiles, 'div', 'card tile');
      element(tile, 'b', '', value);
      element(tile, 'span', '', name);
    }
    return;
  }
  const names = [...new Set(runs.flatMap(run => facts(run).map(([name]) => name)))];
  const table = element(element(element(parent, 'div', 'card'), 'div', 'scroll'), 'table');
  const head = element(table, 'tr');
  element(head, 'th', '', 'run');
  for (const name of names) element(head, 'th', '', name);
  for (const run of runs) {
    const row = element(table, 'tr');
    const values = new Map(facts(run));
    element(row, 'td', '', run.name);
    for (const name of names) element(row, 'td', '', values.get(name) ?? '–');
  }
}

// Held-out text against general compressors, where the run was evaluated.
function drawBars(parent) {
  const rows = [];
  for (const run of runs) {
    if (typeof run.evaluation?.bits_per_byte === 'number') {
      rows.push([runs.length > 1 ? run.name : 'this model', run.evaluation.bits_per_byte, true]);
    }
  }
  for (const tool of ['xz', 'gzip']) {
    const value = runs.map(run => run.evaluation?.[tool + '_bits_per_byte']).find(v => typeof v === 'number');
    if (rows.length && value !== undefined) rows.push([tool + ' -9', value, false]);
  }
  if (rows.length < 2) return;
  const card = element(parent, 'div', 'card wide');
  element(card, 'h3', '', 'Held-out text, bits per byte (less is better)');
  const bars = element(card, 'div', 'bars');
  const most = Math.max(...rows.map(row => row[1]));
  for (const [name, value, ours] of rows) {
    element(bars, 'span', '', name);
    element(bars, 'i', ours ? 'ours' : '').style.width = (100 * value / most) + '%';
    element(bars, 'span', '', value.toFixed(3));
  }
}

// ---- Line charts ----

const charts = [];

// series: [{name, steps, values, color(), width, points, dashes}]; all charts share the steps of all runs, so that they
// can be zoomed and read together.
const allSteps = [...new Set(runs.flatMap(run => run.step))].sort((a, b) => a - b);

// A dashed curve has a dashed swatch.
const swatch = one => one.dashes ? `repeating-linear-gradient(90deg, ${one.color()} 0 6px, transparent 6px 10px)` : one.color();

function lineChart(parent, title, series, options = {}) {
  series = series.filter(one => one.values.some(value => value !== null));
  if (!series.length) return;
  const card = element(parent, 'div', 'card' + (options.wide ? ' wide' : ''));
  element(card, 'h3', '', title);
  const legend = element(card, 'div', 'legend');
  const columns = series.map(one => new Map(one.steps.map((step, i) => [step, one.values[i]])));
  const rows = allSteps.map(step => [step, ...columns.map(column => column.get(step) ?? null)]);
  const labels = ['step', ...series.map((one, i) => i + ' ' + one.name)];  // dygraphs wants them unique
  const perSeries = {};
  series.forEach((one, i) => {
    perSeries[labels[i + 1]] = { strokeWidth: one.width ?? 1.6, drawPoints: !!one.points, strokePattern: one.dashes ?? null, pointSize: one.points ? 2.5 : 1 };
  });
  // The legend names what is drawn boldly; the raw curve behind a smoothed one goes without.
  const legendNode = state => {
    const fragment = document.createDocumentFragment();
    if (state.x !== undefined) element(fragment, 'span', 'quiet', 'step ' + state.x);
    state.series.forEach((shown, i) => {
      if (series[i].hidden) return;
      const item = element(fragment, 'span');
      element(item, 'span', 'swatch').style.background = swatch(series[i]);
      element(item, 'span', '', series[i].name + (state.x !== undefined ? ' ' + short(shown.y) : ''));
    });
    return fragment;
  };
  const chart = new Dygraph(element(card, 'div', 'chart'), rows, {
    labels, xlabel: 'step', series: perSeries, labelsDiv: legend, legend: 'always', legendFormatter: legendNode,
    colors: series.map(one => one.color()), connectSeparatedPoints: true, xRangePad: 5, includeZero: !!options.zero,
    gridLineColor: css('--grid'), axisLineColor: css('--line'), highlightCircleSize: 3,
    axes: { x: { axisLabelFormatter: short, pixelsPerLabel: 60 }, y: { axisLabelFormatter: short, axisLabelWidth: 46 } },
  });
  charts.push({ chart, restyle: () => chart.updateOptions({ colors: series.map(one => one.color()), gridLineColor: css('--grid'),
                                                            axisLineColor: css('--line') }) });
}

const prefix = run => runs.length > 1 ? run.name + ': ' : '';
const perRun = (field, more = {}) => runs.map((run, i) => ({
  name: runs.length > 1 ? run.name : field.replaceAll('_', ' '), steps: run.step, values: run[field], color: () => runColor(i), ...more }));
const faint = color => () => color() + '60';

function drawLossCharts(parent) {
  const loss = runs.flatMap((run, i) => [
    { name: 'raw', steps: run.step, values: run.loss, color: faint(() => runColor(i)), width: 1, hidden: true },
    { name: prefix(run) + 'train, smoothed', steps: run.step, values: smooth(run.loss), color: () => runColor(i), width: 2 },
    { name: prefix(run) + 'validation', steps: run.step, values: run.validation_loss, points: true,
      color: () => runColor(runs.length > 1 ? i : 1), width: 1.4, dashes: runs.length > 1 ? [4, 4] : null },
  ]);
  lineChart(parent, 'Loss (nats a token)', loss, { wide: true });
  const mtp = runs.flatMap((run, i) => run.mtp_loss.flatMap((values, depth) => {
    const color = () => runColor(i + depth * 2);
    return [{ name: 'raw', steps: run.step, values, color: faint(color), width: 1, hidden: true },
            { name: `${prefix(run)}depth ${depth + 1}, smoothed`, steps: run.step, values: smooth(values), color }];
  }));
  lineChart(parent, 'Multi-token prediction loss (nats a token)', mtp);
}

// Few layers in colours that are far apart, many by depth through the hues from orange to violet.
function layerColor(layer, layers) {
  if (layers <= 6) return runColor(layer);
  return `hsl(${30 + 250 * layer / (layers - 1)}, 75%, ${dark.matches ? 62 : 42}%)`;
}

function drawBalanceChart(parent, run) {
  lineChart(parent, 'Greatest expert load over the mean, per MoE layer (smoothed)', run.balance.map((values, layer) => ({
    name: run.moe_layers[layer], steps: run.step, values: smooth(values),
    color: () => layerColor(layer, run.balance.length), width: 1.4,
    dashes: run.moe_layers[layer].startsWith('MTP') ? [6, 3] : null })), { wide: true });
}

// ---- Expert-load heatmaps ----

// Stops of the colour scale from half the mean load to twice it, through the mean.
const MAP_COLORS = { light: [[33, 102, 172], [247, 247, 246], [178, 24, 43]], dark: [[86, 165, 232], [33, 36, 39], [240, 110, 90]] };
function mapColor(log2Load) {
  const [low, middle, high] = MAP_COLORS[dark.matches ? 'dark' : 'light'];
  const t = Math.max(-1, Math.min(1, log2Load));
  const end = t < 0 ? low : high;
  return middle.map((channel, i) => Math.round(channel + (end[i] - channel) * Math.abs(t)));
}

const LOG2_RANGE = 3;  // the byte 0 is 2^-3 of the mean load, 255 is 2^3
const byteLog2 = byte => (byte / 255 * 2 - 1) * LOG2_RANGE;
const maps = [];

function drawMap(parent, steps, layer, name) {
  const bytes = Uint8Array.from(atob(layer.load), c => c.charCodeAt(0));
  const experts = layer.experts;
  const card = element(parent, 'div', 'card');
  const head = element(card, 'div', 'map-caption');
  element(head, 'h3', '', name);
  const reading = element(head, 'span', '', experts + ' experts');
  const canvas = element(card, 'canvas', 'map');
  canvas.width = steps.length;
  canvas.height = experts;
  canvas.style.height = Math.max(96, Math.min(256, experts * 8)) + 'px';
  const foot = element(card, 'div', 'map-caption');
  element(foot, 'span', '', 'step ' + steps[0]);
  element(foot, 'span', '', 'step ' + lastOf(steps));
  const draw = () => {
    const context = canvas.getContext('2d');
    const image = context.createImageData(steps.length, experts);
    for (let t = 0; t < steps.length; ++t) {
      for (let e = 0; e < experts; ++e) {
        image.data.set([...mapColor(byteLog2(bytes[t * experts + e])), 255], 4 * (e * steps.length + t));
      }
    }
    context.putImageData(image, 0, 0);
  };
  canvas.addEventListener('pointermove', event => {
    const box = canvas.getBoundingClientRect();
    const t = Math.min(steps.length - 1, Math.max(0, Math.floor((event.clientX - box.left) / box.width * steps.length)));
    const e = Math.min(experts - 1, Math.max(0, Math.floor((event.clientY - box.top) / box.height * experts)));
    const byte = bytes[t * experts + e];
    const load = byte === 0 ? '≤ 0.125' : byte === 255 ? '≥ 8' : (2 ** byteLog2(byte)).toFixed(2);
    reading.textContent = `step ${steps[t]}, expert ${e}: ${load} × mean`;
  });
  canvas.addEventListener('pointerleave', () => { reading.textContent = experts + ' experts'; });
  draw();
  maps.push(draw);
}

function drawScale(parent) {
  const scale = element(parent, 'span', 'scale');
  element(scale, 'span', '', '½');
  const strip = element(scale, 'i');
  element(scale, 'span', '', '2 × the mean load');
  const draw = () => {
    const stops = [-1, 0, 1].map(t => `rgb(${mapColor(t).join()})`);
    strip.style.background = `linear-gradient(90deg, ${stops.join()})`;
  };
  draw();
  maps.push(draw);
}

function drawExperts(parent, run) {
  if (!run.balance.length) return;
  element(parent, 'h2', '', 'Experts' + (runs.length > 1 ? ' of ' + run.name : ''));
  drawBalanceChart(element(parent, 'div', 'grid'), run);
  if (!run.expert_load.layers.length) return;
  const note = element(parent, 'p', 'quiet note');
  element(note, 'span', '', 'Load of each expert (one row each) over the steps: ');
  drawScale(note);
  const grid = element(parent, 'div', 'maps');
  run.expert_load.layers.forEach((layer, index) => drawMap(grid, run.expert_load.step, layer, run.moe_layers[index]));
}

// ---- The page ----

function drawEvaluation(parent, run) {
  const rest = Object.entries(run.evaluation ?? {});
  if (!rest.length) return;
  const details = element(parent, 'details', 'card');
  element(details, 'summary', '', 'Evaluation' + (runs.length > 1 ? ' of ' + run.name : ''));
  const table = element(element(details, 'div', 'scroll'), 'table');
  for (const [key, value] of rest) {
    const row = element(table, 'tr');
    element(row, 'td', '', key);
    element(row, 'td', '', typeof value === 'object' ? JSON.stringify(value) : String(value));
  }
}

function drawRecipe(parent, run) {
  if (!run.recipe) return;
  const details = element(parent, 'details', 'card');
  element(details, 'summary', '', 'Resolved recipe' + (runs.length > 1 ? ' of ' + run.name : ''));
  element(details, 'pre', '', run.recipe);
}

function drawPage() {
  const body = document.getElementById('page');
  element(body, 'h1', '', data.title);
  element(body, 'p', 'quiet', 'Training report. Drag across a chart to zoom in all of them, double-click to zoom out.');
  drawFacts(body);
  const grid = element(body, 'div', 'grid');
  drawBars(grid);
  drawLossCharts(grid);
  if (runs.length > 1) {
    lineChart(grid, 'Greatest expert load over the mean, worst MoE layer (smoothed)', runs.map((run, i) => ({
      name: run.name, steps: run.step, color: () => runColor(i),
      values: smooth(run.step.map((_, t) => run.balance.length ? Math.max(...run.balance.map(layer => layer[t])) : null)) })));
  }
  lineChart(grid, 'Learning rate', perRun('learning_rate'), { zero: true });
  lineChart(grid, 'Gradient norm, before clipping', perRun('grad_norm', { width: 1.2 }), { zero: true });
  lineChart(grid, 'Tokens per second', perRun('tokens_per_second', { width: 1.2 }), { zero: true });
  for (const run of runs) drawExperts(body, run);
  element(body, 'h2', '', 'Details');
  for (const run of runs) drawEvaluation(body, run);
  for (const run of runs) drawRecipe(body, run);
  element(body, 'footer', '', 'Written by moray. Charts by dygraphs (MIT licence).');
  if (charts.length > 1) Dygraph.synchronize(charts.map(one => one.chart), { zoom: true, selection: true, range: false });
  dark.addEventListener('change', () => { charts.forEach(one => one.restyle()); maps.forEach(draw => draw()); });
}

drawPage();
