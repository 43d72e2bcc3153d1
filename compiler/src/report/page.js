// Draws what the JSON says. Text from the model goes through `textContent` and attributes only, never through markup.
'use strict';

const $ = id => document.getElementById(id);
const data = JSON.parse($('data').textContent);
const { summary, graphs, steps, kernels, memory, decisions, profile, names } = data;
const SVG = $('ns').namespaceURI;

// ---- small tools

function make(tag, className, ...children) {
  const e = document.createElement(tag);
  if (className) e.className = className;
  e.append(...children.filter(c => c !== null));
  return e;
}

function draw(tag, attributes, ...children) {
  const e = document.createElementNS(SVG, tag);
  for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, v);
  e.append(...children);
  return e;
}

function button(className, text, click) {
  const b = make('button', className, text);
  b.type = 'button';
  b.addEventListener('click', click);
  return b;
}

// 1234567 as "1,234,567".
const grouped = n => n === null ? '—' : String(n).replace(/\B(?=(\d{3})+(?!\d))/g, ',');

function scaled(n, units, step) {
  if (n === null) return '—';
  let i = 0;
  while (n >= step && i + 1 < units.length) { n /= step; i += 1; }
  return (i === 0 ? String(n) : n.toFixed(n < 10 ? 2 : 1)) + units[i];
}
const bytes = n => scaled(n, [' B', ' kB', ' MB', ' GB', ' TB'], 1000);
const flops = n => scaled(n, ['', ' k', ' M', ' G', ' T', ' P'], 1000);
const ms = x => x === null ? '—' : x < 0.1 ? `${(1000 * x).toFixed(1)} µs` : `${x.toFixed(x < 10 ? 3 : 1)} ms`;
const rate = x => x === null ? '—' : x.toFixed(x < 100 ? 1 : 0);
const percent = x => (100 * x).toFixed(x < 0.1 ? 2 : 1) + ' %';
// A dim as text, when that says more than its number.
const formula = ([text, n]) => text === String(n) ? '' : text;
const tail = (s, n) => s.length <= n ? s : '…' + s.slice(s.length - n + 1);
const listed = (numbers, max) => numbers.slice(0, max).map(i => names[i]).join(', ')
  + (numbers.length > max ? ` and ${numbers.length - max} more` : '');

// ---- header

const total = steps.reduce((a, s) => a + (s.flops[1] ?? 0), 0);
const symbols = Object.entries(summary.symbols);
const type = v => `${v.name}: ${v.dtype}[${v.shape.join(',')}]`;
const realBoxes = g => g.boxes.filter(b => b.names !== undefined).length;

function header() {
  document.title = `${summary.name} – Cameo`;
  $('model').textContent = summary.name || 'model';
  $('sizes').textContent = symbols.length === 0 ? 'All extents are fixed.'
    : `Numbers are for ${symbols.map(([n]) => n).join(' = ')} = ${data.nominal}, the nominal size of symbolic dimensions.`;
  const facts = $('facts');
  const fact = (name, value, more, className = '') => {
    const small = more ? make('small', className, more) : null;
    if (small !== null) small.title = more;
    facts.append(make('div', '', make('dt', '', name), make('dd', '', value, small)));
  };
  fact('Inputs', '', summary.inputs.map(type).join('\n'));
  fact('Outputs', '', summary.outputs.map(type).join('\n'));
  if (symbols.length > 0) fact('Dimensions', '', symbols.map(([n, r]) => `${n} = ${r.min}..${r.max ?? ''}`).join('\n'));
  fact('Parameters', grouped(summary.parameters), bytes(summary.weight_bytes));
  fact('Nodes', `${grouped(realBoxes(graphs[0]))} → ${grouped(realBoxes(graphs[1]))}`, 'before → after');
  fact('Kernels', grouped(summary.kernels), `called ${grouped(summary.steps)} times`);
  const symbolic = typeof summary.flops === 'number' ? '' : summary.flops;
  fact('FLOPs', flops(total), symbolic, 'formula');
  if (profile !== null) fact('Measured', ms(profile.run.median_ms), `${where()}, ${percent(profile.totals.roofline ?? 0)} of the roofline`);
  fact('Arena', bytes(memory.size[1]), formula(memory.size), 'formula');
}

