/**
 * What part of the map a canvas shows. Points lie in a square of 65,536 steps; the map keeps the proportions of its
 * ranges, so that a step may be longer on one axis than on the other.
 */

export const STEPS = 65535;
const MOST_ZOOM = 4000;
const MARGIN = 28;

export class View {
  /**
   * @param {[number, number]} spans extents of the map on x and y, in the units of its layout
   */
  constructor(spans) {
    const longest = Math.max(spans[0], spans[1]) || 1;
    this.stretch = [(spans[0] / longest || 1e-6) / STEPS, (spans[1] / longest || 1e-6) / STEPS];
    this.width = 1;
    this.height = 1;
    this.x = STEPS / 2;
    this.y = STEPS / 2;
    this.zoom = 1;
  }

  resize(width, height) {
    this.width = Math.max(1, width);
    this.height = Math.max(1, height);
  }

  /** Pixels of one step on each axis. */
  get scales() {
    const room = [Math.max(1, this.width - 2 * MARGIN), Math.max(1, this.height - 2 * MARGIN)];
    const whole = Math.min(room[0] / (STEPS * this.stretch[0]), room[1] / (STEPS * this.stretch[1]));
    return [whole * this.stretch[0] * this.zoom, whole * this.stretch[1] * this.zoom];
  }

  /** Pixels from the top left corner of the canvas. */
  toScreen(x, y) {
    const [sx, sy] = this.scales;
    return [this.width / 2 + (x - this.x) * sx, this.height / 2 - (y - this.y) * sy];
  }

  toMap(px, py) {
    const [sx, sy] = this.scales;
    return [this.x + (px - this.width / 2) / sx, this.y - (py - this.height / 2) / sy];
  }

  /** The rectangle of the map that is seen: x and y from, x and y to. */
  get bounds() {
    const [left, bottom] = this.toMap(0, this.height);
    const [right, top] = this.toMap(this.width, 0);
    return [left, bottom, right, top];
  }

  pan(dx, dy) {
    const [sx, sy] = this.scales;
    this.x = Math.min(STEPS, Math.max(0, this.x - dx / sx));
    this.y = Math.min(STEPS, Math.max(0, this.y + dy / sy));
  }

  /** Zoom so that what lies at a pixel stays there. */
  zoomAt(factor, px = this.width / 2, py = this.height / 2) {
    const [x, y] = this.toMap(px, py);
    this.zoom = Math.min(MOST_ZOOM, Math.max(0.5, this.zoom * factor));
    const [nowX, nowY] = this.toMap(px, py);
    this.x += x - nowX;
    this.y += y - nowY;
  }

  /** Show all. */
  reset() {
    this.x = STEPS / 2;
    this.y = STEPS / 2;
    this.zoom = 1;
  }

  /** Bring a rectangle of the map into view. */
  fit(left, bottom, right, top) {
    this.x = (left + right) / 2;
    this.y = (bottom + top) / 2;
    this.zoom = 1;
    const [sx, sy] = this.scales;
    const room = Math.min(
      (this.width - 2 * MARGIN) / Math.max(sx * (right - left), 1e-9),
      (this.height - 2 * MARGIN) / Math.max(sy * (top - bottom), 1e-9),
    );
    this.zoom = Math.min(MOST_ZOOM / 4, Math.max(1, 0.8 * room));
  }

  /** Diameter of a point in pixels: larger with fewer points and nearer by. */
  pointSize(count) {
    const base = count > 300000 ? 1.4 : count > 50000 ? 2.2 : count > 5000 ? 4 : 6;
    return Math.min(16, base * Math.max(1, this.zoom) ** 0.4);
  }
}
