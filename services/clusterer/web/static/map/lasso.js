/** Which points lie inside a drawn line. */

const SIDE = 1024;
const [OUT, IN, EDGE] = [0, 1, 2];

/** Whether a place lies inside a polygon (even-odd rule). */
export function contains(polygon, x, y) {
  let inside = false;
  for (let i = 0, j = polygon.length - 1; i < polygon.length; j = i, i += 1) {
    const [xi, yi] = polygon[i];
    const [xj, yj] = polygon[j];
    if (yi > y !== yj > y && x < ((xj - xi) * (y - yi)) / (yj - yi) + xi) inside = !inside;
  }
  return inside;
}

/** A square picture of a polygon's box: cells inside, outside, and those that the line touches. */
function rasterise(polygon, box, cell) {
  const mask = new Uint8Array(SIDE * SIDE);
  // Even-odd filling, row by row, through the middle of the cells.
  for (let row = 0; row < SIDE; row += 1) {
    const y = box[1] + (row + 0.5) * cell[1];
    const crossings = [];
    for (let i = 0, j = polygon.length - 1; i < polygon.length; j = i, i += 1) {
      const [xi, yi] = polygon[i];
      const [xj, yj] = polygon[j];
      if (yi > y !== yj > y) crossings.push(((xj - xi) * (y - yi)) / (yj - yi) + xi);
    }
    crossings.sort((a, b) => a - b);
    for (let at = 0; at + 1 < crossings.length; at += 2) {
      const from = Math.max(0, Math.ceil((crossings[at] - box[0]) / cell[0] - 0.5));
      const to = Math.min(SIDE, Math.ceil((crossings[at + 1] - box[0]) / cell[0] - 0.5));
      mask.fill(IN, row * SIDE + from, row * SIDE + to);
    }
  }
  // Cells under the line are decided point by point. Steps of half a cell, and their neighbours, miss none.
  for (let i = 0, j = polygon.length - 1; i < polygon.length; j = i, i += 1) {
    const from = [(polygon[j][0] - box[0]) / cell[0], (polygon[j][1] - box[1]) / cell[1]];
    const to = [(polygon[i][0] - box[0]) / cell[0], (polygon[i][1] - box[1]) / cell[1]];
    const steps = Math.max(1, Math.ceil(2 * Math.max(Math.abs(to[0] - from[0]), Math.abs(to[1] - from[1]))));
    for (let step = 0; step <= steps; step += 1) {
      const column = Math.floor(from[0] + ((to[0] - from[0]) * step) / steps);
      const row = Math.floor(from[1] + ((to[1] - from[1]) * step) / steps);
      for (let y = Math.max(0, row - 1); y <= Math.min(SIDE - 1, row + 1); y += 1) {
        for (let x = Math.max(0, column - 1); x <= Math.min(SIDE - 1, column + 1); x += 1) mask[y * SIDE + x] = EDGE;
      }
    }
  }
  return mask;
}

/**
 * The points inside a polygon, exactly: a picture decides most, the line itself the others.
 * @param {Uint16Array} points
 * @param {Array<[number, number]>} polygon in steps of the map
 * @param {(point: number) => boolean} shown which points may be selected
 * @returns {Uint32Array} ascending
 */
export function pointsInside(points, polygon, shown) {
  if (polygon.length < 3) return new Uint32Array(0);
  const xs = polygon.map((corner) => corner[0]);
  const ys = polygon.map((corner) => corner[1]);
  const box = [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)];
  const cell = [(box[2] - box[0]) / SIDE || 1e-9, (box[3] - box[1]) / SIDE || 1e-9];
  const mask = rasterise(polygon, box, cell);
  const found = new Uint32Array(points.length / 2);
  let count = 0;
  for (let i = 0; i < points.length; i += 2) {
    const x = points[i];
    const y = points[i + 1];
    if (x < box[0] || x > box[2] || y < box[1] || y > box[3]) continue;
    const column = Math.min(SIDE - 1, ((x - box[0]) / cell[0]) | 0);
    const row = Math.min(SIDE - 1, ((y - box[1]) / cell[1]) | 0);
    const at = mask[row * SIDE + column];
    if (at === OUT || (at === EDGE && !contains(polygon, x, y))) continue;
    if (shown(i >> 1)) {
      found[count] = i >> 1;
      count += 1;
    }
  }
  return found.slice(0, count);
}

/** A line without corners that lie within a pixel of the last one; more than `most` corners are thinned. */
export function thinned(line, most = 1500) {
  const kept = line.filter(
    (corner, at) => at === 0 || Math.hypot(corner[0] - line[at - 1][0], corner[1] - line[at - 1][1]) >= 1,
  );
  const step = Math.ceil(kept.length / most);
  return kept.filter((_, at) => at % step === 0);
}
