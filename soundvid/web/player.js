// The page of `soundvid play`: a picture and a sound are chosen or dropped, and a video is made of them.
'use strict';

const $ = (id) => document.getElementById(id);
const chosen = {image: null, sound: null};
let busy = false, waiting = false;
let swipes = false, side = 256;
let pokes = [];  // [x, y, dx, dy] in pixels of the shown square, `side` a side
let still = [];  // [x, y, width, height], likewise
let seed = 0;

function make(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

function wave(path) {
  const holder = document.createElement('div');
  holder.innerHTML = '<svg viewBox="0 -100 160 200" preserveAspectRatio="none" role="img" aria-label="waveform"><path/></svg>';
  holder.querySelector('path').setAttribute('d', path);
  return holder.firstChild;
}

async function ask(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    throw new Error('soundvid does not answer: start "soundvid play" again and reload this page');
  }
  if (!response.ok) throw new Error((await response.text()).trim());
  return response.json();
}

function show(kind, got, name) {
  chosen[kind] = got;
  const shown = $(kind).querySelector('.shown');
  if (kind === 'image' && swipes) {
    pokes = [];
    still = [];
    shown.replaceChildren(swipeable(got.picture, name));
  } else shown.replaceChildren(kind === 'image' ? make('img', {src: got.picture, alt: name})
    : make('div', {style: 'width:100%'}, wave(got.wave), make('p', {class: 'soft'}, `${name}, ${got.seconds.toFixed(1)} s`)));
  for (const button of $(kind).querySelectorAll('.examples button')) button.setAttribute('aria-pressed', Number(button.dataset.id) === got.id);
  $('make').disabled = busy || !isReady();
}

const isReady = () => Boolean(chosen.image && (swipes || chosen.sound));

// A picture to drag on, with mouse, pen or finger: a swipe, which goes off when the finger is lifted, or a box that stays
// as it is.
function swipeable(picture, name) {
  const arrows = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
  const holder = make('div', {class: 'swipe'}, make('img', {src: picture, alt: name}), arrows);
  arrows.setAttribute('viewBox', `0 0 ${side} ${side}`);
  let begun = null;
  const at = (event) => {
    const box = holder.getBoundingClientRect();
    return [(event.clientX - box.left) * side / box.width, (event.clientY - box.top) * side / box.height];
  };
  const shape = (name) => document.createElementNS('http://www.w3.org/2000/svg', name);
  const draw = (swiped, boxes) => arrows.replaceChildren(...boxes.map(([x, y, width, height]) => {
    const rect = shape('rect');
    for (const [attribute, value] of Object.entries({x, y, width, height})) rect.setAttribute(attribute, value);
    return rect;
  }), ...swiped.map(([x, y, dx, dy]) => {
    const path = shape('path');
    const [a, b, angle] = [x + dx, y + dy, Math.atan2(dy, dx)];
    const wing = (turn) => `M${a} ${b}L${a - 9 * Math.cos(angle + turn)} ${b - 9 * Math.sin(angle + turn)}`;
    path.setAttribute('d', `M${x} ${y}L${a} ${b}${wing(0.5)}${wing(-0.5)}`);
    return path;
  }));
  holder.addEventListener('pointerdown', (event) => {
    event.preventDefault();
    begun = at(event);
    if (!event.shiftKey && !keeping()) pokes = [];
    holder.setPointerCapture(event.pointerId);
  });
  const keeping = () => $('keep').checked;
  const swipe = (event) => { const [x, y] = at(event); return [begun[0], begun[1], x - begun[0], y - begun[1]]; };
  const boxed = ([x, y, dx, dy]) => [Math.min(x, x + dx), Math.min(y, y + dy), Math.abs(dx), Math.abs(dy)];
  holder.addEventListener('pointermove', (event) => begun &&
    (keeping() ? draw(pokes, [...still, boxed(swipe(event))]) : draw([...pokes, swipe(event)], still)));
  holder.addEventListener('pointerup', (event) => {
    if (!begun) return;
    const made = swipe(event);
    begun = null;
    if (keeping()) {
      if (Math.min(Math.abs(made[2]), Math.abs(made[3])) > 2) still.push(boxed(made));
      else still = [];  // a click takes the boxes away
    } else if (Math.hypot(made[2], made[3]) > 2) pokes.push(made);
    draw(pokes, still);
    if (pokes.length) makeVideo();
  });
  holder.addEventListener('pointercancel', () => { begun = null; draw(pokes, still); });
  return holder;
}

