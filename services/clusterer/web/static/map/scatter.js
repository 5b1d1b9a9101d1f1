/**
 * A map of points on a canvas: it draws, listens, finds the point at a place, and selects. No framework here: the page
 * tells it what to show and hears what a person does.
 */
import { CanvasPoints } from './canvas2d.js';
import { listen, moveByKey } from './gestures.js';
import { Grid } from './grid.js';
import { pointsInside, thinned } from './lasso.js';
import { drawOver } from './over.js';
import { groupPlaces } from './places.js';
import { View } from './view.js';
import { WebGLPoints } from './webgl.js';

const SLOW_MS = 45;
const FAST_MS = 14;
const SETTLED_MS = 160;
const REACH = 14;

export class Scatter {
  /**
   * @param {HTMLElement} element holds the canvases; it has a size
   * @param {{hover?: Function, select?: Function, viewed?: Function}} on `hover(point, x, y)` with -1 for none;
   *   `select(points)`; `viewed()` after a move
   */
  constructor(element, on = {}) {
    this.element = element;
    this.on = on;
    const make = (name) => {
      const canvas = document.createElement('canvas');
      canvas.className = name;
      canvas.setAttribute('aria-hidden', 'true');
      element.append(canvas);
      return canvas;
    };
    this.canvas = make('points');
    this.over = make('over');
    this.renderer = this._renderer();
    this.view = new View([1, 1]);
    this.lassoing = false;
    this.step = 1;
    this.names = null;
    this.focused = -1;
    this.line = null;
    this.selected = null;
    this.cleanup = [
      listen(element, {
        view: () => this.view,
        lassoing: () => this.lassoing,
        changed: () => this._moved(),
        hover: (x, y) => this._hover(x, y),
        leave: () => this._hover(-1, -1),
        click: (x, y) => this._click(x, y),
        line: (line, done) => this._lasso(line, done),
      }),
    ];
    const resized = new ResizeObserver(() => this.resize());
    resized.observe(element);
    this.cleanup.push(() => resized.disconnect());
    this.resize();
  }

  /** What draws: `webgl` or `canvas`. */
  get kind() {
    return this.renderer.kind;
  }

  _renderer() {
    try {
      const made = new WebGLPoints(this.canvas);
      this.canvas.addEventListener('webglcontextlost', (event) => {
        event.preventDefault();
        this._fallBack();
      });
      return made;
    } catch {
      return new CanvasPoints(this._freshCanvas());
    }
  }

  /** A canvas that WebGL was asked of gives no other context. */
  _freshCanvas() {
    const fresh = this.canvas.cloneNode();
    this.canvas.replaceWith(fresh);
    this.canvas = fresh;
    return fresh;
  }

  _fallBack() {
    if (this.destroyed) return;
    this.renderer = new CanvasPoints(this._freshCanvas());
    if (this.points) this.renderer.setPoints(this.points);
    if (this.values) this.renderer.setValues(this.values);
    if (this.colours) this.renderer.setColours(this.colours);
    this.renderer.setMarks(this.marks ?? null);
    this.resize();
  }

  /**
   * @param {Uint16Array} points
   * @param {[number, number]} spans of the axes
   */
  setPoints(points, spans) {
    this.began = performance.now();
    this.points = points;
    this.grid = new Grid(points);
    const { width, height } = this.view;
    this.view = new View(spans);
    this.view.resize(width, height);
    this.renderer.setPoints(points);
    this.setSelection(null);
  }

  /** Values and the colour of each: RGBA bytes; a value of alpha 0 is hidden, and is neither found nor selected. */
  setValues(values, colours) {
    this.values = values;
    this.renderer.setValues(values);
    this.setColours(colours);
  }

  setColours(colours) {
    this.colours = colours;
    this.renderer.setColours(colours);
    this.redraw();
  }