// With which sizes and on how many threads it was measured.
function where() {
  const sizes = Object.entries(profile.symbols).map(([n, v]) => `${n} = ${v}`);
  return [...sizes, `${profile.threads} ${profile.threads === 1 ? 'thread' : 'threads'}`].join(', ');
}

// ---- tabs

const views = ['graph', 'kernels', 'memory', 'decisions'];
const made = new Set();
const makers = { graph: () => panes.forEach(p => p.start()), kernels: startKernels, memory: drawMemory,
  decisions: () => decisionTable.start() };

function show(view) {
  for (const v of views) {
    $(v).hidden = v !== view;
    document.querySelector(`[data-view=${v}]`).setAttribute('aria-selected', String(v === view));
  }
  if (!made.has(view)) { made.add(view); makers[view](); }
}

// ---- graphs

const BOX = { width: 168, height: 38 };
const PITCH = 66;

class Pane {
  constructor(id, title, graph) {
    this.graph = graph;
    this.root = $(id);
    this.elements = [];
    this.view = { x: 0, y: 0, scale: 1 };
    // By ONNX name.
    this.byName = new Map();
    graph.boxes.forEach((b, i) => (b.names ?? []).forEach(n => {
      if (!this.byName.has(n)) this.byName.set(n, []);
      this.byName.get(n).push(i);
    }));
    this.text = graph.boxes.map(b => [b.op, ...(b.names ?? []).map(n => names[n]), ...(b.out ?? []).map(o => o[0])]
      .join('\n').toLowerCase());
    this.svg = draw('svg', { role: 'img', 'aria-label': title });
    this.layer = draw('g', {});
    this.svg.append(this.layer);
    const bar = make('div', '', make('h2', '', title), make('span', 'quiet', `${realBoxes(graph)} nodes`));
    for (const [label, what, act] of [['+', 'Zoom in', () => this.zoom(1.4)], ['−', 'Zoom out', () => this.zoom(1 / 1.4)],
      ['fit', 'Show the whole graph', () => this.fit()]]) {
      const b = button('', label, act);
      b.title = what;
      b.setAttribute('aria-label', `${what}: ${title}`);
      bar.append(b);
    }
    this.root.append(bar, this.svg);
  }

  start() {
    const { at, edges, trunks, boxes } = this.graph;
    this.size = [Math.max(...at.map(a => a[0]), 0) + BOX.width / 2 + 12, (Math.max(...at.map(a => a[1]), 0) + 1) * PITCH];
    this.lines = draw('path', { class: 'edge', d: this.path(edges, new Set()) });
    this.marked = draw('path', { class: 'edge on', d: '' });
    this.layer.append(this.lines, this.marked);
    boxes.forEach((b, i) => {
      const [x, layer] = at[i];
      const box = draw('g', { class: `box ${b.kind}`, transform: `translate(${x},${layer * PITCH + PITCH / 2})`, 'data-box': i });
      const round = b.names === undefined ? BOX.height / 2 : 6;
      const first = (b.names ?? []).length > 0 ? names[b.names[0]] : '';
      const more = (b.names ?? []).length > 1 ? ` +${b.names.length - 1}` : '';
      const second = b.names === undefined ? (b.out ?? b.in)[0][1] : tail(first, 27 - more.length) + more;
      const line = (y, s) => { const t = draw('text', { y }); t.textContent = s; return t; };
      const title = draw('title', {});
      title.textContent = [b.op, ...(b.names ?? []).slice(0, 8).map(n => names[n])].join('\n');
      box.append(draw('rect', { x: -BOX.width / 2, y: -BOX.height / 2, width: BOX.width, height: BOX.height, rx: round }),
        line(-3, tail(b.op, 22)), line(11, tail(second, 28)), title);
      this.elements.push(box);
      this.layer.append(box);
    });
    this.listen();
    this.top();
  }

