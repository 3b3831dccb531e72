// The viewer of a version. Only the cards in sight exist, so that 10,000 clips cost what a screenful costs.
// What is chosen (filters, order, the open clip) is in the address after '#', so that a link shows the same.
'use strict';

const FACETS = ['outcome', 'split', 'subject', 'condition', 'licence', 'source_name'];
const SEARCHED = ['key', 'source_name', 'subject', 'condition', 'caption', 'code', 'message'];
const GAP = 12, CARD = 184, LEAST = 210;  // pixels between cards, of a card's height, of its least width
const LISTED = 60;  // values of a filter that are listed
const KEPT = 3000;  // cards whose pictures are remembered
const $ = (id) => document.getElementById(id);

let version = null;
const columns = {};  // name -> array with a value for each row
const state = {filters: {}, query: '', sort: '', descending: false, open: -1, here: 0};
let order = [];  // numbers of the rows shown, in order
let facetQuery = '';

function make(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else if (value !== undefined && value !== false) node.setAttribute(name, value === true ? '' : value);
  }
  node.append(...children.filter((c) => c !== undefined && c !== null && c !== ''));
  return node;
}

async function ask(path) {
  let response;
  try {
    response = await fetch(path);
  } catch (error) {
    throw new Error('soundvid does not answer: start "soundvid view" again and reload this page');
  }
  if (!response.ok) throw new Error((await response.text()).trim());
  return response.json();
}

function decode(column) {
  return column.numbers || column.codes.map((code) => (code < 0 ? null : column.texts[code]));
}

const number = (n) => n.toLocaleString('en');
const seconds = (s) => (s === null ? '' : `${s.toFixed(2)} s`);
const idOf = (row) => columns.key[row] || `source ${columns.source_name[row]}`;

// -- the address

function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  state.filters = {};
  for (const name of FACETS) if (given.has(name)) state.filters[name] = new Set(given.getAll(name));
  state.query = given.get('q') || '';
  const sort = given.get('sort') || '';
  state.sort = version.columns.some((c) => c.name === sort) ? sort : '';
  state.descending = given.get('order') === 'down';
  return given.get('clip');
}

function writeAddress() {
  const made = new URLSearchParams();
  for (const [name, values] of Object.entries(state.filters)) for (const value of values) made.append(name, value);
  if (state.query) made.set('q', state.query);
  if (state.sort) made.set('sort', state.sort);
  if (state.descending) made.set('order', 'down');
  if (state.open >= 0) made.set('clip', idOf(state.open));
  history.replaceState(null, '', '#' + made);
}

// -- which rows, in which order

function passes(row, without) {
  for (const name of FACETS) {
    if (name !== without && state.filters[name] && !state.filters[name].has(String(columns[name][row] ?? ''))) return false;
  }
  return true;
}

let found = null;  // whether each row holds the words searched for; null: no search

function search() {
  const words = state.query.toLowerCase().split(/\s+/).filter(Boolean);
  found = words.length === 0 ? null : columns.key.map((_, row) => {
    const text = SEARCHED.map((name) => columns[name][row] || '').join('\n').toLowerCase();
    return words.every((word) => text.includes(word));
  });
}

async function arrange(keepPlace) {
  if (state.sort && !columns[state.sort]) columns[state.sort] = decode(await ask('column/' + state.sort));
  order = [];
  for (let row = 0; row < version.rows; row++) if ((!found || found[row]) && passes(row)) order.push(row);
  if (state.sort) {
    const values = columns[state.sort], sign = state.descending ? -1 : 1;
    order.sort((a, b) => {
      const x = values[a], y = values[b];
      if (x === y) return a - b;
      if (x === null) return 1;  // what is unknown comes last in both directions
      if (y === null) return -1;
      return sign * (typeof x === 'string' ? x.localeCompare(y, undefined, {numeric: true}) : x - y);
    });
  } else if (state.descending) order.reverse();
  const place = state.open >= 0 ? order.indexOf(state.open) : 0;
  state.here = Math.max(0, place);
  $('shown').textContent = order.length === version.rows ? `${number(order.length)} rows`
    : `${number(order.length)} of ${number(version.rows)}`;
  $('direction').textContent = state.descending ? '↓' : '↑';
  $('sort').value = state.sort;
  if (!keepPlace) $('grid').scrollTop = 0;
  writeAddress();
  drawFilters();
  layOut();
}

