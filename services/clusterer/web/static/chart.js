/**
 * A plot with lines, drawn as SVG: hover and arrow keys move from point to point, bands show one deviation.
 *
 * `lines` are [{name, points: [{x, y, std, label, href}], right}]: those with `right` use the axis on the right.
 */
import { html, useId, useLayoutEffect, useRef, useState } from './vendor/preact.js';

const HIGH = 330;
const EDGE = { top: 14, right: 56, bottom: 46, left: 58 };
const DASHES = ['', '7 4', '2 4', '9 3 2 3'];
export const COLOURS = 6;

/** Round numbers that span `low` to `high`. */
export function ticks(low, high, count = 5) {
  if (!(high > low)) return [low];
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((each) => each * power).find((each) => each >= rough);
  const found = [];
  for (let at = Math.ceil(low / step) * step; at <= high + step / 1e6; at += step) found.push(Number(at.toPrecision(12)));
  return found;
}

const extent = (values) => [Math.min(...values), Math.max(...values)];

function axis(lines) {
  const values = lines.flatMap(({ points }) => points.flatMap(({ y, std }) => [y - (std || 0), y + (std || 0)]));
  if (!values.length) return null;
  const [low, high] = extent(values);
  const room = (high - low || Math.abs(high) || 1) * 0.08;
  return [low - room, high + room];
}

const say = (value) => (Math.abs(value) >= 1000 ? value.toLocaleString('en', { maximumFractionDigits: 0 }) : String(Number(value.toPrecision(4))));

export function Chart({ lines, xName, yName, rightName, label, logarithmic, onPoint }) {
  const place = useRef(null);
  const id = useId();
  const [wide, setWide] = useState(640);
  const [at, setAt] = useState(null);
  useLayoutEffect(() => {
    const measure = () => setWide(Math.max(280, place.current.clientWidth));
    measure();
    const resized = new ResizeObserver(measure);
    resized.observe(place.current);
    return () => resized.disconnect();
  }, []);
  const shown = lines.filter(({ points }) => points.length);
  if (!shown.length) return html`<div ref=${place}><p class="quiet">No figures to draw.</p></div>`;
  const left = axis(shown.filter((line) => !line.right));
  const right = axis(shown.filter((line) => line.right));
  const scale = (value) => (logarithmic ? Math.log2(value) : value);
  const xs = [...new Set(shown.flatMap(({ points }) => points.map(({ x }) => x)))].sort((a, b) => a - b);
  const [first, last] = extent(xs.map(scale));
  const inner = wide - EDGE.left - (right ? EDGE.right : 14);
  const px = (x) => EDGE.left + 8 + (last > first ? ((scale(x) - first) / (last - first)) * (inner - 16) : (inner - 16) / 2);
  const py = (y, [low, high]) => EDGE.top + (1 - (y - low) / (high - low)) * (HIGH - EDGE.top - EDGE.bottom);
  const bottom = HIGH - EDGE.bottom;
  const drawn = shown.map((line, i) => ({
    ...line, colour: i % COLOURS, dash: DASHES[Math.floor(i / COLOURS) % DASHES.length],
    points: line.points.map((point) => ({ ...point, px: px(point.x), py: py(point.y, line.right ? right : left) })),
  }));
  const now = at && drawn[at[0]]?.points[at[1]];
  const spaced = xs.filter((x, i) => i === 0 || px(x) - px(xs[0]) > 0).reduce((kept, x) => (!kept.length || px(x) - px(kept.at(-1)) >= 40 ? [...kept, x] : kept), []);

  const nearest = (event) => {
    const box = place.current.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    let best = null;
    drawn.forEach((line, i) => line.points.forEach((point, j) => {
      const distance = Math.hypot(point.px - x, point.py - y);
      if (distance < 60 && (!best || distance < best[2])) best = [i, j, distance];
    }));
    setAt(best && [best[0], best[1]]);
  };
  const keys = (event) => {
    const [i, j] = at || [0, 0];
    const move = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key];
    if (event.key === 'Enter' && now) onPoint?.(now);
    else if (!move) return;
    event.preventDefault();
    if (!move) return;
    const line = at ? (i + move[0] + drawn.length) % drawn.length : 0;
    setAt([line, at ? Math.max(0, Math.min(drawn[line].points.length - 1, j + move[1])) : 0]);
  };
  return html`<figure class="chart">
    <div class="legend" aria-hidden="true">${drawn.map((line) => html`<span class=${`series c${line.colour}`}><svg width="26" height="10"><line x1="0" x2="26" y1="5" y2="5" stroke-dasharray=${line.dash} /></svg>${line.name}</span>`)}</div>
    <div class="lines" ref=${place} tabindex="0" role="group" aria-roledescription="plot" aria-label=${`${label}. Arrow keys move from point to point.`} aria-describedby=${id}
      onPointerMove=${nearest} onPointerLeave=${() => setAt(null)} onKeyDown=${keys} onClick=${() => now && onPoint?.(now)}>
      <svg width=${wide} height=${HIGH} aria-hidden="true">
        ${left && ticks(...left).map((tick) => html`<g class="tick"><line x1=${EDGE.left} x2=${EDGE.left + inner} y1=${py(tick, left)} y2=${py(tick, left)} /><text x=${EDGE.left - 8} y=${py(tick, left) + 4} text-anchor="end">${say(tick)}</text></g>`)}
        ${right && ticks(...right).map((tick) => html`<g class="tick"><text x=${EDGE.left + inner + 8} y=${py(tick, right) + 4}>${say(tick)}</text></g>`)}
        ${spaced.map((x) => html`<g class="tick"><text x=${px(x)} y=${bottom + 18} text-anchor="middle">${say(x)}</text></g>`)}
        <text class="axis" x=${EDGE.left + inner / 2} y=${HIGH - 6} text-anchor="middle">${xName}</text>
        ${drawn.map((line) => html`<g class=${`series c${line.colour}`}>
          ${line.points.some(({ std }) => std) && html`<path class="band" d=${band(line, line.right ? right : left, py)} />`}
          <path class="line" stroke-dasharray=${line.dash} d=${line.points.map((point, i) => `${i ? 'L' : 'M'}${point.px} ${point.py}`).join('')} />
          ${line.points.map((point) => html`<circle cx=${point.px} cy=${point.py} r=${point === now ? 6 : 3.5} />`)}
        </g>`)}
      </svg>
      ${now && html`<div class="tip" style=${{ left: `${Math.min(now.px, wide - 190)}px`, top: `${now.py < 110 ? now.py + 14 : now.py - 84}px` }}>
        <strong>${drawn[at[0]].name}</strong><br />${xName} ${say(now.x)}<br />${say(now.y)}${now.std ? ` ± ${say(now.std)}` : ''}</div>`}
    </div>
    <p class="hidden" id=${id} aria-live="polite">${now ? `${drawn[at[0]].name}, ${xName} ${say(now.x)}: ${say(now.y)}${now.std ? ` plus or minus ${say(now.std)}` : ''}` : ''}</p>
    <figcaption class="quiet">${[yName, rightName && `${rightName} (right)`].filter(Boolean).join(' · ')}</figcaption>
  </figure>`;
}

function band({ points }, range, py) {
  const edge = (sign) => points.map(({ px, y, std }) => `${px} ${py(y + sign * (std || 0), range)}`);
  return `M${edge(1).join('L')}L${edge(-1).reverse().join('L')}Z`;
}