  // Lines from box to box through the trunks; what `done` holds is not drawn again.
  path(edges, done) {
    const { at, trunks } = this.graph;
    const y = layer => layer * PITCH + PITCH / 2;
    const out = [];
    for (const [from, to] of edges) {
      const passed = at[to][1] - at[from][1] - 1;
      let px = at[from][0], py = y(at[from][1]) + BOX.height / 2;
      const curve = (x, top) => {
        const mid = (py + top) / 2;
        out.push(`M${px} ${py}C${px} ${mid} ${x} ${mid} ${x} ${top}`);
      };
      for (let i = 0; i < passed; i += 1) {
        const x = trunks[from][i], middle = y(at[from][1] + 1 + i);
        const key = `${from} ${i}`;
        if (!done.has(key)) {
          done.add(key);
          curve(x, middle - BOX.height / 2);
          out.push(`V${middle + BOX.height / 2}`);
        }
        px = x;
        py = middle + BOX.height / 2;
      }
      curve(at[to][0], y(at[to][1]) - BOX.height / 2);
    }
    return out.join('');
  }

  listen() {
    let drag = null;
    this.svg.addEventListener('wheel', e => {
      e.preventDefault();
      const r = this.svg.getBoundingClientRect();
      this.zoom(Math.exp(-e.deltaY / 400), e.clientX - r.left, e.clientY - r.top);
    }, { passive: false });
    this.svg.addEventListener('pointerdown', e => {
      if (e.button === 0) drag = { x: e.clientX, y: e.clientY, moved: false, box: e.target.closest('.box') };
    });
    this.svg.addEventListener('pointermove', e => {
      if (drag === null || !(e.buttons & 1)) return;
      const [dx, dy] = [e.clientX - drag.x, e.clientY - drag.y];
      if (!drag.moved && Math.hypot(dx, dy) < 4) return;
      // From here on it is a drag, also when it leaves the pane.
      if (!drag.moved) this.svg.setPointerCapture(e.pointerId);
      drag.moved = true;
      this.view.x += dx;
      this.view.y += dy;
      drag.x = e.clientX;
      drag.y = e.clientY;
      this.apply();
    });
    this.svg.addEventListener('pointerup', () => {
      if (drag !== null && !drag.moved) choose(this, drag.box === null ? null : Number(drag.box.dataset.box));
      drag = null;
    });
  }

  apply() {
    const { x, y, scale } = this.view;
    this.layer.setAttribute('transform', `translate(${x.toFixed(2)},${y.toFixed(2)}) scale(${scale.toFixed(4)})`);
  }

  zoom(factor, x = this.svg.clientWidth / 2, y = this.svg.clientHeight / 2) {
    const scale = Math.min(4, Math.max(0.005, this.view.scale * factor));
    const f = scale / this.view.scale;
    this.view = { scale, x: x - (x - this.view.x) * f, y: y - (y - this.view.y) * f };
    this.apply();
  }

  fit() {
    const scale = Math.min(1, this.svg.clientWidth / this.size[0], this.svg.clientHeight / this.size[1]);
    this.view = { scale, x: (this.svg.clientWidth - this.size[0] * scale) / 2, y: (this.svg.clientHeight - this.size[1] * scale) / 2 };
    this.apply();
  }

  // The first input, at a size that can be read.
  top() {
    const scale = Math.min(1, Math.max(0.5, this.svg.clientWidth / this.size[0]));
    const [x, layer] = this.graph.at[0] ?? [0, 0];
    const middle = scale * this.size[0] <= this.svg.clientWidth ? this.size[0] / 2 : x;
    this.view = { scale, x: this.svg.clientWidth / 2 - middle * scale, y: -layer * PITCH * scale };
    this.apply();
  }

  center(i) {
    const [x, layer] = this.graph.at[i];
    const scale = Math.max(this.view.scale, 0.6);
    this.view = { scale, x: this.svg.clientWidth / 2 - x * scale, y: this.svg.clientHeight / 2 - (layer + 0.5) * PITCH * scale };
    this.apply();
  }

  mark(className, set) {
    this.elements.forEach((e, i) => e.classList.toggle(className, set.has(i)));
  }

  // Those that come from one of the ONNX nodes.
  kin(numbers) {
    return new Set(numbers.flatMap(n => this.byName.get(n) ?? []));
  }
}

const panes = [new Pane('before', 'Before', graphs[0]), new Pane('after', 'After', graphs[1])];

