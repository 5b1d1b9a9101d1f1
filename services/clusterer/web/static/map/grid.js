/** Finds points by place: they are sorted into square cells once, and a search looks at a few of these. */

export class Grid {
  /**
   * @param {Uint16Array} points x and y of each point
   */
  constructor(points) {
    const count = points.length / 2;
    // About four points a cell, and 16 to 512 cells a side.
    this.bits = Math.max(4, Math.min(9, Math.round(Math.log2(Math.sqrt(count / 4 + 1)))));
    this.shift = 16 - this.bits;
    this.side = 1 << this.bits;
    this.points = points;
    this.starts = new Uint32Array(this.side * this.side + 1);
    this.order = new Uint32Array(count);
    const { starts, shift, bits } = this;
    for (let i = 0; i < points.length; i += 2) starts[((points[i + 1] >> shift) << bits) + (points[i] >> shift) + 1] += 1;
    for (let cell = 1; cell < starts.length; cell += 1) starts[cell] += starts[cell - 1];
    const next = starts.slice();
    for (let i = 0; i < count; i += 1) {
      const cell = ((points[2 * i + 1] >> shift) << bits) + (points[2 * i] >> shift);
      this.order[next[cell]] = i;
      next[cell] += 1;
    }
  }

  /** Calls `visit` with every point whose cell meets a rectangle. */
  inside(left, bottom, right, top, visit) {
    const { side, shift, starts, order } = this;
    const clamp = (value) => Math.min(side - 1, Math.max(0, value >> shift));
    const [x0, x1, y0, y1] = [left, right, bottom, top].map((value) => clamp(Math.min(65535, Math.max(0, value))));
    for (let y = y0; y <= y1; y += 1) {
      for (let at = starts[y * side + x0]; at < starts[y * side + x1 + 1]; at += 1) visit(order[at]);
    }
  }

  /**
   * The point nearest to a place, within a radius on each axis; -1 if there is none.
   * @param {[number, number]} radii in steps of the map
   * @param {(point: number) => boolean} shown which points count
   */
  nearest(x, y, radii, shown) {
    let best = -1;
    let least = 1;
    this.inside(x - radii[0], y - radii[1], x + radii[0], y + radii[1], (point) => {
      const dx = (this.points[2 * point] - x) / radii[0];
      const dy = (this.points[2 * point + 1] - y) / radii[1];
      const far = dx * dx + dy * dy;
      if (far < least && shown(point)) {
        least = far;
        best = point;
      }
    });
    return best;
  }
}