// -- filters

function drawFilters() {
  const nav = $('filters'), focus = document.activeElement && document.activeElement.dataset.focus;
  nav.replaceChildren();
  for (const name of FACETS) {
    const counts = new Map();
    for (let row = 0; row < version.rows; row++) {
      const value = String(columns[name][row] ?? '');
      if (!counts.has(value)) counts.set(value, 0);
      if ((!found || found[row]) && passes(row, name)) counts.set(value, counts.get(value) + 1);
    }
    if (counts.size < 2 && !state.filters[name]) continue;
    const chosen = state.filters[name];
    const box = make('fieldset', {}, make('legend', {}, name === 'source_name' ? 'source' : name));
    if (chosen) box.append(make('button', {class: 'none', onclick: () => choose(name, null)}, 'all'));
    let values = [...counts].sort((a, b) => b[1] - a[1] || a[0].localeCompare(b[0], undefined, {numeric: true}));
    const many = values.length > 12;
    if (many && name === 'source_name') {
      box.append(make('input', {type: 'search', placeholder: 'find a source', value: facetQuery, 'aria-label': 'Find a source',
        'data-focus': name, oninput: (e) => { facetQuery = e.target.value; drawFilters(); }}));
      values = values.filter(([v]) => v.toLowerCase().includes(facetQuery.toLowerCase()) || (chosen && chosen.has(v)));
    }
    for (const [value, count] of values.slice(0, LISTED)) {
      const dot = name === 'outcome' || name === 'split' ? make('i', {class: `dot ${value}`}) : '';
      box.append(make('label', {class: count ? '' : 'empty'},
        make('input', {type: 'checkbox', 'data-focus': `${name}=${value}`, checked: Boolean(chosen && chosen.has(value)),
          onchange: (e) => choose(name, value, e.target.checked)}),
        dot, make('span', {}, value || (name === 'split' ? 'no split' : 'none')), make('i', {}, number(count))));
    }
    if (values.length > LISTED) box.append(make('p', {class: 'more'}, `and ${number(values.length - LISTED)} more`));
    nav.append(box);
  }
  if (focus) {
    const again = [...nav.querySelectorAll('[data-focus]')].find((node) => node.dataset.focus === focus);
    if (again) { again.focus(); if (again.type === 'search') again.setSelectionRange(99, 99); }
  }
}

function choose(name, value, wanted) {
  if (value === null) delete state.filters[name];
  else {
    const chosen = state.filters[name] || (state.filters[name] = new Set());
    if (wanted) chosen.add(value); else chosen.delete(value);
    if (!chosen.size) delete state.filters[name];
  }
  arrange();
}

// -- the grid

let across = 1, wide = LEAST;
const cards = new Map();  // row -> its element, of the rows in sight

function layOut() {
  const room = $('grid').clientWidth - GAP;
  across = Math.max(1, Math.floor(room / (LEAST + GAP)));
  wide = Math.floor(room / across) - GAP;
  const lines = Math.ceil(order.length / across);
  $('space').style.height = `${lines * (CARD + GAP) + GAP}px`;
  for (const card of cards.values()) card.remove();
  cards.clear();
  $('grid').querySelectorAll('.message').forEach((node) => node.remove());
  if (!order.length) $('grid').append(make('p', {class: 'message'}, 'No clip is like that: take a filter away.'));
  drawGrid();
}

function drawGrid() {
  const grid = $('grid'), step = CARD + GAP;
  const first = Math.max(0, Math.floor(grid.scrollTop / step) - 1) * across;
  const last = Math.min(order.length, (Math.ceil((grid.scrollTop + grid.clientHeight) / step) + 1) * across);
  const seen = new Set(order.slice(first, last));
  for (const [row, card] of cards) if (!seen.has(row)) { card.remove(); cards.delete(row); }
  for (let place = first; place < last; place++) {
    const row = order[place];
    let card = cards.get(row);
    if (!card) {
      card = makeCard(row);
      cards.set(row, card);
      $('space').append(card);
    }
    card.style.cssText = `width:${wide}px;height:${CARD}px;transform:translate(${GAP + (place % across) * (wide + GAP)}px,${GAP + Math.floor(place / across) * step}px)`;
    card.classList.toggle('here', place === state.here);
    card.setAttribute('aria-selected', place === state.here);
  }
  loadPictures();
}