function choose(pane, i) {
  const other = panes[1 - panes.indexOf(pane)];
  pane.mark('kin', new Set());
  pane.mark('chosen', new Set(i === null ? [] : [i]));
  other.mark('chosen', new Set());
  other.marked.setAttribute('d', '');
  const box = i === null ? null : pane.graph.boxes[i];
  const edges = pane.graph.edges.filter(([from, to]) => from === i || to === i);
  pane.marked.setAttribute('d', pane.path(edges, new Set()));
  let kin = box === null ? new Set() : other.kin(box.names ?? []);
  if (box !== null && box.names === undefined) {
    kin = new Set(other.graph.boxes.flatMap((b, j) => b.kind === box.kind && b.op === box.op ? [j] : []));
  }
  other.mark('kin', kin);
  if (kin.size > 0) other.center(Math.min(...kin));
  details(pane, box, kin.size);
}

function details(pane, box, kin) {
  const aside = $('details');
  aside.replaceChildren();
  if (box === null) {
    aside.append(make('p', 'quiet', 'Click a node to see what it is. Nodes of the other graph that come from the same ONNX nodes '
      + 'are then framed. The wheel zooms, dragging moves.'));
    return;
  }
  const heading = s => aside.append(make('h3', '', s));
  const list = items => aside.append(make('ul', '', ...items));
  const which = pane === panes[0] ? 'before' : 'after';
  aside.append(make('h2', '', box.op), make('p', 'quiet', `${box.names === undefined ? box.kind : 'node'} of the graph ${which} the passes`));
  if (box.names !== undefined) {
    heading(box.names.length === 1 ? 'ONNX node' : `ONNX nodes (${box.names.length})`);
    list(box.names.map(n => make('li', 'mono', names[n])));
    if (box.names.length === 0) aside.append(make('p', 'quiet', 'none: it was made by a pass'));
  }
  const value = v => {
    if (v === null) return make('li', 'quiet', 'absent');
    const li = make('li', '', make('code', '', v[1]), ' ', v[0] || '');
    if (v[2]) li.append(make('span', 'quiet', ' weight'));
    return li;
  };
  if ((box.out ?? []).length > 0) { heading(box.kind === 'input' ? 'Type' : 'Outputs'); list(box.out.map(value)); }
  if ((box.in ?? []).length > 0) { heading('Inputs'); list(box.in.map(value)); }
  if ((box.attrs ?? []).length > 0) {
    heading('Attributes');
    list(box.attrs.map(([k, v]) => make('li', '', `${k} = `, make('code', '', v))));
  }
  if (Array.isArray(box.steps)) {
    heading('Computed by');
    if (box.steps.length === 0) aside.append(make('p', 'quiet', 'no kernel of its own: a view, a constant, or read in place by its readers'));
    list(box.steps.map(s => make('li', '', button('link', `step ${s}: ${steps[s].kind} k${steps[s].kernel}`, () => kernelTable.open(s)))));
  }
  if (box.names !== undefined) {
    heading(which === 'before' ? 'After the passes' : 'Before the passes');
    aside.append(make('p', '', kin === 0 ? 'nothing is left of it' : kin === 1 ? '1 node, framed' : `${kin} nodes, framed`));
  }
}

let cursor = -1;
function search(step) {
  const wanted = $('search').value.trim().toLowerCase();
  const hits = panes.map(p => wanted === '' ? [] : p.text.flatMap((t, i) => t.includes(wanted) ? [i] : []));
  panes.forEach((p, k) => p.mark('found', new Set(hits[k])));
  $('found').textContent = wanted === '' ? '' : `${hits[0].length} before, ${hits[1].length} after`;
  if (step === 0) {
    cursor = -1;
    panes.forEach((p, k) => hits[k].length > 0 && p.center(hits[k][0]));
    return;
  }
  const all = hits.flatMap((h, k) => h.map(i => [panes[k], i]));
  if (all.length === 0) return;
  cursor = (cursor + step + all.length) % all.length;
  const [pane, i] = all[cursor];
  choose(pane, i);
  pane.center(i);
}

// Frames the boxes of ONNX nodes in both graphs.
function locate(numbers) {
  show('graph');
  panes.forEach(p => {
    const kin = p.kin(numbers);
    p.mark('found', kin);
    if (kin.size > 0) p.center(Math.min(...kin));
  });
  $('search').value = '';
  $('found').textContent = 'what comes from the ONNX nodes is framed';
}

