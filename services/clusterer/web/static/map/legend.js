/** What the colours mean, and which groups are shown. */
import { number } from '../format.js';
import { groupPath, isNoise } from '../groups.js';
import { html, useEffect, useRef, useState } from '../vendor/preact.js';
import { groupName } from './data.js';

const MOST = 120;

/** Groups, the largest first: each can be hidden, or shown alone. */
export function GroupLegend({ values, swatches, hidden, onChange, clustering }) {
  const [sought, setSought] = useState('');
  const [most, setMost] = useState(MOST);
  const { by, legend, none } = values;
  const every = legend.map((entry, value) => ({ value, entry, text: groupName(by, entry), count: entry.count }));
  if (none) every.push({ value: legend.length, entry: null, text: by === 'label' ? 'No label' : 'No flag', count: none });
  every.sort((a, b) => b.count - a.count || a.value - b.value);
  const wanted = sought.trim().toLowerCase();
  const found = wanted
    ? every.filter(({ text, entry }) => text.toLowerCase().includes(wanted) || String(entry?.cluster) === wanted)
    : every;
  const toggle = (value) => {
    const next = new Set(hidden);
    if (!next.delete(value)) next.add(value);
    onChange(next);
  };
  const only = (value) => onChange(new Set(every.map((each) => each.value).filter((each) => each !== value)));
  return html`<div class="legend">
    ${every.length > 12 &&
    html`<input type="search" aria-label="Find in the legend" placeholder=${`Find among ${number(every.length)}`}
      value=${sought} onInput=${(event) => setSought(event.target.value)} />`}
    ${hidden.size > 0 &&
    html`<button class="plain" onClick=${() => onChange(new Set())}>Show all (${number(hidden.size)} hidden)</button>`}
    <ul>
      ${found.slice(0, most).map(
        ({ value, entry, text, count }) => html`<li key=${value}>
          <button class="entry" aria-pressed=${hidden.has(value) ? 'false' : 'true'} title=${text} onClick=${() => toggle(value)}>
            <i class="swatch" style=${{ background: swatches[value] }}></i>
            <bdi class="cut">${text}</bdi>
            ${by === 'cluster' && entry && !isNoise(entry.cluster) && (entry.name || entry.majority) && html`<span class="quiet number">group ${entry.cluster}</span>`}
            <span class="count number">${number(count)}</span>
          </button>
          <button class="plain only" aria-label=${`Show only ${text}`} onClick=${() => only(value)}>only</button>
          ${by === 'cluster' && entry && html`<a class="open" href=${groupPath(clustering, entry.cluster)} aria-label=${`Open ${text}`}>↗</a>`}
        </li>`,
      )}
    </ul>
    ${found.length > most &&
    html`<button class="plain" onClick=${() => setMost(most + 500)}>Show more of ${number(found.length)}</button>`}
    ${found.length === 0 && html`<p class="quiet">Nothing is called so.</p>`}
  </div>`;
}

const STEPS = 254;

/** A scale of steps with how many points lie where; both ends can be moved. */
export function ScaleLegend({ values, swatches, limits, onChange, means }) {
  const [low, high] = values.range;
  const at = (step) => (low + (step / STEPS) * (high - low)).toPrecision(3);
  return html`<div class="legend scale">
    <${Histogram} values=${values.values} swatches=${swatches} limits=${limits} />
    <div class="ends number"><span>${at(limits[0])}</span><span>${limits[1] === STEPS ? '≥ ' : ''}${at(limits[1])}</span></div>
    ${[0, 1].map(
      (end) => html`<label class="range"><span>${end ? 'Up to' : 'From'}</span>
        <input type="range" min="0" max=${STEPS} value=${limits[end]} aria-valuetext=${at(limits[end])}
          onInput=${(event) => {
            const value = Number(event.target.value);
            onChange(end ? [Math.min(limits[0], value), value] : [value, Math.max(limits[1], value)]);
          }} /></label>`,
    )}
    <p class="quiet">${means}</p>
  </div>`;
}

const [BARS, HIGH] = [64, 44];

function Histogram({ values, swatches, limits }) {
  const place = useRef(null);
  useEffect(() => {
    const counts = new Uint32Array(BARS);
    for (const value of values) if (value <= STEPS) counts[Math.min(BARS - 1, (value * BARS) >> 8)] += 1;
    const largest = Math.max(1, ...counts);
    const context = place.current.getContext('2d');
    context.clearRect(0, 0, 4 * BARS, HIGH);
    counts.forEach((count, bar) => {
      const step = Math.min(STEPS, Math.round(((bar + 0.5) * 256) / BARS));
      context.globalAlpha = step >= limits[0] && step <= limits[1] ? 1 : 0.2;
      context.fillStyle = swatches[step];
      const high = Math.max(count ? 2 : 0, (HIGH - 2) * (count / largest));
      context.fillRect(4 * bar, HIGH - high, 3, high);
    });
  }, [values, swatches, limits]);
  return html`<canvas ref=${place} width=${4 * BARS} height=${HIGH} aria-hidden="true"></canvas>`;
}