  /**
   * Names at the places of groups.
   * @param {{values: ArrayLike<number>, texts: string[]}|null} names
   */
  setNames(names) {
    this.names = null;
    if (names) {
      const places = groupPlaces(this.points, names.values, names.texts.length);
      const order = names.texts.map((_, group) => group).filter((group) => places.count[group] && names.texts[group]);
      order.sort((a, b) => places.count[b] - places.count[a] || a - b);
      this.names = { ...places, order, texts: names.texts, widths: new Map() };
    }
    this._drawOver();
  }

  shown(point) {
    return this.colours[4 * this.values[point] + 3] > 0;
  }

  /** @param {Uint32Array|null} selected points that are marked; the others are dimmed */
  setSelection(selected) {
    this.selected = selected && selected.length ? selected : null;
    this.marks = null;
    if (this.selected) {
      this.marks = new Uint8Array(this.points.length / 2);
      for (const point of this.selected) this.marks[point] = 1;
    }
    this.renderer.setMarks(this.marks);
    this.redraw();
  }

  /** All shown points in view; what a lasso around the canvas would select. */
  selectInView() {
    const [left, bottom, right, top] = this.view.bounds;
    this.select([[left, bottom], [right, bottom], [right, top], [left, top]]);
  }

  /** @param {Array<[number, number]>} polygon in steps of the map */
  select(polygon) {
    const start = performance.now();
    const found = pointsInside(this.points, polygon, (point) => this.shown(point));
    this.setSelection(found);
    performance.measure('map-lasso', { start });
    this.on.select?.(found);
    return found;
  }

  /** Select all shown points of a value of `values`. */
  selectWhere(values, wanted) {
    const found = [];
    for (let point = 0; point < values.length; point += 1) if (values[point] === wanted && this.shown(point)) found.push(point);
    this.setSelection(Uint32Array.from(found));
    this.on.select?.(this.selected ?? new Uint32Array(0));
  }

  /** Bring all points with a mark of 1, or those given, into view. */
  fitTo(points) {
    if (!points?.length) return;
    const box = [Infinity, Infinity, -Infinity, -Infinity];
    for (const point of points) {
      const [x, y] = [this.points[2 * point], this.points[2 * point + 1]];
      box[0] = Math.min(box[0], x);
      box[1] = Math.min(box[1], y);
      box[2] = Math.max(box[2], x);
      box[3] = Math.max(box[3], y);
    }
    this.view.fit(...box);
    this.redraw();
  }

  key(event) {
    if (moveByKey(this.view, event)) {
      this._moved();
      this.focus(this._at(this.view.width / 2, this.view.height / 2, 5 * REACH));
      return true;
    }
    if (event.shiftKey && event.key.startsWith('Arrow')) {
      this._next(event.key);
      return true;
    }
    return false;
  }

  /** Focus a point: a ring around it, and `hover` is told. */
  focus(point) {
    this.focused = point;
    this._drawOver();
    if (point < 0) this.on.hover?.(-1, 0, 0);
    else this.on.hover?.(point, ...this.view.toScreen(this.points[2 * point], this.points[2 * point + 1]));
  }

  zoom(factor) {
    this.view.zoomAt(factor);
    this._moved();
  }

  reset() {
    this.view.reset();
    this._moved();
  }

  resize() {
    const { clientWidth: width, clientHeight: height } = this.element;
    this.ratio = Math.min(2, window.devicePixelRatio || 1);
    this.view.resize(width, height);
    for (const canvas of [this.canvas, this.over]) {
      canvas.width = Math.max(1, Math.round(width * this.ratio));
      canvas.height = Math.max(1, Math.round(height * this.ratio));
    }
    this.redraw();
  }

  /** Draw before the next picture of the screen; while one is still being drawn, after it. */
  redraw() {
    if (this.destroyed) return;
    if (this.busy) {
      this.again = true;
      return;
    }
    this.waiting ||= requestAnimationFrame(() => {
      this.waiting = 0;
      this._draw(this.moving ? this.step : 1);
    });
  }