// ---- tables

class Table {
  // Columns: [title, class, cell(row), key(row) or null].
  constructor(root, rows, columns, text, filter, extra) {
    Object.assign(this, { root, rows, columns, text, filter, extra, sorted: null, down: false });
  }

  start() {
    const head = this.root.querySelector('thead');
    this.heads = this.columns.map(([title, className, , key], i) => {
      const th = make('th', className, key === null ? make('span', '', title) : button('', title, () => this.sort(i)));
      th.scope = 'col';
      return th;
    });
    head.append(make('tr', '', ...this.heads));
    this.fill();
  }

  sort(i) {
    // Numbers are first looked at from the largest.
    const number = this.columns[i][1].includes('number') && i > 0;
    this.down = this.sorted === i ? !this.down : number;
    this.sorted = i;
    this.heads.forEach((h, k) => k === i ? h.setAttribute('aria-sort', this.down ? 'descending' : 'ascending') : h.removeAttribute('aria-sort'));
    this.fill();
  }

  fill() {
    const shown = this.rows.filter(r => this.filter(r));
    if (this.sorted !== null) {
      const key = this.columns[this.sorted][3];
      const sign = this.down ? -1 : 1;
      shown.sort((a, b) => {
        const [x, y] = [key(a), key(b)];
        return sign * (x < y ? -1 : x > y ? 1 : 0) || a.index - b.index;
      });
    }
    this.root.querySelector('tbody').replaceChildren(...shown.map(r => {
      const tr = make('tr', 'row', ...this.columns.map(([, className, cell]) => make('td', className, cell(r))));
      tr.dataset.row = r.index;
      tr.addEventListener('click', e => { if (!e.target.closest('button')) this.extra(r, tr); });
      return tr;
    }));
    this.text(shown);
  }
}

const matches = (id, text) => text.toLowerCase().includes($(id).value.trim().toLowerCase());
steps.forEach((s, i) => { s.index = i; });
decisions.forEach((d, i) => { d.index = i; });

const share = s => total > 0 ? (s.flops[1] ?? 0) / total : 0;
const largest = Math.max(1e-9, ...steps.map(share));
const bar = (x, most, text) => {
  const i = make('i');
  i.style.width = `${(60 * x / most).toFixed(1)}px`;
  return make('span', '', i, text);
};
// What was measured of a step.
const of = s => profile.steps[s.index];
const slowest = profile === null ? 1 : Math.max(1e-9, ...profile.steps.map(s => s.share ?? 0));
const measured = profile === null ? [] : [
  ['Time', 'number', s => ms(of(s).median_ms), s => of(s).median_ms ?? 0],
  ['Of all', 'share', s => bar(of(s).share ?? 0, slowest, percent(of(s).share ?? 0)), null],
  ['GFLOP/s', 'number', s => rate(of(s).gflop_per_s), s => of(s).gflop_per_s ?? 0],
  ['GB/s', 'number', s => rate(of(s).gb_per_s), s => of(s).gb_per_s ?? 0],
  ['Roofline', 'number', s => `${percent(of(s).roofline ?? 0)}`, s => of(s).roofline ?? 0],
];
const kernelTable = new Table($('kernels'), steps, [
  ['Step', 'number', s => String(s.index), s => s.index],
  ['Kind', 'kind', s => s.kind, s => s.kind],
  ['Kernel', '', s => `k${s.kernel}`, s => s.kernel],
  ['ONNX nodes', 'names', s => listed(s.names, 3), s => listed(s.names, 3)],
  ...measured,
  ['FLOPs', 'number', s => flops(s.flops[1]), s => s.flops[1] ?? 0],
  ['Share', 'share', s => bar(share(s), largest, percent(share(s))), null],
  ['Bytes', 'number', s => bytes(s.bytes[1]), s => s.bytes[1] ?? 0],
  ['FLOPs/byte', 'number', s => s.bytes[1] > 0 ? ((s.flops[1] ?? 0) / s.bytes[1]).toFixed(1) : '—', s => s.bytes[1] > 0 ? (s.flops[1] ?? 0) / s.bytes[1] : 0],
  ['Schedule', 'mono', s => s.schedule, s => s.schedule],
], shown => {
  const sum = shown.reduce((a, s) => a + (s.flops[1] ?? 0), 0);
  $('kernel-count').textContent = `${shown.length} of ${steps.length} steps, ${flops(sum)} FLOPs. `
    + 'Bytes are what a step reads and writes, each element once.'
    + (profile === null ? '' : ` Measured with ${where()}: ${ms(shown.reduce((a, s) => a + of(s).median_ms, 0))} of ${ms(profile.run.median_ms)} a run.`);
}, s => matches('kernel-filter', [s.kind, `k${s.kernel}`, s.schedule, ...s.names.map(n => names[n])].join('\n')), (s, tr) => {
  if (tr.classList.toggle('open')) tr.after(kernelDetails(s));
  else tr.nextElementSibling.remove();
});

