/** One image at a time, with all that is known of it, and those that are most like it. */
import { get, may, post } from './api.js';
import { bytes, fixed } from './format.js';
import { Chip, Dialog, Text, Thumb, useData } from './ui.js';
import { html, useEffect, useRef } from './vendor/preact.js';

const SIMILAR = 12;
const SAID = new Set(['row', 'image_path', 'label', 'width', 'height', 'bytes']);

/**
 * `member` is what the page knows of the image; `onStep(±1)` goes to the next one; `onOpen(row)` to another image.
 * `place` says where it stands, such as `3 of 120`.
 */
export function Lightbox({ embeddings, member, place, onStep, onOpen, onClose, children }) {
  const row = member.row;
  const set = encodeURIComponent(embeddings);
  const known = useData((signal) => get(`/embeddings/${set}/rows/${row}`, {}, { signal }), [embeddings, row]);
  const similar = useData(
    async (signal) => (may('submit') ? post('/search', { embeddings, row, k: SIMILAR }, { signal }) : []),
    [embeddings, row],
  );
  const box = useRef(null);
  useEffect(() => {
    const keys = (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1, j: 1, k: -1 }[event.key];
      if (!step || event.target.closest('input, textarea, select')) return;
      event.preventDefault();
      onStep(step);
    };
    addEventListener('keydown', keys);
    return () => removeEventListener('keydown', keys);
  }, [onStep]);
  const data = known.data?.row === row ? known.data : null;
  const path = data?.image_path || member.image_path || `row ${row}`;
  const more = data ? Object.entries(data).filter(([name, value]) => !SAID.has(name) && value !== null) : [];
  const fact = (name, value) => value !== null && value !== undefined && value !== '' && html`<div key=${name}><dt>${name}</dt><dd>${value}</dd></div>`;
  return html`<${Dialog} title=${html`<${Text} value=${path.split('/').pop()} />`} onClose=${onClose} wide>
    <div class="lightbox" ref=${box}>
      <div class="lightbox-image">
        <${Thumb} embeddings=${embeddings} row=${row} path=${path} alt=${path} />
        <div class="row spread">
          <button onClick=${() => onStep(-1)} aria-label="Previous image">←</button>
          <span class="quiet" role="status">${place}</span>
          <button onClick=${() => onStep(1)} aria-label="Next image">→</button>
        </div>
      </div>
      <div class="lightbox-facts">
        <p class="row">
          ${member.is_outlier && html`<${Chip} kind="warn" title="Farther from its centre than 99 of 100 images are from theirs">outlier</${Chip}>`}
          ${member.moved_from !== null && member.moved_from !== undefined && html`<${Chip} kind="mark">moved from group ${member.moved_from}</${Chip}>`}
        </p>
        <dl class="facts tall">
          ${fact('Path', html`<${Text} value=${path} cut=${false} />`)}
          ${fact('Label', (data?.label ?? member.label) && html`<${Text} value=${data?.label ?? member.label} cut=${false} />`)}
          ${fact('Size', data?.width && `${data.width} × ${data.height} px${data.bytes ? `, ${bytes(data.bytes)}` : ''}`)}
          ${fact('Distance from the centre', typeof member.distance === 'number' && fixed(member.distance))}
          ${fact('Margin to the next group', typeof member.margin === 'number' && fixed(member.margin))}
          ${fact('Row', row)}
        </dl>
        ${children && html`<div class="actions">${children}</div>`}
        ${more.length > 0 && html`<details><summary>All that is known</summary><dl class="known">${more.map(([name, value]) => html`<div key=${name}><dt>${name}</dt><dd><${Text} value=${typeof value === 'number' && !Number.isInteger(value) ? fixed(value) : value} /></dd></div>`)}</dl></details>`}
        ${similar.data?.length > 0 && html`<h3>Similar images</h3>
          <div class="similar">${similar.data.map((each) => html`<button class="bare" key=${each.row} onClick=${() => onOpen(each.row)} aria-label=${`${each.image_path}, similarity ${fixed(each.similarity, 2)}`}>
            <${Thumb} embeddings=${embeddings} row=${each.row} path=${each.image_path} alt="" /></button>`)}</div>`}
        ${similar.error && html`<p class="quiet">${similar.error.message}</p>`}
      </div>
    </div>
  </${Dialog}>`;
}
