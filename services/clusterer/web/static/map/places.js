/** Where the names of groups stand: near most of their points, and only where no other name stands. */

/**
 * The place of each group: the mean of its points, taken again twice over those that are nearer than the average.
 * @param {Uint16Array} points
 * @param {Uint8Array|Uint16Array|Uint32Array} values group of each point
 * @param {number} groups
 * @returns {{x: Float64Array, y: Float64Array, count: Uint32Array}}
 */
export function groupPlaces(points, values, groups) {
  const x = new Float64Array(groups);
  const y = new Float64Array(groups);
  const count = new Uint32Array(groups);
  let limit = null;
  for (let pass = 0; pass < 3; pass += 1) {
    const sums = [new Float64Array(groups), new Float64Array(groups), new Float64Array(groups), new Uint32Array(groups)];
    for (let i = 0; i < values.length; i += 1) {
      const group = values[i];
      if (group >= groups) continue;
      const [px, py] = [points[2 * i], points[2 * i + 1]];
      const far = limit ? Math.hypot(px - x[group], py - y[group]) : 0;
      if (limit && far > limit[group]) continue;
      sums[0][group] += px;
      sums[1][group] += py;
      sums[2][group] += far;
      sums[3][group] += 1;
    }
    if (pass === 0) count.set(sums[3]);
    for (let group = 0; group < groups; group += 1) {
      if (!sums[3][group]) continue;
      x[group] = sums[0][group] / sums[3][group];
      y[group] = sums[1][group] / sums[3][group];
    }
    limit = new Float64Array(groups);
    const spread = new Float64Array(groups);
    for (let i = 0; i < values.length; i += 1) {
      const group = values[i];
      if (group < groups) spread[group] += Math.hypot(points[2 * i] - x[group], points[2 * i + 1] - y[group]);
    }
    for (let group = 0; group < groups; group += 1) limit[group] = spread[group] / (count[group] || 1);
  }
  return { x, y, count };
}

/**
 * Which names are shown, the largest group's first, and where.
 * @param {{x: Float64Array, y: Float64Array, order: number[]}} places `order`: groups that may be named, largest first
 * @param {import('./view.js').View} view
 * @param {(group: number) => number} widthOf pixels that a group's name takes
 * @returns {Array<{group: number, left: number, top: number}>}
 */
export function placeNames(places, view, widthOf, { height = 18, most = 60 } = {}) {
  const taken = [];
  const shown = [];
  let tried = 0;
  for (const group of places.order) {
    if (shown.length === most || tried > 1500) break;
    const [left, top] = view.toScreen(places.x[group], places.y[group]);
    if (left < 0 || top < 0 || left > view.width || top > view.height) continue;
    tried += 1;
    const wide = widthOf(group) / 2 + 4;
    const box = [left - wide, top - height / 2 - 2, left + wide, top + height / 2 + 2];
    if (box[0] < 0 || box[2] > view.width || box[1] < 0 || box[3] > view.height) continue;
    if (taken.some((other) => box[0] < other[2] && other[0] < box[2] && box[1] < other[3] && other[1] < box[3])) continue;
    taken.push(box);
    shown.push({ group, left, top });
  }
  return shown;
}
