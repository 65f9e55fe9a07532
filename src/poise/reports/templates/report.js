// What the page does: draws its charts when they come into sight, and lets one sort, copy and filter. Everything is made
// from data as text; nothing is evaluated and nothing loaded.
'use strict';

const all = (selector, within = document) => [...within.querySelectorAll(selector)];
const make = (tag, attributes = {}, ...children) => {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
};

// -- charts -----------------------------------------------------------------------------------------------------------

const {config, charts: specs} = JSON.parse(document.getElementById('chart-data').textContent);
const views = new Map(); // of figures that are drawn

const tip = make('div', {class: 'tip', role: 'status', hidden: ''});
document.body.append(tip);

function lines(value) { // a fact for each line, as [name, text]
  if (typeof value === 'object') return Object.entries(value).filter(([, text]) => String(text).trim() !== '');
  return String(value).split('\n').map((line) => {
    const [, name, text] = line.match(/^(.{0,60}?): (.*)$/s) ?? [null, '', line];
    return [name, text];
  });
}

function point(handler, event, item, value) { // Vega's tooltip handler
  if (value === null || value === undefined || value === '') { tip.hidden = true; return; }
  tip.replaceChildren(...lines(value).map(([name, text]) =>
    name.trim() ? make('p', {}, make('span', {}, name), ' ', make('b', {}, String(text))) : make('p', {}, String(text))));
  tip.hidden = false;
  const {width, height} = tip.getBoundingClientRect();
  const left = event.clientX + 14 + width > innerWidth ? event.clientX - 14 - width : event.clientX + 14;
  const top = event.clientY + 14 + height > innerHeight ? event.clientY - 14 - height : event.clientY + 14;
  tip.style.left = `${Math.max(4, left)}px`;
  tip.style.top = `${Math.max(4, top)}px`;
}

const nothing = () => Promise.reject(new Error('this page loads nothing'));
const logger = { // Vega-Lite's
  level() { return this; },
  error(...texts) { console.error(...texts); return this; },
  warn(...texts) { console.warn(...texts); return this; },
  info() { return this; },
  debug() { return this; },
};

async function draw(figure) {
  if (views.has(figure)) return;
  views.set(figure, null);
  const {spec} = charts.compile({...specs[figure.dataset.chart], config}, {logger});
  const plot = figure.querySelector('.plot');
  const place = make('div', {class: 'live'});
  plot.append(place);
  const view = new charts.View(charts.parse(spec, null, {ast: true}), {
    expr: charts.expressionInterpreter,
    renderer: 'svg',
    container: place,
    hover: true,
    tooltip: point,
    loader: {load: nothing, sanitize: nothing},
    logLevel: 1, // errors; that nothing is left to see when all is switched off is none
  });
  const choice = figure.querySelector('select');
  if (choice) view.signal('choice', choice.value);
  const off = hidden(figure);
  if (off.length) view.signal('hidden', off);
  await view.runAsync();
  place.querySelector('svg')?.setAttribute('aria-label', plot.querySelector('svg').getAttribute('aria-label'));
  plot.classList.add('drawn');
  views.set(figure, view);
}

const seen = new IntersectionObserver((entries) => {
  for (const {isIntersecting, target} of entries) {
    if (!isIntersecting) continue;
    seen.unobserve(target);
    draw(target).catch((error) => console.error(error)); // the static picture stays
  }
}, {rootMargin: '400px'});