function makeCard(row) {
  const kept = columns.outcome[row] === 'kept', split = columns.split[row];
  const card = make('div', {class: 'card', role: 'option', 'data-row': row, onclick: () => { state.here = order.indexOf(row); open(row); }});
  if (kept) card.append(make('div', {class: 'pics'}), svg(''));
  else card.append(make('div', {class: 'why'}, make('code', {}, columns.code[row]), columns.message[row]));
  card.append(make('p', {}, make('b', {}, columns.subject[row] || columns.source_name[row]),
    kept && split ? make('span', {class: `tag fill ${split}`}, split) : make('span', {class: 'tag'}, make('i', {class: `dot ${columns.outcome[row]}`}), `${columns.kind[row]} ${columns.outcome[row]}`),
    make('span', {class: 'at soft'}, kept ? seconds(columns.seconds[row]) : '')));
  const sorted = state.sort && !FIRST_LINE.has(state.sort) ? columns[state.sort][row] : null;
  const label = sorted === null || sorted === undefined ? '' : `${labelOf(state.sort)} ${typeof sorted === 'number' ? +sorted.toPrecision(4) : sorted}`;
  const at = columns.start_seconds[row];
  card.append(make('p', {}, make('span', {class: 'of', title: columns.source_name[row]}, label || columns.source_name[row]),
    make('span', {class: 'at'}, at === null ? '' : `at ${seconds(at)}`)));
  return card;
}

const FIRST_LINE = new Set(['key', 'outcome', 'split', 'subject', 'source_name', 'seconds', 'start_seconds', 'message', 'code', 'kind']);
const labelOf = (name) => version.columns.find((c) => c.name === name).label;

function svg(path) {
  const holder = document.createElement('div');
  holder.innerHTML = '<svg viewBox="0 -100 160 200" preserveAspectRatio="none" aria-hidden="true"><path/></svg>';
  holder.firstChild.firstChild.setAttribute('d', path);
  return holder.firstChild;
}

// Pictures are asked for when a card has stayed in sight for a moment, a few at a time, what is seen now first.
const pictures = new Map();
let asking = 0, pause = 0;

function loadPictures() {
  for (const [row, card] of cards) if (pictures.has(row)) showPictures(card, pictures.get(row));
  clearTimeout(pause);
  pause = setTimeout(askPictures, 60);
}

function askPictures() {
  for (const [row, card] of cards) {
    if (asking >= 4) return;
    if (columns.outcome[row] !== 'kept' || card.dataset.asked) continue;
    card.dataset.asked = 'yes';
    asking++;
    ask(`card/${row}`).catch((error) => ({error: error.message})).then((got) => {
      asking--;
      if (pictures.size >= KEPT) pictures.delete(pictures.keys().next().value);
      pictures.set(row, got);
      if (cards.has(row)) showPictures(cards.get(row), got);
      askPictures();
    });
  }
}

function showPictures(card, got) {
  if (card.dataset.asked === 'shown') return;
  card.dataset.asked = 'shown';
  if (got.error) {
    card.querySelector('.pics').replaceWith(make('div', {class: 'why'}, got.error));
    card.querySelector('svg').remove();
    return;
  }
  card.querySelector('.pics').append(make('img', {src: got.pictures, alt: ''}));
  card.querySelector('path').setAttribute('d', got.wave || '');
}

// -- one clip

let opening = 0;