  async _draw(step) {
    if (!this.values || !this.points) return;
    const began = performance.now();
    const count = this.points.length / 2;
    const size = this.view.pointSize(count);
    const opacity = Math.min(1, Math.max(0.35, (count > 300000 ? 0.45 : count > 50000 ? 0.65 : 0.85) * this.view.zoom ** 0.2));
    this.renderer.draw(this.view, { ratio: this.ratio, size, opacity, step });
    this._drawOver();
    this.busy = true;
    await this.renderer.done();
    this.busy = false;
    if (this.destroyed) return;
    const took = performance.now() - began;
    // While it moves, a slow machine draws every second point, or fewer; at rest it draws all.
    if (this.moving && took > SLOW_MS) this.step = Math.min(32, 2 * this.step);
    else if (this.moving && took < FAST_MS) this.step = Math.max(1, this.step / 2);
    if (!this.drawn) performance.measure('map-drawn', { start: this.began });
    this.drawn = (this.drawn ?? 0) + 1;
    this.element.dataset.drawn = String(this.drawn);
    if (this.again) {
      this.again = false;
      this.redraw();
    }
  }

  destroy() {
    this.destroyed = true;
    cancelAnimationFrame(this.waiting);
    clearTimeout(this.rest);
    this.cleanup.forEach((stop) => stop());
    this.renderer.destroy();
    this.canvas.remove();
    this.over.remove();
  }

  _moved() {
    this.moving = true;
    clearTimeout(this.rest);
    this.rest = setTimeout(() => {
      this.moving = false;
      this.redraw();
      this.on.viewed?.();
    }, SETTLED_MS);
    this.redraw();
  }

  /** The shown point nearest to a pixel; -1 if none is near. */
  _at(px, py, reach = REACH) {
    if (!this.grid || !this.values) return -1;
    const [x, y] = this.view.toMap(px, py);
    const [sx, sy] = this.view.scales;
    return this.grid.nearest(x, y, [reach / sx, reach / sy], (point) => this.shown(point));
  }

  _hover(px, py) {
    const point = px < 0 ? -1 : this._at(px, py);
    if (point !== this.focused) this.focus(point);
  }

  _click(px, py) {
    const point = this._at(px, py);
    if (point !== this.focused) this.focus(point);
  }

  /** Focus the nearest point in a direction, for keys. */
  _next(key) {
    const direction = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[key];
    const [sx, sy] = this.view.scales;
    const from = this.focused >= 0
      ? [this.points[2 * this.focused], this.points[2 * this.focused + 1]]
      : [this.view.x, this.view.y];
    for (let reach = 40; reach < 2 * Math.max(this.view.width, this.view.height); reach *= 3) {
      const point = this.grid.nearest(...from, [reach / sx, reach / sy], (each) => {
        const [dx, dy] = [(this.points[2 * each] - from[0]) * sx, (this.points[2 * each + 1] - from[1]) * sy];
        const ahead = dx * direction[0] + dy * direction[1];
        return ahead > 3 && ahead > Math.abs(dx * direction[1] + dy * direction[0]) && this.shown(each);
      });
      if (point < 0) continue;
      const [x, y] = this.view.toScreen(this.points[2 * point], this.points[2 * point + 1]);
      if (x < 20 || y < 20 || x > this.view.width - 20 || y > this.view.height - 20) {
        this.view.x = this.points[2 * point];
        this.view.y = this.points[2 * point + 1];
        this._moved();
      }
      this.focus(point);
      return;
    }
  }

  _lasso(line, done) {
    this.line = done ? null : line;
    this._drawOver();
    if (!done || line.length < 3) return;
    this.select(thinned(line).map(([x, y]) => this.view.toMap(x, y)));
  }

  _drawOver() {
    if (!this.points) return;
    const context = this.over.getContext('2d');
    context.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    let ring = null;
    if (this.focused >= 0) {
      const [x, y] = this.view.toScreen(this.points[2 * this.focused], this.points[2 * this.focused + 1]);
      ring = { x, y, radius: this.view.pointSize(this.points.length / 2) / 2 + 4 };
    }
    drawOver(context, this.view, { element: this.element, names: this.names, ring, line: this.line });
  }
}
