// What pages of versions and runs do: clips that play, tables that become cards, parts that unfold.
document.querySelectorAll('.figure').forEach(function (figure) {
  const video = figure.querySelector('video'), lanes = figure.querySelector('.lanes');
  const head = figure.querySelector('.head'), seconds = Number(figure.dataset.seconds);
  function draw() {
    head.style.left = 100 * Math.min(1, video.currentTime / seconds) + '%';
    if (!video.paused) requestAnimationFrame(draw);
  }
  video.addEventListener('play', function () {
    document.querySelectorAll('video').forEach(function (v) { if (v !== video) v.pause(); });
    figure.classList.add('live');
    draw();
  });
  video.addEventListener('seeking', draw);
  lanes.addEventListener('click', function (event) {
    const box = lanes.getBoundingClientRect();
    video.currentTime = seconds * (event.clientX - box.left) / box.width;
    video.play();
  });
});
// On narrow screens a row is a card (style.css): each cell then says which column it is of.
document.querySelectorAll('table').forEach(function (table) {
  const heads = [...table.querySelectorAll('thead th')].map(function (th) { return th.textContent; });
  table.querySelectorAll('tbody tr, tfoot tr').forEach(function (row) {
    [...row.cells].forEach(function (cell, i) { if (heads[i]) cell.dataset.label = heads[i]; });
  });
});
// A link to a folded part unfolds it.
function unfold() {
  const part = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const fold = part && part.closest('details');
  if (fold) { fold.open = true; part.scrollIntoView(); }
}
addEventListener('hashchange', unfold);
unfold();