async function open(row) {
  const mine = ++opening, panel = $('panel'), wasHidden = panel.hidden;
  state.open = row;
  writeAddress();
  panel.hidden = false;
  const kept = columns.outcome[row] === 'kept', split = columns.split[row];
  const bar = make('div', {class: 'bar'},
    make('b', {}, columns.subject[row] || columns.source_name[row]),
    kept && split ? make('span', {class: `tag fill ${split}`}, split) : make('span', {class: 'tag'}, make('i', {class: `dot ${columns.outcome[row]}`}), columns.outcome[row]),
    make('span', {class: 'push'}),
    make('button', {id: 'copy', title: 'Copy a link to this clip (C)', onclick: copyLink}, 'Link'),
    make('button', {title: 'Previous (K)', 'aria-label': 'Previous clip', onclick: () => go(-1)}, '‹'),
    make('button', {title: 'Next (J)', 'aria-label': 'Next clip', onclick: () => go(1)}, '›'),
    make('button', {title: 'Close (Escape)', 'aria-label': 'Close', onclick: close}, '✕'));
  const body = make('div', {}, make('p', {class: 'soft'}, 'reading the clip…'));
  panel.replaceChildren(bar, body);
  panel.scrollTop = 0;
  if (wasHidden) { layOut(); showHere(); } else drawGrid();
  let got;
  try {
    got = await ask(`row/${row}`);
  } catch (error) {
    got = {error: error.message};
  }
  if (mine !== opening) return;  // another clip was opened meanwhile
  body.replaceChildren();
  if (got.error) {
    body.append(make('p', {class: 'warn'}, got.error));
    return;
  }
  const at = columns.start_seconds[row];
  body.append(make('p', {class: 'where'}, columns.source_name[row] + (at === null ? '' : ` · from ${seconds(at)}`)));
  if (!kept) body.append(make('p', {class: 'warn', id: 'reason'}, columns.message[row]));
  if (got.figure) {
    const holder = make('div', {});
    holder.innerHTML = got.figure;  // made by the server of escaped text
    body.append(holder);
    bringToLife(holder.querySelector('.figure'));
  }
  for (const group of got.facts) {
    const list = make('dl', {}, ...group.facts.flatMap(([name, text]) => [make('dt', {}, name), make('dd', {}, text)]));
    body.append(make('details', {open: group.open}, make('summary', {}, group.title), list));
  }
  if (kept) {
    const call = `soundvid.load("${version.dataset}", "${version.version}", split="${split}")["${columns.key[row]}"]`;
    body.append(make('pre', {}, call));
  }
}

function bringToLife(figure) {
  const video = figure.querySelector('video'), lanes = figure.querySelector('.lanes');
  const head = figure.querySelector('.head'), length = Number(figure.dataset.seconds);
  function draw() {
    head.style.left = `${100 * Math.min(1, video.currentTime / length)}%`;
    if (!video.paused) requestAnimationFrame(draw);
  }
  video.loop = true;
  video.addEventListener('play', () => { figure.classList.add('live'); draw(); });
  video.addEventListener('seeking', () => { figure.classList.add('live'); draw(); });
  lanes.addEventListener('click', (event) => {
    const box = lanes.getBoundingClientRect();
    video.currentTime = length * (event.clientX - box.left) / box.width;
    video.play();
  });
}

function close() {
  const video = $('panel').querySelector('video');
  if (video) video.pause();
  opening++;
  state.open = -1;
  $('panel').hidden = true;
  $('panel').replaceChildren();
  writeAddress();
  layOut();
  showHere();
  $('grid').focus();
}

async function copyLink() {
  const button = $('copy');
  try {
    await navigator.clipboard.writeText(location.href);
    button.textContent = 'Copied';
  } catch (error) {
    prompt('The link to this clip:', location.href);
  }
  setTimeout(() => { button.textContent = 'Link'; }, 1500);
}

function go(by) {
  if (!order.length) return;
  state.here = Math.min(order.length - 1, Math.max(0, state.here + by));
  showHere();
  if (state.open >= 0 && state.open !== order[state.here]) open(order[state.here]);
}

function showHere() {
  const grid = $('grid'), top = Math.floor(state.here / across) * (CARD + GAP);
  if (top < grid.scrollTop) grid.scrollTop = top;
  else if (top + CARD + 2 * GAP > grid.scrollTop + grid.clientHeight) grid.scrollTop = top + CARD + 2 * GAP - grid.clientHeight;
  drawGrid();
}

