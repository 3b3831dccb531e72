// The page of `soundvid play`: a picture and a sound are chosen or dropped, and a video is made of them.
'use strict';

const $ = (id) => document.getElementById(id);
const chosen = {image: null, sound: null};
let busy = false;

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
  shown.replaceChildren(kind === 'image' ? make('img', {src: got.picture, alt: name})
    : make('div', {style: 'width:100%'}, wave(got.wave), make('p', {class: 'soft'}, `${name}, ${got.seconds.toFixed(1)} s`)));
  for (const button of $(kind).querySelectorAll('.examples button')) button.setAttribute('aria-pressed', Number(button.dataset.id) === got.id);
  $('make').disabled = busy || !(chosen.image && chosen.sound);
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
  busy = true;
  $('make').disabled = true;
  const shown = $('video').querySelector('.shown');
  $('result').replaceChildren(make('p', {class: 'soft'}, 'making it…'));
  try {
    const got = await ask(`make?image=${chosen.image.id}&sound=${chosen.sound.id}`, {method: 'POST'});
    const address = `video/${got.id}.mp4`;
    const video = make('video', {controls: '', loop: '', src: address});
    shown.replaceChildren(video);
    video.play().catch(() => {});  // some browsers wait for a click
    $('download').href = address;
    $('download').hidden = false;
    $('result').replaceChildren(make('p', {class: 'soft'}, `${got.seconds.toFixed(1)} s, made in ${got.work_seconds.toFixed(1)} s`),
      ...got.notes.map((note) => make('p', {class: 'warn'}, note)));
  } catch (error) {
    $('result').replaceChildren(make('p', {class: 'warn'}, error.message));
  }
  busy = false;
  $('make').disabled = !(chosen.image && chosen.sound);
}

async function start() {
  const about = await ask('about');
  document.title = `${about.name} · soundvid play`;
  $('name').textContent = about.name;
  const facts = [`${about.system}, ${about.preset}`, `step ${about.step.toLocaleString('en')}`, `trained on ${about.dataset}`,
    `sounds of up to ${about.seconds} s`];
  $('about').replaceChildren(...facts.map((fact) => make('span', {}, fact)));
  for (const kind of ['image', 'sound']) {
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
    show('sound', about.examples[0].sound, about.examples[0].name);
  }
}

start().catch((error) => $('notes').append(make('p', {class: 'warn'}, error.message)));