// The slowest first, when that is known.
function startKernels() {
  kernelTable.start();
  if (profile !== null) kernelTable.sort(kernelTable.columns.indexOf(measured[0]));
}

kernelTable.open = function (i) {
  $('kernel-filter').value = '';
  show('kernels');
  this.fill();
  const tr = this.root.querySelector(`[data-row="${i}"]`);
  tr.click();
  tr.scrollIntoView({ block: 'start' });
};

function kernelDetails(s) {
  const left = make('div', '', make('h3', '', `Kernel k${s.kernel}`), make('pre', '', `${kernels[s.kernel]}`));
  const right = make('div', '', make('h3', '', 'Tensors'));
  const row = ([name, place, dtype, size, written], i) => make('li', '', make('code', '', `b${i} ${written ? '⟵' : '⟶'} ${dtype}`),
    ` ${place} ${bytes(size[1])} `, make('span', 'quiet', name));
  right.append(make('ul', '', ...s.buffers.map(row)));
  if (s.dims.length > 0) right.append(make('p', 'mono', s.dims.map((d, i) => `d${i} = ${d}`).join(', ')));
  if (profile !== null) {
    const m = of(s);
    right.append(make('h3', '', 'Measured'), make('p', '', `${ms(m.median_ms)} in ${grouped(m.calls)} ${m.calls === 1 ? 'call' : 'calls'} of ${m.shares} `
      + `${m.shares === 1 ? 'share' : 'shares'}, whose threads are busy ${percent(m.balance ?? 0)} of that time; ${rate(m.gflop_per_s)} GFLOP/s, `
      + `${rate(m.gb_per_s)} GB/s, ${percent(m.roofline ?? 0)} of what ${m.limit === 'compute' ? 'computation' : 'memory'} allows`));
  }
  right.append(make('h3', '', 'FLOPs'), make('p', 'mono', s.flops[0]), make('h3', '', `ONNX nodes (${s.names.length})`),
    make('p', 'mono lines', s.names.map(n => names[n]).join('\n')), button('link', 'show them in the graphs', () => locate(s.names)));
  const td = make('td', '', make('div', 'more', left, right));
  td.colSpan = kernelTable.columns.length;
  return make('tr', 'open details', td);
}

const decisionTable = new Table($('decisions'), decisions, [
  ['Pass', '', d => d.pass, d => d.pass],
  ['Outcome', '', d => make('span', d.outcome, d.outcome), d => d.outcome],
  ['Rule', '', d => d.rule, d => d.rule],
  ['Reason', '', d => d.reason ?? '', d => d.reason ?? ''],
  ['ONNX nodes', 'names', d => d.nodes.length === 0 ? '' : button('link', listed(d.nodes, 4), () => locate(d.nodes)), d => listed(d.nodes, 4)],
], shown => { $('decision-count').textContent = `${shown.length} of ${decisions.length}`; },
d => ($('pass').value === '' || d.pass === $('pass').value) && ($('outcome').value === '' || d.outcome === $('outcome').value)
  && matches('decision-filter', [d.rule, d.reason ?? '', ...d.nodes.map(n => names[n])].join('\n')), () => {});

function choices(id, all, values) {
  const option = (value, text) => { const o = make('option', '', text); o.value = value; return o; };
  $(id).append(option('', all), ...[...new Set(values)].map(v => option(v, v)));
  $(id).addEventListener('change', () => decisionTable.fill());
}

// ---- memory