function address() {
  if (!swipes) return `make?image=${chosen.image.id}&sound=${chosen.sound.id}`;
  const strength = Number($('strength').value);
  const given = pokes.map(([x, y, dx, dy]) => `&poke=${[x, y, strength * dx, strength * dy].map((v) => v.toFixed(2)).join(',')}`);
  const kept = still.map((box) => `&still=${box.map((v) => v.toFixed(2)).join(',')}`);
  return `make?image=${chosen.image.id}&samples=${$('samples').value}&seconds=${$('length').value}&seed=${seed}${given.join('')}${kept.join('')}`;
}

async function send(kind, file) {
  const shown = $(kind).querySelector('.shown');
  shown.replaceChildren(make('p', {class: 'soft'}, `reading ${file.name}…`));
  try {
    show(kind, await ask(kind, {method: 'POST', body: file}), file.name);
  } catch (error) {
    chosen[kind] = null;
    $('make').disabled = true;
    shown.replaceChildren(make('p', {class: 'warn'}, `${file.name}: ${error.message}`));
  }
}

async function makeVideo() {
  if (busy) {  // the newest swipe counts
    waiting = true;
    return;
  }
  busy = true;
  $('make').disabled = true;
  const shown = $('video').querySelector('.shown');
  $('result').replaceChildren(make('p', {class: 'soft'}, 'making it…'));
  try {
    const got = await ask(address(), {method: 'POST'});
    const place = `video/${got.id}.mp4`;
    const video = make('video', {controls: '', loop: '', playsinline: '', src: place});
    shown.replaceChildren(video);
    video.play().catch(() => {});  // some browsers wait for a click
    $('download').href = place;
    $('download').hidden = false;
    $('result').replaceChildren(make('p', {class: 'soft'}, `${got.seconds.toFixed(1)} s, made in ${got.work_seconds.toFixed(1)} s`),
      ...got.notes.map((note) => make('p', {class: 'warn'}, note)));
  } catch (error) {
    $('result').replaceChildren(make('p', {class: 'warn'}, error.message));
  }
  busy = false;
  $('make').disabled = !isReady();
  if (waiting) {
    waiting = false;
    makeVideo();
  }
}

async function start() {
  const about = await ask('about');
  document.title = `${about.name} · soundvid play`;
  $('name').textContent = about.name;
  swipes = about.swipes;
  side = about.side;
  if (swipes) {
    $('sound').remove();
    $('swiping').hidden = false;
    document.querySelector('.desk').classList.add('swipes');
    $('length').append(...about.lengths.offered.map((seconds) => new Option(`${Number(seconds.toFixed(2))} s`, seconds, seconds === about.lengths.usual, seconds === about.lengths.usual)));
    for (const id of ['strength', 'samples', 'length']) $(id).addEventListener('change', () => pokes.length && makeVideo());
    $('again').addEventListener('click', () => { seed++; makeVideo(); });
  }
  const facts = [`${about.system}, ${about.preset}`, `step ${about.step.toLocaleString('en')}`, `trained on ${about.dataset}`,
    swipes ? 'drag on the picture' : `sounds of up to ${about.seconds} s`];
  $('about').replaceChildren(...facts.map((fact) => make('span', {}, fact)));
  for (const kind of swipes ? ['image'] : ['image', 'sound']) {
    const section = $(kind);
    section.querySelector('.examples').append(...about.examples.map((example) => make('button',
      {title: example.name, 'aria-label': example.name, 'aria-pressed': 'false', 'data-id': example[kind].id, onclick: () => show(kind, example[kind], example.name)},
      kind === 'image' ? make('img', {src: example.image.picture, alt: ''}) : wave(example.sound.wave))));
    section.addEventListener('dragover', (event) => { event.preventDefault(); section.classList.add('over'); });
    section.addEventListener('dragleave', () => section.classList.remove('over'));
    section.addEventListener('drop', (event) => {
      event.preventDefault();
      section.classList.remove('over');
      if (event.dataTransfer.files.length) send(kind, event.dataTransfer.files[0]);
    });
    section.querySelector('input').addEventListener('change', (event) => event.target.files.length && send(kind, event.target.files[0]));
  }
  // A file that misses its place must not replace the page.
  addEventListener('dragover', (event) => event.preventDefault());
  addEventListener('drop', (event) => event.preventDefault());
  $('make').addEventListener('click', makeVideo);
  if (about.examples.length) {
    show('image', about.examples[0].image, about.examples[0].name);
    if (!swipes) show('sound', about.examples[0].sound, about.examples[0].name);
  }
}

start().catch((error) => $('notes').append(make('p', {class: 'warn'}, error.message)));
