/** The image under the pointer or the keyboard's ring. */
import { Thumb } from '../ui.js';
import { html, useEffect, useState } from '../vendor/preact.js';
import { groupName, readRows } from './data.js';

const WAIT_MS = 40;
const [WIDE, HIGH] = [220, 240];
const known = new Map();

/** What a row is, once it is known; asked for when the pointer rests. */
function useRow(clustering, embeddings, row) {
  const key = `${clustering} ${embeddings} ${row}`;
  const [, setTurn] = useState(0);
  useEffect(() => {
    if (row === null || known.has(key)) return undefined;
    const control = new AbortController();
    const timer = setTimeout(async () => {
      try {
        const [found] = await readRows(clustering, embeddings, [row], control.signal);
        if (known.size > 5000) known.clear();
        known.set(key, found);
        setTurn((turn) => turn + 1);
      } catch {
        // Shown by its row; asked for again when the pointer comes back.
      }
    }, WAIT_MS);
    return () => {
      clearTimeout(timer);
      control.abort();
    };
  }, [key]);
  return row === null ? null : known.get(key);
}

export function Hovered({ clustering, map, clusters, at, size }) {
  const row = at ? (map.rows ? map.rows[at.point] : at.point) : null;
  const found = useRow(clustering, map.embeddings, row);
  if (!at) return html`<div class="hidden" role="status"></div>`;
  const entry = clusters.legend[clusters.values[at.point]];
  const left = at.x + WIDE + 24 > size[0] ? Math.max(4, at.x - WIDE - 16) : at.x + 16;
  const top = Math.max(4, Math.min(at.y - 20, size[1] - HIGH - 4));
  const cluster = entry ? groupName('cluster', entry) : '';
  return html`<div class="hovered" style=${{ left: `${left}px`, top: `${top}px` }} role="status">
    <${Thumb} embeddings=${map.embeddings} row=${row} path=${found?.image_path} alt="" />
    <strong class="cut"><bdi>${cluster}</bdi></strong>
    <span class="quiet cut" title=${found?.image_path}><bdi>${found?.image_path ?? `row ${row}`}</bdi></span>
    ${found?.label && html`<span class="quiet cut">labelled <bdi>${found.label}</bdi></span>`}
  </div>`;
}