function drawMemory() {
  const size = memory.size[1], count = Math.max(1, steps.length);
  const most = Math.max(0, ...memory.alive), at = memory.alive.indexOf(most);
  $('peak').textContent = size === null || size === 0 ? 'Nothing is kept in the arena.'
    : `The arena has ${bytes(size)}; most is alive at step ${at}: ${bytes(most)} (${percent(most / size)}). `
      + 'Each rectangle is a tensor: the steps it lives through, and its place in the arena. The line is what is alive.'
      + (formula(memory.size) === '' ? '' : ` For any sizes the arena has ${formula(memory.size)} bytes.`);
  if (size === null || size === 0) return;
  const [w, h, left, bottom, top] = [1200, 560, 70, 34, 16];
  const x = s => left + (w - left - 12) * s / count;
  const y = b => h - bottom - (h - bottom - top) * b / size;
  const svg = draw('svg', { viewBox: `0 0 ${w} ${h}`, preserveAspectRatio: 'none', role: 'img', 'aria-label': 'The arena over the steps' });
  const label = (px, py, anchor, s) => {
    const t = draw('text', { x: px, y: py, 'text-anchor': anchor });
    t.textContent = s;
    svg.append(t);
  };
  for (let i = 0; i <= 4; i += 1) {
    svg.append(draw('line', { class: 'axis', x1: left, x2: w - 12, y1: y(size * i / 4), y2: y(size * i / 4) }));
    label(left - 8, y(size * i / 4) + 4, 'end', bytes(Math.round(size * i / 4)));
  }
  const every = Math.max(1, Math.ceil(count / 12));
  for (let s = 0; s < count; s += every) label(x(s + 0.5), h - bottom + 16, 'middle', String(s));
  label((left + w) / 2, h - 4, 'middle', 'step');
  memory.tensors.forEach(([name, from, to, offset, extent], i) => {
    if (extent[1] === null) return;
    const rect = draw('rect', { class: `hue${i % 6}`, x: x(from), width: x(to + 1) - x(from), y: y(offset + extent[1]),
      height: Math.max(0.5, y(offset) - y(offset + extent[1])), 'data-tensor': i });
    const text = `${name || 'unnamed'}\n${bytes(extent[1])} = ${extent[0]}\nat ${grouped(offset)}\nsteps ${from} to ${to}`;
    rect.addEventListener('pointermove', e => tip(e, text));
    rect.addEventListener('pointerleave', () => { $('tip').hidden = true; });
    svg.append(rect);
  });
  const line = memory.alive.map((b, s) => `${s === 0 ? 'M' : 'L'}${x(s)} ${y(b)}H${x(s + 1)}`).join('');
  svg.append(draw('path', { class: 'alive', d: line, 'pointer-events': 'none' }),
    draw('line', { class: 'peak', x1: left, x2: w - 12, y1: y(most), y2: y(most), 'pointer-events': 'none' }));
  $('arena').append(svg);
}

function tip(e, text) {
  const t = $('tip');
  t.textContent = text;
  t.hidden = false;
  t.style.left = `${Math.min(e.clientX + 14, window.innerWidth - t.offsetWidth - 8)}px`;
  t.style.top = `${Math.min(e.clientY + 14, window.innerHeight - t.offsetHeight - 8)}px`;
}

// ---- start

header();
for (const v of views) document.querySelector(`[data-view=${v}]`).addEventListener('click', () => show(v));
document.querySelector('nav').addEventListener('keydown', e => {
  const to = { ArrowRight: 1, ArrowLeft: -1 }[e.key];
  if (to === undefined) return;
  const now = views.findIndex(v => !$(v).hidden);
  const next = views[(now + to + views.length) % views.length];
  show(next);
  document.querySelector(`[data-view=${next}]`).focus();
});
$('search').addEventListener('input', () => search(0));
$('search').addEventListener('keydown', e => { if (e.key === 'Enter') search(e.shiftKey ? -1 : 1); });
$('kernel-filter').addEventListener('input', () => kernelTable.fill());
$('decision-filter').addEventListener('input', () => decisionTable.fill());
choices('pass', 'all passes', decisions.map(d => d.pass));
choices('outcome', 'applied and refused', decisions.map(d => d.outcome));
details(panes[0], null, 0);
show('graph');
