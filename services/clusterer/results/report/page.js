'use strict';
(() => {
  const cards = [...document.querySelectorAll('.cluster')];
  const heading = (card) => card.querySelector('h3').textContent.replace(/\s+/g, ' ').trim();

  // The path of an image is its text; the pointer shows it too.
  addEventListener('pointerover', ({ target }) => {
    if (target.tagName === 'IMG' && !target.title) target.title = target.alt;
  });

  const find = document.querySelector('.find');
  if (find && cards.length > 12) {
    find.hidden = false;
    const texts = cards.map((card) => card.textContent.toLowerCase());
    find.addEventListener('input', () => {
      const sought = find.value.trim().toLowerCase();
      cards.forEach((card, at) => { card.hidden = !texts[at].includes(sought); });
    });
  }

  const canvas = document.querySelector('.map canvas');
  if (!canvas) return;
  const bytes = (id) => Uint8Array.from(atob(document.getElementById(id).textContent), (letter) => letter.charCodeAt(0)).buffer;
  const points = new Uint16Array(bytes('map-points'));
  const clusters = new (canvas.dataset.wide ? Uint32Array : Uint16Array)(bytes('map-clusters'));
  const said = document.querySelector('.map output');
  const context = canvas.getContext('2d');
  const names = new Map(cards.map((card) => [Number(card.id.slice(1)), heading(card)]));
  const short = new Map(cards.map((card) => {
    const text = (card.querySelector('h3 b') || card.querySelector('h3 bdi') || card.querySelector('h3')).textContent.trim();
    const plain = text.replace(/[\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, '');
    return [Number(card.id.slice(1)), plain.length > 24 ? `${plain.slice(0, 23)}…` : plain];
  }));
  const stretch = [Number(canvas.dataset.x), Number(canvas.dataset.y)];
  const count = clusters.length;
  const view = { x: 32767, y: 32767, zoom: 1 };
  const dark = matchMedia('(prefers-color-scheme: dark)');
  const printing = matchMedia('print');
  let picked = -1;

  // Sums of places and sizes, for the names; a name stands at the mean of its points.
  const sums = new Map();
  for (let i = 0; i < count; i += 1) {
    const sum = sums.get(clusters[i]) || [0, 0, 0];
    sum[0] += points[2 * i];
    sum[1] += points[2 * i + 1];
    sum[2] += 1;
    sums.set(clusters[i], sum);
  }
  const order = [...sums].filter(([cluster]) => short.has(cluster)).sort((a, b) => b[1][2] - a[1][2] || a[0] - b[0]);
  const few = ['#0072b2', '#d55e00', '#009e73', '#cc79a7', '#b58900', '#4aa3d8', '#7b4fb0', '#8a5a2b'];
  const colour = (cluster) => {
    if (String(cluster) === canvas.dataset.noise) return '#8a8a8a';
    if (sums.size <= few.length) return few[cluster % few.length];
    const light = (dark.matches && !printing.matches ? [68, 78, 60] : [45, 35, 56])[cluster % 3];
    return `hsl(${((cluster * 137.508) % 360).toFixed(1)} 60% ${light}%)`;
  };

  function scales() {
    const [width, height] = [canvas.clientWidth - 40, canvas.clientHeight - 40];
    const whole = Math.min(width / stretch[0], height / stretch[1]) / 65535;
    return [whole * stretch[0] * view.zoom, whole * stretch[1] * view.zoom];
  }

  function place(x, y) {
    const [sx, sy] = scales();
    return [canvas.clientWidth / 2 + (x - view.x) * sx, canvas.clientHeight / 2 - (y - view.y) * sy];
  }

  function draw() {
    const ratio = Math.min(2, devicePixelRatio || 1);
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    canvas.width = width * ratio;
    canvas.height = height * ratio;
    context.scale(ratio, ratio);
    const size = Math.min(12, (count > 20000 ? 2 : count > 4000 ? 3 : 5) * view.zoom ** 0.4);
    const wanted = picked >= 0 ? clusters[picked] : -1;
    const [sx, sy] = scales();
    const [left, top] = [width / 2 - view.x * sx, height / 2 + view.y * sy];
    const colours = new Map();
    for (const cluster of sums.keys()) colours.set(cluster, colour(cluster));
    for (let i = 0; i < count; i += 1) {
      const [x, y] = [left + points[2 * i] * sx, top - points[2 * i + 1] * sy];
      if (x < 0 || y < 0 || x > width || y > height) continue;
      context.globalAlpha = wanted < 0 || clusters[i] === wanted ? 0.85 : 0.15;
      context.fillStyle = colours.get(clusters[i]);
      context.fillRect(x - size / 2, y - size / 2, size, size);
    }
    context.globalAlpha = 1;
    drawNames(width, height);
  }

  function drawNames(width, height) {
    const style = getComputedStyle(canvas);
    context.font = '600 12px system-ui, sans-serif';
    context.textAlign = 'center';
    context.textBaseline = 'middle';
    context.lineWidth = 4;
    context.lineJoin = 'round';
    context.strokeStyle = style.getPropertyValue('--card');
    context.fillStyle = style.getPropertyValue('--text');
    const taken = [];
    for (const [cluster, [x, y, size]] of order.slice(0, 600)) {
      const [px, py] = place(x / size, y / size);
      const half = context.measureText(short.get(cluster)).width / 2 + 4;
      if (px < half || py < 12 || px > width - half || py > height - 12) continue;
      if (taken.some(([tx, ty, th]) => Math.abs(tx - px) < half + th && Math.abs(ty - py) < 20)) continue;
      taken.push([px, py, half]);
      context.strokeText(short.get(cluster), px, py);
      context.fillText(short.get(cluster), px, py);
      if (taken.length > 40) break;
    }
  }

  let waiting = 0;
  const redraw = () => { waiting ||= requestAnimationFrame(() => { waiting = 0; draw(); }); };

  function nearest(px, py) {
    let [best, least] = [-1, 196];
    const [sx, sy] = scales();
    for (let i = 0; i < count; i += 1) {
      const dx = canvas.clientWidth / 2 + (points[2 * i] - view.x) * sx - px;
      const dy = canvas.clientHeight / 2 - (points[2 * i + 1] - view.y) * sy - py;
      const far = dx * dx + dy * dy;
      if (far < least) [best, least] = [i, far];
    }
    return best;
  }

  function pick(point) {
    if (picked === point) return;
    picked = point;
    const cluster = point < 0 ? -1 : clusters[point];
    said.value = cluster < 0 ? '' : names.get(cluster) || String(cluster);
    said.hidden = cluster < 0;
    redraw();
  }

  function zoom(factor, px = canvas.clientWidth / 2, py = canvas.clientHeight / 2) {
    const before = scales();
    view.zoom = Math.min(400, Math.max(1, view.zoom * factor));
    const after = scales();
    view.x += (px - canvas.clientWidth / 2) * (1 / before[0] - 1 / after[0]);
    view.y -= (py - canvas.clientHeight / 2) * (1 / before[1] - 1 / after[1]);
    redraw();
  }

  function pan(dx, dy) {
    const [sx, sy] = scales();
    view.x = Math.min(65535, Math.max(0, view.x - dx / sx));
    view.y = Math.min(65535, Math.max(0, view.y + dy / sy));
    redraw();
  }

  let held = null;
  canvas.addEventListener('wheel', (event) => {
    // The wheel scrolls the page, as everywhere in a document; with Ctrl it zooms.
    if (!event.ctrlKey) return;
    event.preventDefault();
    zoom(Math.exp(-event.deltaY * 0.004), event.offsetX, event.offsetY);
  }, { passive: false });
  canvas.addEventListener('pointerdown', (event) => {
    held = { x: event.clientX, y: event.clientY, moved: false };
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener('pointermove', (event) => {
    if (!held) {
      pick(nearest(event.offsetX, event.offsetY));
      return;
    }
    const [dx, dy] = [event.clientX - held.x, event.clientY - held.y];
    if (!held.moved && Math.hypot(dx, dy) < 4) return;
    held = { x: event.clientX, y: event.clientY, moved: true };
    pan(dx, dy);
  });
  canvas.addEventListener('pointerup', (event) => {
    const point = held && !held.moved ? nearest(event.offsetX, event.offsetY) : -1;
    held = null;
    if (point >= 0 && names.has(clusters[point])) location.hash = `c${clusters[point]}`;
  });
  canvas.addEventListener('pointercancel', () => { held = null; });
  canvas.addEventListener('pointerleave', () => pick(-1));
  canvas.addEventListener('dblclick', (event) => zoom(2, event.offsetX, event.offsetY));
  canvas.addEventListener('keydown', (event) => {
    const does = {
      ArrowLeft: () => pan(50, 0), ArrowRight: () => pan(-50, 0), ArrowUp: () => pan(0, 50), ArrowDown: () => pan(0, -50),
      '+': () => zoom(1.5), '=': () => zoom(1.5), '-': () => zoom(1 / 1.5),
      0: () => { Object.assign(view, { x: 32767, y: 32767, zoom: 1 }); redraw(); },
    }[event.key];
    if (!does || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    does();
    pick(nearest(canvas.clientWidth / 2, canvas.clientHeight / 2));
  });
  new ResizeObserver(redraw).observe(canvas);
  dark.addEventListener('change', redraw);
  printing.addEventListener('change', () => draw());
  draw();
})();
