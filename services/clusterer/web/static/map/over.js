/** What lies over the points: names of groups, the ring around the focused point, the line of a lasso. */
import { placeNames } from './places.js';

const FONT = '600 12px system-ui, sans-serif';
const PIXELS_PER_NAME = 12000;

/**
 * @param {CanvasRenderingContext2D} context in CSS pixels
 * @param {import('./view.js').View} view
 * @param {{element: HTMLElement, names: ?Object, ring: ?{x: number, y: number, radius: number}, line: ?Array<[number, number]>}} shown
 */
export function drawOver(context, view, { element, names, ring, line }) {
  context.clearRect(0, 0, view.width, view.height);
  const style = getComputedStyle(element);
  const [ink, paper, mark] = ['--text', '--card', '--mark'].map((name) => style.getPropertyValue(name).trim());
  if (names) drawNames(context, view, names, ink, paper);
  if (ring) {
    for (const [width, colour] of [[4, paper], [2, ink]]) {
      context.beginPath();
      context.arc(ring.x, ring.y, ring.radius, 0, 2 * Math.PI);
      context.lineWidth = width;
      context.strokeStyle = colour;
      context.stroke();
    }
  }
  if (line?.length > 1) drawLine(context, line, mark);
}

function drawLine(context, line, colour) {
  context.beginPath();
  line.forEach(([x, y], at) => (at ? context.lineTo(x, y) : context.moveTo(x, y)));
  context.closePath();
  context.globalAlpha = 0.12;
  context.fillStyle = colour;
  context.fill();
  context.globalAlpha = 1;
  context.lineWidth = 2;
  context.strokeStyle = colour;
  context.stroke();
}

function drawNames(context, view, names, ink, paper) {
  context.font = FONT;
  context.textAlign = 'center';
  context.textBaseline = 'middle';
  context.lineJoin = 'round';
  context.lineWidth = 5;
  context.strokeStyle = paper;
  context.fillStyle = ink;
  const widthOf = (group) => {
    if (!names.widths.has(group)) names.widths.set(group, context.measureText(names.texts[group]).width);
    return names.widths.get(group);
  };
  const most = Math.min(80, Math.max(6, Math.round((view.width * view.height) / PIXELS_PER_NAME)));
  for (const { group, left, top } of placeNames(names, view, widthOf, { most })) {
    context.strokeText(names.texts[group], left, top);
    context.fillText(names.texts[group], left, top);
  }
}