// a file of the chart as it is seen, with colours in place of their names
function save(figure) {
  const shown = figure.querySelector('.plot.drawn .live svg') ?? figure.querySelector('.plot svg');
  const copy = shown.cloneNode(true);
  copy.setAttribute('xmlns', 'http://www.w3.org/2000/svg');
  const style = getComputedStyle(document.documentElement);
  const text = new XMLSerializer().serializeToString(copy)
    .replace(/var\((--[\w-]+)\)/g, (_, name) => style.getPropertyValue(name).trim());
  const link = make('a', {
    href: URL.createObjectURL(new Blob([text], {type: 'image/svg+xml'})),
    download: `${figure.dataset.name.replace(/[^\w.-]+/g, '-')}.svg`,
  });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

for (const figure of all('figure[data-chart]')) {
  seen.observe(figure);
  const button = make('button', {type: 'button', class: 'quiet', title: 'Save this chart as SVG'}, 'SVG');
  button.addEventListener('click', () => save(figure));
  figure.querySelector('figcaption').append(button);
  figure.addEventListener('pointerleave', () => { tip.hidden = true; });
  figure.querySelector('select')?.addEventListener('change', (event) => {
    views.get(figure)?.signal('choice', event.target.value).runAsync();
  });
}

// -- legends ----------------------------------------------------------------------------------------------------------

function hidden(figure) { // the labels that are switched off in the legend that a figure belongs to
  const legend = figure.closest('[data-legend]')?.querySelector('.legend');
  return legend ? all('button[aria-pressed="false"]', legend).map((button) => button.dataset.series) : [];
}

function follow(legend) {
  for (const figure of all('figure[data-chart]', legend.closest('[data-legend]')).concat(
    legend.closest('figure[data-chart]') ?? [])) {
    views.get(figure)?.signal('hidden', hidden(figure)).runAsync();
  }
}

for (const legend of all('.legend')) {
  for (const item of all('li[data-series]', legend)) {
    const button = make('button', {
      type: 'button', 'aria-pressed': 'true', title: 'Click: show or hide. Double click: show only this one.',
    }, ...item.childNodes);
    button.dataset.series = item.dataset.series;
    item.replaceChildren(button);
    const others = () => all('button', legend).filter((other) => other !== button);
    button.addEventListener('click', () => {
      button.setAttribute('aria-pressed', button.getAttribute('aria-pressed') === 'true' ? 'false' : 'true');
      follow(legend);
    });
    button.addEventListener('dblclick', () => {
      const alone = others().every((other) => other.getAttribute('aria-pressed') === 'false');
      for (const other of others()) other.setAttribute('aria-pressed', String(alone));
      button.setAttribute('aria-pressed', 'true');
      follow(legend);
    });
  }
}

// -- tables -----------------------------------------------------------------------------------------------------------

const read = (cell) => cell.dataset.text ?? cell.textContent.trim();
const rank = (cell) => {
  const text = read(cell);
  const value = parseFloat(text);
  return Number.isNaN(value) ? (text === '-' || text === '' ? null : text.toLowerCase()) : value;
};

function compared(a, b) { // numbers before texts, what is absent last
  if (typeof a === typeof b && a !== null) return a < b ? -1 : a > b ? 1 : 0;
  return typeof a === 'number' ? -1 : 1;
}

function sort(table, column, direction) {
  for (const body of all('tbody', table)) {
    const rows = all('tr:not(.part)', body);
    rows.forEach((row, place) => { row.dataset.place ??= place; });
    const key = (row) => (direction === 'none' ? Number(row.dataset.place) : rank(row.cells[column]));
    const turned = direction === 'descending' ? -1 : 1;
    rows.sort((a, b) => {
      const [x, y] = [key(a), key(b)];
      if (x === null || y === null) return (x === null) - (y === null);
      return turned * compared(x, y) || a.dataset.place - b.dataset.place;
    });
    body.append(...rows);
  }
  all('thead th', table).forEach((head, place) => {
    head.setAttribute('aria-sort', place === column ? direction : 'none');
  });
}

function text(table, separator) {
  const rows = [all('thead tr', table).at(-1), ...all('tbody tr:not(.part)', table)];
  const shown = rows.filter((row) => !row.hidden).map((row) => [...row.cells].map(read));
  const quoted = (cell) => (separator === '\t' ? cell.replace(/\s+/g, ' ')
    : /[",\n]/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell);
  return shown.map((row) => row.map(quoted).join(separator)).join('\n') + '\n';
}

async function copy(content) {
  try {
    await navigator.clipboard.writeText(content);
  } catch { // a page that was opened from a file may not use the clipboard by itself
    const area = make('textarea', {class: 'away'});
    area.value = content;
    document.body.append(area);
    area.select();
    document.execCommand('copy');
    area.remove();
  }
}

for (const table of all('table.sortable')) {
  all('thead th', table).forEach((head, column) => {
    const button = make('button', {type: 'button', title: 'Sort by this column'}, ...head.childNodes);
    head.dataset.text = button.textContent.trim();
    head.replaceChildren(button);
    head.setAttribute('aria-sort', 'none');
    button.addEventListener('click', () => {
      const first = column === 0 ? 'ascending' : 'descending';
      const order = [first, column === 0 ? 'descending' : 'ascending', 'none'];
      sort(table, column, order[(order.indexOf(head.getAttribute('aria-sort')) + 1) % 3]);
    });
  });
  const tools = make('div', {class: 'tools'});
  for (const [name, separator, title] of [
    ['Copy', '\t', 'Copy the table, for a spreadsheet'], ['Copy as CSV', ',', 'Copy the table as CSV'],
  ]) {
    const button = make('button', {type: 'button', class: 'quiet', title}, name);
    button.addEventListener('click', async () => {
      await copy(text(table, separator));
      button.textContent = 'Copied';
      setTimeout(() => { button.textContent = name; }, 1500);
    });
    tools.append(button);
  }
  const rows = all('tbody tr:not(.part)', table);
  if (rows.length > 12) {
    const search = make('input', {type: 'search', placeholder: 'Filter rows', 'aria-label': 'Filter rows'});
    search.addEventListener('input', () => {
      const word = search.value.trim().toLowerCase();
      for (const row of rows) row.hidden = !row.textContent.toLowerCase().includes(word);
    });
    tools.prepend(search);
  }
  table.closest('.scroll').before(tools);
}

// -- gallery ----------------------------------------------------------------------------------------------------------

const bar = document.querySelector('.filters');
if (bar) {
  bar.hidden = false;
  const groups = all('.gallery');
  const filter = () => {
    const {run, label, outcome} = Object.fromEntries(all('select', bar).map((select) => [select.name, select.value]));
    let count = 0;
    groups.forEach((group, place) => {
      let here = 0;
      for (const tile of all('.tile', group)) {
        tile.hidden = (label !== '' && tile.dataset.label !== label)
          || (outcome !== '' && tile.dataset.outcome !== outcome);
        here += tile.hidden ? 0 : 1;
      }
      group.hidden = here === 0 || (run !== '' && run !== String(place));
      if (!group.hidden) count += here;
    });
    const shown = groups.filter((group) => !group.hidden);
    if (run !== '' || label !== '' || outcome !== '') for (const group of shown) group.open = true;
    bar.querySelector('output').textContent = `${count} of ${all('.gallery .tile').length} examples`;
  };
  bar.addEventListener('change', filter);
  filter();
}