// -- keys

function onKey(event) {
  const typing = event.target.matches('input[type=search],select,textarea');
  if (event.ctrlKey || event.metaKey || event.altKey || $('help').open) return;
  if (typing && event.key === 'Escape') { $('grid').focus(); event.preventDefault(); return; }
  if (typing) return;
  const video = $('panel').querySelector('video');
  const onButton = event.target.matches('button,input,summary,video,a');
  const step = (by) => {
    if (!video) return;
    video.pause();
    const rate = Number(columns.fps ? columns.fps[state.open] : 30);
    video.currentTime = Math.max(0, Math.min(video.duration || 0, (Math.round(video.currentTime * rate) + by) / rate + 1e-4));
  };
  const page = Math.max(1, Math.floor($('grid').clientHeight / (CARD + GAP))) * across;
  const actions = {
    ArrowRight: () => go(1), ArrowLeft: () => go(-1), ArrowDown: () => go(across), ArrowUp: () => go(-across),
    PageDown: () => go(page), PageUp: () => go(-page), Home: () => go(-order.length), End: () => go(order.length),
    j: () => go(1), k: () => go(-1), ',': () => step(-1), '.': () => step(1),
    Enter: () => order.length && open(order[state.here]),
    ' ': () => video && (video.paused ? video.play() : video.pause()),
    Escape: () => (state.open >= 0 ? close() : $('filters').classList.contains('open') && toggleFilters()),
    '/': () => $('search').focus(), s: () => $('sort').focus(), r: () => $('direction').click(), f: () => toggleFilters(true),
    c: () => state.open >= 0 && copyLink(), '?': () => $('help').showModal(),
  };
  if (onButton && [' ', 'Enter'].includes(event.key)) return;  // they press it
  if (event.target.matches('video') && event.key.startsWith('Arrow')) return;
  const action = actions[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!action) return;
  event.preventDefault();
  action();
}

function toggleFilters(focus) {
  const open = $('filters').classList.toggle('open');
  $('filters-button').setAttribute('aria-expanded', open);
  const first = $('filters').querySelector('input');
  if (focus === true && first) first.focus();
}

// -- start

async function start() {
  version = await ask('rows');
  for (const [name, column] of Object.entries(version.values)) columns[name] = decode(column);
  delete version.values;
  document.title = `${version.dataset} ${version.version} · soundvid`;
  $('title').replaceChildren(`${version.dataset} `, make('span', {}, version.version));
  $('title').title = version.description;
  $('sort').append(make('option', {value: ''}, 'the version'), ...version.columns.map((c) => make('option', {value: c.name}, c.label)));
  if (version.columns.some((c) => c.name === 'fps')) ask('column/fps').then((column) => { columns.fps = decode(column); });
  await show(readAddress());
  $('grid').addEventListener('scroll', () => requestAnimationFrame(drawGrid), {passive: true});
  addEventListener('resize', layOut);
  addEventListener('keydown', onKey);
  addEventListener('hashchange', () => show(readAddress()));
  let typed = 0;
  $('search').addEventListener('input', () => {
    clearTimeout(typed);
    typed = setTimeout(() => { state.query = $('search').value.trim(); search(); arrange(); }, 120);
  });
  $('sort').addEventListener('change', () => { state.sort = $('sort').value; arrange(); $('grid').focus(); });
  $('direction').addEventListener('click', () => { state.descending = !state.descending; arrange(); });
  $('filters-button').addEventListener('click', toggleFilters);
  $('help-button').addEventListener('click', () => $('help').showModal());
  $('grid').focus();
}

async function show(clip) {
  $('search').value = state.query;
  search();
  await arrange();
  const row = clip ? columns.key.findIndex((_, i) => idOf(i) === clip) : -1;
  if (row >= 0) {
    state.here = Math.max(0, order.indexOf(row));
    await open(row);
  } else if (clip) {
    $('grid').prepend(make('p', {class: 'message'}, `There is no clip ${clip} in ${version.dataset}@${version.version}.`));
  }
}

start().catch((error) => $('grid').append(make('p', {class: 'message'}, error.message)));
